"""The kinds of encoders in transformers, and the names of their classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from megabert.config.model import ModelConfig
from megabert.convert.huggingface import names
from megabert.convert.huggingface.nezha_code import AUTO_MAP
from megabert.convert.name_table import NameTable
from megabert.convert.whole_model import WholeModel
from megabert.model.encoder import variant_of


def _position_table(config: ModelConfig) -> dict[str, Any]:
    return {"position_embedding_type": "absolute"}


def _relative_positions(config: ModelConfig) -> dict[str, Any]:
    return {
        **({"norm": config.norm} if config.norm != "post" else {}),
        "max_relative_position": config.max_relative_position,
        "classifier_dropout": config.hidden_dropout_prob,
        "auto_map": AUTO_MAP,
    }


@dataclass(frozen=True)
class Family:
    """One kind of encoder of transformers.

    Attributes:
        model_type: as in config.json, and as :meth:`EncoderVariant.transformers_type` gives it.
        class_prefix: beginning of the names of its classes.
        norm: of :class:`ModelConfig`; if there are two for a ``model_type``, the config.json says which
            (``norm``; default ``post``).
        table: its tensors' names.
        own_fields: fields of config.json that not all families have.
        own_code: its classes are written next to the weights, because transformers has none.
    """

    model_type: str
    class_prefix: str
    norm: str
    table: NameTable
    own_fields: Callable[[ModelConfig], dict[str, Any]] = _position_table
    own_code: bool = False


FAMILIES = (
    Family("bert", "Bert", "post", names.BERT),
    Family("megatron-bert", "MegatronBert", "pre", names.MEGATRON_BERT),
    Family("nezha", "Nezha", "post", names.NEZHA, _relative_positions, own_code=True),
    Family("nezha", "Nezha", "pre", names.PRE_NEZHA, _relative_positions, own_code=True),
)


def family_of(config: ModelConfig) -> Family:
    """The transformers family that computes the same as this encoder.

    Raises:
        UserError: transformers has no such family.
    """
    model_type = variant_of(config).transformers_type(config)
    for family in FAMILIES:
        if (family.model_type, family.norm) == (model_type, config.norm):
            return family
    raise UserError(
        f"model {config.name}: transformers has no encoder like this one ({config.encoder}, norm "
        f"{config.norm!r}); use the megabert folder (--to megabert)"
    )


def family_in(values: Mapping[str, Any], model_type: str, path: Path) -> Family:
    """The family that a config.json names.

    Args:
        values: the JSON object.
        model_type: its ``model_type``, or what takes its place.
        path: the file, for messages.

    Raises:
        UserError: there is no such family.
    """
    found = [family for family in FAMILIES if family.model_type == model_type]
    if not found:
        known = ", ".join(dict.fromkeys(family.model_type for family in FAMILIES))
        raise UserError(
            f"{path}: model_type {model_type!r} is not supported; expected one of {known}"
        )
    if len(found) == 1:
        return found[0]
    norm = values.get("norm", "post")
    for family in found:
        if family.norm == norm:
            return family
    raise UserError(f"{path}: norm is {norm!r}; megabert supports only post and pre")


def class_name(model: WholeModel) -> str:
    """Name of the transformers class, as ``BertForPreTraining``.

    Raises:
        UserError: transformers has no such class.
    """
    suffix = model.head.transformers_suffix
    if suffix is None:
        raise UserError(
            f"{model.origin}: transformers has no class with a head for {model.head}; convert the "
            "pretrained checkpoint instead"
        )
    return family_of(model.config).class_prefix + suffix
