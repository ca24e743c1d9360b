"""The tracks: how much a run may take, and of what."""

from __future__ import annotations

from dataclasses import dataclass

from megabert.common.errors import UserError


@dataclass(frozen=True)
class Track:
    """A budget.

    Attributes:
        name: in the command, and folder of its records.
        seconds: the budget.
        gpu: whether the seconds are those of the clock on one GPU; otherwise they are the processor time of all
            processes of the run.
        what: for the leaderboard.
    """

    name: str
    seconds: float
    gpu: bool
    what: str

    @property
    def unit(self) -> str:
        """What the budget counts."""
        return "seconds on one GPU" if self.gpu else "seconds of processor time"


TRACKS = {
    track.name: track
    for track in (
        Track("cpu-1h", 7200.0, False, "two CPU cores for one hour: 7,200 s of processor time"),
        Track("cpu-10min", 1200.0, False, "two CPU cores for 10 minutes: 1,200 s of processor time"),
        Track("gpu-1h", 3600.0, True, "one GPU for one hour"),
        Track("gpu-10min", 600.0, True, "one GPU for 10 minutes"),
    )
}  # fmt: skip


def track_named(name: str) -> Track:
    """The track.

    Raises:
        UserError: there is none of that name.
    """
    if name not in TRACKS:
        raise UserError(f"--track {name}: expected one of {', '.join(TRACKS)}")
    return TRACKS[name]
