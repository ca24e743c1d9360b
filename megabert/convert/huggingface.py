"""Hugging Face folders: config.json, model.safetensors (or older weight files), tokenizer files.

A post-LN encoder is written for transformers' ``Bert...`` classes, a pre-LN one for
``MegatronBert...`` (no LayerNorm after the embeddings, one after the last layer, as here). The class
follows from the heads that are there. Whatever the other side has no place for is refused.
"""

from __future__ import annotations

import json
import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megabert.config import ModelConfig
from megabert.convert.names import huggingface as names
from megabert.convert.names.table import NameTable, to_ours, to_theirs
from megabert.convert.tokenizer import tokenizer_in
from megabert.convert.whole_model import (
    ENCODER_ONLY,
    MASKED_LM,
    PRETRAINING,
    QUESTION_ANSWERING,
    WholeModel,
    settle,
)
from megabert.log import UserError
from megabert.model.bert import ACTIVATIONS
from megabert.model.weight_files import copy_tokenizer, read_tensors, write_tensors

CLASS_SUFFIX = {
    PRETRAINING: "ForPreTraining",
    MASKED_LM: "ForMaskedLM",
    QUESTION_ANSWERING: "ForQuestionAnswering",
    ENCODER_ONLY: "Model",
}


@dataclass(frozen=True)
class Family:
    """One kind of encoder of transformers."""

    model_type: str
    class_prefix: str
    norm: str
    table: NameTable


FAMILIES = (
    Family("bert", "Bert", "post", names.BERT),
    Family("megatron-bert", "MegatronBert", "pre", names.MEGATRON_BERT),
)

_SAME_FIELDS = (
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
_REQUIRED_FIELDS = _SAME_FIELDS[:5]
# what transformers assumes where an older config.json is silent
_DEFAULTS: dict[str, Any] = {
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
}
# settings of transformers that change what is computed, and the one value that megabert has
_ONLY = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "is_encoder_decoder": False,
}


def family_of(config: ModelConfig) -> Family:
    """The transformers family that computes the same as this encoder."""
    return next(family for family in FAMILIES if family.norm == config.norm)


def class_name(model: WholeModel) -> str:
    """Name of the transformers class, as ``BertForPreTraining``."""
    return family_of(model.config).class_prefix + CLASS_SUFFIX[model.head]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} does not hold a JSON object")
    return values


def model_folder(folder: Path) -> tuple[Path, list[tuple[str, str]]]:
    """The folder that holds the encoder, and what else a sentence-transformers folder holds.

    Such a folder lists its modules in modules.json; the first is the encoder, in the folder itself
    or one below it, and the rest (pooling, dense, normalise) are no part of BERT.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a folder; --input takes the folder that holds config.json"
        )
    modules = folder / "modules.json"
    if not modules.is_file():
        return folder, []
    try:
        listed = json.loads(modules.read_text(encoding="utf-8"))
        encoder = next(m for m in listed if m["type"].endswith("Transformer"))
        inner = folder / Path(encoder["path"]).name if encoder["path"] else folder
        rest = [m["path"] for m in listed if m is not encoder]
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise UserError(f"{modules} is not the list of a sentence-transformers model") from error
    return inner, [
        (f"{path}/", "a sentence-transformers module after the encoder") for path in rest
    ]


def read_config(folder: Path) -> tuple[ModelConfig, Family]:
    """The encoder that a config.json describes.

    Raises:
        UserError: no BERT of ours, a missing field, or a setting that megabert does not compute.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no config.json: not a Hugging Face model folder")
    values = _read_json(path)
    model_type = values.get("model_type", "bert")
    family = next((f for f in FAMILIES if f.model_type == model_type), None)
    if family is None:
        known = ", ".join(f.model_type for f in FAMILIES)
        raise UserError(f"{path}: model_type {model_type!r} is none of those converted ({known})")
    absent = [name for name in _REQUIRED_FIELDS if name not in values]
    if absent:
        raise UserError(f"{path}: missing {', '.join(absent)}")
    for name, only in _ONLY.items():
        if values.get(name, only) not in (only, None):
            raise UserError(f"{path}: {name} is {values[name]!r}; megabert computes {only!r} only")
    chosen = {name: values.get(name, _DEFAULTS.get(name)) for name in _SAME_FIELDS}
    if chosen["hidden_act"] not in ACTIVATIONS:
        raise UserError(
            f"{path}: hidden_act is {chosen['hidden_act']!r}; megabert computes "
            f"{', '.join(ACTIVATIONS)} only"
        )
    try:
        name = Path(values.get("_name_or_path") or folder.resolve()).name
        config = ModelConfig(name=name, norm=family.norm, **chosen)  # type: ignore[arg-type]
    except ValueError as error:
        first = str(error).splitlines()[1:3]
        raise UserError(f"{path}: {' '.join(line.strip() for line in first)}") from error
    return config, family


def _read_pickled(path: Path) -> dict[str, Tensor]:
    """A ``pytorch_model.bin``, read so that no code in it can run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about pickle protocols
            values = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors (or is damaged), so it is not opened: "
            "ask its author for model.safetensors"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise UserError(f"{path} is not a whole weight file: {error}") from error
    if not isinstance(values, dict) or not all(isinstance(v, Tensor) for v in values.values()):
        raise UserError(f"{path} is not a plain table of tensors")
    return values


def _read_sharded(index: Path) -> dict[str, Tensor]:
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index} has no weight_map")
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(weight_map.values())):
        path = index.parent / Path(file).name
        if not path.is_file():
            raise UserError(f"{index} names {file}, which is not there")
        part = read_tensors(path) if path.suffix == ".safetensors" else _read_pickled(path)
        absent = [name for name, where in weight_map.items() if where == file and name not in part]
        if absent:
            raise UserError(f"{path} lacks {absent[0]}, which {index.name} says it holds")
        tensors.update(part)
    return tensors


def read_weight_files(folder: Path) -> dict[str, Tensor]:
    """All tensors of the folder's weights under the names found there.

    Safetensors first, whole or sharded; else ``pytorch_model.bin``, whole or sharded.

    Raises:
        UserError: no weights, a missing shard, a damaged file, a pickle that holds code.
    """
    if (path := folder / "model.safetensors").is_file():
        return read_tensors(path)
    if (path := folder / "model.safetensors.index.json").is_file():
        return _read_sharded(path)
    if (path := folder / "pytorch_model.bin").is_file():
        return _read_pickled(path)
    if (path := folder / "pytorch_model.bin.index.json").is_file():
        return _read_sharded(path)
    raise UserError(f"{folder} holds no model.safetensors and no pytorch_model.bin")


def read(folder: Path) -> WholeModel:
    """Read a Hugging Face folder.

    Raises:
        UserError: not such a folder, or one that megabert cannot compute exactly.
    """
    folder, modules = model_folder(Path(folder))
    config, family = read_config(folder)
    found = read_weight_files(folder)
    renamed = to_ours(family.table, found, config.num_hidden_layers, folder)
    kinds = sorted({str(t.dtype).removeprefix("torch.") for t in renamed.tensors.values()})
    for name, tensor in renamed.tensors.items():
        if not tensor.is_floating_point():
            raise UserError(f"{folder}: {name} holds {tensor.dtype}, not floating-point numbers")
        renamed.tensors[name] = tensor.to(torch.float32)
    model = WholeModel(
        config=config,
        tensors=renamed.tensors,
        tokenizer=tokenizer_in(folder),
        trained_positions=config.max_position_embeddings,
        origin=f"{folder} ({family.class_prefix}, {', '.join(kinds)})",
        left_out=renamed.left_out + modules,
    )
    settle(model)
    return model


def config_values(model: WholeModel, pad_token_id: int) -> dict[str, Any]:
    """The config.json of a model."""
    family = family_of(model.config)
    values = {name: getattr(model.config, name) for name in _SAME_FIELDS}
    return {
        "architectures": [class_name(model)],
        "model_type": family.model_type,
        **values,
        "position_embedding_type": "absolute",
        "pad_token_id": pad_token_id,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
    }


def write(folder: Path, model: WholeModel, pad_token_id: int = 0) -> None:
    """Fill an existing folder with a Hugging Face model.

    Raises:
        UserError: transformers has no class that computes the same.
    """
    family = family_of(model.config)
    theirs, homeless = to_theirs(family.table, model.tensors, model.config.num_hidden_layers)
    if homeless:
        raise UserError(
            f"{model.origin}: transformers' {class_name(model)} has no place for {homeless[0]} "
            f"({len(homeless)} such tensors), so it would not compute the same"
        )
    if model.head == ENCODER_ONLY:
        theirs = {name.removeprefix("bert."): tensor for name, tensor in theirs.items()}
    write_tensors(folder / "model.safetensors", theirs, {"format": "pt"})
    text = json.dumps(config_values(model, pad_token_id), indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    copy_tokenizer(model.tokenizer, folder)
