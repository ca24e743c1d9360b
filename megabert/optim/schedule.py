"""Sets the learning rates of a :class:`~megabert.optim.curve.Curve` in an optimizer."""

from __future__ import annotations

from typing import Any

import torch

from megabert.optim.curve import Curve


def learning_rate(name: str, step: int, steps: int, peak: float, warmup_fraction: float) -> float:
    """Learning rate of update ``step`` (1 ... ``steps``) of a run of ``steps`` updates.

    Raises:
        UserError: as :class:`~megabert.optim.curve.Curve`.
    """
    return Curve(name, steps, peak, warmup_fraction).rate(step)


class Schedule:
    """Sets the learning rate of an optimizer's groups; for ``deepspeed.initialize(lr_scheduler=)``.

    DeepSpeed calls :meth:`step` after each *applied* update, so updates skipped for overflow do not
    count. The rate is also written at the start of each optimizer step, so that the update always
    uses ``lr(applied_steps + 1)``, not a rate that a loaded checkpoint put into the groups.

    Args:
        optimizer: the optimizer given to DeepSpeed; all its groups get the same rate, multiplied by the
            group's ``lr_scale`` if it has one.
        curve: the rates.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, curve: Curve) -> None:
        self.optimizer = optimizer
        self.curve = curve
        self.applied_steps = 0
        self._write()
        optimizer.register_step_pre_hook(lambda *_: self._write())

    def lr(self, step: int) -> float:
        """Learning rate of update ``step``, counted from 1."""
        return self.curve.rate(step)

    def follow(self, curve: Curve) -> None:
        """Use the rates of ``curve`` from now on."""
        self.curve = curve
        self._write()

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
