"""Relative positions inside the attention kernels: ``relative_reference``, a block of pairs at a time.

In a block of Q queries and K keys the distance j - i has Q + K - 1 values. Their rows of the table are
loaded, K distances at a time, with the clipping done on the row's number:

    at_pairs    products of the queries with these rows, [Q, Q + K]; the pair (i, j) reads column j - i + Q
    over_pairs  the pair (i, j) writes to column j - i + Q, where each column has one pair at most; product
                of this [Q, Q + K] with the rows

What is written by distance and read by key, or the reverse, passes through ``scratch``, global memory
of the program's own (it stays in the caches): fp32, ``scratch_row`` numbers for each of its queries.
Barriers separate writing and reading, so these functions must not be in a loop whose loads Triton moves
ahead (``num_stages`` 1). Where all distances of a block are clipped to one end of the table, one row
stands for all, and nothing is written.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _row(table, row, SIZE: tl.constexpr, WIDTH: tl.constexpr):
    """One row of the table, fp32 [WIDTH]."""
    columns = tl.arange(0, WIDTH)
    return tl.load(table + row * SIZE + columns, columns < SIZE, 0.0)


@triton.jit
def _rows(table, reach, first, ROWS: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr):
    """The table's rows for the distances ``first ..``, fp32 [ROWS, WIDTH]."""
    rows, columns = tl.arange(0, ROWS) + first, tl.arange(0, WIDTH)
    rows = tl.minimum(tl.maximum(rows, -reach), reach) + reach
    where = table + rows[:, None] * SIZE + columns[None, :]
    return tl.load(where, (columns < SIZE)[None, :], 0.0)


@triton.jit
def _by_key(scratch, QUERIES: tl.constexpr, KEYS: tl.constexpr):
    """Addresses of the pairs' distances, [QUERIES, KEYS]."""
    queries = tl.arange(0, QUERIES)[:, None] * (QUERIES + KEYS - 1)
    return scratch + QUERIES + queries + tl.arange(0, KEYS)[None, :]


@triton.jit
def at_pairs(rows, table, reach, offset, scratch, count, KEYS: tl.constexpr, SIZE: tl.constexpr):
    """``rows_i . a_ij``, fp32 [Q, KEYS].

    Args:
        rows: [Q, WIDTH].
        offset: the block's first key minus its first query.
        scratch: this program's.
        count: of the rows that are there.
    """
    QUERIES: tl.constexpr = rows.shape[0]
    WIDTH: tl.constexpr = rows.shape[1]
    STEP: tl.constexpr = min(QUERIES, KEYS)
    result = tl.zeros((QUERIES, KEYS), tl.float32)
    if (offset - QUERIES < reach) & (offset + KEYS > -reach):
        queries = tl.arange(0, QUERIES)[:, None]
        places = queries * (QUERIES + KEYS) + tl.arange(0, STEP)[None, :]
        tl.debug_barrier()
        for part in tl.static_range(0, QUERIES + KEYS, STEP):
            here = _rows(table, reach, offset - QUERIES + part, STEP, SIZE, WIDTH)
            products = tl.dot(rows, tl.trans(here.to(rows.dtype)), input_precision="ieee")
            tl.store(scratch + part + places, products, queries < count)
        tl.debug_barrier()
        result = tl.load(_by_key(scratch, QUERIES, KEYS), queries < count, 0.0)
    else:
        end = _row(table, tl.where(offset > 0, 2 * reach, 0), SIZE, WIDTH)
        result += tl.sum(rows.to(tl.float32) * end[None, :], 1)[:, None]
    return result


@triton.jit
def over_pairs(pairs, table, reach, offset, scratch, count, total, SIZE: tl.constexpr):
    """``total`` [Q, WIDTH] plus ``sum_j pairs_ij a_ij``; pairs [Q, K], and the rest as in ``at_pairs``."""
    QUERIES: tl.constexpr = pairs.shape[0]
    KEYS: tl.constexpr = pairs.shape[1]
    WIDTH: tl.constexpr = total.shape[1]
    STEP: tl.constexpr = min(QUERIES, KEYS)
    if (offset - QUERIES < reach) & (offset + KEYS > -reach):
        queries, columns = tl.arange(0, QUERIES)[:, None], tl.arange(0, STEP)[None, :]
        tl.debug_barrier()
        tl.store(_by_key(scratch, QUERIES, KEYS), pairs.to(tl.float32), queries < count)
        tl.debug_barrier()
        for part in tl.static_range(0, QUERIES + KEYS, STEP):
            key = columns + queries + (part - QUERIES)
            there = (key >= 0) & (key < KEYS) & (queries < count)
            places = scratch + part + queries * (QUERIES + KEYS) + columns
            sums = tl.load(places, there, 0.0).to(pairs.dtype)
            here = _rows(table, reach, offset - QUERIES + part, STEP, SIZE, WIDTH)
            total = tl.dot(sums, here.to(pairs.dtype), total, input_precision="ieee")
    else:
        end = _row(table, tl.where(offset > 0, 2 * reach, 0), SIZE, WIDTH)
        total += tl.sum(pairs.to(tl.float32), 1)[:, None] * end[None, :]
    return total
