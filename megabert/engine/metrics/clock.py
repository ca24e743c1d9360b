"""Time of each part of an update, measured without waiting for a device.

An update passes through phases, in the order that the loop enters them: ``data`` (from its start),
``forward``, ``backward``, ``optimizer`` (DeepSpeed's step: at the last micro step clipping, the
optimizer and their collectives), and ``other`` for the rest. The loop reports each change to a clock:

    clock.begin(sampled); ...; clock.enter("forward"); ...; clock.enter("backward"); ...; clock.end()

:class:`HostClock` reads the host's clock, which is right where the host computes (CPU). There
collectives block their caller, so their time is counted too, as a part of the phases in which they
run. :class:`DeviceClock` records events in the device's stream, those of the phases only in sampled
updates; it reads them when the program has waited for the device anyway. Collectives overlap with
other kernels there, and events of this stream do not show their time: ``communication`` is None.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.profiler import record_function

from megabert.engine.launch import wrapped_collectives

PHASES = ("data", "forward", "backward", "optimizer")
OTHER = "other"


@dataclass
class Times:
    """What a clock has measured since it was last read.

    Attributes:
        updates: seconds of each update from ``begin`` to ``end``.
        phases: seconds in each phase, over the updates whose phases were timed.
        timed: seconds of these updates.
        communication: seconds of ``timed`` spent in collectives; None where this is unknown.
    """

    updates: list[float] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=dict)
    timed: float = 0.0
    communication: float | None = None

    def fraction(self, phase: str) -> float:
        """A phase's fraction of the timed updates."""
        return self.phases.get(phase, 0.0) / self.timed if self.timed else 0.0


class UpdateClock(ABC):
    """Times updates and their phases.

    Attributes:
        device: where the updates are computed.
        show_ranges: make the phases visible in a profiler's trace, under their names.
        after_update: called after each update, outside its time.
    """

    device = torch.device("cpu")
    show_ranges = False
    after_update: Callable[[], None] | None = None
    _range: record_function | None = None

    @property
    def in_collectives(self) -> float:
        """Seconds spent in collectives; 0 where that is not counted."""
        return 0.0

    def begin(self, sampled: bool) -> None:
        """An update begins, in phase ``data``; ``sampled``: time its phases."""
        self._show(PHASES[0])
        self._begin(sampled)

    def enter(self, phase: str) -> None:
        """The next phase of the update begins."""
        self._show(phase)
        self._enter(phase)

    def end(self) -> None:
        """The update is over."""
        self._show(None)
        self._end()
        if self.after_update is not None:
            self.after_update()

    @abstractmethod
    def read(self) -> Times:
        """What was measured since the last reading; all updates must be finished on the device."""

    def running(self) -> contextlib.AbstractContextManager[None]:
        """Must surround the updates."""
        return contextlib.nullcontext()

    @abstractmethod
    def _begin(self, sampled: bool) -> None:
        """An update begins."""

    @abstractmethod
    def _enter(self, phase: str) -> None:
        """A phase begins."""

    @abstractmethod
    def _end(self) -> None:
        """The update ends."""

    def _show(self, phase: str | None) -> None:
        if self._range is not None:
            self._range.__exit__(None, None, None)
            self._range = None
        if phase is not None and self.show_ranges:
            self._range = record_function(phase)
            self._range.__enter__()


class HostClock(UpdateClock):
    """Times every update, and the collectives in it, by the host's clock."""

    def __init__(self) -> None:
        self._times = Times(communication=0.0)
        self._in_collectives = 0.0
        self._began = self._mark = self._in_collectives_at_begin = 0.0
        self._phase = OTHER

    @property
    def in_collectives(self) -> float:
        """Seconds spent in collectives while :meth:`running`."""
        return self._in_collectives

    def read(self) -> Times:
        """What was measured since the last reading."""
        times, self._times = self._times, Times(communication=0.0)
        return times

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Count the time in collectives during the block."""
        with wrapped_collectives(self._timed):
            yield

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **named)
            finally:
                self._in_collectives += time.perf_counter() - began

        return timed

    def _begin(self, sampled: bool) -> None:
        self._began = self._mark = time.perf_counter()
        self._in_collectives_at_begin = self._in_collectives
        self._phase = PHASES[0]

    def _enter(self, phase: str) -> None:
        now = time.perf_counter()
        phases = self._times.phases
        phases[self._phase] = phases.get(self._phase, 0.0) + now - self._mark
        self._mark, self._phase = now, phase

    def _end(self) -> None:
        self._enter(OTHER)
        seconds, times = self._mark - self._began, self._times
        times.updates.append(seconds)
        times.timed += seconds
        assert times.communication is not None
        times.communication += self._in_collectives - self._in_collectives_at_begin


class DeviceClock(UpdateClock):
    """Times by events in the current stream: start and end of each update, phases of sampled ones.

    Args:
        device: whose stream it is.
        make_event: makes an event with ``record()`` and ``elapsed_time(later)`` in milliseconds.
    """

    def __init__(self, device: torch.device, make_event: Callable[[], Any]) -> None:
        self.device, self._make_event = device, make_event
        self._updates: list[
            list[tuple[str, Any]]
        ] = []  # of each update: phases, event at each start
        self._sampled = False

    def read(self) -> Times:
        """What was measured since the last reading; all updates must be finished on the device."""
        times = Times()
        for marks in self._updates:
            seconds = marks[0][1].elapsed_time(marks[-1][1]) / 1000
            times.updates.append(seconds)
            if len(marks) == 2:
                continue
            times.timed += seconds
            for (phase, start), (_, stop) in itertools.pairwise(marks):
                before = times.phases.get(phase, 0.0)
                times.phases[phase] = before + start.elapsed_time(stop) / 1000
        self._updates = []
        return times

    def _begin(self, sampled: bool) -> None:
        self._sampled = sampled
        self._updates.append([])
        self._record(PHASES[0])

    def _enter(self, phase: str) -> None:
        if self._sampled:
            self._record(phase)

    def _end(self) -> None:
        self._record(OTHER)

    def _record(self, phase: str) -> None:
        event = self._make_event()
        event.record()
        self._updates[-1].append((phase, event))


def update_clock(device: torch.device) -> UpdateClock:
    """The clock that suits ``device``."""
    if device.type == "cuda":
        return DeviceClock(device, lambda: torch.cuda.Event(enable_timing=True))
    return HostClock()
