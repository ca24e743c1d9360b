"""Checkpoints of MindSpore's BERT (``official/nlp/Bert`` of the MindSpore models), read only.

Its NEZHA (``use_relative_positions``) has a trained table of relative positions in each layer,
while the NEZHA of Wei et al. 2019, and megabert's, has fixed sinusoids: such a checkpoint is
converted if its tables hold those sinusoids, otherwise it is an error.

Its conditional random field (``CRF.py``) includes START and STOP, the last two labels, among the
labels and has scores ``transitions[to, from]``; transitions into START and out of STOP cost 10,000,
so no word gets either label, and removing them does not change any score that differs from minus
infinity.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.convert.foreign_model import foreign_reader, one_file, whole_model
from megabert.convert.format import Format
from megabert.convert.mindspore import names
from megabert.convert.mindspore.config import (
    UNSAID,
    config_beside,
    encoder_config,
    read_settings,
    wants_relative,
    wants_tokens,
)
from megabert.convert.mindspore.proto import Stored, read_parameters
from megabert.convert.name_table import NameTable
from megabert.convert.whole_model import WholeModel, check_tensors
from megabert.model.encoders.nezha import relative_table

_FILES = ("*.ckpt",)
_TRANSITIONS = "crf.transitions"
_SINUSOID_TOLERANCE = 1e-5  # fp32 rounds the angles

log = get_logger("megabert.convert")


def read(path: Path, vocab_size: int | None = None, model_config: Path | None = None) -> WholeModel:
    """Read a checkpoint.

    Args:
        path: the file, or a folder with one such file.
        vocab_size: number of entries of the tokenizer; padding rows after them are removed.
        model_config: JSON or YAML with the encoder's shape, instead of the one next to the file;
            without either, the shape is inferred from the tensors.

    Raises:
        UserError: the file is damaged or encrypted, holds another model than the configuration
            describes, or one that megabert does not support.
    """
    file = one_file(Path(path), _FILES)
    config_file = model_config or config_beside(file.parent)
    values = read_settings(config_file) if config_file is not None else {}
    config = encoder_config(values, config_file) if config_file is not None else None
    stored = read_parameters(file)
    strings = _take_strings(stored)
    relative, tables = _take_relative(stored, file, wanted=wants_relative(values))
    if config is not None:
        config = replace(config, **relative)
    token = wants_tokens(values) or "loss.transitions" in stored
    table = names.mindspore_table(token=token, relative=bool(relative))
    model = whole_model(
        table,
        _tensors(stored, table, file),
        file,
        config=config,
        vocab_size=vocab_size,
        unsaid=UNSAID | relative,
    )
    model.left_out += strings + tables
    if "sequence.classifier.weight" in model.tensors:
        log.info(
            "%s: dense_1 is treated as the head of sequence classification, as in "
            "run_classifier.py; for run_ner.py's head, which has the same name, put its YAML next "
            "to the file, or "
            '"architectures": ["BertForTokenClassification"] into --model-config',
            file,
        )
    _split_transitions(model)
    check_tensors(model)
    return model


def _take_strings(stored: dict[str, Stored]) -> list[tuple[str, str]]:
    """Remove strings, which a training loop may append, from the parameters."""
    found = sorted(name for name, parameter in stored.items() if parameter.kind == "str")
    for name in found:
        del stored[name]
    return [(name, "a string") for name in found]


def _tensors(stored: dict[str, Stored], table: NameTable, file: Path) -> dict[str, Tensor]:
    """Copies of the parameters; of those that will be left out, only the names."""
    nothing = torch.empty((), device="meta")

    def needed(name: str) -> bool:
        spelled = table.spell(name)
        return not any(re.fullmatch(pattern, spelled) for pattern, _ in table.left_out)

    return {
        name: parameter.tensor(file) if needed(name) else nothing
        for name, parameter in stored.items()
    }


def _take_relative(
    stored: dict[str, Stored], file: Path, *, wanted: bool
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Remove the tables of relative positions from the parameters.

    Returns:
        the fields of a configuration with relative positions ({} without tables), and (name,
        reason) of each table.

    Raises:
        UserError: they do not hold the sinusoids, or are wanted but missing.
    """
    found = sorted(name for name in stored if re.fullmatch(names.RELATIVE_TABLES, name))
    if wanted and not found:
        raise UserError(
            f"{file}: its configuration selects relative positions, but it has no tables of them"
        )
    sizes = set()
    for name in found:
        tensor = stored.pop(name).tensor(file).float()  # [2 m + 1, D]
        rows, width = (*tensor.shape, 0, 0)[:2]
        expected = relative_table(rows // 2, width, torch.float32, tensor.device)
        if tensor.shape != expected.shape or (tensor - expected).abs().max() > _SINUSOID_TOLERANCE:
            raise UserError(
                f"{file}: {name} is a trained table; megabert's relative positions are the fixed "
                "sinusoids of NEZHA, so converting this model would change what it computes"
            )
        sizes.add(rows // 2)
    if not found:
        return {}, []
    if len(sizes) > 1:
        raise UserError(f"{file}: its tables of relative positions differ in length")
    fields = {"position_embeddings": "relative", "max_relative_position": sizes.pop()}
    return fields, [(name, "the sinusoids of relative positions, as expected") for name in found]


def _split_transitions(model: WholeModel) -> None:
    """Turn MindSpore's field over L + 2 labels into one over L, and cut the token head to match.

    Raises:
        UserError: the shapes of the field and of the head do not match.
    """
    if _TRANSITIONS not in model.tensors:
        return
    scores = model.tensors[_TRANSITIONS]  # [L + 2, L + 2], [to, from]
    head = model.tensors.get("token.classifier.weight", scores.new_empty(0, 0))
    labels = len(head) - 2
    if labels < 1 or tuple(scores.shape) != (labels + 2, labels + 2):
        raise UserError(
            f"{model.origin}: loss.transitions has shape {list(scores.shape)}, which does not match "
            f"the head bert.dense_1 of shape {list(head.shape)}"
        )
    start, stop = labels, labels + 1
    model.tensors[_TRANSITIONS] = scores[:labels, :labels].t().contiguous()  # [from, to]
    model.tensors["crf.start"] = scores[:labels, start].contiguous()
    model.tensors["crf.end"] = scores[stop, :labels].contiguous()
    for name in ("token.classifier.weight", "token.classifier.bias"):
        model.tensors[name] = model.tensors[name][:labels].contiguous()
        removed = (f"rows {start} and {stop} of {name}", "START and STOP, which no word has")
        model.left_out.append(removed)


FORMAT = Format(read=foreign_reader(read), marks=(_FILES,))
