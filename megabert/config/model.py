"""The shape of an encoder, the published shapes by name, and the known encoders.

:class:`ModelConfig` describes BERT and NEZHA, in the form that is stored. Another encoder has a
subclass with its own fields; it is stored with the encoder's name under the key ``encoder``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, fields, replace
from typing import Any, ClassVar, Literal

from pydantic.dataclasses import dataclass

from megabert.common.errors import UserError, first_fault
from megabert.common.registry import Registry
from megabert.config.numbers import LayerCount, PositiveFloat, Probability, Size
from megabert.config.values import DEFERRED


@dataclass(frozen=True, config=DEFERRED)
class ModelConfig:
    """Shape of an encoder, in the field names of transformers' ``BertConfig``.

    Attributes:
        norm: "post" is BERT (LayerNorm after each residual sum); "pre" puts it before each block and
            one more at the end.
        vocab_multiple: the embedding holds ``vocab_size`` rounded up to this multiple, whatever the
            tensor parallel degree, so that a checkpoint fits every degree that divides it.
        position_embeddings: "absolute" is BERT's trained table; "relative" is NEZHA's (Wei et al.
            2019), fixed functions of the distance between two tokens in each attention, with
            distances past ``max_relative_position`` counted as that.
        max_position_embeddings: rows of BERT's table; otherwise the longest sequence allowed, which
            shapes no tensor.
    """

    name: str = "bert-large"
    vocab_size: Size = 30522
    hidden_size: Size = 1024
    num_hidden_layers: LayerCount = 24
    num_attention_heads: Size = 16
    intermediate_size: Size = 4096
    hidden_act: str = "gelu"
    hidden_dropout_prob: Probability = 0.1
    attention_probs_dropout_prob: Probability = 0.1
    max_position_embeddings: Size = 512
    type_vocab_size: Size = 2
    initializer_range: PositiveFloat = 0.02
    layer_norm_eps: PositiveFloat = 1e-12
    norm: Literal["post", "pre"] = "post"
    vocab_multiple: Size = 128
    position_embeddings: Literal["absolute", "relative"] = "absolute"
    max_relative_position: Size = 64

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"model {self.name}: hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}; change one of them"
            )

    @property
    def encoder(self) -> str:
        """Name of the encoder that this describes; a subclass states its own."""
        return _ENCODER_WITH[self.position_embeddings]

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the word embedding: ``vocab_size`` rounded up to ``vocab_multiple``."""
        return math.ceil(self.vocab_size / self.vocab_multiple) * self.vocab_multiple

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as stored in checkpoints."""
        named = {} if type(self) is ModelConfig else {"encoder": self.encoder}
        return named | asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Inverse of :meth:`to_dict`.

        Raises:
            UserError: an unknown field or encoder, or a value that its field does not take.
        """
        values = dict(values)
        named = values.pop("encoder", None)
        if named is not None and not isinstance(named, str):
            raise UserError(f"model configuration has {named!r:.60} as its encoder, not a name")
        kind = ModelConfig if named is None else ENCODERS.get(named).config_class
        unknown = sorted(set(values) - {field.name for field in fields(kind)})
        if unknown:
            raise UserError(f"model configuration has unknown fields {unknown[:8]}")
        try:
            return kind(**values)
        except (TypeError, ValueError) as error:
            raise UserError(f"model configuration: {first_fault(error)}") from error


def changed_fields(before: ModelConfig, after: ModelConfig) -> dict[str, tuple[Any, Any]]:
    """Fields with different values, as (before, after); None for a field that one of them lacks."""
    old, new = before.to_dict(), after.to_dict()
    if type(before) is not type(after):
        old["encoder"], new["encoder"] = before.encoder, after.encoder
    return {
        name: (old.get(name), new.get(name)) for name in new | old if old.get(name) != new.get(name)
    }


# what published configurations of NEZHA share
_NEZHA = {"position_embeddings": "relative", "max_relative_position": 64}


def _bert(layers: int, hidden: int, heads: int, **more: Any) -> dict[str, Any]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
        **more,
    }


# Sizes of BERT: Devlin et al. 2019 (base, large) and Turc et al. 2019 (tiny to medium);
# the billion-parameter ones are those of Shoeybi et al. 2019, which need LayerNorm in front.
# NEZHA: Wei et al. 2019, section 3.1 (base, large); the narrow ones are BERT's sizes.
MODELS: dict[str, dict[str, Any]] = {
    "bert-tiny": _bert(2, 128, 2),
    "bert-mini": _bert(4, 256, 4),
    "bert-small": _bert(4, 512, 8),
    "bert-medium": _bert(8, 512, 8),
    "bert-base": _bert(12, 768, 12),
    "bert-large": _bert(24, 1024, 16),
    "bert-base-zh": _bert(12, 768, 12, vocab_size=21128),
    "bert-large-zh": _bert(24, 1024, 16, vocab_size=21128),
    "bert-1.3b": _bert(24, 2048, 32, norm="pre"),
    "bert-3.9b": _bert(48, 2560, 40, norm="pre"),
    "nezha-tiny": _bert(2, 128, 2, **_NEZHA),
    "nezha-mini": _bert(4, 256, 4, **_NEZHA),
    "nezha-base": _bert(12, 768, 12, **_NEZHA),
    "nezha-large": _bert(24, 1024, 16, **_NEZHA),
    "nezha-base-zh": _bert(12, 768, 12, vocab_size=21128, **_NEZHA),
    "nezha-large-zh": _bert(24, 1024, 16, vocab_size=21128, **_NEZHA),
}
"""Name -> fields of the built-in presets. ``--help`` lists the names and makes no configuration."""


class EncoderDeclaration:
    """What stored configurations and the command line must know of an encoder.

    The rest of it is in :class:`megabert.model.encoders.variant.EncoderVariant`.

    Attributes:
        name: in the registry, and in stored configurations of ``config_class``.
        config_class: ModelConfig, or a subclass with further fields and their checks.
        presets: configurations that ``--model`` names, of encoders that are not built in.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[ModelConfig]] = ModelConfig
    presets: ClassVar[tuple[ModelConfig, ...]] = ()


ENCODERS: Registry[type[EncoderDeclaration]] = Registry(
    "encoder",
    {
        "bert": "megabert.model.encoders.bert:Bert",
        "nezha": "megabert.model.encoders.nezha:Nezha",
    },
    "megabert.encoders",
)
"""Every encoder. The presets of the built-in ones are in MODELS, so that ``--help`` knows them
without importing torch."""
_ENCODER_WITH = {"absolute": "bert", "relative": "nezha"}


def _added_presets() -> dict[str, ModelConfig]:
    """The presets of the encoders that are not built in, which this imports."""
    found: dict[str, ModelConfig] = {}
    others = sorted(set(ENCODERS.names()) - set(_ENCODER_WITH.values()))
    for encoder, declaration in ENCODERS.usable(others):
        for preset in declaration.presets:
            if preset.name in found or preset.name in MODELS:
                raise UserError(
                    f"the encoder {encoder!r} has a preset {preset.name!r}, which is there already: "
                    "rename it"
                )
            found[preset.name] = preset
    return found


def preset_names() -> Iterable[str]:
    """What ``--model`` takes; imports the encoders whose presets are not in MODELS."""
    return (*MODELS, *_added_presets())


def model_config(name: str, **overrides: Any) -> ModelConfig:
    """The preset ``name`` with the given fields replaced (those that are None are left alone).

    Raises:
        UserError: there is no such preset, or a field is wrong.
    """
    changed = {key: value for key, value in overrides.items() if value is not None}
    added = _added_presets()
    if name in added:
        return replace(added[name], **changed)
    if name not in MODELS:
        known = ", ".join(preset_names())
        raise UserError(f"unknown model {name!r}; --model takes one of {known}")
    return ModelConfig(**{"name": name, **MODELS[name], **changed})
