"""An optimizer with states of its own names, and other states in each parameter group.

a = g    b = b + g^2    c = c + p    p = p - lr (g + a c / (1 + b))        what decays
b = b + g^2             p = p - lr g / (1 + b)                           biases and norms
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from megabert.config.training import OptimizerSettings
from megabert.optim.base import ShardedOptimizer
from megabert.optim.registry import OptimizerSpec, StateLayout, register_optimizer

STATES = ("last gradient", "exp_avg_sq", "Σp")


class ThreeStates(ShardedOptimizer):
    """The third state begins at the weight itself."""

    state_names = STATES

    def __init__(
        self, groups: list[dict[str, Any]], settings: OptimizerSettings, layout: StateLayout
    ) -> None:
        super().__init__(groups, {"lr": 0.0})

    def states_of(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        """Three in the group that decays, one in the other."""
        return STATES if group["weight_decay"] > 0.0 else STATES[1:2]

    def new_state(self, name: str, weight: Tensor) -> Tensor:
        """Zeros, or the weight."""
        return weight.detach().clone() if name == STATES[2] else super().new_state(name, weight)

    def update(self, parameter: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """One update of a parameter or partition, in place."""
        assert parameter.grad is not None
        gradient = parameter.grad.to(parameter.dtype)
        squares = state[STATES[1]].add_(gradient.square())
        direction = gradient / (1 + squares)
        if STATES[0] in state:
            state[STATES[0]].copy_(gradient)
            state[STATES[2]].add_(parameter)
            direction = gradient + gradient * state[STATES[2]] / (1 + squares)
        parameter.add_(direction, alpha=-group["lr"])


THREE_STATES = register_optimizer(
    OptimizerSpec(
        name="three-states",
        summary="three states of odd names in one group, one in the other",
        make=ThreeStates,
        state_bytes=4,
        matrix_state_bytes=12,
    )
)
