"""``--profile N``: a trace of N updates, its most expensive operators, and the time by kind of work.

The profiler starts after some warm-up updates and writes, on the main rank,

    RUN/profile/rank0.json.gz     the trace, for chrome://tracing or ui.perfetto.dev
    RUN/profile/operators.txt     fractions by kind of work, then the operators, most expensive first

The time of an operator does not include that of operators inside it. On a GPU it is the kernels' time;
on a CPU that of the training thread. The profiler slows down small operators: use its figures to
compare parts, not to measure throughput.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.common.storage import storage_line
from megabert.engine.launch import World
from megabert.engine.metrics.clock import OTHER
from megabert.engine.metrics.throughput import Meter

FOLDER = "profile"
"""Name of the folder in the run's folder."""
WARM_UP = 3
"""Updates before the first recorded one; the profiler runs in the last of them and discards it."""
_ROWS = 60

GEMM, ATTENTION, ELEMENTWISE = "gemm", "attention", "elementwise"
OPTIMIZER, COMMUNICATION = "optimizer", "communication"
KINDS = (GEMM, ATTENTION, ELEMENTWISE, OPTIMIZER, COMMUNICATION, OTHER)

# operators of torch, and kernels of cuBLAS, CUTLASS, cuDNN, NCCL; the first match counts
_NAMES = (
    (COMMUNICATION, re.compile(r"nccl|gloo|c10d", re.IGNORECASE)),
    (ATTENTION, re.compile(r"attention|attn|fmha|flash", re.IGNORECASE)),
    (
        GEMM,
        re.compile(
            r"gemm|matmul|cutlass|cublas|xmma|nvjet|mkldnn_linear|onednn|splitk"
            r"|^aten::(mm|addmm|bmm|baddbmm|linear|_scaled_mm|addmv|mv|dot)$",
            re.IGNORECASE,
        ),
    ),
    (OTHER, re.compile(r"memcpy|memset|^(torch::)?autograd::", re.IGNORECASE)),
)


class OperatorTime(NamedTuple):
    """Time of an operator or kernel, without that of operators inside it."""

    name: str
    seconds: float
    in_optimizer: bool


def kind(operator: OperatorTime) -> str:
    """Which of :data:`KINDS` an operator or kernel belongs to."""
    named = next((kind for kind, pattern in _NAMES if pattern.search(operator.name)), ELEMENTWISE)
    return OPTIMIZER if operator.in_optimizer and named != COMMUNICATION else named


def time_fractions(
    operators: Iterable[OperatorTime], wall: float, in_collectives: float = 0.0
) -> dict[str, float]:
    """Fractions of ``wall`` seconds by kind.

    ``in_collectives``: seconds spent in collectives where these are not kernels (CPU). ``other`` is the
    rest: idle time, the interpreter, copies. Where kernels overlap (collectives with computation) all
    are counted, and the sum can exceed 1.
    """
    totals = dict.fromkeys(KINDS, 0.0)
    for operator in operators:
        totals[kind(operator)] += operator.seconds
    totals[COMMUNICATION] += in_collectives
    known = sum(seconds for name, seconds in totals.items() if name != OTHER)
    totals[OTHER] = max(0.0, wall - known)
    return {name: seconds / max(1e-9, wall) for name, seconds in totals.items()}


def require_room(updates: int, left: int) -> None:
    """Check that a new run of ``left`` updates is long enough for the profile.

    Raises:
        UserError: it is not.
    """
    if updates + WARM_UP > left:
        fewer = f"profile at most {left - WARM_UP}, or " if left > WARM_UP else ""
        raise UserError(
            f"--profile {updates}: {WARM_UP} updates are for warm-up, and the run has {left}; {fewer}train "
            "longer (--steps, --stop-after)"
        )


@contextlib.contextmanager
def profiled(
    updates: int | None,
    run: Path,
    world: World,
    meter: Meter,
    done: Callable[[dict[str, Any]], None],
) -> Iterator[None]:
    """Profile ``updates`` of the updates that the meter's clock times in the block (None: nothing).

    All ranks take part: they wait until the main one has written, and that time does not count as
    training. A run that ends before the profile is complete only logs a warning.

    Args:
        run: the run's folder.
        done: called with the profile's line for the metrics, on the main rank.
    """
    if updates is None:
        yield
        return
    profiler = _UpdateProfiler(updates, run / FOLDER, world, meter, done)
    try:
        yield
    finally:
        profiler.close()


class _UpdateProfiler:
    """Steps torch's profiler, on the main rank, after each update of the meter's clock."""

    def __init__(
        self,
        updates: int,
        folder: Path,
        world: World,
        meter: Meter,
        done: Callable[[dict[str, Any]], None],
    ) -> None:
        self._updates, self._folder, self._done = updates, folder, done
        self._world, self._meter, self._clock = world, meter, meter.clock
        self._cuda = world.device.type == "cuda"
        self._steps = 0
        self._wall = self._in_collectives = 0.0  # seconds of the recorded updates
        self._profile: profile | None = None
        self._clock.after_update = self._step
        if world.is_main:
            self._profile = profile(
                activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * self._cuda],
                schedule=schedule(
                    skip_first=WARM_UP - 1, wait=0, warmup=1, active=updates, repeat=1
                ),
                on_trace_ready=self._write,
            )
            self._profile.start()
            self._clock.show_ranges = True

    def close(self) -> None:
        """Stop; an incomplete profile is not written."""
        self._clock.show_ranges, self._clock.after_update = False, None
        if self._profile is None:
            return
        if self._steps < WARM_UP + self._updates:
            get_logger().warning(
                "--profile: the run ended before %d updates; no profile is written", self._updates
            )
        self._profile.on_trace_ready = None
        self._profile.stop()
        self._profile = None

    def _step(self) -> None:
        """An update is over."""
        self._steps += 1
        last = self._steps == WARM_UP + self._updates
        if last:
            self._wall += self._now()
            self._in_collectives += self._clock.in_collectives
        began = time.monotonic()
        if self._profile is not None:
            self._profile.step()
        if self._steps == WARM_UP:
            self._wall, self._in_collectives = -self._now(), -self._clock.in_collectives
        if last:
            self.close()
            self._world.barrier()
            self._meter.pause(time.monotonic() - began)

    def _now(self) -> float:
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def _write(self, recorded: profile) -> None:
        wall = self._wall
        operators = _kernels(recorded) if self._cuda else _operators(recorded)
        found = time_fractions(operators, wall, self._in_collectives)
        try:
            self._write_files(recorded, found)
        except (OSError, RuntimeError) as error:
            line = str(error)
            if isinstance(error, OSError):
                line = storage_line(error, self._folder, "cannot be written", "profile again")
            get_logger().warning("--profile: no profile is written: %s", line)
            return
        get_logger().info("profile of %d updates: %s", self._updates, self._folder)
        self._done(
            {
                "event": "profile",
                "updates": self._updates,
                "seconds": round(wall, 6),
                "shares": {name: round(fraction, 6) for name, fraction in found.items()},
            }
        )

    def _write_files(self, recorded: profile, found: dict[str, float]) -> None:
        self._folder.mkdir(exist_ok=True)
        recorded.export_chrome_trace(str(self._folder / "rank0.json.gz"))
        order = "self_device_time_total" if self._cuda else "self_cpu_time_total"
        table = recorded.key_averages().table(
            sort_by=order, row_limit=_ROWS, max_name_column_width=70
        )
        heads = [f"{self._updates} updates in {self._wall:.3f} s", ""]
        heads += [f"{name:15s}{100 * fraction:6.1f} %" for name, fraction in found.items()]
        text = "\n".join([*heads, "", table, ""])
        (self._folder / "operators.txt").write_text(text, encoding="utf-8")


def _operators(recorded: profile) -> Iterable[OperatorTime]:
    """CPU time of every operator ("namespace::name"), without the collectives."""
    for event in recorded.events() or ():
        if not event.is_async and "::" in event.name and "c10d" not in event.name:
            yield OperatorTime(event.name, event.self_cpu_time_total / 1e6, _in_optimizer(event))


def _kernels(recorded: profile) -> Iterable[OperatorTime]:
    """Device time of every kernel."""
    for event in recorded.events() or ():
        for kernel in event.kernels:
            yield OperatorTime(kernel.name, kernel.duration / 1e6, _in_optimizer(event))


def _in_optimizer(event: Any) -> bool:
    while event is not None:
        if event.name == OPTIMIZER:
            return True
        event = event.cpu_parent
    return False
