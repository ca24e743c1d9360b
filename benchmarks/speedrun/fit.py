"""How many updates fit into the budget: measured before a run, which it is not part of.

The entry trains in a folder that is removed afterwards, until updates have taken some processor time after the
first one. What the start took, the mean of the updates, and an allowance for the checkpoints give the number that
uses a share of the budget.
An entry whose updates change in the run (a batch or a length that grows) must declare its own number.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.speedrun.ranks import Ranks, started
from megabert.common.errors import UserError
from megabert.common.files import remove_folder

if TYPE_CHECKING:
    from benchmarks.speedrun.race import Race

FITTED_SHARE = 0.97
"""Of the budget that the updates and the start use, unless the command says otherwise."""
MEASURED = 1 / 60
"""Of the budget that is spent on measuring."""
SAVING = 0.6
"""Seconds to set aside for each point of the curve, and for the end."""
FEWEST = 4
"""Updates that are timed, at least."""
POINTS = 12
"""Of the curve: checkpoints of a run that are scored."""
_MANY = 1_000_000


def fitted_steps(race: Race, share: float) -> tuple[int, dict[str, Any]]:
    """The number of updates that uses ``share`` of the budget, and what was measured.

    Raises:
        UserError: the run fails, or one update takes more than the budget.
    """
    ramps = race.entry.settings.get("ramps", {})
    if any(ramps.get(name) for name in ("batch_ramp", "length_ramp")):
        raise UserError(
            f"{race.entry.name}: its updates change in the run, which --fit cannot measure: give --steps N"
        )
    folder = race.folder / "fit"
    if folder.exists():
        remove_folder(folder)
    command = race.command(
        "--steps", str(_MANY), "--output", str(folder), "--save-interval", "0", "--log-interval", "1",
        "--trust-ratio-interval", "0",
    )  # fmt: skip
    marks: list[tuple[int, float]] = []  # update, seconds
    enough = MEASURED * race.budget
    with started(
        command, 0 if race.track.gpu else race.entry.ranks, race.folder / "fit.log"
    ) as ranks:
        while ranks.poll():
            time.sleep(0.02)
            update = _updates(folder / "metrics.jsonl")
            if update > (marks[-1][0] if marks else 0):
                marks.append((update, _seconds(ranks, race.track.gpu)))
            if (
                marks
                and marks[-1][0] >= marks[0][0] + FEWEST
                and marks[-1][1] - marks[0][1] > enough
            ):
                ranks.kill()
        if len(marks) < 2:
            raise UserError(
                f"the run ended before its second update: see {race.folder / 'fit.log'}"
            )
    remove_folder(folder)
    (first, begin), (last, end) = marks[0], marks[-1]
    each = (end - begin) / (last - first)
    start = max(0.0, begin - first * each)
    steps = int((share * race.budget - start - SAVING * (POINTS + 2)) / each)
    if steps < 1:
        raise UserError(
            f"an update takes {each:.1f} s and the start {start:.0f} s: the budget has room for none"
        )
    measured = {"seconds_per_update": round(each, 4), "seconds_of_start": round(start, 1), "timed_updates": last - first}  # fmt: skip
    print(f"fit: {each:.3f} s per update after {start:.0f} s: {steps:,} updates", flush=True)
    return steps, measured


def _seconds(ranks: Ranks, gpu: bool) -> float:
    return ranks.seconds if gpu else ranks.processor_seconds


def _updates(metrics: Path) -> int:
    """The last update that the file has."""
    try:
        lines = metrics.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError):
            continue
    return 0
