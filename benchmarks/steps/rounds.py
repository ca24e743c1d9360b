"""Timing side by side: round by round, interleaved; medians and ratios of the same round."""

from __future__ import annotations

import json
import platform
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from megabert.engine.machine.cores import keep_freed_memory

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
"""wall: seconds of the clock. cpu: of this process over all its threads, for busy machines."""


def synchronize(device: torch.device) -> None:
    """Wait for the device's work; nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], Any], device: torch.device, clock: str = "wall") -> tuple[float, Any]:
    """Seconds that ``work`` takes, the device's included, and what it returns."""
    read = CLOCKS[clock]
    synchronize(device)
    began = read()
    result = work()
    synchronize(device)
    return read() - began, result


def turns(names: Sequence[str], round_number: int) -> list[str]:
    """The order of a round: each contestant is first in its turn, so that none always follows the same."""
    shift = round_number % len(names)
    return [*names[shift:], *names[:shift]]


def paired_ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Median over rounds of slow / fast: rounds hold the same samples, and share a busy moment."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def relative_difference(value: float, reference: float) -> float:
    """|value - reference| / |reference|."""
    return abs(value - reference) / abs(reference)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` (0 to 1) of them do not exceed."""
    ordered = sorted(values)
    place = max(0, -int(-share * len(ordered) // 1) - 1)
    return ordered[place]


def peak_memory(device: torch.device) -> int:
    """Bytes: most that CUDA has handed out so far; on a CPU the process's largest resident size."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def choose_device(threads: int | None) -> torch.device:
    """The GPU if there is one; threads and memory settings hold for all contestants alike."""
    keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def environment(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    import transformers

    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def cpu_name() -> str:
    """The processor's name, as Linux reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Lines of a Markdown table; floats with four significant digits, None as a dash."""

    def cell(value: Any) -> str:
        if value is None:
            return "-"
        if isinstance(value, float):
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
        return str(value)

    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(map(cell, row)) + " |" for row in rows]
    return "\n".join(lines)


def write_json(path: Path | None, content: Any) -> None:
    """Write results, if a path is given."""
    if path is not None:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
