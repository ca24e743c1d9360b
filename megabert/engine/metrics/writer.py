"""Metrics of a run: ``metrics.jsonl``, what trackers get of it, and the throughput meter."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from megabert.common.files import limited_lines, new_text_file, require_file
from megabert.common.json_text import JsonError, parse_json
from megabert.common.names import RUN_METRICS
from megabert.common.processes.locks import require_lock
from megabert.common.storage import RESUME, StorageFault, same_file, storage_line
from megabert.engine.metrics.trackers.base import RunEnding, Tracker
from megabert.engine.metrics.trackers.sending import Tracking, feed
from megabert.optim.base import TensorNorms


class MetricsWriter:
    """One JSON object per line, and the same to the trackers; only the main rank writes.

    On resume, lines of steps after the checkpoint are removed: the file equals that of an
    uninterrupted run.

    Args:
        tracking: the run's trackers, TensorBoard by default; this begins them, and the caller ends them.

    Attributes:
        failure: one line about the first error of writing, or that a file is gone, None as long as there is none. After it
            nothing more is written; the run saves a checkpoint and ends.
        last_line: on resume, the last line of updates that the file keeps; else {}.
        evaluation: on resume, the line of an evaluation after the resumed step; {} without one.

    Raises:
        UserError: the file is not a regular file, or has a line that is too long; a tracker cannot be
            opened.
        OSError: a file cannot be opened; no method raises it later.
    """

    def __init__(
        self,
        folder: Path,
        *,
        enabled: bool,
        resumed_step: int | None = None,
        tracking: Tracking | None = None,
    ) -> None:
        self.failure: str | None = None
        self.last_line: dict[str, Any] = {}
        self.evaluation: dict[str, Any] = {}
        self._file = None
        self._tracking = tracking or Tracking()
        self._in_run: list[Tracker] = []
        if not enabled:
            return
        self._path = path = folder / RUN_METRICS
        if path.exists():
            require_file(path)
        reached = -1
        if resumed_step is not None and path.exists():
            reached = self._remove_lines_after(path, resumed_step)
        self._file = path.open("a" if resumed_step is not None else "w", encoding="utf-8")
        self._in_run = self._tracking.begin(folder, resumed_step, reached)

    def _remove_lines_after(self, path: Path, step: int) -> int:
        """The last step that the file had is returned."""
        reached = -1
        with new_text_file(path) as kept:
            for content in limited_lines(path):
                line = content.decode("utf-8", "replace").rstrip("\r\n")
                try:
                    values = parse_json(line, of_data=True)
                    its_step = values["step"]
                    if its_step <= step:
                        kept.write(line + "\n")
                        self._note(values, step)
                    reached = max(reached, its_step)
                except (JsonError, LookupError, TypeError):
                    continue  # a line that a killed run did not finish
        return reached

    def _note(self, values: dict[str, Any], resumed_step: int) -> None:
        """Keep a line that the results of the run may need."""
        if "loss" in values:
            self.last_line = values
        elif values["step"] == resumed_step and any(name.startswith("eval_") for name in values):
            self.evaluation = values

    def write(self, record: dict[str, Any]) -> None:
        """Append ``record`` (it holds ``step``), without its None values.

        A record with an ``event`` is a remark, not a measurement.
        """
        self._append({key: value for key, value in record.items() if value is not None})

    def write_tensors(self, step: int, rows: Sequence[TensorNorms]) -> None:
        """Append a line with each tensor's trust ratio and norms after update ``step``.

        ``{"step", "trust_ratio": {name: r}, "weight_norm": {...}, "update_norm": {...}, "clamped": n}``.
        Nothing if no tensor is adapted.
        """
        if self._file is None or not rows:
            return
        quantities = {
            key: {row.name: float(f"{getattr(row, key):.6g}") for row in rows}
            for key in ("trust_ratio", "weight_norm", "update_norm")
        }
        self._append({"step": step, **quantities, "clamped": sum(row.clamped for row in rows)})

    def _append(self, line: dict[str, Any]) -> None:
        if self._file is None or self.failure is not None:
            return
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            for tracker in self._in_run:
                feed(tracker, line)
        except OSError as error:
            self._fail(error)
        else:
            self._tracking.write(line)
        self._look_at_files()

    def _look_at_files(self) -> None:
        """Note a failure if what was written is no longer where it is looked for."""
        if self._file is None or self.failure is not None:
            return
        lost = next((path for tracker in self._in_run if (path := tracker.lost())), None)
        if not same_file(os.fstat(self._file.fileno()), self._path):
            lost = self._path
        if lost is None:
            return
        try:
            require_lock(self._path.parent)
            self.failure = (
                f"{lost} was moved, removed or replaced while the run wrote it, and the last lines are not in "
                f"it: leave it in its place, and {RESUME}"
            )
        except StorageFault as error:
            self.failure = str(error)

    def _fail(self, error: OSError) -> None:
        self.failure = self.failure or storage_line(error, self._path, "cannot be written", RESUME)

    def close(self) -> None:
        """Flush and close the file and what belongs to it."""
        self._look_at_files()
        closing = [partial(tracker.close, RunEnding.FINISHED) for tracker in self._in_run]
        if self._file is not None:
            closing.insert(0, partial(self._file.close))
        for close in closing:
            try:
                close()
            except OSError as error:
                self._fail(error)
        self._file, self._in_run = None, []


def progress_text(line: Mapping[str, Any]) -> str:
    """The part of a line of metrics that the status line shows."""
    mfu = line["mfu"]
    parts = [
        f"loss {line['loss']:.4f}",
        f"lr {line['lr']:.3e}",
        f"grad norm {line['grad_norm']:.3f}",
        f"{line['tokens_per_second']:,.0f} tokens/s",
        *([f"MFU {100 * mfu:.1f} %"] if mfu is not None else []),
        f"data wait {100 * line['data_wait_fraction']:.1f} %",
        f"memory {line['peak_memory_bytes'] / 1e9:.2f} GB",
    ]
    return "  ".join(parts)


class Throughput:
    """Real tokens and sequences per second since the last reading, and the time spent waiting."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self.tokens = 0
        self.samples = 0
        self._waited = 0.0
        self._paused = 0.0

    def add(self, tokens: int, samples: int) -> None:
        """Count the tokens and samples of one of this rank's micro steps."""
        self.tokens += tokens
        self.samples += samples

    def pause(self, seconds: float) -> None:
        """Do not count this time, which is not training (evaluation, checkpoints)."""
        self._paused += seconds

    def read(self, data_wait: float) -> dict[str, float]:
        """Rates since the last reading; ``data_wait`` is the loader's waiting time so far (s)."""
        now = time.monotonic()
        elapsed = max(1e-9, now - self._start - self._paused)
        rates = {
            "tokens_per_second": self.tokens / elapsed,
            "samples_per_second": self.samples / elapsed,
            "data_wait_fraction": min(1.0, (data_wait - self._waited) / elapsed),
        }
        self._start, self._paused, self._waited = now, 0.0, data_wait
        self.tokens = self.samples = 0
        return rates
