"""An encoder's shape as JSON: transformers' ``config.json`` and Google's ``bert_config.json``.

Both use the same names for common fields, and so does :class:`ModelConfig`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megabert.common.downloads import check_downloaded
from megabert.common.errors import UserError, first_fault
from megabert.common.json_text import read_json_object
from megabert.config.model import ModelConfig
from megabert.convert.huggingface.other_models import evidence_against_bert
from megabert.model.modules import ACTIVATIONS

CONFIG_FILES = ("config.json", "bert_config.json")
"""Names of the configuration file, in order of priority."""
MODEL_TYPES = ("bert", "megatron-bert", "nezha")
"""Values of ``model_type`` that megabert can read."""
SHARED_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "type_vocab_size",
    "initializer_range",
    "layer_norm_eps",
)
_REQUIRED = SHARED_FIELDS[:5]
# the public implementations' defaults for fields that a file lacks
_DEFAULTS: dict[str, Any] = {
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
}
_MAX_RELATIVE = 64
# settings that change what is computed, and the values that megabert supports
_ONLY: dict[str, tuple[Any, ...]] = {
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
    "is_encoder_decoder": (False, None),
}


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        UserError: the file cannot be read, or is not a JSON object.
    """
    check_downloaded(path)
    try:
        return read_json_object(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def is_relative(values: Mapping[str, Any]) -> bool:
    """Whether a configuration describes NEZHA (Wei et al. 2019), which has no position table.

    transformers states this with ``model_type``, the authors' releases with
    ``use_relative_position``.
    """
    return values.get("model_type") == "nezha" or bool(values.get("use_relative_position"))


def config_from(values: Mapping[str, Any], path: Path, *, norm: str = "post") -> ModelConfig:
    """The encoder that a configuration describes; fields that it lacks have the public default.

    Args:
        values: the JSON object.
        path: its file, for messages and for a model without a name.
        norm: of :class:`ModelConfig`.

    Raises:
        UserError: it describes another model, a field is missing or invalid, or megabert does not
            support a setting.
    """
    stated = values.get("model_type")
    if stated not in (None, *MODEL_TYPES):
        raise UserError(
            f"{path}: model_type {stated!r} is not supported; expected one of {', '.join(MODEL_TYPES)}"
        )
    against = evidence_against_bert(values) if stated is None else None
    if against is not None:
        raise UserError(
            f"{path}: not the configuration of a BERT: {against}; if it is one, state "
            '"model_type": "bert"'
        )
    absent = [name for name in _REQUIRED if name not in values]
    if absent:
        raise UserError(f"{path}: missing {', '.join(absent)}")
    for name, same in _ONLY.items():
        if values.get(name, same[0]) not in same:
            raise UserError(
                f"{path}: {name} is {values[name]!r}; megabert supports only {same[0]!r}"
            )
    chosen = {name: values.get(name, _DEFAULTS.get(name)) for name in SHARED_FIELDS}
    if not isinstance(chosen["hidden_act"], str) or chosen["hidden_act"] not in ACTIVATIONS:
        raise UserError(
            f"{path}: hidden_act is {chosen['hidden_act']!r}; megabert supports only "
            f"{', '.join(ACTIVATIONS)}"
        )
    if is_relative(values):
        chosen["position_embeddings"] = "relative"
        chosen["max_relative_position"] = values.get("max_relative_position", _MAX_RELATIVE)
    try:
        name = Path(str(values.get("_name_or_path") or path.resolve().parent)).name
        return ModelConfig(name=name, norm=norm, **chosen)  # type: ignore[arg-type]
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {first_fault(error)}") from error


def read_bert_config(path: Path) -> ModelConfig:
    """The encoder of a ``bert_config.json`` (post-LN).

    Raises:
        UserError: as :func:`read_object` and :func:`config_from`.
    """
    return config_from(read_object(path), path)
