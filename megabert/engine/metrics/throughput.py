"""Throughput of a run: since the last line of metrics, and over the whole run.

Work is counted over all ranks, from the batches. Time is training time, without evaluations and
checkpoints. FLOPs are the model's, for real tokens and predictions, per rank (GPU): all ranks count,
also those that split a layer's weights among them.

A checkpoint stores the counts; a resumed run continues counting.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from megabert.common.log import get_logger
from megabert.config.model import ModelConfig
from megabert.engine.launch import World
from megabert.engine.metrics.clock import update_clock
from megabert.engine.metrics.devices import peak_flops, peak_rank_memory
from megabert.engine.metrics.token_counts import Workload

_PHASES = ("forward", "backward", "optimizer")


def each_rank(world: World, values: Sequence[float]) -> np.ndarray:
    """``values`` of every rank, float64 [ranks, values] (one collective of all ranks)."""
    topology = world.topology
    table = torch.zeros(topology.world_size, len(values), dtype=torch.float64)
    table[topology.rank] = torch.tensor(values, dtype=torch.float64)
    table = table.to(world.device)
    if topology.world_size > 1:
        torch.distributed.all_reduce(table)
    return np.asarray(table.cpu().numpy())


class Meter:
    """Counts work and time of a run; all ranks call every method together.

    Args:
        model: what is trained.
        precision: that of the run, which its device's peak depends on.
        peak: FLOP/s of a rank's device; None: the published or measured peak.

    Attributes:
        clock: the caller reports each update and its phases to it.
    """

    def __init__(
        self, world: World, model: ModelConfig, precision: str, peak: float | None
    ) -> None:
        self._world, self._model = world, model
        self.clock = update_clock(world.device)
        self._peak = _peak(world, precision, peak)
        self.restore({}, 0.0)

    def restore(self, record: Mapping[str, Any], data_waited: float) -> None:
        """Continue from what :meth:`record` returned (an empty one: start at zero).

        ``data_waited``: seconds that this rank has waited for data so far.
        """
        counts = record.get("work", {})
        clock = record.get("clock", {})
        self._before = Workload(*counts.get("before_line", ()))
        self._since = Workload(*counts.get("since_line", ()))
        self._seconds_before = float(clock.get("before_line", 0.0))
        self._seconds_since = float(clock.get("since_line", 0.0))
        self._peak_memory = float(clock.get("peak_memory_bytes", 0.0))
        self.clock.read()
        self._begin(data_waited)

    def record(self) -> dict[str, Any]:
        """What a checkpoint stores. ``work`` is a function of the samples; ``clock`` is not."""
        return {
            "work": {"before_line": self._before, "since_line": self._since},
            "clock": {
                "before_line": self._seconds_before,
                "since_line": self._training_seconds(),
                "peak_memory_bytes": self._peak_memory,
            },
        }

    def add(self, work: Workload) -> None:
        """Count an update's work, summed over the data-parallel ranks."""
        self._since = self._since.plus(work)

    def pause(self, seconds: float) -> None:
        """Do not count this time, which is not training (evaluation, checkpoints)."""
        self._paused += seconds

    def line(self, data_waited: float) -> dict[str, Any]:
        """The measurements since the last line; the caller has waited for the device.

        A collective. ``data_waited``: as in :meth:`restore`.
        """
        seconds, times = self._training_seconds(), self.clock.read()
        here = max(1e-9, seconds - self._seconds_since)  # the part of them in this process
        fast, slow = np.percentile(times.updates, (50, 95)) if times.updates else (0.0, 0.0)
        mine = [
            min(1.0, (data_waited - self._data_waited) / here),
            *(times.fraction(phase) for phase in _PHASES),
            times.communication / times.timed if times.communication and times.timed else 0.0,
            float(fast),
            float(slow),
            peak_rank_memory(self._world.device),
        ]
        ranks = each_rank(self._world, mine)
        wait, forward, backward, optimizer, communication, fast, slow, _ = ranks.mean(0).tolist()
        self._peak_memory = max(self._peak_memory, float(ranks[:, -1].max()))
        line = {
            **self._rates(self._since, seconds),
            "peak_tflops": self._peak / 1e12 if self._peak else None,
            "data_wait_fraction": wait,
            "forward_fraction": forward,
            "backward_fraction": backward,
            "optimizer_fraction": optimizer,
            "communication_fraction": None if times.communication is None else communication,
            "update_seconds_p50": fast,
            "update_seconds_p95": slow,
            "peak_memory_bytes": round(self._peak_memory),
        }
        self._before = self._before.plus(self._since)
        self._seconds_before += seconds
        self._since, self._seconds_since = Workload(), 0.0
        self._begin(data_waited)
        return line

    def whole_run(self) -> dict[str, Any]:
        """The run up to the last line: training time and means over it."""
        return {
            "train_seconds": round(self._seconds_before, 3),
            **self._rates(self._before, self._seconds_before),
            "peak_memory_bytes": round(self._peak_memory),
        }

    def _begin(self, data_waited: float) -> None:
        self._started, self._paused, self._data_waited = time.monotonic(), 0.0, data_waited

    def _training_seconds(self) -> float:
        """Since the last line."""
        return self._seconds_since + time.monotonic() - self._started - self._paused

    def _rates(self, work: Workload, seconds: float) -> dict[str, float | None]:
        seconds = max(1e-9, seconds)
        flops = work.flops(self._model) / seconds / self._world.topology.world_size
        return {
            "tokens_per_second": work.tokens / seconds,
            "padded_tokens_per_second": work.padded_tokens / seconds,
            "samples_per_second": work.samples / seconds,
            "padding_fraction": work.padding_fraction,
            "model_tflops_per_second": flops / 1e12,
            "mfu": flops / self._peak if self._peak else None,
        }


def _peak(world: World, precision: str, given: float | None) -> float | None:
    """FLOP/s of a rank's device, the mean over ranks; logs it."""
    peak, source = (given, "--peak-tflops") if given else peak_flops(world.device, precision)
    ranks = each_rank(world, [peak or 0.0])
    if not ranks.all():
        get_logger().info("MFU is not reported: %s; --peak-tflops sets a peak", source)
        return None
    mean = float(ranks.mean())
    get_logger().info("peak per rank for MFU: %.4g TFLOP/s (%s)", mean / 1e12, source)
    return mean
