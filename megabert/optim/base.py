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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor

from megabert.optim.flat_segments import PartitionTable

EMA = "ema"
"""The state tensor that holds the moving average of the weights."""


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

    State of each parameter or partition: the tensors that :meth:`states_of` names, which have its shape,
    and ``step``, the number of updates applied to it. There may be any number of them, of any names. They
    are saved, merged, and moved to other layouts by these names.

    Attributes:
        state_names: the state's tensors, of every group whose own :meth:`states_of` does not say otherwise.
        table: what lies in each partition; without :meth:`attach` every parameter is a whole tensor.
        ema_decay: of the moving average of the weights (:meth:`keep_average`); 0: there is none.
        overwrite_gradients: :meth:`step` may leave anything in ``.grad``. The engine sets it, because
            DeepSpeed drops the gradients after the step.
    """

    state_names: tuple[str, ...] = ("exp_avg", "exp_avg_sq")
    ema_decay = 0.0
    overwrite_gradients = False
    _steps_entered = 0
    _following: Sequence[tuple[Tensor, Tensor]] = ()

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        self.table = PartitionTable((), None)
        super().__init__(params, defaults)

    def __getstate__(self) -> dict[str, Any]:
        """For copies: without the table, which names tensors of this very object."""
        return {**super().__getstate__(), "table": PartitionTable((), None)}

    def attach(self, table: PartitionTable) -> None:
        """Take the table of the partitions that this optimizer updates, before the first update."""
        self.table = table

    def states_of(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of the state's tensors of a parameter group; the same on every rank, at any time."""
        return self.state_names

    def all_states(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        """:meth:`states_of`, and the moving average if one is kept."""
        names = self.states_of(group)
        return (*names, EMA) if self.ema_decay else names

    def new_state(self, name: str, weight: Tensor) -> Tensor:
        """The state tensor ``name`` before the first update of ``weight`` (a parameter or a part of one)."""
        return torch.zeros_like(weight)

    def update(self, parameter: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Update a parameter or partition in place from ``parameter.grad``.

        ``state`` holds the tensors of :meth:`states_of` and ``step``, this update's number from 1.
        """
        raise NotImplementedError(f"{type(self).__name__} defines neither update nor step")

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            # Under ZeRO 3 a group is empty except in its turn, on every rank alike.
            if group["params"]:
                self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        """:meth:`update` of the group's parameters; a rule that sums over ranks replaces it."""
        for parameter in group["params"]:
            if parameter.grad is not None:
                state = self.state_of(parameter, group)
                state["step"] += 1
                self.update(parameter, state, group)

    def state_of(self, parameter: Tensor, group: Mapping[str, Any]) -> dict[str, Any]:
        """The state of a group's parameter; made (step 0) on the first call."""
        state = self.state[parameter]
        if "step" not in state:
            state["step"] = 0
        for name in self.states_of(group):
            if name not in state:
                state[name] = self.new_state(name, parameter)
        return state

    def keep_average(self, decay: float) -> None:
        """Keep the moving average ema = decay ema + (1 - decay) p of every parameter, whatever the rule.

        It begins as the weights before the next update, is not corrected for that start, and follows
        after each :meth:`step`. Elementwise: a rank averages its own partitions, nothing is sent.
        """
        if not 0.0 < decay < 1.0:
            raise ValueError(f"the decay of the moving average is {decay}, but must be in (0, 1)")
        if not self.ema_decay:
            # torch calls these around the step of any subclass
            self.register_step_pre_hook(ShardedOptimizer._begin_average)
            self.register_step_post_hook(ShardedOptimizer._follow)
        self.ema_decay = decay

    def average_of(self, parameter: Tensor) -> Tensor:
        """The parameter's moving average; the weights themselves before the first update with one."""
        average: Tensor | None = self.state.get(parameter, {}).get(EMA)
        return parameter.detach().clone() if average is None else average

    def _begin_average(self, *_: Any) -> None:
        self._steps_entered += 1
        if self._steps_entered == 1:  # a subclass may call the step of its base class
            groups = self.param_groups
            updated = [p for group in groups for p in group["params"] if p.grad is not None]
            self._following = [(parameter, self.average_of(parameter)) for parameter in updated]

    @torch.no_grad()
    def _follow(self, *_: Any) -> None:
        self._steps_entered -= 1
        if self._steps_entered == 0 and self._following:
            parameters, averages = zip(*self._following)
            torch._foreach_lerp_(averages, parameters, 1.0 - self.ema_decay)
            for parameter, average in self._following:
                self.state[parameter][EMA] = average
            self._following = []

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
