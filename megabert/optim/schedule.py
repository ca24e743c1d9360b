"""Learning rates as pure functions of the update's number.

With x = update / steps, w = warmup_fraction, and updates counted from 1:

    warm-up    peak x / w                                     while x < w
    poly       peak (1 - x)^0.5
    linear     peak (1 - x) / (1 - w)
    cosine     peak (1 + cos(pi (x - w) / (1 - w))) / 2
    constant   peak

``poly`` is the published BERT-LAMB schedule. Its decay depends on the progress of the whole
run, not on the part after warm-up, so the rate *drops* from peak to peak (1 - w)^0.5 when warm-up
ends: with the published w = 0.2843, from 6e-3 to 5.08e-3. This is reproduced intentionally. The other decays are
continuous. The last update of poly, linear and cosine has rate 0, as published.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from megabert.common.errors import UserError

_DECAYS: dict[str, Callable[[float, float], float]] = {
    "poly": lambda x, w: math.sqrt(1.0 - x),
    "linear": lambda x, w: (1.0 - x) / (1.0 - w),
    "cosine": lambda x, w: 0.5 * (1.0 + math.cos(math.pi * (x - w) / (1.0 - w))),
    "constant": lambda x, w: 1.0,
}

SCHEDULES = tuple(_DECAYS)
"""Names of the schedules."""


def learning_rate(name: str, step: int, steps: int, peak: float, warmup_fraction: float) -> float:
    """Learning rate of update ``step`` (1 ... ``steps``) of a run of ``steps`` updates.

    A ``step`` below 1 has the rate of update 1, one beyond ``steps`` that of the last.

    Raises:
        UserError: an unknown name, ``steps`` below 1, ``warmup_fraction`` outside [0, 1).
    """
    if name not in _DECAYS:
        raise UserError(f"schedule {name!r} is unknown: use one of {', '.join(SCHEDULES)}")
    if steps < 1:
        raise UserError(f"a schedule of {steps} steps is empty: give at least 1 step")
    if not 0.0 <= warmup_fraction < 1.0:
        raise UserError(f"warm-up fraction {warmup_fraction} must be at least 0 and below 1")
    progress = min(max(step, 1), steps) / steps
    if progress < warmup_fraction:
        return peak * progress / warmup_fraction
    return peak * _DECAYS[name](progress, warmup_fraction)


class Schedule:
    """Sets the learning rate of an optimizer's groups; for ``deepspeed.initialize(lr_scheduler=)``.

    DeepSpeed calls :meth:`step` after each *applied* update, so updates skipped for overflow do not
    count. The rate is also written at the start of each optimizer step, so that the update always
    uses ``lr(applied_steps + 1)``, not a rate that a loaded checkpoint put into the groups.

    Args:
        optimizer: the optimizer given to DeepSpeed; all its groups get the same rate, multiplied by the
            group's ``lr_scale`` if it has one.
        name, steps, peak, warmup_fraction: see :func:`learning_rate`.

    Raises:
        UserError: as :func:`learning_rate`.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        name: str,
        steps: int,
        peak: float,
        warmup_fraction: float,
    ) -> None:
        self.optimizer = optimizer
        self.name = name
        self.steps = steps
        self.peak = peak
        self.warmup_fraction = warmup_fraction
        self.applied_steps = 0
        self._write()
        optimizer.register_step_pre_hook(lambda *_: self._write())

    def lr(self, step: int) -> float:
        """Learning rate of update ``step``, counted from 1."""
        return learning_rate(self.name, step, self.steps, self.peak, self.warmup_fraction)

    def step(self) -> None:
        """Count an applied update and set the next one's rate."""
        self.applied_steps += 1
        self._write()

    def get_last_lr(self) -> list[float]:
        """Rate of the next update, one value per group."""
        rate = self.lr(self.applied_steps + 1)
        return [rate * group.get("lr_scale", 1.0) for group in self.optimizer.param_groups]

    get_lr = get_last_lr

    def state_dict(self) -> dict[str, Any]:
        """The number of applied updates; everything else is settings."""
        return {"applied_steps": self.applied_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after ``state["applied_steps"]`` updates, with this object's own settings."""
        self.applied_steps = int(state["applied_steps"])
        self._write()

    def _write(self) -> None:
        rate = self.lr(self.applied_steps + 1)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
