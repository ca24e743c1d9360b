"""From the tensors of a foreign checkpoint to a model, with or without its configuration."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.config.model import ModelConfig
from megabert.convert.format import ModelSource, Reader
from megabert.convert.name_table import NameTable, first_names, to_ours
from megabert.convert.tokenizer import tokenizer_in, word_count
from megabert.convert.vocabulary import is_padding, without_padding
from megabert.convert.whole_model import WholeModel

HEAD_SIZE = 64
"""Width of an attention head in every published BERT, which no tensor's shape shows."""

_WORDS = "bert.embeddings.word_embeddings.weight"
_POSITIONS = "bert.embeddings.position_embeddings.weight"
_TYPES = "bert.embeddings.token_type_embeddings.weight"

log = get_logger("megabert.convert")


class _ReadFile(Protocol):
    """Reads a checkpoint, given the number of entries of its tokenizer and a file to use instead of
    the configuration next to it (None: not known, not given)."""

    def __call__(
        self, path: Path, vocab_size: int | None, model_config: Path | None
    ) -> WholeModel: ...


def foreign_reader(read: _ReadFile) -> Reader:
    """A format's reader, given a function that reads its files.

    The number of entries is that of the tokenizer given with ``--tokenizer``, or next to the
    weights.
    """

    def read_source(source: ModelSource) -> WholeModel:
        if not _exists(source.path):
            raise UserError(f"{source.path} does not exist")
        folder = source.path if source.path.is_dir() else source.path.parent
        tokenizer = source.tokenizer or tokenizer_in(folder)
        words = None if tokenizer is None else word_count(tokenizer)
        model = read(source.path, words, source.model_config)
        if source.tokenizer is not None:
            model.tokenizer = source.tokenizer
        return model

    return read_source


def _exists(path: Path) -> bool:
    """Whether there is such a file or folder, or a file of which it is the prefix."""
    siblings = path.parent.iterdir() if path.parent.is_dir() else ()
    return path.exists() or any(other.name.startswith(f"{path.name}.") for other in siblings)


def one_file(path: Path, patterns: Sequence[str]) -> Path:
    """``path`` itself, or the only file of a folder that matches a pattern.

    Raises:
        UserError: there is no such file, or more than one.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"{path} does not exist")
    found = sorted({file for pattern in patterns for file in path.glob(pattern) if file.is_file()})
    if not found:
        raise UserError(f"{path} has no {' and no '.join(patterns)}")
    if len(found) > 1:
        names = first_names(file.name for file in found)
        raise UserError(f"{path} has {names} checkpoints; name one of these files with --input")
    return found[0]


def layer_count(table: NameTable, found: Iterable[str], source: object) -> int:
    """Number of layers, according to the names in a checkpoint.

    Raises:
        UserError: no name is that of a layer's tensor.
    """
    stems = (re.escape(name.theirs).replace(r"\{i\}", r"(\d+)") for name in table.names)
    pattern = re.compile("|".join(stem for stem in stems if r"(\d+)" in stem))
    matches = (pattern.fullmatch(table.spell(name)) for name in found)
    layers = [int(match[match.lastindex or 0]) for match in matches if match]
    if not layers:
        raise UserError(
            f"{source} is not a {table.format} checkpoint: no name is that of a layer's tensor: "
            f"{first_names(found)}"
        )
    return max(layers) + 1


def _matrix(tensors: Mapping[str, Tensor], name: str, source: object) -> tuple[int, int]:
    """Rows and columns of a matrix."""
    shape = tuple(tensors[name].shape)
    if len(shape) != 2 or 0 in shape:
        raise UserError(f"{source}: {name} has shape {list(shape)}, not that of a matrix")
    return shape


def inferred_config(
    tensors: Mapping[str, Tensor], layers: int, source: Path, **more: Any
) -> ModelConfig:
    """The encoder that has these tensors; attention heads are assumed to be 64 wide (logged).

    Args:
        tensors: under megabert's names.
        layers: number of layers.
        source: the checkpoint.
        more: fields that cannot be inferred from tensors.

    Raises:
        UserError: the width is not a multiple of 64.
    """
    words, hidden = _matrix(tensors, _WORDS, source)
    if hidden % HEAD_SIZE:
        raise UserError(
            f"{source} has no configuration, and its width {hidden} is not a multiple of "
            f"{HEAD_SIZE}, so its number of attention heads is unknown; set --model-config"
        )
    if _POSITIONS in tensors:
        more["max_position_embeddings"] = _matrix(tensors, _POSITIONS, source)[0]
    config = ModelConfig(
        name=source.stem,
        vocab_size=words,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // HEAD_SIZE,
        intermediate_size=_matrix(tensors, "bert.layers.0.mlp.up.weight", source)[0],
        type_vocab_size=_matrix(tensors, _TYPES, source)[0],
        **more,
    )
    log.info(
        "%s has no configuration: %d layers of width %d according to its tensors, and %d attention "
        "heads of width %d, as in published models (--model-config overrides this)",
        source,
        layers,
        hidden,
        config.num_attention_heads,
        HEAD_SIZE,
    )
    return config


def in_float32(tensors: Mapping[str, Tensor], source: object) -> tuple[dict[str, Tensor], str]:
    """The tensors in fp32, and the names of their original types.

    Raises:
        UserError: a tensor does not hold floating-point numbers.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise UserError(f"{source}: {name} holds {tensor.dtype}, not floating-point numbers")
    kinds = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()})
    return {name: tensor.to(torch.float32) for name, tensor in tensors.items()}, ", ".join(kinds)


def whole_model(
    table: NameTable,
    found: Mapping[str, Tensor],
    source: Path,
    *,
    config: ModelConfig | None,
    vocab_size: int | None,
    unsaid: Mapping[str, Any],
) -> WholeModel:
    """Rename a checkpoint's tensors, complete its configuration and cut the vocabulary's padding.

    Args:
        table: the format's names.
        found: every tensor of the file, under the names there.
        source: the file; a tokenizer is looked for next to it.
        config: the encoder; None to infer it from the tensors.
        vocab_size: number of entries of the tokenizer; if None, the configuration's is the true
            one.
        unsaid: fields of an inferred configuration that cannot be inferred from tensors.

    Returns:
        the model, not yet compared with its configuration (:func:`check_tensors`).

    Raises:
        UserError: as :func:`to_ours`, :func:`inferred_config` and :func:`in_float32`.
    """
    layers = config.num_hidden_layers if config else layer_count(table, found, source)
    renamed = to_ours(table, found, layers, source)
    tensors, kinds = in_float32(renamed.tensors, source)
    config = config or inferred_config(tensors, layers, source, **unsaid)
    rows, words = _matrix(tensors, _WORDS, source)[0], config.vocab_size
    if vocab_size is None and words >= rows:
        log.info(
            "%s: keeping all %d rows of its vocabulary; if some are padding, set --tokenizer",
            source,
            rows,
        )
    if is_padding(rows, words):
        config = replace(config, vocab_size=rows)
    config, tensors, padding = without_padding(config, tensors, vocab_size or words, source)
    return WholeModel(
        config=config,
        tensors=tensors,
        tokenizer=tokenizer_in(source.parent),
        trained_positions=config.max_position_embeddings,
        origin=f"{source} ({table.format}, {kinds})",
        left_out=renamed.left_out + padding,
    )
