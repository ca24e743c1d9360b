"""Learning rates as pure functions of the update's number. Needs no torch.

With x = update / steps, w = warm-up's end / steps, and updates counted from 1:

    warm-up        peak x / w                                     while x < w
    poly           peak (1 - x)^0.5
    linear         peak (1 - x) / (1 - w)
    cosine         peak (1 + cos(pi (x - w) / (1 - w))) / 2
    constant       peak
    inverse-sqrt   peak (w / x)^0.5                               without a warm-up of 1 update
    wsd            peak until the decay, then peak times its shape

The decay of ``wsd`` (warm-up, stable, decay) is its last part. With p from 0 to 1 in the decay, its shape is
1 - p (``linear``), 1 - p^0.5 (``1-sqrt``, Hägele et al. 2024) or (1 + cos(pi p)) / 2 (``cosine``). A
final fraction f turns a shape s, those of ``linear`` and ``cosine`` too, into f + (1 - f) s.

``poly`` is the published BERT-LAMB schedule. Its decay depends on the progress of the whole
run, not on the part after warm-up, so the rate *drops* from peak to peak (1 - w)^0.5 when warm-up
ends: with the published w = 0.2843, from 6e-3 to 5.08e-3. This is reproduced intentionally. The other decays are
continuous. The last update of poly, linear, cosine and wsd has rate 0, as published.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from megabert.common.errors import UserError

SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda p: 1.0 - p,
    "1-sqrt": lambda p: 1.0 - math.sqrt(p),
    "cosine": lambda p: 0.5 * (1.0 + math.cos(math.pi * p)),
}
"""Shapes of the decay of ``wsd``."""

SCHEDULES = ("poly", "linear", "cosine", "constant", "inverse-sqrt", "wsd")
"""Names of the schedules."""
WITH_A_FLOOR = ("linear", "cosine", "wsd")
"""Schedules whose last rate is ``final_fraction`` of the peak."""


@dataclass(frozen=True)
class Curve:
    """The learning rates of a run.

    Attributes:
        steps: updates of the run.
        peak: rate at the end of warm-up.
        warmup_fraction: fraction of the updates in which the rate rises.
        warmup_steps: the same as a number of updates, if it was given so: the rates in warm-up are then the
            same bits in runs of any length.
        decay: shape of the decay of ``wsd``.
        decay_steps: its updates.
        final_fraction: the last rate, as a fraction of the peak.

    Raises:
        UserError: an unknown name, ``steps`` below 1, ``warmup_fraction`` outside [0, 1), a decay that
            begins in warm-up.
    """

    name: str
    steps: int
    peak: float
    warmup_fraction: float
    warmup_steps: int | None = None
    decay: str = "1-sqrt"
    decay_steps: int = 0
    final_fraction: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise UserError(f"schedule {self.name!r} is unknown: use one of {', '.join(SCHEDULES)}")
        if self.decay not in SHAPES:
            raise UserError(f"decay {self.decay!r} is unknown: use one of {', '.join(SHAPES)}")
        if self.steps < 1:
            raise UserError(f"a schedule of {self.steps} steps is empty: give at least 1 step")
        if not 0.0 <= self.warmup_fraction < 1.0:
            raise UserError(
                f"warm-up fraction {self.warmup_fraction} must be at least 0 and below 1"
            )
        if self.name == "wsd" and self.stable_until < math.floor(self._warmup):
            raise UserError(
                f"a warm-up of {self._warmup:g} updates and a decay of {self.decay_steps:,} do not fit into a "
                f"run of {self.steps:,}: shorten one of them"
            )

    @property
    def _warmup(self) -> float:
        """Updates of the warm-up."""
        return self.warmup_fraction * self.steps if self.warmup_steps is None else self.warmup_steps

    @property
    def warmed_up(self) -> int:
        """The first update with the peak's rate, or the one after warm-up."""
        return max(1, math.ceil(self._warmup))

    @property
    def stable_until(self) -> int:
        """The last update before the decay of ``wsd``."""
        return self.steps - self.decay_steps

    def trains_nothing(self, done: int = 0) -> str | None:
        """A warning if the only update after ``done`` has a rate of 0, as the last one in most schedules."""
        if self.steps > done + 1 or not self.peak or self.rate(self.steps):
            return None
        return (
            f"the only update has a learning rate of 0, at which schedule {self.name} ends: no weight will change; "
            "make it longer"
        )

    def rate(self, step: int) -> float:
        """Learning rate of update ``step`` (1 ... ``steps``).

        A ``step`` below 1 has the rate of update 1, one beyond ``steps`` that of the last.
        """
        step = min(max(step, 1), self.steps)
        x, w = step / self.steps, self.warmup_fraction
        if self.warmup_steps is not None:
            if step < self.warmup_steps:
                return self.peak * step / self.warmup_steps
        elif x < w:
            return self.peak * x / w
        return self.peak * self._height(step, x, w)

    def _height(self, step: int, x: float, w: float) -> float:
        """The rate after warm-up, as a fraction of the peak."""
        if self.name == "poly":
            return math.sqrt(1.0 - x)
        if self.name == "inverse-sqrt":
            return math.sqrt(max(self._warmup, 1.0) / step)
        if self.name == "linear":
            shape = (1.0 - x) / (1.0 - w)
        elif self.name == "cosine":
            shape = 0.5 * (1.0 + math.cos(math.pi * (x - w) / (1.0 - w)))
        elif self.name == "wsd" and step > self.stable_until:
            shape = SHAPES[self.decay]((step - self.stable_until) / self.decay_steps)
        else:
            return 1.0
        return self.final_fraction + (1.0 - self.final_fraction) * shape
