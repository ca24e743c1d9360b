"""Attention with relative positions by torch operators: for padding with holes on a CPU, and for GPUs
where the Triton kernel is not used.

A few sequences at a time are attended to in full, so that the largest tensors, of their pairs of
tokens, stay within :data:`PAIR_BYTES` each (:data:`PAIR_TENSORS` of them at once); they are made again
in backward. No tensor has a vector for each pair. Arithmetic is float32, or float64 for float64
tensors. Shapes are known without waiting for the device. Dropout has the masks of
:mod:`megabert.kernels.dropout`, the same as on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from megabert.kernels.dropout import Dropout, head_seed, signed
from megabert.kernels.ops import implementation
from megabert.kernels.reference import attend, attend_backward, wide

PAIR_BYTES = 128 * 2**20
"""Bytes that the pairs of tokens of the sequences attended to at once may take, in one tensor."""


class _Place(NamedTuple):
    """Which rows belong together, and the constants of a layer's attention."""

    relative: Tensor
    rows: Tensor
    real: Tensor
    first_head: int
    scale: float
    dropout: Dropout | None


class _Chunk(NamedTuple):
    """Some sequences that are attended to at once: c of them, c S rows of the T, place by place.

    ``real``: bool ``[c, S]``, where a sequence has a token.
    """

    rows: Tensor
    targets: Tensor
    shape: tuple[int, int]
    real: Tensor
    drop: Callable[[Tensor], Tensor]

    @property
    def visible(self) -> Tensor:
        """The keys that are there, for all heads and queries."""
        return self.real[:, None]

    def take(self, whole: Tensor) -> Tensor:
        """``[T, N, D] -> [N, c, S, D]``, wide."""
        part = whole.index_select(0, self.rows).unflatten(0, self.shape)
        return part.permute(2, 0, 1, 3).to(wide(whole.dtype))

    def put(self, whole: Tensor, part: Tensor) -> None:
        """``[N, c, S, D]`` into ``[T + 1, N, D]``, whose last row is for places without a token."""
        rows = part.permute(1, 2, 0, 3).flatten(0, 1)
        whole.index_copy_(0, self.targets, rows.to(whole.dtype))


def sequences_at_once(heads: int, max_length: int, dtype: torch.dtype) -> int:
    """How many sequences fit into :data:`PAIR_BYTES`; at least one."""
    return max(1, PAIR_BYTES // (heads * max_length**2 * dtype.itemsize))


def _chunks(query: Tensor, place: _Place) -> Iterator[_Chunk]:
    tokens, heads, _ = query.shape
    max_length = place.rows.size(1)
    size = sequences_at_once(heads, max_length, wide(query.dtype))
    for rows, real in zip(place.rows.split(size), place.real.split(size)):
        flat = rows.reshape(-1)
        targets = flat.where(real.reshape(-1), tokens)
        drop = _dropping(place.dropout, flat, place.first_head)
        yield _Chunk(flat, targets, (len(rows), max_length), real, drop)


def _dropping(dropout: Dropout | None, rows: Tensor, first_head: int) -> Callable[[Tensor], Tensor]:
    """Dropout of probabilities ``[N, c, S, S]`` whose queries are these rows."""
    if dropout is None:
        return lambda pairs: pairs
    keys = dropout.rows.index_select(0, rows)

    def drop(pairs: Tensor) -> Tensor:
        result = torch.empty_like(pairs)
        for number, head in enumerate(pairs):
            seed = signed(head_seed(dropout.seed, first_head + number))
            here = dropout._replace(seed=seed, rows=keys)
            made = implementation(pairs).dropped(head.flatten(0, 1), here)
            result[number] = made.view_as(head)
        return result

    return drop


class _RelativeAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, place: _Place) -> Tensor:
        tokens, heads, width = query.shape
        context = query.new_zeros(tokens + 1, heads, width)
        sums = []
        for chunk in _chunks(query, place):
            q, k, v = (chunk.take(whole) for whole in (query, key, value))
            made, lse = attend(q, k, v, place.scale, chunk.drop, place.relative, chunk.visible)
            chunk.put(context, made)
            sums.append(lse)
        ctx.save_for_backward(query, key, value, context[:tokens], *sums)
        ctx.place = place
        return context[:tokens]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, context, *sums = ctx.saved_tensors
        place, (tokens, heads, width) = ctx.place, query.shape
        made = tuple(query.new_zeros(tokens + 1, heads, width) for _ in range(3))
        for chunk, lse in zip(_chunks(query, place), sums):
            # a place without a token stands for some row: its gradient must not count there
            g, q, k, v, o = (chunk.take(whole) for whole in (grads[0], query, key, value, context))
            g.masked_fill_(~chunk.real[:, :, None], 0.0)
            parts = attend_backward(
                g, q, k, v, o, lse, place.scale, chunk.drop, place.relative, chunk.visible
            )
            for whole, part in zip(made, parts):
                chunk.put(whole, part)
        return (*(whole[:tokens] for whole in made), None)


def relative_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    relative: Tensor,
    rows: Tensor,
    real: Tensor,
    first_head: int,
    scale: float,
    dropout: Dropout | None,
) -> Tensor:
    """softmax(scale Q (K + a)^T) (V + a) within each sequence; differentiable.

    Args:
        query, key, value: ``[T, N, D]``.
        relative: the table of relative positions, wide ``[2m + 1, D]``; a constant.
        rows: of the T, int64 ``[P, S]``: each sequence's, place by place, any row where it has none.
        real: bool ``[P, S]``: where it has one.
        first_head: number of the first of these heads in the layer, for the dropout masks.
        scale: factor of the scores.
        dropout: of the probabilities; None for none.

    Returns:
        Context ``[T, N, D]``; 0 in rows of no sequence.
    """
    if not query.size(0):
        return query + key + value  # empty, and each of them gets its empty gradient
    place = _Place(relative, rows, real, first_head, scale, dropout)
    out: Tensor = _RelativeAttention.apply(query, key, value, place)
    return out
