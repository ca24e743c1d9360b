"""Weights & Biases: one run there for one run folder, also after it was resumed.

Everything but project and name comes from the library's own variables: WANDB_MODE, WANDB_ENTITY,
WANDB_RUN_GROUP, WANDB_TAGS, WANDB_DIR, WANDB_BASE_URL, and so on.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megabert.common.errors import UserError, first_fault
from megabert.common.log import get_logger
from megabert.engine.metrics.trackers.base import RunEnding, TrackedRun, Tracker

_SERVICE = "wandb-core"


class WeightsAndBiases(Tracker):
    """A run whose step is the number of updates.

    A point there cannot be taken back. Lines of steps that it has are not sent again.
    """

    @classmethod
    def require(cls) -> None:
        """The package is there, and so is a login if the run is to be sent at once."""
        try:
            import wandb
        except ImportError as error:
            raise UserError(
                f"--tracker wandb: {first_fault(error)}; pip install 'megabert[trackers]'"
            ) from error
        try:
            quiet = {} if "WANDB_SILENT" in os.environ else {"silent": True}
            settings = wandb.setup(wandb.Settings(**quiet)).settings  # type: ignore[arg-type]
            online = settings.mode in (None, "online", "shared")
            if online and not wandb.login(prompt=False, verify=False):
                raise UserError(
                    "--tracker wandb: no login is configured; run `wandb login` or set WANDB_API_KEY, or "
                    "set WANDB_MODE=offline and send the run later with `wandb sync`"
                )
            _require_folder(os.environ.get("WANDB_DIR"))
        except UserError:
            raise
        except Exception as error:  # whatever it finds wrong in its own settings
            raise UserError(f"--tracker wandb: {first_fault(error)}") from error

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        self._tensors: tuple[int, Mapping[str, Mapping[str, float]]] | None = None
        quiet = {} if "WANDB_SILENT" in os.environ else {"silent": True}
        if "WANDB_CONSOLE" not in os.environ:
            quiet["console"] = "off"  # type: ignore[assignment]
        given = os.environ
        self._run = wandb.init(
            project=run.project or given.get("WANDB_PROJECT") or "megabert",
            name=run.name or given.get("WANDB_NAME") or run.folder.absolute().name,
            id=run.identity or given.get("WANDB_RUN_ID"),
            resume="allow",
            dir=given.get("WANDB_DIR") or run.folder,
            settings=wandb.Settings(**quiet),  # type: ignore[arg-type]
        )
        self._run.config.update(dict(run.config), allow_val_change=True)
        for axis in ("consumed_samples", "tokens"):
            self._run.define_metric(axis)  # the page offers them as axes
        self.identity = self._run.id
        self.reached = max(run.reached, self._run.starting_step - 1)
        place = Path(self._run.dir).parent if self._run.offline else self._run.url
        get_logger().info("%-10s%s", "wandb", place or "switched off by WANDB_MODE")

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Lines of one step are one row there, which is sent when the next step begins."""
        self._run.log(dict(values), step=step)

    def table(self, step: int, columns: Mapping[str, Mapping[str, float]]) -> None:
        """A histogram over the tensors for each quantity; the last table is kept for the end."""
        import wandb

        self._tensors = step, columns
        shown = {
            quantity: wandb.Histogram(list(values.values()))
            for quantity, values in columns.items()
            if values
        }
        self._run.log(shown, step=step)

    def event(self, step: int, event: Mapping[str, Any]) -> None:
        """A value of the summary, because a rollback belongs to an earlier step than the last row."""
        name = f"event/{event['event']}/{event.get('from_step', step)}"
        self._run.summary[name] = json.dumps({"step": step, **event})

    def results(self, results: Mapping[str, Any]) -> None:
        """Values of the summary."""
        self._run.summary.update(dict(results))

    def close(self, ending: RunEnding) -> None:
        """Send the rest. A run that can be resumed is marked as preempted."""
        try:
            self._finish(ending)
        finally:
            _teardown()

    def _finish(self, ending: RunEnding) -> None:
        import wandb

        if self._tensors is not None:
            step, columns = self._tensors
            names = dict.fromkeys(name for values in columns.values() for name in values)
            rows = [[name, *(values.get(name) for values in columns.values())] for name in names]
            table = wandb.Table(columns=["tensor", *columns], data=rows)
            self._run.log({"tensors": table}, step=max(step, self._run.step))
        if ending is RunEnding.STOPPED:
            self._run.mark_preempting()
        self._run.finish(exit_code={RunEnding.FINISHED: 0, RunEnding.STOPPED: 3}.get(ending, 1))

    @classmethod
    def abandon(cls) -> None:
        """End the service process, which may wait for a server for ever; its files are kept."""
        for process in _children():
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        _teardown()


def _require_folder(folder: str | None) -> None:
    """wandb would write into the system's folder of temporary files, without a word."""
    if folder:
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise UserError(
                f"--tracker wandb: WANDB_DIR {folder}: cannot be written ({error.strerror}); name another folder"
            ) from error


def _teardown() -> None:
    """End the service process. Otherwise wandb does when Python ends, with a traceback if it is dead."""
    import wandb

    with contextlib.suppress(Exception, SystemExit):  # it exits if its service was killed
        wandb.teardown()


def _children() -> list[int]:
    """Service processes that this process has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name, _, rest = (folder / "stat").read_text(encoding="utf-8").rpartition(")")
            if name.endswith(f"({_SERVICE}") and int(rest.split()[1]) == os.getpid():
                found.append(int(folder.name))
    return found
