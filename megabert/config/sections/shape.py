"""The shape of the model."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Literal

from pydantic.dataclasses import dataclass

from megabert.config.flags import setting
from megabert.config.model import ModelConfig, model_config, preset_names
from megabert.config.numbers import LayerCount, PositiveFloat, Probability, Size
from megabert.config.values import DEFERRED

Activation = Literal[
    "gelu", "gelu_python", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "silu", "swish", "tanh"
]  # fmt: skip
"""Names of activations; :data:`megabert.model.modules.ACTIVATIONS` holds their functions."""

DEFAULT_MODEL = "bert-large"


@dataclass(frozen=True, config=DEFERRED)
class ModelSettings:
    """Model"""

    model: str | None = setting(
        None,
        f"preset (default: {DEFAULT_MODEL}; with --init-from the shape found there)",
        choices=preset_names,
    )
    hidden_size: Size | None = setting(None, "width of the encoder (default: the preset's)")
    num_hidden_layers: LayerCount | None = setting(None, "encoder layers (default: the preset's)")
    num_attention_heads: Size | None = setting(
        None, "attention heads per layer (default: the preset's)"
    )
    intermediate_size: Size | None = setting(
        None, "width of each layer's MLP (default: the preset's)"
    )
    max_position_embeddings: Size | None = setting(
        None,
        "rows of the position table, which limit --seq-length; keep 512 in phase 1 if phase 2 follows",
    )
    position_embeddings: Literal["absolute", "relative"] | None = setting(
        None,
        "absolute: a trained table (BERT); relative: fixed functions of the distance between two "
        "tokens in each attention (NEZHA) (default: the preset's)",
    )
    max_relative_position: Size | None = setting(
        None, "with relative positions: distances above this count as this (default: the preset's)"
    )
    type_vocab_size: Size | None = setting(
        None, "rows of the table of segments (default: the preset's)"
    )
    norm: Literal["post", "pre"] | None = setting(
        None, "LayerNorm after each block (BERT) or before it (default: the preset's)"
    )
    layer_norm_eps: PositiveFloat | None = setting(
        None, "added to the variance in each LayerNorm (default: the preset's)"
    )
    hidden_act: Activation | None = setting(
        None,
        "activation of the MLPs and the MLM head; gelu is the exact one (default: the preset's)",
    )
    dropout: Probability | None = setting(
        None, "dropout probability of hidden states and of attention (default: 0.1)"
    )
    attention_dropout: Probability | None = setting(
        None, "dropout probability of attention, if it is another one (default: --dropout)"
    )
    initializer_range: PositiveFloat | None = setting(
        None,
        "standard deviation of initial weights; use a larger one for hidden sizes below 512, or --init-scheme "
        "width-aware (default: 0.02)",
    )

    def resolve(self, vocab_size: int, base: ModelConfig | None = None) -> ModelConfig:
        """The model that these settings describe over a vocabulary of ``vocab_size``.

        ``base``: the model whose values are used for what is not set, if no preset is named.
        """
        attention = self.dropout if self.attention_dropout is None else self.attention_dropout
        changes = {name: getattr(self, name) for name in _SHAPE_SETTINGS}
        changes |= {
            "vocab_size": vocab_size,
            "hidden_dropout_prob": self.dropout,
            "attention_probs_dropout_prob": attention,
        }
        if self.model is None and base is not None:
            return replace(base, **{k: value for k, value in changes.items() if value is not None})
        return model_config(self.model or DEFAULT_MODEL, **changes)

    @classmethod
    def of(cls, config: ModelConfig) -> ModelSettings:
        """Settings that describe ``config`` without a preset, except one of an added encoder."""
        return cls(
            model=None if type(config) is ModelConfig else config.name,
            dropout=config.hidden_dropout_prob,
            attention_dropout=config.attention_probs_dropout_prob,
            **{name: getattr(config, name) for name in _SHAPE_SETTINGS},
        )


_SHAPE_SETTINGS = tuple(
    field.name
    for field in fields(ModelSettings)
    if field.name not in ("model", "dropout", "attention_dropout")
)
"""Settings with the names of the fields of :class:`ModelConfig` that they replace."""
