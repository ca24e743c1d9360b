"""Attention within packed sequences as one Triton kernel each way (CUDA).

The algorithm is that of FlashAttention 2 (Dao 2023); docs/design/attention.md describes it, its memory
traffic and the masks. Each number is written by one program in a fixed order, and nothing is atomic.

Backward adds up dQ in ``sums``, which each program writes and reads again, and with relative positions
both kernels have a ``scratch`` of that kind. Triton's pipeliner does not know of such dependences: these
kernels are compiled with one stage. A barrier separates writing from reading by other threads.

Blocks, warps and stages were chosen without a GPU, by what ptxas makes of them for sm_80 and sm_90 in
bf16 with heads 64 wide: of those that spill no register, the largest blocks, and fewer instructions for
each pair. Forward has 128 queries, a whole sequence of phase 1. With relative positions the blocks are
smaller, as their products take registers too.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from megabert.kernels.dropout import Dropout
from megabert.kernels.joined import arranged_as
from megabert.kernels.triton.dropout import kept, mixed, row_halves
from megabert.kernels.triton.relative import at_pairs, over_pairs
from megabert.kernels.triton.tiles import DTYPES, dropout_arguments, same_shape

_LOG2E = tl.constexpr(1.4426950408889634)
_LN2 = tl.constexpr(0.6931471805599453)
_LOWEST = tl.constexpr(-1e30)
"""Scaled score below any other, and finite."""


@triton.jit
def _block(start, stride, first, count, ROWS: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    """Addresses and mask of rows ``first ..`` of a matrix of ``count`` rows: [ROWS, WIDTH] each."""
    rows, columns = first + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    mask = (rows < count)[:, None]
    if SIZE < WIDTH:
        mask = mask & (columns < SIZE)[None, :]
    return start + rows[:, None] * stride + columns[None, :], mask


@triton.jit
def _loaded(start, stride, first, count, ROWS: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    """These rows, zeros where there are none: [ROWS, WIDTH]."""
    where, mask = _block(start, stride, first, count, ROWS, SIZE, WIDTH)
    return tl.load(where, mask, 0.0)


@triton.jit
def _store(rows, start, stride, first, count, SIZE: tl.constexpr):
    """Write ``rows`` [ROWS, WIDTH] there, in the dtype of ``start``."""
    where, mask = _block(start, stride, first, count, rows.shape[0], SIZE, rows.shape[1])
    tl.store(where, rows.to(start.dtype.element_ty), mask)


@triton.jit
def _seen(real, begin, columns, count):
    """Which keys of a sequence there are: bool [KEYS]."""
    seen = columns < count
    if real is not None:
        seen = seen & (tl.load(real + begin + columns, seen, 0) != 0)
    return seen


@triton.jit(
    do_not_specialize=("blocks", "tokens", "scale", "first_head", "seed", "threshold", "factor"),
    do_not_specialize_on_alignment=("bounds", "real", "keys"),
)
def forward_kernel(
    query, key, value, context, lse, bounds, real, keys, table, scratch,
    reach, blocks, heads, tokens: tl.int64, scale: tl.float32,
    first_head: tl.int64, seed: tl.int64, threshold: tl.int64, factor: tl.float32,
    query_row, query_head, key_row, key_head, value_row, value_head,
    SIZE: tl.constexpr, WIDTH: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """A block of queries of one sequence and head: query, key, value [tokens, heads, SIZE]; context
    the same, contiguous; lse fp32 [heads, tokens]; bounds int32 [sequences + 1]; real bool [tokens] or
    None; keys int64 [tokens] or None; table [2 reach + 1, SIZE], as query, or None. ``scale`` includes
    log2(e)."""
    program = tl.program_id(0)
    first = program % blocks * QUERIES
    head = (program // blocks % heads).to(tl.int64)
    sequence = program // (blocks * heads)
    begin = tl.load(bounds + sequence)
    count = tl.load(bounds + sequence + 1) - begin
    if first >= count:
        return
    begin = begin.to(tl.int64)
    places = first + tl.arange(0, QUERIES)
    query += begin * query_row + head * query_head
    key += begin * key_row + head * key_head
    value += begin * value_row + head * value_head
    q = _loaded(query, query_row, first, count, QUERIES, SIZE, WIDTH)
    if keys is not None:
        row_keys = tl.load(keys + begin + places, places < count, 0)
        low, high = row_halves(row_keys, mixed(seed + first_head + head))
    if table is not None:
        scratch += (head * tokens + begin + first) * (QUERIES + KEYS)
    largest = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    result = tl.zeros((QUERIES, WIDTH), tl.float32)
    for start in range(0, count, KEYS):
        k = _loaded(key, key_row, start, count, KEYS, SIZE, WIDTH)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
        columns = start + tl.arange(0, KEYS)
        if table is not None:
            scores += at_pairs(q, table, reach, start - first, scratch, count - first, KEYS, SIZE)
        seen = _seen(real, begin, columns, count)
        scores = tl.where(seen[None, :], scores * scale, float("-inf"))
        larger = tl.maximum(largest, tl.max(scores, 1))
        if real is not None:  # there may be no key yet
            larger = tl.maximum(larger, _LOWEST)
        weights = tl.exp2(scores - larger[:, None])
        shrink = tl.exp2(largest - larger)
        largest = larger
        total = total * shrink + tl.sum(weights, 1)
        result *= shrink[:, None]
        if keys is not None:
            weights = tl.where(kept(low, high, columns, threshold), weights, 0.0)
        v = _loaded(value, value_row, start, count, KEYS, SIZE, WIDTH)
        rounded = weights.to(v.dtype)
        result = tl.dot(rounded, v, result, input_precision="ieee")
        if table is not None:
            result = over_pairs(
                rounded, table, reach, start - first, scratch, count - first, result, SIZE
            )
    if real is not None:  # 0 where no key is seen
        total = tl.where(total > 0.0, total, 1.0)
    result *= (factor / total)[:, None]
    sums = largest * _LN2 + tl.log(total)
    tl.store(lse + head * tokens + begin + places, sums, places < count)
    row = heads * SIZE
    _store(result, context + begin * row + head * SIZE, row, first, count, SIZE)


@triton.jit(
    do_not_specialize=("tokens", "scale", "slope", "first_head", "seed", "threshold", "factor"),
    do_not_specialize_on_alignment=("bounds", "real", "keys", "inner"),
)
def backward_kernel(
    grad, query, key, value, context, lse, bounds, real, keys, table, scratch,
    grad_query, grad_key, grad_value, sums, inner,
    reach, heads, tokens: tl.int64, scale: tl.float32, slope: tl.float32,
    first_head: tl.int64, seed: tl.int64, threshold: tl.int64, factor: tl.float32,
    grad_row, grad_head, query_row, query_head, key_row, key_head, value_row, value_head, made_row,
    SIZE: tl.constexpr, WIDTH: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """One sequence and head, key block by key block; as ``forward_kernel``, and: grad as query;
    grad_query, grad_key, grad_value with rows made_row apart, heads contiguous; sums fp32 as context (any
    size, if no sequence has more than KEYS rows); inner fp32 [heads, tokens]; slope: scale without log2(e)."""
    program = tl.program_id(0)
    head, sequence = (program % heads).to(tl.int64), program // heads
    begin = tl.load(bounds + sequence)
    count = tl.load(bounds + sequence + 1) - begin
    begin = begin.to(tl.int64)
    row = heads * SIZE
    own = begin * row + head * SIZE
    made = begin * made_row + head * SIZE
    lse += head * tokens + begin
    inner += head * tokens + begin
    grad += begin * grad_row + head * grad_head
    query += begin * query_row + head * query_head
    key += begin * key_row + head * key_head
    value += begin * value_row + head * value_head
    seed = mixed(seed + first_head + head)
    if table is not None:
        scratch += (head * tokens + begin) * (QUERIES + KEYS)
    for first in range(0, count, QUERIES):
        above = _loaded(grad, grad_row, first, count, QUERIES, SIZE, WIDTH).to(tl.float32)
        above *= _loaded(context + own, row, first, count, QUERIES, SIZE, WIDTH).to(tl.float32)
        places = first + tl.arange(0, QUERIES)
        tl.store(inner + places, tl.sum(above, 1), places < count)
    tl.debug_barrier()
    for start in range(0, count, KEYS):
        k = _loaded(key, key_row, start, count, KEYS, SIZE, WIDTH)
        v = _loaded(value, value_row, start, count, KEYS, SIZE, WIDTH)
        columns = start + tl.arange(0, KEYS)
        seen = _seen(real, begin, columns, count)
        dk = tl.zeros((KEYS, WIDTH), tl.float32)
        dv = tl.zeros((KEYS, WIDTH), tl.float32)
        for first in range(0, count, QUERIES):
            places = first + tl.arange(0, QUERIES)
            q = _loaded(query, query_row, first, count, QUERIES, SIZE, WIDTH)
            g = _loaded(grad, grad_row, first, count, QUERIES, SIZE, WIDTH)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee")
            if table is not None:
                scores += at_pairs(
                    q, table, reach, start - first, scratch, count - first, KEYS, SIZE
                )
            scores = tl.where(seen[None, :], scores * scale, float("-inf"))
            level = tl.load(lse + places, places < count, 0.0) * _LOG2E
            weights = tl.exp2(scores - level[:, None])
            if keys is not None:  # the sign says what is dropped
                row_keys = tl.load(keys + begin + places, places < count, 0)
                low, high = row_halves(row_keys, seed)
                weights = tl.where(kept(low, high, columns, threshold), weights, -weights)
            rounded = tl.maximum(weights, 0.0).to(g.dtype)
            dv = tl.dot(tl.trans(rounded), g, dv, input_precision="ieee")
            slopes = tl.dot(g, tl.trans(v), input_precision="ieee")
            if table is not None:
                slopes += at_pairs(
                    g, table, reach, start - first, scratch, count - first, KEYS, SIZE
                )
            slopes *= factor
            if keys is not None:
                slopes = tl.where(weights > 0.0, slopes, 0.0)
                weights = tl.abs(weights)
            slopes = weights * (slopes - tl.load(inner + places, places < count, 0.0)[:, None])
            rounded = slopes.to(q.dtype)
            dk = tl.dot(tl.trans(rounded), q, dk, input_precision="ieee")
            dq = tl.dot(rounded, k, input_precision="ieee")
            if table is not None:
                dq = over_pairs(
                    rounded, table, reach, start - first, scratch, count - first, dq, SIZE
                )
            if start > 0:
                dq += _loaded(sums + own, row, first, count, QUERIES, SIZE, WIDTH)
            if start + KEYS < count:
                _store(dq, sums + own, row, first, count, SIZE)
            else:
                _store(dq * slope, grad_query + made, made_row, first, count, SIZE)
        _store(dk * slope, grad_key + made, made_row, start, count, SIZE)
        _store(dv * factor, grad_value + made, made_row, start, count, SIZE)
        tl.debug_barrier()


class Blocks(NamedTuple):
    """Queries and keys of a block of pairs, warps of a program, and stages of loading."""

    queries: int
    keys: int
    warps: int
    stages: int


def forward_blocks(row_bytes: int, itemsize: int, relative: bool) -> Blocks:
    """For heads of ``row_bytes``, their size rounded up to a power of two.

    Args:
        itemsize: bytes of a number.
        relative: whether there are relative positions.
    """
    if itemsize == 4 or row_bytes > 256:
        return _widest(row_bytes)
    if relative:
        return Blocks(64, 32, 4, 1) if row_bytes <= 128 else Blocks(32, 32, 8, 1)
    return Blocks(128, 64, 8, 2) if row_bytes <= 128 else Blocks(64, 64, 4, 2)


def backward_blocks(row_bytes: int, itemsize: int, relative: bool) -> Blocks:
    """As :func:`forward_blocks`."""
    if itemsize == 4 or row_bytes > 256:
        return _widest(row_bytes)
    return Blocks(32, 64, 8, 1) if relative or row_bytes > 128 else Blocks(64, 64, 4, 1)


def _widest(row_bytes: int) -> Blocks:
    """What fits into shared memory with fp32, or with wide heads."""
    return Blocks(16, 16, 4, 1) if row_bytes >= 1024 else Blocks(32, 32, 8, 1)


def attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    max_length: int,
    first_head: int,
    scale: float,
    dropout: Dropout | None,
    relative: Tensor | None = None,
    real: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As :func:`megabert.kernels.reference.attention_forward`, with

    Args:
        cu_seqlens: where sequences begin and end, int32 [P + 1], from 0 to T.
        max_length: tokens of the longest sequence, or more.
        real: bool [T], which tokens are seen as keys; None: all. A query that sees none gets 0.
    """
    query, key, value = (_heads(part, max_length) for part in (query, key, value))
    same_shape((query, key, value))
    tokens, heads, size = query.shape
    context = query.new_empty(query.shape)
    lse = query.new_empty((heads, tokens), dtype=torch.float32)
    width = max(16, triton.next_power_of_2(size))
    table, reach = _table(relative, query.dtype)
    by = forward_blocks(width * query.element_size(), query.element_size(), relative is not None)
    blocks = triton.cdiv(max_length, by.queries)
    row_keys, seed, threshold, factor = dropout_arguments(dropout, tokens)
    if query.numel():
        with torch.cuda.device_of(query):
            forward_kernel[(blocks * heads * (len(cu_seqlens) - 1),)](
                query, key, value, context, lse, cu_seqlens, real, row_keys, table, _scratch(table, lse, by),
                reach, blocks, heads, tokens, scale * _LOG2E.value,
                first_head, seed, threshold, factor,
                *query.stride()[:2], *key.stride()[:2], *value.stride()[:2],
                size, width, by.queries, by.keys,
                num_warps=by.warps, num_stages=by.stages,
            )  # fmt: skip
    return context, lse


def attention_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    context: Tensor,
    lse: Tensor,
    cu_seqlens: Tensor,
    max_length: int,
    first_head: int,
    scale: float,
    dropout: Dropout | None,
    relative: Tensor | None = None,
    real: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`megabert.kernels.reference.attention_backward`; arguments of :func:`attention_forward`."""
    grad, query, key, value = (_heads(part, max_length) for part in (grad, query, key, value))
    same_shape((grad, query, key, value, context))
    tokens, heads, size = query.shape
    made = arranged_as((query, key, value))
    width = max(16, triton.next_power_of_2(size))
    table, reach = _table(relative, query.dtype)
    by = backward_blocks(width * query.element_size(), query.element_size(), relative is not None)
    row_keys, seed, threshold, factor = dropout_arguments(dropout, tokens)
    sums = query.new_empty(query.shape if max_length > by.keys else 1, dtype=torch.float32)
    if query.numel():
        with torch.cuda.device_of(query):
            backward_kernel[(heads * (len(cu_seqlens) - 1),)](
                grad, query, key, value, context.contiguous(), lse.contiguous(), cu_seqlens,
                real, row_keys, table, _scratch(table, lse, by), *made, sums, torch.empty_like(lse),
                reach, heads, tokens, scale * _LOG2E.value, scale,
                first_head, seed, threshold, factor,
                *grad.stride()[:2], *query.stride()[:2], *key.stride()[:2], *value.stride()[:2],
                made[0].stride(0), size, width, by.queries, by.keys,
                num_warps=by.warps, num_stages=by.stages,
            )  # fmt: skip
    return made[0], made[1], made[2]


def _heads(x: Tensor, max_length: int) -> Tensor:
    """``x`` [T, N, D] itself where the D are contiguous, else a copy.

    Raises:
        TypeError: a dtype that is not in ``DTYPES``.
        ValueError: sequences that 32-bit offsets do not reach.
    """
    if x.dtype not in DTYPES:
        raise TypeError(f"the Triton operators take fp32, bf16 and fp16, not {x.dtype}")
    x = x if x.stride(2) == 1 else x.contiguous()
    if max_length * x.stride(0) >= 2**31:
        raise ValueError(
            f"sequences of {max_length} tokens are too long for rows {x.stride(0)} apart"
        )
    return x


def _table(relative: Tensor | None, dtype: torch.dtype) -> tuple[Tensor | None, int]:
    """The table in ``dtype``, and its m."""
    return (None, 0) if relative is None else (relative.to(dtype).contiguous(), len(relative) // 2)


def _scratch(table: Tensor | None, lse: Tensor, by: Blocks) -> Tensor | None:
    """Memory of the kernels with relative positions, for each head and token."""
    return None if table is None else lse.new_empty((*lse.shape, by.queries + by.keys))
