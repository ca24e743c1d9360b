"""Google BERT's TensorFlow checkpoints: bert_config.json, bert_model.ckpt.*, vocab.txt.

TensorFlow is not needed (:mod:`megabert.convert.google.tensor_bundle`). NEZHA's TensorFlow release
has the same layout, with ``use_relative_position`` in its configuration and without a position
table.

``hidden_act`` "gelu" is the exact function, x Phi(x), as in transformers. Google's code computed it
when the first models were published, and later a tanh approximation under the same name; the two
differ by less than 5e-4.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megabert.common.errors import UserError
from megabert.common.files import read_limited
from megabert.common.log import get_logger
from megabert.config.model import ModelConfig
from megabert.convert.foreign_model import foreign_reader
from megabert.convert.format import Format
from megabert.convert.google import names
from megabert.convert.google.tensor_bundle import Bundle, write_bundle
from megabert.convert.google.tensor_bundle.table import is_table
from megabert.convert.huggingface.config import read_bert_config
from megabert.convert.name_table import SEQUENCE, NameTable, first_names, to_ours, to_theirs
from megabert.convert.tokenizer import complete, tokenizer_in
from megabert.convert.vocabulary import without_padding
from megabert.convert.whole_model import WholeModel, check_tensors
from megabert.data.tokenizers.base import Tokenizer
from megabert.model.encoder import variant_of
from megabert.model.weight_files import copy_tokenizer

_CONFIG_FILE = "bert_config.json"
_STATE_FILE = "checkpoint"
_PART = re.compile(r"\.(index|meta|data-\d+-of-\d+)$")
PREFIX = "bert_model.ckpt"

_FIELDS = (
    "attention_probs_dropout_prob",
    "hidden_act",
    "hidden_dropout_prob",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "type_vocab_size",
    "vocab_size",
)
_ACTIVATIONS = ("gelu", "relu", "tanh")  # those of megabert's that Google's code has
_EPSILON = 1e-12  # of every LayerNorm; not a field of the configuration
_MAX_RELATIVE = 64  # of NEZHA; not a field of the configuration
_TABLES: dict[str | None, NameTable] = {"bert": names.BERT, "nezha": names.NEZHA}
"""Tensor names, by the ``model_type`` of the same encoder in transformers."""
_RELATIVE = ("nezha",)
_OBJECT_GRAPH = ("_CHECKPOINTABLE_OBJECT_GRAPH", "/.ATTRIBUTES/")

log = get_logger("megabert.convert")


def _table(config: ModelConfig) -> NameTable:
    """The names of an encoder that Google's code has (:func:`config_values` refuses all others)."""
    return _TABLES[variant_of(config).transformers_type(config)]


def find_prefix(path: Path) -> Path:
    """The checkpoint's path without ``.index``.

    Args:
        path: that path itself, one of its files, or a folder with one checkpoint (or with several,
            if its file ``checkpoint`` names one of them).

    Raises:
        UserError: there is no checkpoint, or one of the old format V1.
    """
    if path.is_dir():
        return _prefix_in(path)
    prefix = path.with_name(_PART.sub("", path.name))
    index = prefix.with_name(f"{prefix.name}.index")
    if index.is_file():
        return prefix
    if path.is_file() and is_table(path):
        raise _old_format(path)
    if path.is_file() and prefix == path:
        raise UserError(
            f"{path} is not a TensorFlow checkpoint, of which there would be a file {index.name}"
        )
    raise UserError(
        f"{index} does not exist; --input takes a folder with bert_config.json and one *.index "
        "file, that file, or its path without .index"
    )


def _prefix_in(folder: Path) -> Path:
    found = sorted(folder.glob("*.index"))
    if len(found) == 1:
        return found[0].with_name(found[0].name.removesuffix(".index"))
    if not found:
        for path in sorted(folder.glob("*.ckpt*")):
            if path.is_file() and is_table(path):
                raise _old_format(path)
        raise UserError(f"{folder} has no *.index file: not a TensorFlow checkpoint (format V2)")
    state = folder / _STATE_FILE
    content = read_limited(state, 1 << 20, "a list of checkpoints") if state.is_file() else b""
    text = content.decode(errors="replace")
    named = re.search(r'^model_checkpoint_path: "(.+)"', text, re.MULTILINE)
    if named is not None:
        prefix = folder / Path(named[1]).name  # the folder may have been moved
        if prefix.with_name(f"{prefix.name}.index") in found:
            return prefix
    raise UserError(
        f"{folder} has {len(found)} checkpoints, and no file {_STATE_FILE} that names one of them; "
        f"name one with --input, for example {found[-1]}"
    )


def _old_format(path: Path) -> UserError:
    return UserError(
        f"{path} is a TensorFlow checkpoint of the old format (V1), which megabert does not "
        "support; restore it with TensorFlow and save it with tf.compat.v1.train.Saver(), which "
        "writes V2"
    )


def read(path: Path, vocab_size: int | None = None, model_config: Path | None = None) -> WholeModel:
    """Read a checkpoint.

    Args:
        path: as in :func:`find_prefix`.
        vocab_size: number of entries of the tokenizer; padding rows after them are removed.
        model_config: a bert_config.json to use instead of the one next to the checkpoint.

    Raises:
        UserError: a file is missing or damaged, or the checkpoint is not the BERT that its
            configuration describes.
    """
    prefix = find_prefix(Path(path))
    config_path = model_config or prefix.parent / _CONFIG_FILE
    if not config_path.is_file():
        raise UserError(
            f"{config_path} is not a file; name the model's configuration with --model-config"
        )
    config = read_bert_config(config_path)
    bundle = Bundle(prefix)
    renamed = to_ours(
        _table(config), _tensors(bundle, _table(config)), config.num_hidden_layers, prefix
    )
    if SEQUENCE in renamed.parts:
        log.info(
            "%s: output_weights is the head of sequence classification, as in run_classifier",
            prefix,
        )
    kinds = {str(tensor.dtype).removeprefix("torch.") for tensor in renamed.tensors.values()}
    model = WholeModel(
        config=config,
        tensors={name: tensor.to(torch.float32) for name, tensor in renamed.tensors.items()},
        tokenizer=tokenizer_in(prefix.parent),
        trained_positions=config.max_position_embeddings,
        origin=f"{prefix} (TensorFlow, {', '.join(sorted(kinds))})",
        left_out=renamed.left_out,
    )
    check_tensors(model)
    model.config, model.tensors, padding = without_padding(
        config, model.tensors, vocab_size, model.origin
    )
    model.left_out += padding
    return model


def _tensors(bundle: Bundle, table: NameTable) -> dict[str, Tensor]:
    """Every tensor by name; of those that the table leaves out, only the shape is read.

    Raises:
        UserError: the checkpoint is damaged or object-based, or a tensor does not hold
            floating-point numbers.
    """
    tensors: dict[str, Tensor] = {}
    graph = [name for name in bundle.names if any(part in name for part in _OBJECT_GRAPH)]
    if graph:
        raise UserError(
            f"{bundle.prefix} is an object-based checkpoint of TensorFlow 2 (it holds {graph[0]}), "
            "whose names depend on the program that wrote it; use the model's TensorFlow 1 release "
            "or its Hugging Face folder"
        )
    for name in bundle.names:
        if any(re.fullmatch(pattern, name) for pattern, _ in table.left_out):
            tensors[name] = torch.empty(bundle.shape(name), device="meta")
            continue
        dtype = bundle.dtype(name)
        if dtype is None or not dtype.is_floating_point:
            raise UserError(
                f"{bundle.prefix}: unexpected tensor {name} without floating-point numbers: not a "
                f"{table.format} checkpoint"
            )
        tensors[name] = bundle.read(name)
    return tensors


def write(folder: Path, model: WholeModel, tokenizer: Tokenizer | None = None) -> None:
    """Fill an existing folder with a checkpoint in the layout of Google's releases.

    bert_config.json, bert_model.ckpt.index, bert_model.ckpt.data-00000-of-00001, checkpoint, and
    the tokenizer's files.

    Args:
        folder: the folder.
        model: the model.
        tokenizer: the model's, to add missing files.

    Raises:
        UserError: Google's code has no model that computes the same.
    """
    values = bert_config_values(model)
    theirs, unmapped = to_theirs(
        _table(model.config), model.tensors, model.config.num_hidden_layers
    )
    if unmapped:
        raise UserError(
            f"{model.origin}: Google's checkpoints have no name for the tensors of a {model.head} "
            f"model: {first_names(unmapped)}"
        )
    if model.labels:
        log.warning(
            "%s: a Google checkpoint has no place for label names, so they are not written",
            model.origin,
        )
    write_bundle(folder / PREFIX, theirs)
    state = f'model_checkpoint_path: "{PREFIX}"\nall_model_checkpoint_paths: "{PREFIX}"\n'
    (folder / _STATE_FILE).write_text(state, encoding="utf-8")
    text = json.dumps(values, indent=2, sort_keys=True) + "\n"
    (folder / _CONFIG_FILE).write_text(text, encoding="utf-8")
    copy_tokenizer(model.tokenizer, folder)
    if tokenizer is not None:
        complete(folder, tokenizer)
    if tokenizer is not None and tokenizer.added_tokens:
        log.warning(
            "%s: Google's code finds only the entries of vocab.txt in text, so not the added tokens %s",
            model.origin,
            first_names(tokenizer.added_tokens),
        )
    if model.tokenizer is not None and not (folder / "vocab.txt").is_file():
        log.warning(
            "%s: its tokenizer has no vocab.txt, which Google's code requires", model.origin
        )


def bert_config_values(model: WholeModel) -> dict[str, Any]:
    """The bert_config.json of a model.

    Raises:
        UserError: Google's code does not support a setting.
    """
    config = model.config
    kind, wrong = variant_of(config).transformers_type(config), None
    if config.norm != "post":
        wrong = f"norm {config.norm!r} (it has no name for bert.final_norm)"
    elif kind not in _TABLES:
        wrong = f"the encoder {config.encoder!r}"
    elif config.hidden_act not in _ACTIVATIONS:
        wrong = f"hidden_act {config.hidden_act!r} (it has {', '.join(_ACTIVATIONS)})"
    elif config.layer_norm_eps != _EPSILON:
        wrong = f"layer_norm_eps {config.layer_norm_eps:g} (it uses {_EPSILON:g})"
    elif kind in _RELATIVE and config.max_relative_position != _MAX_RELATIVE:
        wrong = f"max_relative_position {config.max_relative_position} (it uses {_MAX_RELATIVE})"
    if wrong is not None:
        raise UserError(f"{model.origin}: Google's BERT code cannot compute {wrong}")
    values = {name: getattr(config, name) for name in _FIELDS}
    return values | ({"use_relative_position": True} if kind in _RELATIVE else {})


FORMAT = Format(read=foreign_reader(read), write=write, marks=(("*.index",),))
