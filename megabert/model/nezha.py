"""NEZHA's functional relative positions (Wei et al. 2019, equations 1-4): the table behind a_ij.

The paper has a_ij[2k] = sin((j - i) / 10000^(2k/D)) and a_ij[2k + 1] the cosine, D being head_size, with
distances clipped to -m .. m. The authors' published code (theirs for TensorFlow and for PyTorch, and
transformers' ``NezhaModel`` after it) takes the row's number in the table, clip(j - i) + m = 0 .. 2m,
for j - i. The two differ by a rotation of each pair of sine and cosine. We follow the code, so that
published weights give the same results.

The table has no parameter: it is the same for all heads and layers, and for keys and values.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from megabert.kernels.attention.relative import PAIR_BYTES, PAIR_TENSORS, PAIR_TRAFFIC

__all__ = ["PAIR_BYTES", "PAIR_TENSORS", "PAIR_TRAFFIC", "relative_table"]

_BASE = 10000.0


@functools.cache
def relative_table(most: int, head_size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The table ``[2 most + 1, D]``, made once for each of its kinds and never changed.

    Args:
        most: m, the largest distance that is told apart (``max_relative_position``).
        head_size: D, even.
        dtype: of the attention's arithmetic, float32 or float64.
        device: where it is to lie.
    """
    with torch.inference_mode(False):  # for whoever asks first; a later backward may need it
        rows = torch.arange(2 * most + 1, dtype=torch.float64)
        waves = torch.exp(
            torch.arange(0, head_size, 2, dtype=torch.float64) * (-math.log(_BASE) / head_size)
        )
        angles = rows[:, None] * waves
        table = torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)
        return table.to(device, dtype)
