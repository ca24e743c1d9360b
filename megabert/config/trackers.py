"""Settings of the trackers, and their names, without importing the libraries behind them."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from megabert.common.errors import UserError
from megabert.common.registry import Registry
from megabert.config.flags import setting
from megabert.config.values import DEFERRED

_PLACE = "megabert.engine.metrics.trackers"
TRACKERS: Registry[object] = Registry(
    "tracker",
    {
        "tensorboard": f"{_PLACE}.tensorboard:TensorBoard",
        "wandb": f"{_PLACE}.wandb:WeightsAndBiases",
        "mlflow": f"{_PLACE}.mlflow:MLflow",
        "csv": f"{_PLACE}.csv:CsvFiles",
    },
    "megabert.trackers",
)
"""Name -> subclass of ``Tracker``, read through :mod:`megabert.engine.metrics.trackers.sending`."""
_WITHOUT_NAMES = frozenset({"tensorboard", "csv"})
"""Trackers that write into the run folder, and know no projects."""


@dataclass(frozen=True, config=DEFERRED)
class TrackerSettings:
    """Trackers"""

    tracker: tuple[str, ...] = setting(
        ("tensorboard",),
        "where metrics are shown, one or several; metrics.jsonl is always written",
        choices=TRACKERS.names,
        resume="free",
    )
    tracker_project: str | None = setting(
        None,
        "project of wandb, experiment of mlflow (default: WANDB_PROJECT, MLFLOW_EXPERIMENT_NAME, or megabert)",
        metavar="NAME",
        resume="free",
    )
    tracker_name: str | None = setting(
        None,
        "name of the run in wandb and mlflow (default: WANDB_NAME, or the run folder's name)",
        metavar="NAME",
        resume="free",
    )

    def __post_init__(self) -> None:
        for flag, value in (
            ("--tracker-project", self.tracker_project),
            ("--tracker-name", self.tracker_name),
        ):
            if value is not None and _WITHOUT_NAMES.issuperset(self.tracker):
                raise UserError(
                    f"{flag} is for wandb and mlflow, and --tracker is {' '.join(self.tracker)}: "
                    f"add --tracker wandb or mlflow, or leave {flag} out"
                )
