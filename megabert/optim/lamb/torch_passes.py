"""The passes of LAMB and LANS in torch operators, in blocks that stay in cache.

A partition is cut into *pieces*: parts of one segment, at most ``BLOCK`` elements on a CPU. Pieces
are gathered into blocks of about ``BLOCK`` elements, and every operator runs over the list of a
block's pieces (torch's foreach and fused operators): there is no Python loop over tensors in the
elementwise part, and each block is read from memory once per pass, whatever the number of operators.
On other devices one block holds everything, so that few kernels are launched.

LAMB's first pass is one fused AdamW kernel with u in place of the weights: started from u = wd p
with a learning rate of -1 and no decay, it leaves u = wd p + (m/c1) / (sqrt(v/c2) + eps) and advances
both moments. The single pass (tensors that are not adapted) is that kernel on the weights
themselves. u is stored if the caller provides scratch memory, usually the gradient's; otherwise the
second pass computes it again from m, v and p, block by block.

Memory traffic in fp32, per parameter: 40 bytes either way (first pass g, p, m, v in, m, v and perhaps
u out; second pass p and u, or p, m, v, in, p out), single pass 28.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from megabert.optim.flat_segments import Partition, squared_norms
from megabert.optim.lamb.backend import Rule, Work

BLOCK = 1 << 18
"""Elements of a block on a CPU: 1 MiB in fp32, so that g, p, m, v and u of two ranks fit a cache."""


@dataclass(frozen=True)
class _Pieces:
    """How a partition is cut: sizes for ``Tensor.split``, which of them are pieces, and of what."""

    sizes: list[int]
    wanted: list[int]
    segments: list[int]


@dataclass
class _Block:
    """Lists of views, one entry per piece.

    ``owners``: (number of the work, segment); ``half_copies``: the half-precision copies that exist,
    each with its master; ``scratch``: empty unless every piece has scratch memory.
    """

    master: list[Tensor] = field(default_factory=list)
    grad: list[Tensor] = field(default_factory=list)
    exp_avg: list[Tensor] = field(default_factory=list)
    exp_avg_sq: list[Tensor] = field(default_factory=list)
    half_copies: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    owners: list[tuple[int, int]] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    scratch: list[Tensor] = field(default_factory=list)
    held: int = 0

    def takes(self, tensor: Tensor, limit: int) -> bool:
        """Whether another piece fits into this block."""
        if not self.master:
            return True
        alike = tensor.dtype == self.master[0].dtype and tensor.device == self.master[0].device
        return alike and (tensor.device.type != "cpu" or self.held + tensor.numel() <= limit)


class TorchBackend:
    """See the module's docstring; ``block`` replaces ``BLOCK`` (tests)."""

    name = "torch"

    def __init__(self, block: int = BLOCK) -> None:
        self.block = block
        # an id stays unique only while its object lives, so the partition is stored too
        self._cuts: dict[int, tuple[Partition, _Pieces]] = {}

    def gradient_squares(self, work: Sequence[Work]) -> list[Tensor]:
        """Sum of g^2 of each segment: float64 [segments] for each of ``work``."""
        sums = _Sums(work, 1)
        for block in self._blocks(work):
            sums.add(block, _full(block.grad, block.master))
        return [total[:, 0] for total in sums.totals()]

    def first_pass(
        self, rule: Rule, work: Sequence[Work], scales: Sequence[Tensor] | None
    ) -> list[Tensor]:
        """Advance the moments; sums of squares of p and each u_k: float64 [segments, 1 + k]."""
        sums = _Sums(work, 1 + rule.updates)
        numbers = None if scales is None else _as_numbers(scales, 1)
        for block in self._blocks(work):
            gradients = _scaled(block, numbers)
            if rule.kind == "lamb":
                updates = list(torch._foreach_mul(block.master, rule.weight_decay))
                _fused_adamw(updates, gradients, block, rule, lr=-1.0, weight_decay=0.0)
                sums.add(block, block.master, updates)
                if block.scratch:
                    torch._foreach_copy_(block.scratch, updates)
            else:
                _advance(block, gradients, rule)
                sums.add(block, block.master, *_updates(block, gradients, rule))
        return sums.totals()

    def second_pass(
        self,
        rule: Rule,
        work: Sequence[Work],
        scales: Sequence[Tensor] | None,
        factors: Sequence[Tensor],
        lr: float,
    ) -> None:
        """p -= lr sum_k f_k u_k; ``factors``: float32 [segments, k] for each of ``work``."""
        rates = _as_numbers(factors, rule.updates, times=-lr)
        numbers = None if scales is None else _as_numbers(scales, 1)
        for block in self._blocks(work):
            mine = [[rates[number][segment][k] for number, segment in block.owners]
                    for k in range(rule.updates)]  # fmt: skip
            if rule.kind == "lamb":
                _apply_lamb(block, rule, mine[0])
            else:
                _apply_lans(block, _scaled(block, numbers), rule, mine)
            _write_half_copies(block)

    def single_pass(
        self, rule: Rule, work: Sequence[Work], scales: Sequence[Tensor] | None, lr: float
    ) -> None:
        """Moments and weights at once, with ``rule.weights`` as factors: for tensors that are not adapted."""
        if rule.kind == "lamb":
            numbers = None if scales is None else _as_numbers(scales, 1)
            for block in self._blocks(work):
                gradients = _scaled(block, numbers)
                _fused_adamw(block.master, gradients, block, rule, lr, rule.weight_decay)
                _write_half_copies(block)
            return
        self.first_pass(rule, work, scales)
        weights = torch.tensor(rule.weights)
        factors = [
            weights.to(item.master.device).expand(len(item.partition.segments), -1) for item in work
        ]
        self.second_pass(rule, work, scales, factors, lr)

    # ------------------------------------------------------------------ blocks

    def _blocks(self, work: Sequence[Work]) -> Iterator[_Block]:
        block = _Block()
        has_scratch = all(item.scratch is not None for item in work)
        for number, item in enumerate(work):
            cuts = self._cut(item.partition, item.master.device.type == "cpu")
            views = [
                whole.split(cuts.sizes)
                for whole in (item.master, item.grad, item.exp_avg, item.exp_avg_sq)
            ]
            parts = [[pieces[place] for place in cuts.wanted] for pieces in views]
            half = [] if item.half_copy is None else item.half_copy.split(cuts.sizes)
            scratch = (
                item.scratch.split(cuts.sizes) if has_scratch and item.scratch is not None else []
            )
            for piece, segment in enumerate(cuts.segments):
                if not block.takes(parts[0][piece], self.block):
                    yield block
                    block = _Block()
                block.master.append(parts[0][piece])
                block.grad.append(parts[1][piece])
                block.exp_avg.append(parts[2][piece])
                block.exp_avg_sq.append(parts[3][piece])
                if item.half_copy is not None:
                    block.half_copies.append((half[cuts.wanted[piece]], parts[0][piece]))
                if scratch:
                    block.scratch.append(scratch[cuts.wanted[piece]])
                block.owners.append((number, segment))
                block.steps.append(item.step)
                block.held += parts[0][piece].numel()
        if block.master:
            yield block

    def _cut(self, partition: Partition, in_blocks: bool) -> _Pieces:
        """The partition's pieces; made once, since partitions do not change."""
        found = self._cuts.get(id(partition))
        if found is not None and found[0] is partition:
            return found[1]
        sizes: list[int] = []
        wanted: list[int] = []
        segments: list[int] = []
        end = 0
        for number, segment in enumerate(partition.segments):
            if segment.partition_start > end:
                sizes.append(segment.partition_start - end)
            end = segment.partition_start + segment.numel
            left = segment.numel
            while left:
                piece = min(left, self.block) if in_blocks else left
                wanted.append(len(sizes))
                segments.append(number)
                sizes.append(piece)
                left -= piece
        if end < partition.numel:
            sizes.append(partition.numel - end)
        pieces = _Pieces(sizes, wanted, segments)
        self._cuts[id(partition)] = (partition, pieces)
        return pieces


class _Sums:
    """Sums of squares per segment, added up in float64 over its pieces in their order."""

    def __init__(self, work: Sequence[Work], width: int) -> None:
        self._work, self._width = work, width
        self._values: list[Tensor] = []
        self._owners: list[tuple[int, int]] = []

    def add(self, block: _Block, *columns: list[Tensor]) -> None:
        squares = squared_norms([tensor for column in columns for tensor in column])
        self._values.append(squares.view(self._width, -1).T)
        self._owners += block.owners

    def totals(self) -> list[Tensor]:
        """float64 [segments, width] for each work."""
        first = 0
        firsts = []
        for item in self._work:
            firsts.append(first)
            first += len(item.partition.segments)
        device = self._work[0].master.device
        total = torch.zeros(first, self._width, dtype=torch.float64, device=device)
        if self._values:
            rows = [firsts[number] + segment for number, segment in self._owners]
            # on a GPU a segment is one piece: no index_add, whose order varies there
            values = torch.cat(self._values)
            if rows == list(range(first)):
                total = values
            else:
                total.index_add_(0, torch.tensor(rows, device=device), values)
        return list(total.split([len(item.partition.segments) for item in self._work]))


def _as_numbers(values: Sequence[Tensor], width: int, times: float = 1.0) -> list[list[list]]:
    """``values`` [segments, width] times ``times`` as lists of numbers (CPU) or 0-d tensors."""
    numbers = []
    for value in values:
        scaled = value.reshape(-1, width) * times if times != 1.0 else value.reshape(-1, width)
        if value.device.type == "cpu":
            numbers.append(scaled.tolist())
        else:
            numbers.append([list(row.unbind()) for row in scaled.unbind()])
    return numbers


def _full(gradients: list[Tensor], like: list[Tensor]) -> list[Tensor]:
    """Gradients in the masters' precision."""
    return [gradient.to(master.dtype) for gradient, master in zip(gradients, like)]


def _scaled(block: _Block, numbers: list[list[list]] | None) -> list[Tensor]:
    gradients = _full(block.grad, block.master)
    if numbers is None:
        return gradients
    return list(_times(gradients, [numbers[n][segment][0] for n, segment in block.owners]))


def _times(tensors: list[Tensor], factors: list) -> Sequence[Tensor]:
    """Each tensor times its own number or 0-d tensor, as new tensors."""
    return torch._foreach_mul(tensors, factors)


def _step_tensors(block: _Block, rule: Rule) -> list[Tensor]:
    """The step counts as fused AdamW wants them; infinity makes both corrections 1."""
    device = block.master[0].device
    made: dict[int, Tensor] = {}
    for step in block.steps:
        if step not in made:
            value = float(step) if rule.bias_correction else math.inf
            made[step] = torch.full((), value, device=device)
    return [made[step] for step in block.steps]


def _fused_adamw(
    weights: list[Tensor],
    gradients: list[Tensor],
    block: _Block,
    rule: Rule,
    lr: float,
    weight_decay: float,
) -> None:
    torch._fused_adamw_(
        weights,
        gradients,
        block.exp_avg,
        block.exp_avg_sq,
        [],
        _step_tensors(block, rule),
        lr=lr,
        beta1=rule.beta1,
        beta2=rule.beta2,
        weight_decay=weight_decay,
        eps=rule.eps,
        amsgrad=False,
        maximize=False,
    )


def _advance(block: _Block, gradients: list[Tensor], rule: Rule) -> None:
    torch._foreach_lerp_(block.exp_avg, gradients, 1.0 - rule.beta1)
    torch._foreach_mul_(block.exp_avg_sq, rule.beta2)
    torch._foreach_addcmul_(block.exp_avg_sq, gradients, gradients, value=1.0 - rule.beta2)


def _denominators(block: _Block, rule: Rule) -> list[Tensor]:
    """d of each piece, times c1: u_1 = m / that."""
    corrections = [rule.corrections(step) for step in block.steps]
    roots = list(torch._foreach_sqrt(block.exp_avg_sq))
    torch._foreach_mul_(roots, [c1 / root for c1, root in corrections])
    torch._foreach_add_(roots, [rule.eps * c1 for c1, _ in corrections])
    return roots


def _updates(
    block: _Block, gradients: list[Tensor], rule: Rule
) -> tuple[list[Tensor], list[Tensor]]:
    """LANS's u_1 and u_2."""
    denominators = _denominators(block, rule)
    scales = [rule.corrections(step)[0] for step in block.steps]
    first = list(torch._foreach_div(block.exp_avg, denominators))
    second = list(torch._foreach_div(gradients, denominators))
    torch._foreach_mul_(second, scales)
    if rule.weight_decay:
        torch._foreach_add_(first, block.master, alpha=rule.weight_decay)
        torch._foreach_add_(second, block.master, alpha=rule.weight_decay)
    return first, second


def _apply_lamb(block: _Block, rule: Rule, rates: list) -> None:
    """p += rate u, rate = -lr r: u is computed first, so that p is rounded once."""
    updates = block.scratch
    if not updates:
        updates = list(torch._foreach_div(block.exp_avg, _denominators(block, rule)))
        if rule.weight_decay:
            torch._foreach_add_(updates, block.master, alpha=rule.weight_decay)
    if len(updates) == 1 and isinstance(rates[0], float):
        block.master[0].add_(updates[0], alpha=rates[0])
    else:
        torch._foreach_add_(block.master, list(_times(updates, rates)))


def _apply_lans(block: _Block, gradients: list[Tensor], rule: Rule, rates: list[list]) -> None:
    for update, mine in zip(_updates(block, gradients, rule), rates):
        torch._foreach_add_(block.master, list(_times(update, mine)))


def _write_half_copies(block: _Block) -> None:
    if block.half_copies:
        copies, masters = zip(*block.half_copies)
        torch._foreach_copy_(list(copies), list(masters))
