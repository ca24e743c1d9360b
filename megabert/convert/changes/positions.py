"""More positions than a model was made with.

A position table gets more rows by repeating those that training has used, as Longformer does (Beltagy
et al. 2020): row i becomes a copy of row i mod T. An encoder without a table, such as NEZHA, only
gets the new limit.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from megabert.common.errors import UserError
from megabert.convert.whole_model import WholeModel
from megabert.model.encoder import variant_of

TABLE = "bert.embeddings.position_embeddings.weight"


def with_more_positions(model: WholeModel, rows: int) -> tuple[WholeModel, dict[str, Any]]:
    """The model for sequences of up to ``rows`` tokens, and the record of how.

    Raises:
        UserError: the model has as many positions already, or more.
    """
    before, trained = model.config.max_position_embeddings, model.trained_positions
    has_table = variant_of(model.config).position_rows(model.config) > 0
    trained = min(trained, before) if has_table else before
    if rows < before or rows == trained:
        raise UserError(
            f"--position-rows {rows}: {model.origin} has {before} positions already; give more"
        )
    tensors = dict(model.tensors)
    if has_table:
        tensors[TABLE] = tensors[TABLE][torch.arange(rows) % trained]
    moved = dataclasses.replace(
        model,
        config=dataclasses.replace(model.config, max_position_embeddings=rows),
        tensors=tensors,
    )
    return moved, {
        "positions_before": before,
        "positions": rows,
        "repeated_rows": trained if has_table else 0,
    }


def position_lines(record: dict[str, Any]) -> list[str]:
    """A record as lines of text."""
    repeated, rows = record["repeated_rows"], record["positions"]
    how = "no table to extend, only the limit changes"
    if repeated:
        how = f"rows {repeated} to {rows - 1} repeat the trained rows 0 to {repeated - 1}"
    return [f"positions {record['positions_before']} -> {rows}: {how}"]
