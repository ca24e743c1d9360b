"""The shape of an encoder, and the published shapes by name.

:class:`ModelConfig` describes BERT and NEZHA, in the form that is stored. Another encoder has a
subclass with its own fields, in its own file (:mod:`megabert.model.encoders.variant`); it is stored with the
encoder's name under the key ``encoder``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import asdict, fields, replace
from importlib.metadata import entry_points
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from megabert.common.errors import UserError

Probability = Annotated[float, Field(ge=0.0, lt=1.0)]


@dataclass(frozen=True)
class ModelConfig:
    """Shape of an encoder, in the field names of transformers' ``BertConfig``.

    Attributes:
        encoder: name of the encoder that a subclass belongs to; "" here.
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

    encoder: ClassVar[str] = ""

    name: str = "bert-large"
    vocab_size: PositiveInt = 30522
    hidden_size: PositiveInt = 1024
    num_hidden_layers: PositiveInt = 24
    num_attention_heads: PositiveInt = 16
    intermediate_size: PositiveInt = 4096
    hidden_act: str = "gelu"
    hidden_dropout_prob: Probability = 0.1
    attention_probs_dropout_prob: Probability = 0.1
    max_position_embeddings: PositiveInt = 512
    type_vocab_size: PositiveInt = 2
    initializer_range: PositiveFloat = 0.02
    layer_norm_eps: PositiveFloat = 1e-12
    norm: Literal["post", "pre"] = "post"
    vocab_multiple: PositiveInt = 128
    position_embeddings: Literal["absolute", "relative"] = "absolute"
    max_relative_position: PositiveInt = 64

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"model {self.name}: hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}; change one of them"
            )

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
        return ({"encoder": self.encoder} if self.encoder else {}) | asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Inverse of :meth:`to_dict`.

        Raises:
            UserError: an unknown field or encoder.
        """
        values = dict(values)
        kind = _config_class(values.pop("encoder", ""))
        unknown = sorted(set(values) - {field.name for field in fields(kind)})
        if unknown:
            raise UserError(f"model configuration has unknown fields {unknown}")
        return kind(**values)


# what published configurations of NEZHA share
_NEZHA = {"position_embeddings": "relative", "max_relative_position": 64}


def _bert(name: str, layers: int, hidden: int, heads: int, **more: Any) -> ModelConfig:
    return ModelConfig(
        name=name,
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        **more,
    )


# Sizes of BERT: Devlin et al. 2019 (base, large) and Turc et al. 2019 (tiny to medium);
# the billion-parameter ones are those of Shoeybi et al. 2019, which need LayerNorm in front.
# NEZHA: Wei et al. 2019, section 3.1 (base, large); the narrow ones are BERT's sizes.
MODELS: dict[str, ModelConfig] = {
    config.name: config
    for config in (
        _bert("bert-tiny", 2, 128, 2),
        _bert("bert-mini", 4, 256, 4),
        _bert("bert-small", 4, 512, 8),
        _bert("bert-medium", 8, 512, 8),
        _bert("bert-base", 12, 768, 12),
        _bert("bert-large", 24, 1024, 16),
        _bert("bert-base-zh", 12, 768, 12, vocab_size=21128),
        _bert("bert-large-zh", 24, 1024, 16, vocab_size=21128),
        _bert("bert-1.3b", 24, 2048, 32, norm="pre"),
        _bert("bert-3.9b", 48, 2560, 40, norm="pre"),
        _bert("nezha-tiny", 2, 128, 2, **_NEZHA),
        _bert("nezha-mini", 4, 256, 4, **_NEZHA),
        _bert("nezha-base", 12, 768, 12, **_NEZHA),
        _bert("nezha-large", 24, 1024, 16, **_NEZHA),
        _bert("nezha-base-zh", 12, 768, 12, vocab_size=21128, **_NEZHA),
        _bert("nezha-large-zh", 24, 1024, 16, vocab_size=21128, **_NEZHA),
    )
}


ENCODER_MODULES = ("megabert.model.encoders.bert", "megabert.model.encoders.nezha")
"""The encoders of this package, imported with :mod:`megabert.model.encoder`."""
_CLASSES: dict[str, type[ModelConfig]] = {"": ModelConfig}


def register_model(config_class: type[ModelConfig], presets: Iterable[ModelConfig]) -> None:
    """Add an encoder's configuration class and its presets.

    Raises:
        UserError: the name of a preset is taken.
    """
    presets = tuple(presets)
    for preset in presets:
        if preset.name in MODELS:
            raise UserError(f"two models are registered as {preset.name!r}: rename one of them")
    _CLASSES[config_class.encoder] = config_class
    MODELS.update({preset.name: preset for preset in presets})


@functools.cache
def load_installed_encoders() -> None:
    """Import the modules that other packages name as entry points of ``megabert.encoders``."""
    for point in entry_points(group="megabert.encoders"):
        point.load()


def _config_class(encoder: str) -> type[ModelConfig]:
    if encoder not in _CLASSES:
        load_installed_encoders()
    if encoder not in _CLASSES:
        raise UserError(
            f"model configuration names the encoder {encoder!r}, which is not installed; there are: "
            f"{', '.join(filter(None, _CLASSES)) or 'none besides BERT and NEZHA'}"
        )
    return _CLASSES[encoder]


def preset_names() -> Iterable[str]:
    """What ``--model`` takes."""
    load_installed_encoders()
    return MODELS


def model_config(name: str, **overrides: Any) -> ModelConfig:
    """The preset ``name`` with the given fields replaced (those that are None are left alone).

    Raises:
        UserError: there is no such preset, or a field is wrong.
    """
    if name not in preset_names():
        raise UserError(f"unknown model {name!r}; --model takes one of {', '.join(MODELS)}")
    return replace(MODELS[name], **{k: v for k, v in overrides.items() if v is not None})
