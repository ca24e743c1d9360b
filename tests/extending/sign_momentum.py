"""An optimizer from outside megabert: the sign of the momentum (Signum, Bernstein et al. 2018).

    m = b1 m + (1 - b1) g            p = p - lr (sign(m) + wd p)

Importing this file makes ``--optimizer sign-momentum`` known. An installed package does without the
import: its ``setup.py`` has ``entry_points={"megabert.optimizers": ["sign-momentum =
my_package.sign_momentum:SIGN_MOMENTUM"]}``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from megabert.config.training import OptimizerSettings
from megabert.optim.base import ShardedOptimizer
from megabert.optim.registry import OptimizerSpec, StateLayout, register_optimizer


class SignMomentum(ShardedOptimizer):
    """Each element is updated by its own gradient, so ZeRO's partitions need no table."""

    state_names = ("momentum",)

    def __init__(
        self, groups: list[dict[str, Any]], settings: OptimizerSettings, layout: StateLayout
    ) -> None:
        super().__init__(groups, {"lr": 0.0, "betas": (settings.beta1, settings.beta2)})

    def update(self, parameter: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """One update of a parameter or partition, in place."""
        assert parameter.grad is not None
        gradient, beta = parameter.grad.to(parameter.dtype), group["betas"][0]
        momentum = state["momentum"].lerp_(gradient, 1 - beta)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(torch.sign(momentum), alpha=-group["lr"])


SIGN_MOMENTUM = register_optimizer(
    OptimizerSpec(
        name="sign-momentum",
        summary="sign of the momentum",
        make=SignMomentum,
        reads=frozenset({"beta1"}),
        state_bytes=4,
        moved_bytes=20,
    )
)
