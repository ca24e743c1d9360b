"""When a fine-tuning run is evaluated, which model is selected, and when it stops early."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.finetune.settings import END

log = get_logger()


def evaluation_steps(interval: int | str, rows: int, batch_size: int, steps: int) -> frozenset[int]:
    """The updates after which the model is evaluated; the last one is always among them.

    Args:
        interval: updates from one to the next; "epoch": the first update by which all rows were seen
            once, twice, ...; "end": the last update only.
        rows: of the training file.
        batch_size: rows of an update.
        steps: updates of the run.

    Raises:
        UserError: the interval is longer than the run.
    """
    if isinstance(interval, int):
        if interval > steps:
            raise UserError(
                f"--eval-interval {interval} is longer than the run of {steps} updates; give at most "
                f"{steps}, or end"
            )
        return frozenset([*range(interval, steps, interval), steps])
    if interval == END:
        return frozenset([steps])
    epochs = range(1, steps * batch_size // rows + 1)
    ends = (-(-epoch * rows // batch_size) for epoch in epochs)
    return frozenset([*(end for end in ends if end <= steps), steps])


@dataclass
class Selection:
    """The scores of a run so far, and the selected ones.

    A score that is not a number is worse than any other; of equal scores the first is the best.

    Attributes:
        metric: the score that decides, larger is better.
        keep: "best" or "last".
        patience: see ``--patience``.
        evaluations: ``{"step", "epoch", scores...}`` of each, in order.
    """

    metric: str
    keep: str
    patience: int
    evaluations: list[dict[str, Any]] = field(default_factory=list)

    def add(self, step: int, epoch: float, scores: Mapping[str, float]) -> bool:
        """Note the scores after an update; whether its model is the selected one so far."""
        self.evaluations.append({"step": step, "epoch": round(epoch, 4), **scores})
        return self.selected is self.evaluations[-1]

    @property
    def last(self) -> dict[str, Any]:
        """The newest evaluation."""
        return self.evaluations[-1]

    @property
    def best(self) -> dict[str, Any]:
        """The best evaluation; the newest where there are no scores."""
        if self.metric not in self.last:
            return self.last
        return max(self.evaluations, key=self._value)  # the first of equals

    @property
    def selected(self) -> dict[str, Any]:
        """The evaluation whose model is selected."""
        return self.best if self.keep == "best" else self.last

    @property
    def out_of_patience(self) -> bool:
        """Whether the last ``patience`` evaluations were all no better than one before."""
        if not self.patience or self.metric not in self.last:
            return False
        best = next(n for n, one in enumerate(self.evaluations) if one is self.best)
        return len(self.evaluations) - 1 - best >= self.patience

    def report(self) -> dict[str, Any]:
        """For results.json: the selected scores, and which evaluations were the best and the last."""
        if not self.evaluations:
            return {"scores": {}}
        scores = {k: v for k, v in self.selected.items() if k not in ("step", "epoch")}
        report = {"metric": self.metric, **scores, "scores": scores}
        if not scores or self.last["step"] == 0:  # nothing was trained
            return report
        log.info(
            "%s %.2f of step %d is selected (best: step %d, last: step %d)",
            self.metric,
            self.selected[self.metric],
            self.selected["step"],
            self.best["step"],
            self.last["step"],
        )
        return report | {
            "kept": self.keep,
            "best": self.best,
            "last": self.last,
            "evaluations": len(self.evaluations),
        }

    def _value(self, evaluation: Mapping[str, Any]) -> float:
        value = float(evaluation[self.metric])
        return -math.inf if math.isnan(value) else value
