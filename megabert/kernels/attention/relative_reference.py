"""Relative positions in attention, in plain torch on any device (NEZHA: Wei et al. 2019, equations 1-4).

Query i and key j have a vector a_ij that depends on their clipped distance only:

    a_ij = R[clip(j - i, -m, m) + m],    R the table, [2m + 1, D]

It is added to the keys and to the values. To avoid a tensor of S x S x D elements, products
are made with the 2m + 1 rows of the table, and then spread over pairs or summed over equal distances:

    q_i . a_ij          = (Q R^T)_i[clip(j - i) + m]                    spread
    sum_j p_ij a_ij     = W_i R,   W_i[b] = sum over j with clip(j - i) + m = b of p_ij

Shapes: S tokens per sequence, D head_size; leading dimensions (heads, sequences) are free. All functions
compute in the dtype of their arguments.
"""

from __future__ import annotations

import torch
from torch import Tensor


def reach(table: Tensor) -> int:
    """m, the distance from which all distances share a vector."""
    return len(table) // 2


def at_pairs(rows: Tensor, table: Tensor) -> Tensor:
    """``rows_i . a_ij``: ``[..., S, D]`` -> ``[..., S, S]``."""
    most, places = reach(table), torch.arange(rows.size(-2), device=rows.device)
    distances = (places - places[:, None]).clamp(-most, most) + most  # [S, S]
    return (rows @ table.t()).gather(-1, distances.expand(*rows.shape[:-1], -1))


def by_distance(pairs: Tensor, most: int) -> Tensor:
    """Sums of each row over equal clipped distances: ``[..., S, S]`` -> ``[..., S, 2 most + 1]``."""
    length, device = pairs.size(-1), pairs.device
    queries = torch.arange(length, device=device)[:, None]
    keys = queries + torch.arange(-most, most + 1, device=device)  # [S, 2m + 1]
    inside = (keys >= 0) & (keys < length)
    keys = keys.clamp(0, max(0, length - 1)).expand(*pairs.shape[:-1], -1)
    sums = pairs.gather(-1, keys).masked_fill_(~inside, 0.0)
    beyond = length - most - 1
    if beyond > 0:
        sums[..., -beyond:, 0] += pairs[..., -beyond:, :beyond].tril().sum(dim=-1)
        sums[..., :beyond, -1] += pairs[..., :beyond, -beyond:].triu().sum(dim=-1)
    return sums


def over_pairs(pairs: Tensor, table: Tensor) -> Tensor:
    """``sum_j pairs_ij a_ij``: ``[..., S, S]`` -> ``[..., S, D]``."""
    return by_distance(pairs, reach(table)) @ table
