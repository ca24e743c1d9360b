"""What an optimizer must do to run in this project: :class:`ShardedOptimizer`.

DeepSpeed gives an optimizer fp32 tensors and their gradients. Without ZeRO each is a parameter; with
ZeRO it is this rank's *partition* of a parameter group: many tensors end to end, cut at places
unrelated to their borders (:mod:`megabert.optim.flat_segments`). The rank owns its partitions and
updates only them.

An elementwise rule (each element's update depends on that element alone) needs only
:meth:`ShardedOptimizer.update`. A rule that needs norms or shapes of whole tensors finds them in
``self.table``: the parts of tensors in each partition, and the sum over the ranks that share them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, overload

import torch
from torch import Tensor

from megabert.optim.flat_segments import PartitionTable


@dataclass(frozen=True)
class TensorNorms:
    """What the last update did to one adapted tensor; norms are of the whole tensor.

    Attributes:
        name: the tensor's parameter name.
        weight_norm: |p| before the update.
        update_norm: |u|, the norm of the update before it is scaled.
        trust_ratio: factor of the update as applied.
        clamped: the ratio was limited by one of its bounds.
    """

    name: str
    weight_norm: float
    update_norm: float
    trust_ratio: float
    clamped: bool


class ShardedOptimizer(torch.optim.Optimizer):
    """A torch optimizer whose state the engine can save, move between layouts, and report.

    State of each parameter or partition: the tensors of ``state_names``, which have its shape, and
    ``step``, the number of updates applied to it.

    Attributes:
        state_names: the state's tensors. At most two can be moved to another layout.
        table: what lies in each partition; without :meth:`attach` every parameter is a whole tensor.
        overwrite_gradients: :meth:`step` may leave anything in ``.grad``. The engine sets it, because
            DeepSpeed drops the gradients after the step.
    """

    state_names: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")
    overwrite_gradients = False

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        self.table = PartitionTable((), None)
        super().__init__(params, defaults)

    def __getstate__(self) -> dict[str, Any]:
        """For copies: without the table, which names tensors of this very object."""
        return {**super().__getstate__(), "table": PartitionTable((), None)}

    def attach(self, table: PartitionTable) -> None:
        """Take the table of the partitions that this optimizer updates, before the first update."""
        self.table = table

    def update(self, parameter: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Update a parameter or partition in place from ``parameter.grad``.

        ``state`` holds the tensors of ``state_names`` and ``step``, this update's number from 1.
        """
        raise NotImplementedError(f"{type(self).__name__} defines neither update nor step")

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """:meth:`update` of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state_of(parameter)
                    state["step"] += 1
                    self.update(parameter, state, group)
        return loss

    def state_of(self, parameter: Tensor) -> dict[str, Any]:
        """The parameter's state; made (zeros, step 0) on the first call."""
        state = self.state[parameter]
        if "step" not in state:
            state["step"] = 0
        for name in self.state_names:
            if name not in state:
                state[name] = torch.zeros_like(parameter)
        return state

    def set_step(self, parameter: Tensor, step: int) -> None:
        """Have the parameter's next update be number ``step`` + 1."""
        self.state[parameter]["step"] = step

    def tensor_norms(self) -> list[TensorNorms]:
        """Norms and ratios of the last update's adapted tensors; empty for a rule without them."""
        return []

    def describe(self) -> str:
        """The rule and what computes it, in a few words."""
        return type(self).__name__

    @property
    def record_name(self) -> str:
        """Its name in a checkpoint's record: files fit only an optimizer of the same name."""
        return type(self).__name__
