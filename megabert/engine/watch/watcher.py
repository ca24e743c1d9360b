"""The thread of each rank that reports its progress to the others, and ends the run if it hangs."""

from __future__ import annotations

import dataclasses
import faulthandler
import os
import secrets
import socket
import tempfile
import threading
import time
from typing import Any

from megabert.common.processes.kernel import own_start
from megabert.common.processes.launchers import ranks_of_host
from megabert.common.processes.stopping import stop_watch
from megabert.engine.watch.ending import Ending, WatchedRun
from megabert.engine.watch.judge import (
    RECONNECTION,
    SUSPICION,
    Beat,
    Goodbye,
    Seen,
    Verdict,
    judge,
    judge_presence,
)
from megabert.engine.watch.links import Hub, Link, Spoke
from megabert.engine.watch.processes import machine_name, waits_for_others
from megabert.engine.watch.pulse import PULSE

_MOST_SECONDS_BETWEEN_BEATS = 1.0
_SECONDS_FOR_THE_LAUNCHER = 5.0
"""After a rank's own message: it and its exit status come first, then the launcher ends the others."""
_KEY = "megabert/watch"


class Watcher(threading.Thread):
    """Watches over a run from one of its ranks."""

    def __init__(self, run: WatchedRun, rank: int, world_size: int, store: Any) -> None:
        super().__init__(name="watch", daemon=True)
        self._run, self._store = run, store  # whose server must stay until all have read
        self._stack = tempfile.TemporaryFile()  # noqa: SIM115  closed by stop
        self._own = Beat(
            rank,
            socket.gethostname(),
            machine_name(),
            os.getpid(),
            own_start(),
            stack_file=self._stack.fileno(),
            first=rank - int(os.environ.get("LOCAL_RANK") or rank),
            ranks=ranks_of_host(os.environ),
        )
        self._hub: Hub | None = None
        self._spoke: Spoke | None = None
        started = time.strftime("%Y-%m-%d-%H%M%S")
        if rank == 0 and world_size > 1:
            token = secrets.token_hex(16)
            self._hub = Hub(token)
            store.set(_KEY, f"{self._hub.port} {token} {started}")
        elif rank > 0:
            port, token, started = store.get(_KEY).decode().split()
            address = (os.environ["MASTER_ADDR"], int(port))
            self._spoke = Spoke(address, {"token": token, "rank": rank})
        self.ending = Ending(run, self._own, started)
        now = time.monotonic()
        self._ranks = {number: Seen(Beat(number), now) for number in range(world_size)}
        if rank > 0:
            self._ranks = {number: self._ranks[number] for number in (0, rank)}
        self._interval = min(_MOST_SECONDS_BETWEEN_BEATS, (run.limit or 60.0) / 5)
        self._stopping = threading.Event()
        PULSE.reset()

    # ---------------------------------------------------------------- of the training thread

    def stop(self, goodbye: Goodbye, fault: str = "") -> None:
        """Leave the run; the others do not count this rank as lost. If it was interrupted, they stop too."""
        self._stopping.set()
        self.join(self._interval + 2.0)
        if self.is_alive():  # the run is ending
            return
        message = {"goodbye": goodbye, "reason": stop_watch().reason, "fault": fault}
        if self._hub is not None:
            self._hub.send(message)
            self._hub.close()
        if self._spoke is not None:
            if self._spoke.line is not None:
                self._spoke.line.send(message)
            self._spoke.close()
        faulthandler.cancel_dump_traceback_later()
        self._stack.close()

    def wait_for_verdict(self, error: str) -> None:
        """Have the watch explain a failed collective; it ends this process, mostly within seconds."""
        PULSE.failed_at = time.monotonic()
        self.ending.silence_libraries()
        self.ending.note(error)
        self.join(self._run.limit + 2 * (SUSPICION + RECONNECTION))

    # ---------------------------------------------------------------- the thread

    def run(self) -> None:
        """Until the run ends, or :meth:`stop`."""
        due = 0.0
        while not self._stopping.is_set():
            if time.monotonic() >= due:
                due = time.monotonic() + self._interval
                self._beat()
            wait = min(0.5, due - time.monotonic())
            if self._hub is not None:
                self._listen(self._hub, wait)
            elif self._spoke is not None:
                self._follow(self._spoke, wait)
            else:
                self._stopping.wait(wait)
            decide = judge if self._spoke is None else judge_presence
            verdict = decide(self._ranks, time.monotonic(), self._run.limit)
            if verdict is not None:
                self._end(verdict)

    def _beat(self) -> None:
        """Say what this rank is doing."""
        now = time.monotonic()
        beat = dataclasses.replace(
            self._own,
            ticks=PULSE.ticks,
            step=PULSE.step,
            phase=PULSE.phase,
            idle=now - PULSE.moment,
            slow=PULSE.slow,
            waits=waits_for_others(),
            failed=None if PULSE.failed_at is None else now - PULSE.failed_at,
        )
        self._see(beat.rank, beat)
        if self._run.limit:
            self._stack.truncate(0)
            self._stack.seek(0)
            faulthandler.dump_traceback_later(self._run.limit, file=self._stack)
        message = {"beat": dataclasses.asdict(beat)}
        if self._hub is not None:
            self._hub.send(message)
        if self._spoke is not None:
            if self._spoke.line is None or not self._spoke.line.open:
                self._connect(self._spoke)
            if self._spoke.line is not None:
                self._spoke.line.send(message)

    def _see(self, rank: int, beat: Beat) -> None:
        seen, now = self._ranks[rank], time.monotonic()
        if not seen.came:  # the others have the time limit from now on
            for other in self._ranks.values():
                other.heard = other.heard if other.came else now
        seen.beat, seen.heard, seen.gone = beat, now, None

    def _connect(self, spoke: Spoke) -> None:
        if self._ranks[0].goodbye is None and not spoke.connect(self._interval):
            self._run_without_hub(spoke)

    def _run_without_hub(self, spoke: Spoke) -> None:
        """Rank 0 does not accept: it has ended, if it was connected before."""
        seen = self._ranks[0]
        if spoke.line is not None and seen.gone is None:
            seen.gone = time.monotonic() + RECONNECTION

    def _listen(self, hub: Hub, seconds: float) -> None:
        for line, message in hub.receive(seconds):
            if line.rank in self._ranks:
                self._take(line.rank, line, message)

    def _follow(self, spoke: Spoke, seconds: float) -> None:
        line = spoke.line
        for message in spoke.receive(seconds):
            if "verdict" in message:
                culprits = [Beat(**beat) for beat in message["verdict"].pop("culprits")]
                self._end(Verdict(**message["verdict"], culprits=culprits), told=True)
            if line is not None:
                self._take(0, line, message)
        if line is not None and not line.open and self._ranks[0].gone is None:
            self._take(0, line, {"closed": True})

    def _take(self, rank: int, line: Link, message: dict[str, Any]) -> None:
        """Note what a rank said, or that its connection is closed."""
        seen = self._ranks[rank]
        if "beat" in message:
            self._see(rank, Beat(**message["beat"]))
        if "goodbye" in message:
            seen.goodbye, seen.fault = message["goodbye"], message["fault"]
            if seen.goodbye == "interrupted":
                reason = message["reason"]
                stop_watch().ask(reason if " (rank " in reason else f"{reason} (rank {rank})")
        if "closed" in message and seen.goodbye is None:
            seen.gone = time.monotonic() + (RECONNECTION if line.reset else 0.3)

    def _end(self, verdict: Verdict, told: bool = False) -> None:
        """End this rank's run; rank 0 first has all others do so."""
        if self._stopping.is_set():
            return
        if self._hub is not None:
            self._hub.send({"verdict": dataclasses.asdict(verdict)})
        if not verdict.text:
            self._stopping.wait(_SECONDS_FOR_THE_LAUNCHER)
            if self._stopping.is_set():
                return
        self.ending.end(verdict, first=self._own.rank == 0)
