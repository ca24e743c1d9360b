"""Kill a training run again and again, and compare what it leaves with a run that nobody killed.

    python tests/helpers/kill_and_resume.py --kills 20 --seed 1 --folder FOLDER

A run of two ranks (ZeRO 1, dropout on, a checkpoint every 5 of 200 updates) is killed with SIGKILL,
both ranks at once, at random moments spread over the run, half of them meant to fall into a save;
then it is started again with --resume auto. After every kill its newest whole checkpoint must hold,
bit for bit, what the undisturbed run wrote at that step, and so must the last one: weights, moments,
schedule, counters.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megabert.checkpoint.deepspeed_files import read_deepspeed_file
from megabert.checkpoint.record import Checkpoint, damaged_file, whole_checkpoints
from tests.helpers.distributed import _free_port
from tests.helpers.launched_runs import trained_steps
from tests.helpers.training_runs import TINY, last_given, losses, make_shards, metrics

ROOT = Path(__file__).resolve().parents[2]
RANKS = 2
EVERY = 5
PATIENCE = 180.0
_OF_THE_CLOCK = {"elapsed_seconds", "clock"}


# ---------------------------------------------------------------- comparing checkpoints


def differences(left: Any, right: Any, place: str = "") -> list[str]:
    """Where two pickled states differ; times do not count. Objects are compared by their fields."""
    if isinstance(left, torch.Tensor):
        same = isinstance(right, torch.Tensor) and left.dtype == right.dtype
        return [] if same and torch.equal(left, right) else [place]
    if isinstance(left, dict) and isinstance(right, dict):
        found = [f"{place}: keys"] if left.keys() != right.keys() else []
        for key in left.keys() & right.keys() - _OF_THE_CLOCK:
            found += differences(left[key], right[key], f"{place}/{key}")
        return found
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        found = [f"{place}: length"] if len(left) != len(right) else []
        for number, (one, other) in enumerate(zip(left, right)):
            found += differences(one, other, f"{place}[{number}]")
        return found
    if hasattr(left, "__dict__") and type(left) is type(right):
        return differences(vars(left), vars(right), place)
    return [] if left == right else [f"{place}: {left!r}, {right!r}"]


def checkpoint_differences(left: Path, right: Path) -> list[str]:
    """Where the DeepSpeed files of two checkpoint folders differ in any tensor or value."""
    names = [sorted(path.name for path in folder.glob("*.pt")) for folder in (left, right)]
    if names[0] != names[1]:
        return [f"files: {names[0]}, {names[1]}"]
    found = []
    for name in names[0]:
        found += differences(
            read_deepspeed_file(left / name), read_deepspeed_file(right / name), name
        )
    return found


# ---------------------------------------------------------------- running and killing


class Ranks:
    """The processes of one run, in a process group of their own."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self._log = log.open("ab")
        port = str(_free_port())
        self.processes: list[subprocess.Popen[bytes]] = []
        for rank in range(RANKS):
            environment = {
                **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
                "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1",
            }  # fmt: skip
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, str(ROOT / "launch" / "pretrain.py"), *arguments],
                    env=environment,
                    stdout=self._log,
                    stderr=self._log,
                    process_group=self.processes[0].pid if self.processes else 0,
                )
            )

    def alive(self) -> bool:
        """True while every rank runs."""
        return all(process.poll() is None for process in self.processes)

    def kill(self) -> None:
        """SIGKILL to all of them at once."""
        os.killpg(self.processes[0].pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> list[int]:
        """Exit statuses, when all have ended."""
        statuses = [process.wait(timeout=PATIENCE) for process in self.processes]
        self._log.close()
        return statuses


def _arguments(data: Sequence[str], run: Path, steps: int, keep: int) -> list[str]:
    return last_given([
        *TINY, *data, "--output", str(run), "--steps", str(steps),
        "--zero-stage", "1", "--save-interval", str(EVERY), "--keep-last", str(keep),
        "--resume", "auto",
    ])  # fmt: skip


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _partials(run: Path) -> set[tuple[str, int, int]]:
    """Folders that are being written, or that a kill has left: name, inode, time of change."""
    found = set()
    for folder in (run / "checkpoints").glob("*.partial"):
        with contextlib.suppress(FileNotFoundError):
            status = folder.stat()
            found.add((folder.name, status.st_ino, status.st_ctime_ns))
    return found


def newest_whole(run: Path) -> Checkpoint | None:
    """The newest checkpoint without a fault in any file."""
    whole = whole_checkpoints(run / "checkpoints")
    return next((found for found in whole if damaged_file(found) is None), None)


@dataclass
class Report:
    """What was done, and what was found."""

    seed: int
    starts: int = 0
    kills: list[int] = field(default_factory=list)
    while_saving: int = 0
    latest_behind: int = 0
    updates_lost: int = 0
    faults: list[str] = field(default_factory=list)

    def lines(self) -> str:
        """A summary to print."""
        return (
            f"seed {self.seed}: {self.starts} starts, {len(self.kills)} kills, "
            f"{self.while_saving} of them while a checkpoint was being written, "
            f"{self.latest_behind} between its rename and latest, "
            f"{self.updates_lost} updates done twice; steps resumed from: {self.kills}; "
            f"differences: {self.faults or 'none'}"
        )


def _wait(ranks: Ranks, until: Callable[[], bool]) -> bool:
    """Wait for something of a living run; False if the run ended before."""
    deadline = time.monotonic() + PATIENCE
    while not until():
        if not ranks.alive() or time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def _kill(ranks: Ranks, run: Path, goal: int, while_saving: bool, delay: float) -> bool:
    """Kill a run ``delay`` seconds after update ``goal``, or after its next save has begun.

    It must have made an update since its start. False if it ended before that.
    """
    left = _partials(run)
    smallest = _size(run / "metrics.jsonl")

    def has_trained() -> bool:
        # a resumed run first cuts off the lines behind its checkpoint: growth counts from there
        nonlocal smallest
        size = _size(run / "metrics.jsonl")
        smallest = min(smallest, size)
        return size > smallest and max(trained_steps(run), default=0) >= goal

    if not _wait(ranks, has_trained):
        return False
    if while_saving and not _wait(ranks, lambda: bool(_partials(run) - left)):
        return False
    time.sleep(delay)
    if not ranks.alive():
        return False
    ranks.kill()
    return True


def _undisturbed(folder: Path, data: Sequence[str], steps: int) -> tuple[dict[int, Path], float]:
    """Every checkpoint of a run that nobody kills, by step, and the seconds that it took."""
    run, log = folder / "undisturbed", folder / "undisturbed.log"
    if Ranks(_arguments(data, run, steps, keep=9999), log).wait() != [0] * RANKS:
        raise RuntimeError(log.read_text()[-2000:])
    seconds = [line["elapsed_seconds"] for line in metrics(run) if "loss" in line]
    return {c.step: c.folder for c in whole_checkpoints(run / "checkpoints")}, seconds[-1]


def kill_and_resume(
    folder: Path, kills: int = 20, steps: int = 200, seed: int = 1, corpora: int = 1
) -> Report:
    """Do it all in ``folder``; the report holds every difference found. ``corpora``: are mixed."""
    rng, report = random.Random(seed), Report(seed)
    places = [make_shards(folder / f"shards{number}", seed=number) for number in range(corpora)]
    data = ["--data", *map(str, places)]
    run, log = folder / "killed", folder / "killed.log"
    wanted, seconds = _undisturbed(folder, data, steps)
    while len(report.kills) < kills:
        before, left = newest_whole(run), _partials(run)
        ranks = Ranks(_arguments(data, run, steps, keep=2), log)
        report.starts += 1
        number, while_saving = len(report.kills), len(report.kills) % 2 == 0
        low, high = number * steps // kills + 1, (number + 1) * steps // kills - EVERY
        goal = rng.randint(low, max(low, high))
        delay = rng.uniform(0.0, 0.03 if while_saving else 2.0 * seconds / steps)
        if not _kill(ranks, run, goal, while_saving, delay):
            said = log.read_text()[-2000:]
            raise RuntimeError(f"the run ended after {len(report.kills)} kills: {said}")
        report.while_saving += bool(_partials(run) - left)
        newest = newest_whole(run)
        step = newest.step if newest else 0
        report.kills.append(step)
        report.updates_lost += max(0, max(trained_steps(run), default=0) - step)
        pointer = run / "checkpoints" / "latest"
        named = pointer.read_text().strip() if pointer.exists() else ""
        report.latest_behind += newest is not None and named != newest.folder.name
        if newest is not None:
            report.faults += checkpoint_differences(newest.folder, wanted[step])
        if before is not None and step < before.step:
            report.faults.append(f"a checkpoint was lost: {before.step} -> {step}")
    report.starts += 1
    if Ranks(_arguments(data, run, steps, keep=2), log).wait() != [0] * RANKS:
        raise RuntimeError(log.read_text()[-2000:])
    last = newest_whole(run)
    if last is None or last.step != steps:
        report.faults.append(f"the run ended at {last.step if last else 0} of {steps}")
    else:
        report.faults += checkpoint_differences(last.folder, wanted[steps])
    if losses(metrics(run)) != losses(metrics(folder / "undisturbed")):
        report.faults.append("metrics.jsonl has other losses")
    if trained_steps(run) != list(range(1, steps + 1)):
        report.faults.append("metrics.jsonl does not hold every update once")
    return report


def main() -> None:
    """Run it as a script; exit status 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--corpora", type=int, default=1, help="folders of shards that are mixed")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--folder", type=Path, help="keep everything there (a temporary folder)")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="kill-and-resume-"))
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    report = kill_and_resume(folder, given.kills, given.steps, given.seed, given.corpora)
    print(f"{report.lines()} ({time.monotonic() - began:.0f} s)")
    if given.folder is None and not report.faults:
        shutil.rmtree(folder)
    raise SystemExit(bool(report.faults))


if __name__ == "__main__":
    main()
