"""Whether a run can continue, judged from what its ranks last said.

A run hangs if *no* rank has made progress for the time limit: every update has collectives, so that
one rank that hangs soon stops all others. Outside an update (start, first update, evaluation, save)
the limit is :data:`SLOW` times as long. A rank of which nothing is heard at all for the time limit, in
any phase, is stopped, or out of reach.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

SLOW = 10.0
"""The time limit outside an update, in ``--hang-timeout``s."""
SUSPICION = 10.0
"""Seconds of silence that end a run in which a collective has failed."""
RECONNECTION = 1.0
"""Seconds in which a rank whose connection was reset may come back."""


@dataclass(frozen=True)
class Beat:
    """What a rank says of itself each second.

    Attributes:
        machine: ranks with the same one see each other's processes.
        born: start time of the process, in the kernel's units: a pid may be used again.
        idle: seconds since the last sign of progress.
        waits: a thread of it is in a collective.
        failed: seconds since a collective of it failed, or None.
        stack_file: descriptor of its file for the stack that a timer writes.
        first, ranks: the first rank of its host, and how many are there (0: not known).
    """

    rank: int
    host: str = ""
    machine: str = ""
    pid: int = 0
    born: int = 0
    ticks: int = 0
    step: int = 0
    phase: str = "start"
    idle: float = 0.0
    slow: bool = True
    waits: bool = False
    failed: float | None = None
    stack_file: int = -1
    first: int = 0
    ranks: int = 0

    def name(self) -> str:
        """``rank 3 on node2``."""
        return f"rank {self.rank} on {self.host}" if self.host else f"rank {self.rank}"

    def place(self) -> str:
        """Where it is in the run: ``update 57 (backward)``."""
        if self.step == 0:
            return self.phase
        if self.phase in ("update", "between updates"):
            return f"{self.phase} {self.step}" if self.phase == "update" else f"step {self.step}"
        return f"step {self.step} ({self.phase})"


Goodbye = Literal["finished", "reported", "failed", "interrupted"]
"""How a rank left: at the end; after a line of its own about a fault; with an unforeseen error; because
it was asked to stop outside the training loop."""


@dataclass
class Seen:
    """What is known of one rank.

    Attributes:
        heard: when its last beat arrived.
        gone: from when its connection counts as closed; None while it is open.
        fault: of one that reported a wrong input: the line, which rank 0 says if it does not meet it.
    """

    beat: Beat
    heard: float
    gone: float | None = None
    goodbye: Goodbye | None = None
    fault: str = ""

    @property
    def came(self) -> bool:
        """Whether anything was ever heard of it."""
        return self.beat.pid > 0


@dataclass(frozen=True)
class Verdict:
    """Why a run ends.

    Attributes:
        text: what has happened, in words for the user; "" if a rank has said it.
        wrong_input: instead of ``text``: what one rank alone has met.
        culprits: the ranks that it is about.
        kill: they do not answer: other ranks of their machine end them.
        hangs: they hang: their stacks show where.
    """

    text: str
    culprits: list[Beat] = field(default_factory=list)
    kill: bool = False
    hangs: bool = False
    wrong_input: str = ""


def judge(ranks: Mapping[int, Seen], now: float, limit: float) -> Verdict | None:
    """Why the run must end, or None.

    Args:
        now: ``time.monotonic()`` of the process that noted the times in ``ranks``.
        limit: ``--hang-timeout`` in seconds; 0 judges lost ranks only.
    """
    verdict = judge_presence(ranks, now, limit)
    there = [seen for seen in ranks.values() if seen.goodbye is None]
    if verdict is not None or not there:
        return verdict
    broken = [seen for seen in there if seen.beat.failed is not None]
    if any(seen.beat.failed > SUSPICION + RECONNECTION for seen in broken):  # type: ignore[operator]
        text = f"a collective failed on {names([seen.beat for seen in broken])}, though all ranks answer"
        return Verdict(text, [seen.beat for seen in broken], hangs=True)
    return _standstill(there, now, limit) if limit else None


def judge_presence(ranks: Mapping[int, Seen], now: float, limit: float) -> Verdict | None:
    """As :func:`judge`, of what a rank can tell that knows only one other: is that one there?"""
    there = [seen for seen in ranks.values() if seen.goodbye is None]
    said = [seen for seen in ranks.values() if seen.goodbye in ("reported", "failed")]
    if said:
        return _after_words(said)
    ended = [seen.beat for seen in there if seen.gone is not None and seen.gone <= now]
    if ended:
        return Verdict(f"{names(ended)} ended without a word ({_ENDS})", ended)
    suspects = any(seen.beat.failed is not None for seen in there)
    patience = min(limit or SUSPICION, SUSPICION) if suspects else limit
    silent = [seen for seen in there if now - seen.heard > patience]
    if not patience or not silent:
        return None
    missing = [seen for seen in silent if not seen.came]
    return _missing(missing, ranks, now) if missing else _silence(silent, now)


_ENDS = "killed, out of memory, or its connection was cut"


def _after_words(said: list[Seen]) -> Verdict:
    failed = [seen.beat for seen in said if seen.goodbye == "failed"]
    if failed and len(failed) == len(said):
        return Verdict(
            f"{names(failed)} ended with an unforeseen error, which its own output shows", failed
        )
    wrong = next((f"{seen.fault} (on {seen.beat.name()})" for seen in said if seen.fault), "")
    return Verdict("", [seen.beat for seen in said], wrong_input=wrong)


def _missing(missing: list[Seen], ranks: Mapping[int, Seen], now: float) -> Verdict:
    """Of ranks that have never been there; a host is known where another of its ranks is there."""
    seconds = min(now - seen.heard for seen in missing)
    beats = []
    for seen in missing:
        number = seen.beat.rank
        near = (one.beat for one in ranks.values() if one.came)
        hosts = (one.host for one in near if one.first <= number < one.first + one.ranks)
        beats.append(Beat(number, host=next(hosts, "")))
    return Verdict(
        f"{names(beats)} did not join within {seconds:.0f} s: not started, ended before, or cut off from "
        "rank 0; see the output there",
        beats,
    )


def _silence(silent: list[Seen], now: float) -> Verdict:
    seconds = min(now - seen.heard for seen in silent)
    beats = [seen.beat for seen in silent]
    return Verdict(
        f"nothing was heard of {names(beats)} for {seconds:.0f} s, last seen in {beats[0].place()}",
        beats,
        kill=True,
    )


def _standstill(there: list[Seen], now: float, limit: float) -> Verdict | None:
    def idle(seen: Seen) -> float:
        return now - seen.heard + seen.beat.idle

    still = min(idle(seen) for seen in there)
    if still <= limit * (SLOW if any(seen.beat.slow for seen in there) else 1.0):
        return None
    culprits = [seen for seen in there if not seen.beat.waits] or there
    fewest = min(seen.beat.ticks for seen in culprits)
    culprits = [seen for seen in culprits if seen.beat.ticks == fewest]
    beats = [seen.beat for seen in culprits]
    longest = max(idle(seen) for seen in culprits)
    since = time.strftime("%H:%M:%S", time.localtime(time.time() - longest))
    if all(beat.waits for beat in beats):
        text = f"{names(beats)} wait for each other without end: no progress for {longest:.0f} s"
    else:
        hang = "hangs" if len(beats) == 1 else "hang"
        text = f"{names(beats)} {hang}: no progress for {longest:.0f} s"
    return Verdict(f"{text}, in {beats[0].place()} since {since}", beats, hangs=True)


def names(beats: list[Beat]) -> str:
    """``rank 1 on a and rank 3 on b``; many are counted."""
    shown = [beat.name() for beat in beats]
    if len(shown) > 4:
        return f"{len(shown)} ranks ({shown[0]}, ..., {shown[-1]})"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
