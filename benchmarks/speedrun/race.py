"""A run of an entry: train within the budget, in as many pieces as it takes, then score and record it.

    FOLDER/speedrun.json    what the run is, its pieces with their processor time, its scores
    FOLDER/config.yaml      the entry's settings, the --config of the run
    FOLDER/run/             the run folder of launch/pretrain.py
    FOLDER/log              what it printed

The processor time of a piece that was killed is known to within ``SAVED_EVERY`` seconds.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.speedrun import records
from benchmarks.speedrun.entry import Entry, find_entry
from benchmarks.speedrun.fit import POINTS, fitted_steps
from benchmarks.speedrun.held_out import read_passages
from benchmarks.speedrun.prepared import PreparedText, open_prepared
from benchmarks.speedrun.ranks import Ranks, started
from benchmarks.speedrun.score import CURVE_SHARE, HeldOut, score
from benchmarks.speedrun.tracks import Track, track_named
from benchmarks.steps.runs import PRETRAIN
from megabert.checkpoint.record import whole_checkpoints
from megabert.common.errors import StoppedOnRequest, TrainingStopped, UserError
from megabert.common.files import remove_folder, write_json, write_text
from megabert.common.json_text import read_json_object
from megabert.common.log import get_logger
from megabert.common.names import RUN_CHECKPOINTS
from megabert.common.processes.stopping import stop_watch
from megabert.common.storage import require_writable

JOURNAL, CONFIG, RUN, LOG = "speedrun.json", "config.yaml", "run", "log"
SAVED_EVERY = 5.0
_LOOK = 0.25
_REFUSED, _STOPPED = 2, 3


@dataclass
class Race:
    """One run.

    Attributes:
        entry, track, seed: what is run.
        scale: the fraction of the track's budget that may be used.
        text: that it is trained and scored on.
        folder: of this run.
        journal: content of ``speedrun.json``.
    """

    entry: Entry
    track: Track
    seed: int
    scale: float
    text: PreparedText
    folder: Path
    journal: dict[str, Any]

    @property
    def budget(self) -> float:
        """Seconds."""
        return self.track.seconds * self.scale

    @property
    def used(self) -> float:
        """Seconds of the budget that all pieces have used."""
        name = "wall_seconds" if self.track.gpu else "cpu_seconds"
        return sum(piece[name] for piece in self.journal["pieces"])

    @property
    def checkpoints(self) -> Path:
        """Folder of the run's checkpoints."""
        return self.folder / RUN / RUN_CHECKPOINTS

    def save(self) -> None:
        """Write the journal."""
        write_json(self.folder / JOURNAL, self.journal)

    def command(self, *more: str) -> list[str]:
        """launch/pretrain.py with the entry's settings."""
        shards = self.text.shards(self.entry.vocabulary)
        return [
            *PRETRAIN, "--config", str(self.folder / CONFIG), "--data", str(shards),
            "--seed", str(self.seed), "--eval-interval", "0", "--eval-samples", "32", *more,
        ]  # fmt: skip


def open_race(given: argparse.Namespace) -> Race:
    """The run that the command line describes, new or as it was left.

    Raises:
        UserError: a wrong entry, track or folder; the folder has another run.
    """
    entry, track = find_entry(given.entry), track_named(given.track)
    if track.gpu and not torch.cuda.is_available():
        raise UserError(f"--track {track.name}: torch finds no GPU here")
    text = open_prepared(given.data.absolute())
    text.shards(entry.vocabulary)
    folder = given.output.absolute()
    identity = {
        "entry": entry.name, "settings": entry.digest, "track": track.name, "seed": given.seed,
        "scale": given.scale, "data": text.checksums(entry.vocabulary),
    }  # fmt: skip
    journal: dict[str, Any] = {**identity, "pieces": [], "points": {}, "scores": {}}
    if (folder / JOURNAL).is_file():
        found = read_json_object(folder / JOURNAL)
        journal = found if found["pieces"] else journal
        for name, value in identity.items():
            if journal[name] != value:
                raise UserError(
                    f"--output {folder}: it has a run with {name} {journal[name]!r:.80}, not {value!r:.80}; name a "
                    "new folder"
                )
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--output {folder} holds other files; name a new folder")
    require_writable(folder)
    return Race(entry, track, given.seed, given.scale, text, folder, journal)


def race(given: argparse.Namespace) -> int:
    """The command ``run``."""
    stop_watch().resumable("; continue with the same command")
    run = open_race(given)
    if given.steps is not None and given.fit is not None:
        raise UserError("--steps and --fit: give one of them")
    if "steps" not in run.journal and given.fit is None:
        given.steps = given.steps or _declared_steps(run)
    run.folder.mkdir(parents=True, exist_ok=True)
    write_text(run.folder / CONFIG, yaml.safe_dump(run.entry.settings, sort_keys=False))
    run.save()
    _set_steps(run, given.steps, given.fit)
    deadline = time.monotonic() + 60 * given.max_minutes if given.max_minutes else None
    if not run.journal.get("finished"):
        _train(run, deadline)
    record = _score(run, given.keep)
    if run.scale < 1:
        print("no record: --scale is below 1")
        return 0
    path = records.write_record(record, given.records)
    print(f"{path}; write the leaderboard with: python -m benchmarks.speedrun board")
    return 0


def _declared_steps(run: Race) -> int:
    """The entry's updates for the track, of which a small scale takes its part."""
    steps = (run.entry.steps or {}).get(run.track.name)
    if steps is None:
        raise UserError(
            f"{run.entry.name} has no steps for {run.track.name}: give --steps N or --fit"
        )
    return max(1, round(steps * run.scale))


def _set_steps(run: Race, steps: int | None, fit: float | None) -> None:
    """The number of updates: as journalled, given, or fitted to this share of the budget."""
    known = run.journal.get("steps")
    if known is not None:
        if steps not in (None, known):
            raise UserError(f"--steps {steps}: {run.folder} has a run of {known} updates")
        return
    if fit is not None:
        steps, run.journal["fit"] = fitted_steps(run, fit)
    run.journal["steps"] = steps
    run.save()


def _train(run: Race, deadline: float | None) -> None:
    """One piece: until the last update, the deadline, or the end of the budget.

    Raises:
        UserError: the run refused its settings.
        TrainingStopped: the run failed, or the budget is used up.
        StoppedOnRequest: the deadline.
    """
    steps = run.journal["steps"]
    points = max(1, steps // POINTS)
    command = run.command(
        "--steps", str(steps), "--output", str(run.folder / RUN), "--resume", "auto",
        "--save-interval", str(points), "--keep-every", str(points), "--keep-last", "1",
    )  # fmt: skip
    print(f"{run.entry.name}, {run.track.name}, seed {run.seed}: {steps:,} updates; {run.used:,.0f} of {run.budget:,.0f} "
          f"{run.track.unit} are used; log: {run.folder / LOG}", flush=True)  # fmt: skip
    piece: dict[str, Any] = {"began": _now(), "cpu_seconds": 0.0, "wall_seconds": 0.0, "status": None}  # fmt: skip
    run.journal["pieces"].append(piece)
    over = late = False
    try:
        with started(command, 0 if run.track.gpu else run.entry.ranks, run.folder / LOG) as ranks:
            saved = time.monotonic()
            while ranks.poll() and not over and not late:
                time.sleep(_LOOK)
                _note(run, piece, ranks)
                over = run.used > run.budget
                late = deadline is not None and time.monotonic() > deadline
                if time.monotonic() - saved > SAVED_EVERY:
                    run.save()
                    saved = time.monotonic()
    finally:
        _note(run, piece, ranks)
        piece["status"] = ranks.status
        run.journal["finished"] = ranks.status == 0
        run.save()
    if over or run.used > run.budget:
        run.journal["finished"] = False
        run.save()
        raise TrainingStopped(
            f"over the budget after update {_last_step(run)} of {steps}: {run.used:,.0f} of {run.budget:,.0f} "
            f"{run.track.unit}; start again with fewer --steps, or with a smaller share for --fit, in a new folder"
        )
    if ranks.status == _STOPPED:
        raise StoppedOnRequest(
            f"{run.used:,.0f} of {run.budget:,.0f} {run.track.unit} are used; continue with the same command"
        )
    if ranks.status:
        error = UserError if ranks.status == _REFUSED else TrainingStopped
        raise error(f"the run ended with exit status {ranks.status}: see {run.folder / LOG}")


def _note(run: Race, piece: dict[str, Any], ranks: Ranks) -> None:
    """Times so far, and the time at which each checkpoint was first seen."""
    piece["cpu_seconds"] = max(piece["cpu_seconds"], round(ranks.processor_seconds, 2))
    piece["wall_seconds"] = round(ranks.seconds, 2)
    for folder in saved_checkpoints(run.checkpoints):
        run.journal["points"].setdefault(folder.name, round(run.used, 2))


def saved_checkpoints(checkpoints: Path) -> list[Path]:
    """Folders of whole checkpoints, by their names."""
    return [folder for folder in checkpoints.glob("step-*") if folder.name[5:].isdigit()]


def _last_step(run: Race) -> int:
    return max((int(folder.name[5:]) for folder in saved_checkpoints(run.checkpoints)), default=0)


def _score(run: Race, keep: bool) -> dict[str, Any]:
    """Score every checkpoint on a part of the held-out text and the last one on all of it; the record."""
    held_out = HeldOut(read_passages(run.text.held_out), run.text.shards(run.entry.vocabulary))
    get_logger().setLevel(logging.WARNING)  # not a line for every checkpoint that is read
    part, scores = held_out.part(CURVE_SHARE), run.journal["scores"]
    found = sorted(whole_checkpoints(run.checkpoints), key=lambda checkpoint: checkpoint.step)
    if not found or found[-1].step != run.journal["steps"]:
        raise UserError(f"{run.checkpoints} lacks the checkpoint of the last update")
    for checkpoint in found:
        name = checkpoint.folder.name
        if name not in scores:
            ema = run.entry.weights == "ema"
            value = score(checkpoint.folder, part, "ema" if ema else "trained")
            scores[name] = {
                **value.as_dict(),
                "scored_tokens": value.tokens,
                "step": checkpoint.step,
                "tokens": checkpoint.record["tokens"],  # trained on: not those that were scored
                "cpu_seconds" if not run.track.gpu else "seconds": run.journal["points"].get(name),
            }
            run.save()
            print(f"update {checkpoint.step:,}, {checkpoint.record['tokens'] / 1e6:.2f} million tokens: "
                  f"{value.nats_per_word:.4f} nats per word, {value.nats_per_token:.4f} per token", flush=True)  # fmt: skip
    last = found[-1]
    if "final" not in run.journal:
        run.journal["final"] = score(last.folder, held_out, run.entry.weights).as_dict()
        run.journal["finished_at"] = _now()
        run.save()
    final = run.journal["final"]
    print(f"{run.entry.name}, {run.track.name}, seed {run.seed}: {final['nats_per_word']:.4f} nats per word, "
          f"{final['nats_per_token']:.4f} nats per token; {run.used:,.0f} of {run.budget:,.0f} {run.track.unit}")  # fmt: skip
    if not keep:
        for checkpoint in found[:-1]:
            remove_folder(checkpoint.folder)
    return records.make_record(run, last.record)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
