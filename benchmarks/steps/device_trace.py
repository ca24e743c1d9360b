"""What a GPU did during profiled updates, read from the trace of ``launch/pretrain.py --profile``."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_ON_DEVICE = {"kernel", "gpu_memcpy", "gpu_memset"}
_RUNTIME = {"cuda_runtime", "cuda_driver"}
_WAITS = re.compile(r"Synchronize$")
_LAUNCHES = re.compile(r"Launch\w*Kernel|GraphLaunch")
_SHOWN = 12


@dataclass(frozen=True)
class DeviceTrace:
    """Figures of the profiled updates.

    Args:
        updates: how many.
        seconds: from the first one's begin to the last one's end.
        idle_fraction: of these seconds without any kernel or copy on the GPU; None without a GPU.
        launches, waits: kernels launched and synchronisations of the host, per update. The profiler
            itself waits once, in the last update.
        kernels: the most expensive kernels, with milliseconds per update.
    """

    updates: int
    seconds: float
    idle_fraction: float | None
    launches: float
    waits: float
    kernels: list[tuple[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The figures as text."""
        if self.idle_fraction is None:
            return ["no kernels of a GPU are in the trace"]
        head = (
            f"GPU idle {self.idle_fraction:.1%} of {self.seconds / self.updates:.3f} s per update, "
            f"{self.launches:,.0f} launches and {self.waits:,.1f} synchronisations per update"
        )
        return [head, *(f"    {ms:9.2f} ms  {name}" for name, ms in self.kernels)]


def covered(spans: Iterable[tuple[float, float]], begin: float, end: float) -> float:
    """Length of the union of ``spans`` (first, last) within ``begin`` .. ``end``."""
    total, reached = 0.0, begin
    for first, last in sorted(spans):
        first, last = max(first, reached), min(last, end)
        if last > first:
            total += last - first
            reached = last
    return total


def read_trace(path: Path) -> DeviceTrace | None:
    """The figures of a trace; None where there is no trace, or no update in it."""
    if not path.is_file():
        return None
    with gzip.open(path, "rt", encoding="utf-8") as file:
        events = [event for event in json.load(file)["traceEvents"] if event.get("ph") == "X"]
    steps = [
        event
        for event in events
        if event["name"].startswith("ProfilerStep") and event.get("cat") == "user_annotation"
    ]
    if not steps:
        return None
    begin = min(event["ts"] for event in steps)
    end = max(event["ts"] + event["dur"] for event in steps)
    on_device = [event for event in events if event.get("cat") in _ON_DEVICE]
    runtime = [
        event["name"]
        for event in events
        if event.get("cat") in _RUNTIME and begin <= event["ts"] < end
    ]
    spent: Counter[str] = Counter()
    for event in on_device:
        spent[event["name"][:90]] += event["dur"]
    busy = covered(((event["ts"], event["ts"] + event["dur"]) for event in on_device), begin, end)
    count = len(steps)
    return DeviceTrace(
        updates=count,
        seconds=(end - begin) / 1e6,
        idle_fraction=1 - busy / (end - begin) if on_device else None,
        launches=sum(bool(_LAUNCHES.search(name)) for name in runtime) / count,
        waits=sum(bool(_WAITS.search(name)) for name in runtime) / count,
        kernels=[(name, us / 1e3 / count) for name, us in spent.most_common(_SHOWN)],
    )
