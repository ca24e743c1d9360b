"""``metrics.csv`` and ``tensors.csv`` in the run folder, for spreadsheets and data frames."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, TextIO

from megabert.common.files import new_text_file
from megabert.common.names import RUN_CSV, RUN_TENSORS_CSV
from megabert.engine.metrics.trackers.base import RunEnding, TrackedRun, Tracker


class _Table:
    """A CSV file whose first column is ``step``; a new column leaves earlier rows empty there.

    For a new column, and to take rows back, the file is written again and renamed: a reader never sees
    a part of it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns = ["step"]
        self._file: TextIO | None = None
        path.unlink(missing_ok=True)

    def add(self, row: Mapping[str, Any]) -> None:
        new = [name for name in row if name not in self._columns]
        if new or self._file is None:
            self._columns += new
            self._rewrite(self._rows())
        assert self._file is not None
        self._writer.writerow(row)

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def take_back(self, step: int) -> None:
        self._rewrite(row for row in self._rows() if int(row["step"]) <= step)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _rows(self) -> Iterator[dict[str, Any]]:
        self.flush()
        if self._path.exists():
            with self._path.open(encoding="utf-8", newline="") as file:
                yield from csv.DictReader(file)

    def _rewrite(self, rows: Iterator[dict[str, Any]]) -> None:
        with new_text_file(self._path) as file:
            writer = csv.DictWriter(file, self._columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        self.close()
        self._file = self._path.open("a", encoding="utf-8", newline="")
        self._writer = csv.DictWriter(self._file, self._columns, lineterminator="\n")


class CsvFiles(Tracker):
    """Each start of a run writes the files again, from ``metrics.jsonl``."""

    takes_back: ClassVar[bool] = True

    def __init__(self, run: TrackedRun) -> None:
        self._metrics = _Table(run.folder / RUN_CSV)
        self._tensors = _Table(run.folder / RUN_TENSORS_CSV)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """A row; what this line does not measure is empty."""
        self._metrics.add({"step": step, **values})
        self._metrics.flush()

    def table(self, step: int, columns: Mapping[str, Mapping[str, float]]) -> None:
        """A row per tensor."""
        names = dict.fromkeys(name for values in columns.values() for name in values)
        for name in names:
            row = {quantity: values.get(name) for quantity, values in columns.items()}
            self._tensors.add({"step": step, "tensor": name, **row})
        self._tensors.flush()

    def event(self, step: int, event: Mapping[str, Any]) -> None:
        """A row with the event's name in the column ``event``; the rest is in ``metrics.jsonl``."""
        self._metrics.add({"step": step, "event": event["event"]})
        self._metrics.flush()

    def rewind(self, step: int) -> None:
        """Remove the rows of later steps."""
        for table in (self._metrics, self._tensors):
            table.take_back(step)

    def close(self, ending: RunEnding) -> None:
        """Close both."""
        for table in (self._metrics, self._tensors):
            table.close()
