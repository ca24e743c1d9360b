"""NEZHA's sinusoids in a checkpoint: they must equal those that megabert computes.

transformers' ``NezhaModel`` saved them with every layer as ``positions_encoding``, [S, S, D]; the
authors' files do not hold them.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from megabert.common.errors import UserError
from megabert.config.model import ModelConfig
from megabert.convert.huggingface.names import POSITION_TABLES
from megabert.model.encoders.nezha import relative_table

_TOLERANCE = 1e-4
"""The published forms differ by float32's rounding of angles up to 2 max_relative_position."""


def take_position_tables(
    config: ModelConfig, found: dict[str, Tensor], folder: Path
) -> list[tuple[str, str]]:
    """Remove them from ``found``, and compare them with the formula.

    Returns:
        (name, reason) of each table, for the list of left-out tensors.

    Raises:
        UserError: a table holds other values, so the model would compute something else.
    """
    tables = []
    for name in [n for n in sorted(found) if re.fullmatch(POSITION_TABLES, n)]:
        tensor = found.pop(name).float()  # [S, S, D]
        reach = config.max_relative_position
        table = relative_table(reach, config.head_size, torch.float32, tensor.device)
        places = torch.arange(tensor.shape[0] if tensor.dim() == 3 else 0)
        distances = (places[None, :] - places[:, None]).clamp(-reach, reach) + reach  # [S, S]
        expected = table[distances]
        if tensor.shape != expected.shape or not ((tensor - expected).abs().max() <= _TOLERANCE):
            raise UserError(
                f"{folder}: {name} does not hold the sinusoids of relative positions up to {reach} "
                "(max_relative_position), so megabert would not compute the same"
            )
        tables.append(
            (name, "a buffer: the sinusoids of relative positions, which are as expected")
        )
    return tables
