"""Moves a model to another vocabulary: the rows of its word embeddings and of the MLM bias.

Copied rows are the old bits. A mean is taken in float64 and rounded once. A drawn row of the
embeddings is normal with mean 0 and standard deviation ``initializer_range``, a function of (seed,
id); a drawn bias is the mean of all old ones, as of an entry of which nothing is known.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from megabert.common.errors import UserError
from megabert.convert.changes.row_sources import RowSources, row_sources
from megabert.convert.tokenizer import open_tokenizer
from megabert.convert.whole_model import WholeModel
from megabert.data.samples.counter_rng import CounterRng, Purpose
from megabert.data.tokenizers.load import load_tokenizer
from megabert.model.parameters import VOCABULARY_TENSORS

_CHUNK = 4096
_SHOWN = 3


def with_new_vocabulary(
    model: WholeModel, place: Path, seed: int
) -> tuple[WholeModel, dict[str, Any]]:
    """The model for another tokenizer, and the record of where its rows come from.

    Args:
        model: with a tokenizer.
        place: the new tokenizer, a folder or a file.
        seed: of drawn rows.

    Raises:
        UserError: a tokenizer cannot be loaded, the model has none, or it is the new one already.
    """
    new = load_tokenizer(place)
    if model.tokenizer is None:
        raise UserError(
            f"--new-tokenizer: {model.origin} has no tokenizer files, so its rows have no names; "
            "give its tokenizer with --tokenizer"
        )
    old = open_tokenizer(
        model.tokenizer, model.config.vocab_size, model.origin, model.tokenizer_sha256
    )
    if new.sha256 == old.sha256:
        raise UserError(
            f"--new-tokenizer {place} is the tokenizer that {model.origin} has already; leave it out"
        )
    sources = row_sources(old, new)
    tensors = dict(model.tensors)
    for name in VOCABULARY_TENSORS:
        if name in tensors:
            drawn = _drawn(sources, tensors[name], model.config.initializer_range, seed)
            tensors[name] = moved_rows(sources, tensors[name], drawn)
    moved = dataclasses.replace(
        model,
        config=dataclasses.replace(model.config, vocab_size=new.vocab_size),
        tensors=tensors,
        tokenizer=place,
        tokenizer_sha256=None,
    )
    return moved, _record(sources, place, model.config.vocab_size, seed)


def moved_rows(sources: RowSources, table: Tensor, drawn: Tensor) -> Tensor:
    """The new rows of a table whose first dimension is the vocabulary, [V, ...] -> [V', ...].

    Args:
        sources: of each new row.
        table: float32.
        drawn: the rows ``sources.drawn``, in that order.
    """
    new = table.new_empty(len(sources.new_names), *table.shape[1:])
    new[list(sources.copied)] = table[list(sources.copied.values())]
    new[sources.drawn] = drawn
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, pieces in sources.averaged.items():
        by_length[len(pieces)].append(number)
    for numbers in by_length.values():
        for first in range(0, len(numbers), _CHUNK):
            chunk = numbers[first : first + _CHUNK]
            rows = torch.tensor([sources.averaged[number] for number in chunk])  # [n, k]
            new[chunk] = table[rows].double().mean(1).to(table.dtype)
    return new


def _drawn(sources: RowSources, table: Tensor, deviation: float, seed: int) -> Tensor:
    count = len(sources.drawn)
    if table.dim() == 1:
        mean = table[: len(sources.old_names)].double().mean()
        return mean.to(table.dtype).expand(count)
    width = table.shape[1]
    if not count:
        return table.new_empty(0, width)
    numbers = np.array(sources.drawn, np.int64)
    words = CounterRng(seed, Purpose.NEW_ROW).rows(np.zeros_like(numbers), numbers, 2 * width)
    uniform = (words + 0.5) / 2**32  # [n, 2 H], in (0, 1)
    radius = np.sqrt(-2 * np.log(uniform[:, :width]))  # Box and Muller 1958
    normal = radius * np.cos(2 * np.pi * uniform[:, width:])
    return torch.from_numpy(deviation * normal).to(table.dtype)


def _record(sources: RowSources, place: Path, rows: int, seed: int) -> dict[str, Any]:
    dropped = sources.dropped
    old, new = sources.old_names, sources.new_names
    averaged = {new[i]: [old[k] for k in pieces] for i, pieces in sources.averaged.items()}
    return {
        "tokenizer": str(place),
        "rows_before": rows,
        "rows": len(new),
        "copied": len(sources.copied),
        "averaged": len(averaged),
        "drawn": len(sources.drawn),
        "dropped": len(dropped) + rows - len(old),
        "seed": seed,
        "examples": {
            "averaged": dict(list(averaged.items())[:_SHOWN]),
            "drawn": [new[i] for i in sources.drawn[:_SHOWN]],
            "dropped": [old[i] for i in dropped[:_SHOWN]],
        },
    }


def vocabulary_lines(record: dict[str, Any]) -> list[str]:
    """A record as lines of text."""
    examples = record["examples"]
    made = [f"{name} from {' '.join(parts)}" for name, parts in examples["averaged"].items()]
    lines = [
        f"vocabulary of {record['rows_before']} -> {record['rows']} rows ({record['tokenizer']}):",
        f"  copied {record['copied']}, bit for bit",
        f"  averaged {record['averaged']}, over their old pieces{_shown(made)}",
    ]
    for kind, why in (("drawn", "which have no known piece"), ("dropped", "of the old ones")):
        lines.append(f"  {kind} {record[kind]}, {why}{_shown(examples[kind])}")
    return lines


def _shown(examples: list[str]) -> str:
    return f": {', '.join(examples)}, ..." if examples else ""
