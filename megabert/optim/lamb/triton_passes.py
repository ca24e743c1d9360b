"""The passes of LAMB and LANS as Triton kernels over whole flat partitions (CUDA).

Layout: a partition is cut into *blocks* of at most ``BLOCK`` elements, none of which holds parts of
two segments; one program updates one block. A block's first element is a multiple of ``ALIGN`` from
the start of the flat tensor: the blocks of a segment begin at its start rounded down to that, so
that only its first and last block need a mask, and the others move in vectors of 16 bytes wherever
the segment begins. Per partition and device a table is made once:

    table [blocks, 4] int64: aligned start in the flat tensor; first and (exclusive) last element of
                             the block, counted from that start; segment
    ranges [segments + 1] int64: the blocks of segment i are ranges[i] .. ranges[i + 1] - 1

Padding belongs to no block and is never read or written.

Algorithm: the first pass advances both moments and writes, per block, the sums of squares of p and
of each u_k in the master's precision; a reduction, one program per segment and sum, adds them up in
float64. Every order of addition is fixed and nothing is atomic, so results repeat bit for bit. u is not
stored: the second pass computes it again from m, v and p (LANS: and g).

Memory traffic in fp32, bytes per parameter (a half-precision gradient is 2 less each time it is
read, a half-precision copy of the weights 2 more):

    gradient squares         4   g in
    first pass              24   g, p, m, v in; m, v out
    second pass             16   m, v, p in; p out (LANS: 20, with g)
    single pass             28   g, p, m, v in; m, v, p out

An adapted tensor thus moves 40 bytes per parameter; without the norms the floor would be 28.

Environment: the kernels run on CUDA tensors, or on CPU tensors in Triton's interpreter, if
TRITON_INTERPRET=1 was set before Triton was first imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from megabert.optim.flat_segments import Partition
from megabert.optim.lamb.backend import Rule, Work

ALIGN = tl.constexpr(16)
"""Elements that block starts are multiples of: 16 bytes are 4 of fp32 and 8 of bf16."""
BLOCK = 1024
"""Elements of a block: 4 of fp32, one vector, for each of 256 threads."""
CHUNK = 1024
"""Blocks that the reduction adds at a time."""
WARPS = 8


# ---------------------------------------------------------------------- kernels


@triton.jit
def _load(pointer, where, mask):
    """Elements at ``where``, 0 outside ``mask``; with None all of them, in vectors."""
    if mask is None:
        value = tl.load(pointer + where)
    else:
        value = tl.load(pointer + where, mask, 0.0)
    return value


@triton.jit
def _root(x):
    """Square root, rounded to nearest."""
    if x.dtype == tl.float32:
        root = tl.sqrt_rn(x)
    else:
        root = tl.sqrt(x)
    return root


@triton.jit
def _quotient(x, y):
    """x / y, rounded to nearest."""
    if x.dtype == tl.float32:
        quotient = tl.div_rn(x, y)
    else:
        quotient = x / y
    return quotient


@triton.jit
def _squares(x, mask):
    """Sum of squares of a block."""
    if mask is None:
        total = tl.sum(x * x, 0)
    else:
        total = tl.sum(tl.where(mask, x * x, 0.0), 0)
    return total


@triton.jit
def _block(
    weights, gradients, exp_avg, exp_avg_sq, half_copy, scale, where, mask, sums,
    gain1, gain2, eps, decay, inverse1, inverse2, rate1, rate2,
    MOMENTS: tl.constexpr, LANS: tl.constexpr,
):  # fmt: skip
    """The work of :func:`_update_kernel` on one block; ``mask`` is None for a full block."""
    p = _load(weights, where, mask)
    m = _load(exp_avg, where, mask)
    v = _load(exp_avg_sq, where, mask)
    if MOMENTS or LANS:
        g = _load(gradients, where, mask).to(p.dtype) * scale
    if MOMENTS:
        m += gain1 * (g - m)
        v += gain2 * (g * g - v)
        tl.store(exp_avg + where, m, mask)
        tl.store(exp_avg_sq + where, v, mask)
    d = _root(v) * inverse2 + eps
    u1 = _quotient(m * inverse1, d) + decay * p
    if sums is not None:
        tl.store(sums, _squares(p, mask))
        tl.store(sums + 1, _squares(u1, mask))
        if LANS:
            tl.store(sums + 2, _squares(_quotient(g, d) + decay * p, mask))
    else:
        change = rate1 * u1
        if LANS:
            change += rate2 * (_quotient(g, d) + decay * p)
        p -= change
        tl.store(weights + where, p, mask)
        if half_copy is not None:
            tl.store(half_copy + where, p.to(half_copy.dtype.element_ty), mask)


@triton.jit
def _update_kernel(
    weights, gradients, exp_avg, exp_avg_sq, half_copy, scales, factors, partials, table,
    gain1: tl.float64, gain2: tl.float64, eps: tl.float64, decay: tl.float64,
    inverse1: tl.float64, inverse2: tl.float64, rate1: tl.float64, rate2: tl.float64,
    MOMENTS: tl.constexpr, LANS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One block of any pass. First: ``MOMENTS`` and ``partials``; second: ``factors``; single:
    ``MOMENTS`` alone.

    weights, exp_avg, exp_avg_sq [n] fp32 or fp64; gradients [n] and half_copy [n] or None as in ``Work``;
    scales [segments] or None; factors [segments, k] or None (1); partials [blocks, 1 + k] like
    weights, or None. gain1, gain2: 1 - b1, 1 - b2; inverse1, inverse2: 1 / c1, 1 / root of c2;
    rate1, rate2: lr times the weights that factors do not contain. Numbers are passed in fp64 and
    rounded here.
    """
    number = tl.program_id(0).to(tl.int64)
    row = table + 4 * number
    start = tl.multiple_of(tl.load(row), ALIGN)
    first, last, segment = tl.load(row + 1), tl.load(row + 2), tl.load(row + 3)
    dtype: tl.constexpr = weights.dtype.element_ty
    scale = 1.0 if scales is None else tl.load(scales + segment).to(dtype)
    rate1, rate2 = tl.full((), rate1, dtype), tl.full((), rate2, dtype)
    if factors is not None:
        rate1 *= tl.load(factors + segment * (2 if LANS else 1)).to(dtype)
        if LANS:
            rate2 *= tl.load(factors + segment * 2 + 1).to(dtype)
    gain1, gain2 = tl.full((), gain1, dtype), tl.full((), gain2, dtype)
    eps, decay = tl.full((), eps, dtype), tl.full((), decay, dtype)
    inverse1, inverse2 = tl.full((), inverse1, dtype), tl.full((), inverse2, dtype)
    sums = None if partials is None else partials + number * (3 if LANS else 2)
    lanes = tl.arange(0, BLOCK)
    if last - first == BLOCK:
        _block(
            weights, gradients, exp_avg, exp_avg_sq, half_copy, scale, start + lanes, None, sums,
            gain1, gain2, eps, decay, inverse1, inverse2, rate1, rate2, MOMENTS, LANS,
        )  # fmt: skip
    else:
        _block(
            weights, gradients, exp_avg, exp_avg_sq, half_copy, scale, start + lanes,
            (lanes >= first) & (lanes < last), sums,
            gain1, gain2, eps, decay, inverse1, inverse2, rate1, rate2, MOMENTS, LANS,
        )  # fmt: skip


@triton.jit
def _squares_kernel(gradients, partials, table, BLOCK: tl.constexpr):
    """Sum of squares of one block: gradients [n] as in ``Work``, partials [blocks] fp32 or fp64."""
    number = tl.program_id(0).to(tl.int64)
    row = table + 4 * number
    start = tl.multiple_of(tl.load(row), ALIGN)
    first, last = tl.load(row + 1), tl.load(row + 2)
    lanes = tl.arange(0, BLOCK)
    dtype: tl.constexpr = partials.dtype.element_ty
    if last - first == BLOCK:
        total = _squares(_load(gradients, start + lanes, None).to(dtype), None)
    else:
        mask = (lanes >= first) & (lanes < last)
        total = _squares(_load(gradients, start + lanes, mask).to(dtype), mask)
    tl.store(partials + number, total)


@triton.jit
def _reduce_kernel(partials, ranges, sums, WIDTH: tl.constexpr, CHUNK: tl.constexpr):
    """Sum j of segment i, program (i, j): partials [blocks, WIDTH], ranges [segments + 1] int64,
    sums [segments, WIDTH] fp64."""
    segment, column = tl.program_id(0).to(tl.int64), tl.program_id(1)
    begin, end = tl.load(ranges + segment), tl.load(ranges + segment + 1)
    total = tl.zeros((CHUNK,), tl.float64)
    for chunk in range(begin, end, CHUNK):
        rows = chunk + tl.arange(0, CHUNK)
        total += _load(partials, rows * WIDTH + column, rows < end).to(tl.float64)
    tl.store(sums + segment * WIDTH + column, tl.sum(total, 0))


# ---------------------------------------------------------------------- backend


@dataclass(frozen=True)
class BlockTable:
    """A partition's blocks on one device; the module's docstring says what is in the tensors."""

    table: Tensor
    ranges: Tensor

    @classmethod
    def of(cls, partition: Partition, block: int, device: torch.device) -> BlockTable:
        """The table of ``partition``, cut into blocks of at most ``block`` elements."""
        rows, ranges = [torch.empty(0, 4, dtype=torch.int64)], [0]
        for number, segment in enumerate(partition.segments):
            begin, end = segment.partition_start, segment.partition_start + segment.numel
            starts = torch.arange(begin // ALIGN.value * ALIGN.value, end, block)
            first, last = (begin - starts).clamp(min=0), (end - starts).clamp(max=block)
            rows.append(torch.stack((starts, first, last, torch.full_like(starts, number)), 1))
            ranges.append(ranges[-1] + len(starts))
        return cls(torch.cat(rows).to(device), torch.tensor(ranges).to(device))


class TritonBackend:
    """See the module's docstring and :class:`~megabert.optim.lamb.backend.UpdateBackend`.

    ``block`` replaces ``BLOCK`` (tests); a power of two, at least ``ALIGN``.

    Raises (every pass):
        TypeError: a master that is neither fp32 nor fp64.
    """

    name = "triton"

    def __init__(self, block: int = BLOCK) -> None:
        if block < ALIGN.value or block & (block - 1):
            raise ValueError(f"block is {block}, but must be a power of two, {ALIGN.value} or more")
        self.block = block
        # an id stays unique only while its object lives, so the partition is stored too
        self._tables: dict[tuple[int, torch.device], tuple[Partition, BlockTable]] = {}

    def gradient_squares(self, work: Sequence[Work]) -> list[Tensor]:
        """Sum of g^2 of each segment: float64 [segments] for each of ``work``."""
        sums = []
        for item in work:
            blocks = self._blocks(item)
            partials = item.master.new_empty(len(blocks.table), 1)
            if len(blocks.table):
                with torch.cuda.device_of(item.master):
                    _squares_kernel[(len(blocks.table),)](
                        item.grad, partials, blocks.table, self.block, num_warps=WARPS
                    )
            sums.append(_reduce(partials, blocks)[:, 0])
        return sums

    def first_pass(
        self, rule: Rule, work: Sequence[Work], scales: Sequence[Tensor] | None
    ) -> list[Tensor]:
        """Advance the moments; sums of squares of p and each u_k: float64 [segments, 1 + k]."""
        sums = []
        for number, item in enumerate(work):
            blocks = self._blocks(item)
            partials = item.master.new_empty(len(blocks.table), 1 + rule.updates)
            self._update(rule, item, blocks, _pick(scales, number), partials=partials)
            sums.append(_reduce(partials, blocks))
        return sums

    def second_pass(
        self,
        rule: Rule,
        work: Sequence[Work],
        scales: Sequence[Tensor] | None,
        factors: Sequence[Tensor],
        lr: float,
    ) -> None:
        """p -= lr sum_k f_k u_k; ``factors``: float32 [segments, k] for each of ``work``."""
        for number, item in enumerate(work):
            scale, factor = _pick(scales, number), _pick(factors, number)
            self._update(rule, item, self._blocks(item), scale, (lr,) * rule.updates, factor)

    def single_pass(
        self, rule: Rule, work: Sequence[Work], scales: Sequence[Tensor] | None, lr: float
    ) -> None:
        """Moments and weights at once, with ``rule.weights`` as factors: for tensors that are not adapted."""
        rates = tuple(lr * weight for weight in rule.weights)
        for number, item in enumerate(work):
            self._update(rule, item, self._blocks(item), _pick(scales, number), rates)

    # ------------------------------------------------------------------ launches

    def _blocks(self, item: Work) -> BlockTable:
        """The table of the work's partition; made once, since partitions do not change."""
        if item.master.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"masters must be fp32 (or fp64), not {item.master.dtype}")
        key = (id(item.partition), item.master.device)
        found = self._tables.get(key)
        # another partition: this backend is a copy, whose keys are of its original
        if found is None or found[0] is not item.partition:
            blocks = BlockTable.of(item.partition, self.block, item.master.device)
            found = self._tables[key] = (item.partition, blocks)
        return found[1]

    def _update(
        self,
        rule: Rule,
        item: Work,
        blocks: BlockTable,
        scale: Tensor | None,
        rates: tuple[float, ...] = (0.0,),
        factors: Tensor | None = None,
        partials: Tensor | None = None,
    ) -> None:
        """Launch :func:`_update_kernel`: the first pass with ``partials``, the second with
        ``factors``, else the single one."""
        if not len(blocks.table):
            return
        c1, root = rule.corrections(item.step)
        with torch.cuda.device_of(item.master):
            _update_kernel[(len(blocks.table),)](
                item.master, item.grad, item.exp_avg, item.exp_avg_sq,
                item.half_copy if partials is None else None, scale, factors, partials, blocks.table,
                1.0 - rule.beta1, 1.0 - rule.beta2, rule.eps, rule.weight_decay,
                1.0 / c1, 1.0 / root, rates[0], rates[-1],
                MOMENTS=factors is None, LANS=rule.kind == "lans", BLOCK=self.block,
                num_warps=WARPS,
            )  # fmt: skip


def _pick(values: Sequence[Tensor] | None, number: int) -> Tensor | None:
    """Values of one work's segments as the kernels read them, without strides."""
    return None if values is None else values[number].contiguous()


def _reduce(partials: Tensor, blocks: BlockTable) -> Tensor:
    """Sums of each segment's rows of ``partials`` [blocks, width]: float64 [segments, width]."""
    width = partials.shape[1]
    sums = partials.new_empty(len(blocks.ranges) - 1, width, dtype=torch.float64)
    if len(sums):
        with torch.cuda.device_of(partials):
            _reduce_kernel[(len(sums), width)](partials, blocks.ranges, sums, width, CHUNK)
    return sums
