"""Metrics of a run: ``metrics.jsonl``, TensorBoard and the throughput meter."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megabert.common.files import write_text
from megabert.common.json_text import JsonError, parse_json
from megabert.common.names import RUN_METRICS, RUN_TENSORBOARD
from megabert.optim.base import TensorNorms


class MetricsWriter:
    """One JSON object per line, and the same numbers to TensorBoard; only the main rank writes.

    On resume, lines of steps after the checkpoint are removed: the file equals that of an
    uninterrupted run.
    """

    def __init__(self, folder: Path, *, enabled: bool, resumed_step: int | None = None) -> None:
        self._file = None
        self._board = None
        if not enabled:
            return
        path = folder / RUN_METRICS
        if resumed_step is not None and path.exists():
            _remove_lines_after(path, resumed_step)
        self._file = path.open("a" if resumed_step is not None else "w", encoding="utf-8")
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(
            str(folder / RUN_TENSORBOARD),
            purge_step=resumed_step + 1 if resumed_step is not None else None,
        )

    def write(self, record: dict[str, Any]) -> None:
        """Append ``record`` (it holds ``step``), without its None values.

        A record with an ``event`` is a remark, not a measurement: it is not sent to TensorBoard.
        """
        if self._file is None or self._board is None:
            return
        record = {key: value for key, value in record.items() if value is not None}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        for key, value in record.items() if "event" not in record else ():
            if key != "step" and isinstance(value, (int, float)):
                group = "eval" if key.startswith("eval_") else "train"
                self._board.add_scalar(f"{group}/{key}", value, record["step"])

    def write_tensors(self, step: int, rows: Sequence[TensorNorms]) -> None:
        """Append a line with each tensor's trust ratio and norms after update ``step``.

        ``{"step", "trust_ratio": {name: r}, "weight_norm": {...}, "update_norm": {...}, "clamped": n}``
        and, for TensorBoard, one curve per tensor and quantity. Nothing if no tensor is adapted.
        """
        if self._file is None or self._board is None or not rows:
            return
        quantities = {
            key: {row.name: float(f"{getattr(row, key):.6g}") for row in rows}
            for key in ("trust_ratio", "weight_norm", "update_norm")
        }
        line = {"step": step, **quantities, "clamped": sum(row.clamped for row in rows)}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for key, values in quantities.items():
            for name, value in values.items():
                self._board.add_scalar(f"{key}/{name}", value, step)

    def close(self) -> None:
        """Flush and close both."""
        if self._file is not None and self._board is not None:
            self._file.close()
            self._board.close()


def _remove_lines_after(path: Path, step: int) -> None:
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if parse_json(line, of_data=True)["step"] <= step:
                lines.append(line + "\n")
        except (JsonError, LookupError, TypeError):
            continue  # a line that a killed run did not finish
    write_text(path, "".join(lines))


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
