"""Hugging Face folders: config.json, model.safetensors (or older weight files), tokenizer files.

A post-LN encoder is written for transformers' ``Bert...`` classes, a pre-LN one for
``MegatronBert...`` (no LayerNorm after the embeddings, one after the last layer, as in megabert),
and one with relative positions for ``Nezha...``, which transformers had up to version 4: their code
is written next to the weights (:mod:`megabert.convert.huggingface.nezha_code`). The heads determine
the class. Tensors for which it has no place are an error. Folders with
``bert_config.json`` instead of ``config.json`` (the authors' releases of NEZHA) can be read too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.config.model import ModelConfig
from megabert.convert.exports.history import converted_record, stages_in
from megabert.convert.foreign_files import read_weight_files
from megabert.convert.foreign_model import in_float32
from megabert.convert.huggingface import labels, names
from megabert.convert.huggingface.config import (
    CONFIG_FILES,
    SHARED_FIELDS,
    config_from,
    is_relative,
    read_object,
)
from megabert.convert.huggingface.families import Family, class_name, family_in, family_of
from megabert.convert.huggingface.nezha_code import write_code
from megabert.convert.huggingface.position_tables import take_position_tables
from megabert.convert.huggingface.sentence_modules import sentence_modules
from megabert.convert.name_table import NameTable, to_ours, to_theirs
from megabert.convert.tokenizer import complete, tokenizer_in, word_count
from megabert.convert.vocabulary import without_padding
from megabert.convert.whole_model import ENCODER_ONLY, WholeModel, check_tensors
from megabert.data.tokenizers.base import VOCAB_FILE, Tokenizer
from megabert.model.encoder import variant_of
from megabert.model.head_registry import Head, task_heads
from megabert.model.weight_files import copy_tokenizer, write_tensors

log = get_logger("megabert.convert")


def config_file(folder: Path, given: Path | None = None) -> Path:
    """The file that describes a folder's encoder.

    Raises:
        UserError: the file does not exist.
    """
    candidates = [given] if given is not None else [folder / name for name in CONFIG_FILES]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        where = given or f"{folder} has no {' and no '.join(CONFIG_FILES)}"
        reason = "is not a file" if given else ": not a Hugging Face model folder"
        raise UserError(f"{where}{' ' if given else ''}{reason}")
    return path


def read_folder_config(path: Path) -> tuple[ModelConfig, Family, dict[str, Any]]:
    """The encoder that a config.json describes, its family, and all values of the file.

    Raises:
        UserError: another model, a missing field, or a setting that megabert does not support.
    """
    values = read_object(path)
    model_type = "nezha" if is_relative(values) else values.get("model_type", "bert")
    family = family_in(values, str(model_type), path)
    return config_from(values, path, norm=family.norm), family, values


def _table(
    family: Family, values: Mapping[str, Any], found: Mapping[str, Tensor], folder: Path
) -> NameTable:
    """The family's names, with those of the task heads in this folder."""
    pooler = any("pooler.dense" in name for name in found)
    sharing: dict[str, list[Head]] = {}  # heads with the same foreign names, by their first name
    for head in task_heads():
        for _, theirs in head.transformers_layers[:1]:
            if f"{theirs}.weight" in found or f"{theirs}.bias" in found:
                sharing.setdefault(theirs, []).append(head)
    table = family.table
    for layer, heads in sharing.items():
        if len(heads) == 1:
            table = names.with_heads(table, heads[0])
            continue
        chosen, why = labels.chosen_head(heads, values, pooler)
        if chosen is None:
            table = names.without_layer(table, layer)
            continue
        log.info("%s: %s is the head of %s, according to %s", folder, layer, chosen, why)
        table = names.with_heads(table, chosen)
    return table


def read(
    folder: Path, tokenizer: Path | None = None, model_config: Path | None = None
) -> WholeModel:
    """Read a Hugging Face folder.

    Args:
        folder: holds a configuration and weights.
        tokenizer: folder of tokenizer files, or vocabulary file, to use instead of the folder's.
        model_config: JSON to use instead of the folder's configuration.

    Raises:
        UserError: not such a folder, or a model that megabert cannot compute exactly.
    """
    modules = sentence_modules(Path(folder))
    given, folder = Path(folder), modules.encoder
    tokenizer = tokenizer or tokenizer_in(folder)
    config, family, values = read_folder_config(config_file(folder, model_config))
    found = read_weight_files(folder)
    buffers = []
    if not variant_of(config).position_rows(config):
        buffers = take_position_tables(config, found, folder)
    table = _table(family, values, found, folder)
    renamed = to_ours(table, found, config.num_hidden_layers, folder)
    tensors, kinds = in_float32(renamed.tensors, folder)
    model = WholeModel(
        config=config,
        tensors=tensors,
        tokenizer=tokenizer,
        trained_positions=config.max_position_embeddings,
        origin=f"{folder} ({family.class_prefix}, {kinds})",
        left_out=renamed.left_out + buffers + modules.left_out,
        embedding=modules.embedding,
    )
    _add_known(model, given)
    if model.head.labelled:
        model.labels = labels.read_labels(values, str(folder))
        model.left_out += labels.left_out(values, config)
        if model.head.per_sequence:
            model.task_record = labels.read_record(values)
    check_tensors(model)
    words = word_count(tokenizer) if tokenizer is not None else None
    model.config, model.tensors, padding = without_padding(
        config, model.tensors, words, model.origin
    )
    model.left_out += padding
    return model


def _add_known(model: WholeModel, folder: Path) -> None:
    """What an earlier conversion recorded in the folder that it made, if the weights are still those."""
    record = converted_record(folder)
    positions = record.get("trained_positions")
    if isinstance(positions, int) and 0 < positions <= model.config.max_position_embeddings:
        model.trained_positions = positions
    model.history = stages_in(record)


def config_values(model: WholeModel, pad_token_id: int) -> dict[str, Any]:
    """The config.json of a model."""
    family = family_of(model.config)
    values: dict[str, Any] = {name: getattr(model.config, name) for name in SHARED_FIELDS}
    values |= family.own_fields(model.config)
    if model.outputs:
        values |= labels.label_values(model)
    return {
        "architectures": [class_name(model)],
        "model_type": family.model_type,
        **values,
        "pad_token_id": pad_token_id,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
    }


def write(folder: Path, model: WholeModel, tokenizer: Tokenizer | None = None) -> None:
    """Fill an existing folder with a Hugging Face model.

    Args:
        folder: the folder.
        model: the model.
        tokenizer: the model's, to add missing files.

    Raises:
        UserError: transformers has no class that computes the same.
    """
    family = family_of(model.config)
    if model.has_crf:
        raise UserError(
            f"{model.origin}: transformers has no conditional random field (crf.transitions, "
            "crf.start, crf.end), so it would give other labels; fine-tune with --crf off for a "
            "model that can be converted"
        )
    table = names.with_heads(family.table, model.head)
    theirs, unmapped = to_theirs(table, model.tensors, model.config.num_hidden_layers)
    if unmapped:
        raise UserError(
            f"{model.origin}: transformers' {class_name(model)} has no place for {unmapped[0]} "
            f"({len(unmapped)} such tensors), so it would not compute the same"
        )
    if model.head is ENCODER_ONLY:
        theirs = {re.sub(r"^(bert|nezha)\.", "", name): tensor for name, tensor in theirs.items()}
    write_tensors(folder / "model.safetensors", theirs, {"format": "pt"})
    values = config_values(model, tokenizer.special.pad if tokenizer else 0)
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    if family.own_code:
        write_code(folder)
    copy_tokenizer(model.tokenizer, folder)
    if tokenizer is not None:
        complete(folder, tokenizer)
        _fit_tokenizer(folder / "tokenizer_config.json", model, tokenizer)


def _fit_tokenizer(path: Path, model: WholeModel, tokenizer: Tokenizer) -> None:
    """Record the number of trained positions and, if the file lacks it, the casing.

    transformers truncates text at ``model_max_length``; without it, a pipeline exceeds the last
    position. A smaller number that the file states stays. A class is stated where transformers would
    ask the code of the folder for one.
    """
    values = read_object(path)
    limit = values.get("model_max_length")
    if not isinstance(limit, int) or not 0 < limit <= model.trained_positions:
        values["model_max_length"] = model.trained_positions
    values.setdefault("do_lower_case", tokenizer.lower_case)
    if family_of(model.config).own_code:
        fast = "BertTokenizer" if VOCAB_FILE in tokenizer.files() else "PreTrainedTokenizerFast"
        values.setdefault("tokenizer_class", fast)
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")
