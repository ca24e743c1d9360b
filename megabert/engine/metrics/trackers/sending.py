"""Sends the lines of a run's metrics to its trackers, so that none can stop or slow the training.

Each tracker has a thread, which makes all its calls, and a queue of limited length: what does not fit
is dropped and counted. The first error of a tracker ends it with one warning.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from megabert.common.errors import StoppedOnRequest, UserError, first_fault
from megabert.common.files import limited_lines, write_json
from megabert.common.json_text import JsonError, parse_json, read_json_object
from megabert.common.log import get_logger
from megabert.common.names import RUN_METRICS, RUN_TRACKERS
from megabert.config.trackers import TRACKERS, TrackerSettings
from megabert.engine.metrics.trackers.base import RunEnding, TrackedRun, Tracker, measured

QUEUE = 4096
"""Lines that may wait for a tracker."""
OPEN_SECONDS = 60.0
"""The time in which a tracker must be open."""
CLOSE_SECONDS = {RunEnding.FINISHED: 60.0, RunEnding.STOPPED: 20.0, RunEnding.FAILED: 20.0}
"""The time in which a tracker must have taken everything when the run ends."""

log = get_logger()


def tracker_class(name: str) -> type[Tracker]:
    """The tracker of this name; imports its module.

    Raises:
        UserError: its package cannot be imported, or it is not a subclass of :class:`Tracker`.
    """
    found = TRACKERS.get(name)
    if not (isinstance(found, type) and issubclass(found, Tracker)):
        raise UserError(
            f"tracker {name!r} is of type {type(found).__name__}; the entry point of the group "
            "megabert.trackers must name a subclass of megabert.engine.metrics.trackers.base.Tracker"
        )
    return found


def feed(tracker: Tracker, line: Mapping[str, Any]) -> None:
    """Hand a line of metrics to the method that it is for."""
    step: int = line["step"]
    if "event" in line:
        tracker.event(step, {name: value for name, value in line.items() if name != "step"})
        return
    columns = {name: value for name, value in line.items() if isinstance(value, dict)}
    if columns:
        tracker.table(step, columns)
    values = measured(line)
    if values:
        tracker.metrics(step, values)


class _Sender:
    """A tracker with its thread.

    Raises:
        UserError: it cannot be opened.
    """

    def __init__(self, name: str, kind: type[Tracker], run: TrackedRun) -> None:
        self.name, self._kind, self._run = name, kind, run
        self.tracker: Tracker | None = None
        self.reached = -1  # the last step that was handed over
        self._known = -1  # the last step that it has and is not sent again
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._dropped = 0
        self._failed = False
        self._ending = RunEnding.FAILED
        self._opened = threading.Event()
        self._refused: Exception | None = None
        self._thread = threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True)
        self._thread.start()
        if not self._opened.wait(OPEN_SECONDS):
            kind.abandon()
            raise UserError(
                f"--tracker {name} was not open after {OPEN_SECONDS:.0f} s: does its server answer? "
                "Train without it, or let it write offline"
            )
        if isinstance(self._refused, UserError):
            raise self._refused
        if self._refused is not None:
            raise UserError(
                f"--tracker {name} cannot be opened: {_first_line(self._refused)}"
            ) from self._refused

    def write(self, line: Mapping[str, Any]) -> None:
        """Send a line, if there is room."""
        if self._failed:
            return
        if self._tasks.qsize() >= QUEUE:
            self._dropped += 1
            return
        self._tasks.put(partial(self._feed, line))

    def rewind(self, step: int) -> None:
        """The run has returned to the checkpoint of ``step``."""
        self._tasks.put(partial(self._rewind, step))

    def results(self, results: Mapping[str, Any]) -> None:
        """Send the results."""
        assert self.tracker is not None
        self._tasks.put(partial(self.tracker.results, dict(results)))

    def ask_to_close(self, ending: RunEnding) -> None:
        """After what was sent before, end the tracker."""
        self._ending = ending
        self._tasks.put(None)

    def wait(self, ending: RunEnding) -> None:
        """Wait until it has ended, up to a limit."""
        self._thread.join(CLOSE_SECONDS[ending])
        if self._thread.is_alive():
            self._kind.abandon()
            log.warning(
                "--tracker %s has not taken everything within %.0f s after the end of the run, and is left "
                "(%d lines waiting); metrics.jsonl is whole",
                self.name,
                CLOSE_SECONDS[ending],
                self._tasks.qsize(),
            )
        if self._dropped:
            log.warning(
                "--tracker %s was too slow: %d lines of metrics were not sent; metrics.jsonl is whole",
                self.name,
                self._dropped,
            )

    def _work(self) -> None:
        try:
            self.tracker = self._kind(self._run)
            earlier = self._earlier_lines()
        except Exception as error:  # whatever a library raises; the main thread says so
            self._refused = error
            self._opened.set()
            return
        self._opened.set()
        try:
            for line in earlier:
                self._feed(line)
            while (task := self._tasks.get()) is not None:
                task()
        except Exception as error:
            self._fail(error)
        try:
            self.tracker.close(self._ending)
        except Exception as error:
            self._fail(error)

    def _earlier_lines(self) -> list[dict[str, Any]]:
        """Lines of ``metrics.jsonl`` that the tracker does not have, when the run begins."""
        assert self.tracker is not None
        self._known = self.reached = self.tracker.reached
        if self._run.resumed_step is None:
            return []
        lines = []
        for content in limited_lines(self._run.folder / RUN_METRICS):
            with contextlib.suppress(JsonError):
                lines.append(parse_json(content, of_data=True))
        return lines

    def _feed(self, line: Mapping[str, Any]) -> None:
        assert self.tracker is not None
        if line["step"] > self._known or "event" in line:
            feed(self.tracker, line)
            self.reached = max(self.reached, line["step"])

    def _rewind(self, step: int) -> None:
        assert self.tracker is not None
        if self.tracker.takes_back:
            self.tracker.rewind(step)
            self.reached = step
        else:
            self._known = self.reached

    def _fail(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            log.warning(
                "--tracker %s gets no more metrics: %s; the training continues, and metrics.jsonl is whole",
                self.name,
                _first_line(error),
            )


def _first_line(error: Exception) -> str:
    return first_fault(error)[:300] or type(error).__name__


class Tracking:
    """The trackers of a run: empty until :meth:`begin`, which only the main rank calls."""

    def __init__(
        self,
        settings: TrackerSettings | None = None,
        config: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self._settings = settings or TrackerSettings()
        self._names = tuple(dict.fromkeys(self._settings.tracker))
        self._config = config or {}
        self._senders: list[_Sender] = []
        self._begun = False
        self._finished = True
        self._folder = Path()

    def require(self) -> None:
        """Before anything is written.

        Raises:
            UserError: a package or a login is missing.
        """
        for name in self._names:
            tracker_class(name).require()

    def begin(self, folder: Path, resumed_step: int | None, reached: int) -> list[Tracker]:
        """The run begins, resumes or has returned to a checkpoint: its metrics end at this step.

        Args:
            folder: the run folder, with ``metrics.jsonl``.
            resumed_step: the step of the checkpoint; None: a new run.
            reached: the last step that ``metrics.jsonl`` had before.

        Returns:
            new trackers whose files are part of the run; the caller writes to them and closes them.

        Raises:
            UserError: a tracker cannot be opened.
            OSError: a file cannot be written.
        """
        kinds = {name: tracker_class(name) for name in self._names}
        if self._begun and resumed_step is not None:
            for sender in self._senders:
                sender.rewind(resumed_step)
        elif not self._begun:
            self._begun, self._folder = True, folder
            self._open(
                {name: kind for name, kind in kinds.items() if not kind.in_run},
                resumed_step,
                reached,
            )
        run = TrackedRun(folder, self._config, resumed_step=resumed_step)
        return [kind(run) for kind in kinds.values() if kind.in_run]

    def _open(
        self, kinds: Mapping[str, type[Tracker]], resumed_step: int | None, reached: int
    ) -> None:
        kept = _kept(self._folder) if resumed_step is not None else {}
        for name, kind in kinds.items():
            identity, sent = kept.get(name, (None, -1))
            run = TrackedRun(
                self._folder,
                self._config,
                self._settings.tracker_project,
                self._settings.tracker_name,
                identity,
                resumed_step,
                reached if sent is None else sent,
            )
            try:
                self._senders.append(_Sender(name, kind, run))
            except BaseException:
                self._close(RunEnding.FAILED)
                raise
        self._keep(ended=False)

    def _keep(self, *, ended: bool) -> None:
        """Record the identities; at the end of a run also what each tracker has."""
        kept: dict[str, Any] = {
            sender.name: {"identity": sender.tracker.identity}
            | ({"reached": sender.reached} if ended else {})
            for sender in self._senders
            if sender.tracker is not None and sender.tracker.identity is not None
        }
        if kept:
            write_json(self._folder / RUN_TRACKERS, kept)

    def write(self, line: Mapping[str, Any]) -> None:
        """Send a line of metrics to the trackers that have threads."""
        for sender in self._senders:
            sender.write(line)

    def results(self, results: Mapping[str, Any]) -> None:
        """The run's results are in ``results.json``."""
        self._finished = bool(results.get("finished", True))
        for sender in self._senders:
            sender.results(results)

    @contextlib.contextmanager
    def ended(self) -> Iterator[None]:
        """Around the run: the trackers learn how it ends, and have ended afterwards."""
        try:
            yield
        except (StoppedOnRequest, KeyboardInterrupt):
            self._close(RunEnding.STOPPED)
            raise
        except BaseException:
            self._close(RunEnding.FAILED)
            raise
        self._close(RunEnding.FINISHED if self._finished else RunEnding.STOPPED)

    def _close(self, ending: RunEnding) -> None:
        for sender in self._senders:
            sender.ask_to_close(ending)
        for sender in self._senders:
            sender.wait(ending)
        with contextlib.suppress(OSError):  # without it the next start sends some lines not at all
            self._keep(ended=True)
        self._senders = []


def _kept(folder: Path) -> dict[str, tuple[str, int | None]]:
    """Tracker -> its identity in an earlier start of the run, and the last step that it has.

    The step is None if that start did not end by itself.

    Raises:
        UserError: the file that says so is damaged.
    """
    path = folder / RUN_TRACKERS
    if not path.exists():
        return {}
    found = {}
    for name, entry in read_json_object(path).items():
        identity = entry.get("identity") if isinstance(entry, dict) else None
        reached = entry.get("reached") if isinstance(entry, dict) else None
        if not isinstance(identity, str) or not isinstance(reached, int | None):
            raise UserError(
                f"{path} does not say which runs of the trackers this run is; remove it, and new ones begin"
            )
        found[name] = identity, reached
    return found
