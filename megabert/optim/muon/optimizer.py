"""Muon for whole matrices, and AdamW or LAMB for all other parameters, for any ZeRO stage and tensor parallelism.

Jordan et al. 2024, with the scale and decay of Liu et al. 2025. For every matrix p [rows, columns],
its clipped gradient g, and momentum b:

    m = b m + (1 - b) g
    o = orthogonalized((1 - b) g + b m)                             (Nesterov's momentum)
    p = p - lr (0.2 sqrt(max(rows, columns)) o + wd p)

The scale gives an update the root mean square of AdamW's, so that one learning rate serves both.
Query, key and value are matrices of their own.

Ownership: m and the Nesterov step are elementwise, so each rank computes them for its own partition.
Each matrix has one *owner* among the ranks that hold parts of it (:mod:`megabert.optim.muon.ownership`):
the owner gets the parts of (1 - b) g + b m, and sends back the parts of o.

Communication: two all-to-alls per bucket of matrices that have several holders, in the number format of
the iteration. The next bucket's parts, and the last bucket's results, are on their way while a rank
computes; so are matrices that lie on one rank alone. Every rank takes part in all of them. Padding
belongs to no part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from megabert.common.errors import UserError
from megabert.config.training import OptimizerSettings
from megabert.optim.base import ShardedOptimizer, TensorNorms
from megabert.optim.flat_segments import PartitionTable, squared_norms
from megabert.optim.lamb.backend import LambOptions
from megabert.optim.lamb.choice import BackendName
from megabert.optim.lamb.optimizer import MOMENT_SETTINGS, RATIO_SETTINGS, Lamb
from megabert.optim.muon.exchange import Mail, Pieces
from megabert.optim.muon.newton_schulz import iteration_flops, orthogonalized, update_scale
from megabert.optim.muon.ownership import BUCKET, Grid, Matrix, Ownership, Part
from megabert.optim.param_groups import is_hidden_matrix
from megabert.optim.registry import OptimizerSpec, StateLayout, optimizer_spec

_MATRIX_SETTINGS = frozenset({"muon_momentum", "muon_steps", "muon_precision", "muon_others"})


@dataclass(frozen=True)
class MuonOptions:
    """Settings of the rule for matrices.

    Attributes:
        momentum: b.
        steps: of the Newton-Schulz iteration.
        precision: of the iteration; auto is bf16 on a GPU, otherwise that of the weights.
    """

    momentum: float = 0.95
    steps: int = 5
    precision: Literal["auto", "bf16", "fp32"] = "auto"


_DEFAULTS = MuonOptions()


class Muon(Lamb):
    """See the module's docstring. A group whose ``matrix`` is true has matrices only.

    Args:
        params: groups.
        others: the rule of the groups that are not matrices, and defaults of all groups.
        options: of matrices.
        backend: see :class:`Lamb`.
        bucket: elements that an owner receives in one exchange, about.

    State of matrices: ``momentum`` (m) and ``step``; of others :class:`Lamb`'s.
    """

    def __init__(
        self,
        params: Any,
        others: LambOptions,
        options: MuonOptions = _DEFAULTS,
        *,
        backend: BackendName | None = None,
        bucket: int = BUCKET,
    ) -> None:
        super().__init__(params, others, backend=backend)
        self.options = options
        self.bucket = bucket
        self._layouts: list[list[list[tuple[int, int, int]]]] = []
        self._mail: dict[tuple[int, ...], Mail] = {}
        self._squares: dict[tuple[int, ...], _Squares] = {}

    def __getstate__(self) -> dict[str, Any]:
        """For copies: as the base class, with this class's own attributes."""
        own = {"options": self.options, "bucket": self.bucket}
        return {**super().__getstate__(), **own, "_layouts": [], "_mail": {}, "_squares": {}}

    def attach(self, table: PartitionTable) -> None:
        """Take the table; all ranks exchange which parts they hold (a collective)."""
        super().attach(table)
        own = [
            [(s.row, s.tensor_start, s.numel) for s in partition.segments]
            for partition in table.partitions
        ]
        self._layouts = [own] if table.exchange is None else table.exchange.gather(own)
        self._mail.clear()

    def describe(self) -> str:
        """``muon and adamw by torch``."""
        return f"muon and {super().describe()}"

    @property
    def record_name(self) -> str:
        """``Muon (adamw)``."""
        return f"Muon ({self.rule})"

    def tensor_norms(self) -> list[TensorNorms]:
        """Of matrices the norms of p and of o, and the scale as ratio; of others LAMB's (a collective)."""
        rows = super().tensor_norms()
        for found in self._squares.values():
            sums = self.table.whole_sums(found.parameters, found.values, 2)
            for matrix, (weight, update) in zip(found.matrices, sums.sqrt().tolist()):
                scale = update_scale(*matrix.shape)
                rows.append(TensorNorms(matrix.tensor.name, weight, update, scale, clamped=False))
        return rows

    def states_of(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        """The momentum of matrices, both moments of others."""
        return ("momentum",) if group.get("matrix") else super().states_of(group)

    def state_of(self, parameter: Tensor, group: Mapping[str, Any]) -> dict[str, Any]:
        """The state of a group's parameter; made (zeros, step 0) on the first call."""
        if group.get("matrix"):
            return ShardedOptimizer.state_of(self, parameter, group)
        return super().state_of(parameter, group)

    # ------------------------------------------------------------------ one group

    def _step_group(self, group: dict[str, Any]) -> None:
        if group.get("matrix"):
            self._step_matrices(group)
        else:
            super()._step_group(group)

    def _step_matrices(self, group: dict[str, Any]) -> None:
        parameters = [p for p in group["params"] if p.grad is not None]
        if not parameters:
            return
        mail = self._mail_of(parameters)
        update = _Update(group, parameters, mail.plan.matrices)
        views: list[Tensor] = []
        for parameter in parameters:
            partition = self.table.partition(parameter)
            views += partition.views(self._nesterov(parameter, group))
            update.weights += partition.views(parameter.view(-1))
        plan = mail.plan
        alone = [number for number in plan.alone if plan.owners[number] == mail.rank]
        half = len(alone) // 2 if plan.buckets else len(alone)
        waiting: Callable[[], Pieces] | None = None
        returning: Callable[[], list[tuple[Part, Tensor]]] | None = None
        if plan.buckets:
            waiting = mail.collect(plan.buckets[0], views)
        self._step_alone(mail, alone[:half], views, update)
        for number, bucket in enumerate(plan.buckets):
            assert waiting is not None
            pieces = waiting()
            if number + 1 < len(plan.buckets):
                waiting = mail.collect(plan.buckets[number + 1], views)
            results = self._orthogonalize(mail, pieces)
            arriving, returning = returning, mail.give_back(bucket, results)
            if arriving is not None:
                update.apply(arriving())
        self._step_alone(mail, alone[half:], views, update)
        if returning is not None:
            update.apply(returning())
        segments = [len(self.table.partition(parameter).segments) for parameter in parameters]
        self._squares[tuple(map(id, parameters))] = update.squares(segments)

    def _nesterov(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        """Advance the momentum; the flat step to be orthogonalized, in the gradient's memory if allowed."""
        gradient = parameter.grad
        assert gradient is not None
        if parameter.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"Muon updates matrices in fp32 and fp64, not {parameter.dtype}")
        state = self.state_of(parameter, group)
        state["step"] += 1
        beta = self.options.momentum
        full = gradient.to(parameter.dtype)
        momentum = state["momentum"].lerp_(full, 1.0 - beta)
        in_place = self.overwrite_gradients or full is not gradient
        step = full.lerp_(momentum, beta) if in_place else full.lerp(momentum, beta)
        return step.reshape(-1)

    def _step_alone(
        self, mail: Mail, numbers: Sequence[int], views: Sequence[Tensor], update: _Update
    ) -> None:
        """Matrices that lie on this rank alone, one by one."""
        for number in numbers:
            part = next(iter(mail.plan.to_holder(mail.rank, mail.rank, [number])))
            step = views[part.place].to(mail.device, mail.dtype)
            whole = orthogonalized(step.view(mail.plan.matrices[number].shape), self.options.steps)
            update.apply([(part, whole.reshape(-1))])

    def _orthogonalize(self, mail: Mail, pieces: Pieces) -> dict[tuple[int, int], Tensor]:
        """The results of this rank's matrices, by matrix and tensor-parallel part, flat."""
        results = {}
        for number in sorted({number for number, _ in pieces}):
            matrix = mail.plan.matrices[number]
            local = [
                _joined(pieces[number, column], matrix.tensor.numel).view(matrix.tensor.shape)
                for column in range(matrix.parts)
            ]
            dim = matrix.tensor.split_dim
            whole = local[0] if matrix.parts == 1 else torch.cat(local, dim)
            whole = orthogonalized(whole, self.options.steps)
            for column, part in enumerate(whole.chunk(matrix.parts, dim)):
                results[number, column] = part.reshape(-1)
        return results

    def _mail_of(self, parameters: Sequence[Tensor]) -> Mail:
        """Owners of the matrices in these parameters or partitions; worked out once."""
        key = tuple(map(id, parameters))
        if key not in self._mail:
            table, exchange = self.table, self.table.exchange
            grid = Grid()
            if exchange is not None:
                grid = Grid(exchange.ranks, exchange.tensor_parallel, exchange.copies)
            tensors = [t for p in parameters for t in table.partition(p).tensors]
            matrices = [Matrix(t, grid.tensor_parallel if t.split else 1) for t in tensors]
            held: list[list[Part]] = [[] for _ in range(grid.ranks)]
            first = 0
            for parameter in parameters:
                partition, number = table.partition(parameter), table.number(parameter)
                own = [(s.row, s.tensor_start, s.numel) for s in partition.segments]
                layouts = [own] if exchange is None else [one[number] for one in self._layouts]
                for parts, layout in zip(held, layouts):
                    for row, start, numel in layout:
                        parts.append(Part(first + row, start, numel, len(parts)))
                first += len(partition.tensors)
            plan = Ownership.make(grid, matrices, held, self.bucket)
            device = parameters[0].device if exchange is None else exchange.device
            dtype = parameters[0].dtype
            wanted = self.options.precision
            if wanted == "bf16" or (wanted == "auto" and device.type != "cpu"):
                dtype = torch.bfloat16
            self._mail[key] = Mail(plan, exchange, dtype, device)
        return self._mail[key]


@dataclass
class _Squares:
    """Sums of squares of p and o, per segment of each parameter, until someone asks for norms."""

    parameters: list[Tensor]
    matrices: list[Matrix]
    values: dict[int, Tensor]


class _Update:
    """Applies results to this rank's weights (flat views, by place)."""

    def __init__(
        self, group: dict[str, Any], parameters: list[Tensor], matrices: list[Matrix]
    ) -> None:
        self.lr, self.decay = group["lr"], group["weight_decay"]
        self.parameters, self.matrices = parameters, matrices
        self.weights: list[Tensor] = []
        self._norms: dict[int, Tensor] = {}

    def apply(self, parts: Sequence[tuple[Part, Tensor]]) -> None:
        """p = p (1 - lr wd) - lr scale o, part by part."""
        for part, result in parts:
            weight = self.weights[part.place]
            step = result.to(weight.device, weight.dtype)
            self._norms[part.place] = squared_norms([weight, step])
            weight.mul_(1.0 - self.lr * self.decay)
            scale = update_scale(*self.matrices[part.matrix].shape)
            weight.add_(step, alpha=-self.lr * scale)

    def squares(self, segments: Sequence[int]) -> _Squares:
        """What norms are made of; ``segments``: how many parts each parameter has."""
        values, first = {}, 0
        for parameter, count in zip(self.parameters, segments):
            if count:
                rows = [self._norms[place] for place in range(first, first + count)]
                values[id(parameter)] = torch.stack(rows)
            first += count
        return _Squares(self.parameters, self.matrices, values)


def _joined(pieces: Sequence[tuple[int, Tensor]], numel: int) -> Tensor:
    """A flat tensor of pieces that together fill it."""
    if len(pieces) == 1:
        return pieces[0][1]
    return torch.cat([values for _, values in sorted(pieces, key=lambda item: item[0])])


# ---------------------------------------------------------------------- registration


def _make(
    groups: list[dict[str, Any]], settings: OptimizerSettings, layout: StateLayout
) -> ShardedOptimizer:
    """The optimizer of ``settings``.

    Raises:
        UserError: apex, which has no Muon.
    """
    if settings.lamb_backend == "apex":
        raise UserError("--lamb-backend apex has no Muon: use auto, torch or triton")
    others = LambOptions(
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        bias_correction=settings.bias_correction,
        min_trust_ratio=settings.min_trust_ratio,
        max_trust_ratio=settings.max_trust_ratio,
        rule=settings.muon_others,
    )
    options = MuonOptions(settings.muon_momentum, settings.muon_steps, settings.muon_precision)
    return Muon(groups, others, options, backend=settings.lamb_backend)


MUON = OptimizerSpec(
    "muon",
    "orthogonalized momentum of whole matrices; AdamW or LAMB for the rest",
    _make,
    reads=MOMENT_SETTINGS | _MATRIX_SETTINGS,
    reads_more=lambda settings: optimizer_spec(settings.muon_others).reads & RATIO_SETTINGS,
    matrix_state_bytes=4,
    moved_bytes=44,
    matrices=is_hidden_matrix,
    matrix_flops=iteration_flops,
)
