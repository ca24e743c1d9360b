"""MLflow: one run of an experiment for one run folder, also after it was resumed.

The server or store comes from MLFLOW_TRACKING_URI.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megabert import __version__
from megabert.common.errors import UserError, first_fault
from megabert.common.log import get_logger
from megabert.common.names import RUN_CONFIG, RUN_RESULTS
from megabert.engine.metrics.trackers.base import RunEnding, TrackedRun, Tracker

_STATUS = {RunEnding.FINISHED: "FINISHED", RunEnding.STOPPED: "KILLED", RunEnding.FAILED: "FAILED"}
_PARAMETERS_AT_ONCE, _LONGEST = 100, 6000  # limits of its stores
_METRICS_AT_ONCE = 1000
_STORE = (
    "set MLFLOW_TRACKING_URI to a server (http://HOST:PORT), or to a folder (file:FOLDER) together with "
    "MLFLOW_ALLOW_FILE_STORE=true; sqlite:///FILE needs the whole package: pip install mlflow"
)


class MLflow(Tracker):
    """A run through MLflow's client, whose calls wait for the server.

    A point there cannot be taken back. Lines of steps that it has are not sent again.
    """

    identity: str

    @classmethod
    def require(cls) -> None:
        """The package is there."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        try:
            import mlflow  # noqa: F401
        except ImportError as error:
            raise UserError(
                f"--tracker mlflow: {first_fault(error)}; pip install 'megabert[trackers]'"
            ) from error

    def __init__(self, run: TrackedRun) -> None:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient, get_tracking_uri

        self._folder = run.folder
        experiment = run.project or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "megabert"
        try:
            self._client = MlflowClient()
            found = self._client.get_experiment_by_name(experiment)
            place = found.experiment_id if found else self._client.create_experiment(experiment)
        except MlflowException as error:
            said = first_fault(error).partition(". ")[0].rstrip(".")
            raise UserError(f"--tracker mlflow: {get_tracking_uri()}: {said}; {_STORE}") from error
        if run.identity is None:
            tags = {"megabert.version": __version__, "megabert.run": str(run.folder.absolute())}
            name = run.name or run.folder.absolute().name
            self.identity = self._client.create_run(place, run_name=name, tags=tags).info.run_id
        else:
            self.identity = run.identity
            self._client.update_run(self.identity, status="RUNNING")
            self.reached = max(
                (
                    point.step
                    for name in ("loss", "eval_mlm_loss")
                    for point in self._client.get_metric_history(self.identity, name)
                ),
                default=-1,
            )
        self._log_config(run.config)
        get_logger().info("%-10s%s: run %s", "mlflow", get_tracking_uri(), self.identity)

    def _log_config(self, config: Mapping[str, Mapping[str, Any]]) -> None:
        """Parameters, which cannot be changed later; what a resumed run has changed becomes a tag."""
        from mlflow.entities import Param, RunTag

        given = {
            f"{section}.{name}": str(value)[:_LONGEST]
            for section, values in config.items()
            for name, value in values.items()
        }
        known = self._client.get_run(self.identity).data.params
        new = [Param(name, value) for name, value in given.items() if name not in known]
        for first in range(0, len(new), _PARAMETERS_AT_ONCE):
            some = new[first : first + _PARAMETERS_AT_ONCE]
            self._client.log_batch(self.identity, params=some)
        changed = [
            RunTag(name, value) for name, value in given.items() if known.get(name, value) != value
        ]
        self._client.log_batch(self.identity, tags=changed)
        if (self._folder / RUN_CONFIG).exists():
            self._client.log_artifact(self.identity, str(self._folder / RUN_CONFIG))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """One point of each metric; ``eval_mlm_loss/NAME`` is ``eval_mlm_loss.NAME`` there.

        A store in files cannot hold a metric whose name is another one's folder.
        """
        self._log(step, {name.replace("/", "."): value for name, value in values.items()})

    def table(self, step: int, columns: Mapping[str, Mapping[str, float]]) -> None:
        """One metric per tensor and quantity: ``trust_ratio/TENSOR``."""
        self._log(
            step,
            {
                f"{quantity}/{name}": value
                for quantity, values in columns.items()
                for name, value in values.items()
            },
        )

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [
            Metric(re.sub(r"[^/\w.\- ]", "_", name), value, now, step)
            for name, value in values.items()
        ]
        for first in range(0, len(points), _METRICS_AT_ONCE):
            some = points[first : first + _METRICS_AT_ONCE]
            self._client.log_batch(self.identity, metrics=some)

    def event(self, step: int, event: Mapping[str, Any]) -> None:
        """A tag."""
        name = f"event.{event['event']}.{event.get('from_step', step)}"
        self._client.set_tag(self.identity, name, json.dumps({"step": step, **event}))

    def results(self, results: Mapping[str, Any]) -> None:
        """``results.json`` as an artifact."""
        path: Path = self._folder / RUN_RESULTS
        self._client.log_artifact(self.identity, str(path))

    def close(self, ending: RunEnding) -> None:
        """Set the run's status."""
        self._client.set_terminated(self.identity, _STATUS[ending])
