"""Whole training runs under a launcher, as a user starts them; every process of a run can be found.

Each process inherits a mark in its environment. ``/proc`` shows the marks of all processes, so that a
test sees what is left of a run, whoever its parent is by then.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from megabert.common.processes.kernel import process_stat
from tests.helpers.distributed import _free_port
from tests.helpers.training_runs import TINY, last_given

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
MARK = "MEGABERT_TEST_MARK"
PATIENCE = 120.0


@dataclass(frozen=True)
class Seen:
    """A process of a run, as ``/proc`` shows it."""

    pid: int
    parent: int
    words: list[str]

    @property
    def text(self) -> str:
        """Its command line."""
        return " ".join(self.words)


def _processes(mark: str) -> Iterator[Seen]:
    wanted = f"{MARK}={mark}".encode()
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and wanted in (folder / "environ").read_bytes().split(b"\0"):
                words = (folder / "cmdline").read_text().rstrip("\0").split("\0")
                stat = process_stat(int(folder.name))
                if stat is not None and not stat.ended:
                    yield Seen(int(folder.name), stat.parent, words)


class LaunchedRun:
    """A run of two ranks, started by ``launcher``: "deepspeed", "torchrun", "bare", or "run.py X".

    Standard output and error of all processes go to ``output.log`` in ``folder``.
    """

    def __init__(
        self, folder: Path, launcher: str, arguments: list[str], script: str = "launch/pretrain.py"
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "output.log"
        self.mark = uuid.uuid4().hex
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # tests in the background of a script
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self.script = script
        port = str(_free_port())
        work = [script, *arguments]
        deepspeed = [str(BIN / "deepspeed"), "--num_gpus", "2", "--master_port", port]
        torchrun = [
            str(BIN / "torchrun"), "--nproc-per-node", "2", "--master-addr", "127.0.0.1",
            "--master-port", port,
        ]  # fmt: skip
        name = launcher.removeprefix("run.py ")
        start = [sys.executable, "launch/run.py"] if name != launcher else []
        start += {"deepspeed": deepspeed, "torchrun": torchrun, "bare": []}[name]
        self.processes: list[subprocess.Popen[bytes]] = []
        with self.log.open("ab") as log:
            if launcher != "bare":
                self._start([*start, *work], {}, log)
            for rank in range(2 if launcher == "bare" else 0):
                place = {
                    "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
                    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
                }  # fmt: skip
                self._start([sys.executable, *work], place, log)

    def _start(self, words: list[str], more: dict[str, str], log: object) -> None:
        environment = {
            **os.environ, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT), MARK: self.mark, **more,
        }  # fmt: skip
        self.processes.append(
            subprocess.Popen(
                words,
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,  # type: ignore[call-overload]
            )
        )

    @property
    def output(self) -> str:
        """What all processes have printed so far."""
        return self.log.read_text(errors="replace")

    def left(self) -> list[Seen]:
        """The processes of the run that are alive."""
        return list(_processes(self.mark))

    def ranks(self) -> list[int]:
        """Process numbers of the ranks, by rank; without their workers."""
        ranks = {}
        seen = self.left()
        mine = {one.pid: one for one in seen if self.script in one.words[1:3]}
        for one in mine.values():
            if one.parent not in mine:
                environment = (Path("/proc") / str(one.pid) / "environ").read_text().split("\0")
                for entry in environment:
                    if entry.startswith("RANK="):
                        ranks[int(entry[5:])] = one.pid
        return [ranks[rank] for rank in sorted(ranks)]

    def named(self, text: str) -> int:
        """Process number of the one whose command line holds ``text`` and that is not a rank."""
        (found,) = [
            one.pid for one in self.left() if text in one.text and self.script not in one.words[1:3]
        ]
        return found

    def wait_until_gone(self, seconds: float) -> float:
        """Wait until no process of the run is left; the seconds that it took.

        Raises:
            AssertionError: some are left.
        """
        began = time.monotonic()
        while left := self.left():
            waited = time.monotonic() - began
            assert waited < seconds, f"left after {waited:.0f} s: {[one.text[:90] for one in left]}"
            time.sleep(0.05)
            for process in self.processes:
                process.poll()
        return time.monotonic() - began

    def statuses(self) -> list[int]:
        """Exit statuses of what the test started, once they have ended."""
        return [process.wait(PATIENCE) for process in self.processes]

    def wait_for_step(self, run: Path, step: int) -> None:
        """Wait until ``metrics.jsonl`` has a line of this update."""
        self.wait_for(lambda: max(trained_steps(run), default=0) >= step)

    def wait_for(self, condition: object) -> None:
        """Wait until ``condition()`` is true of a living run."""
        deadline = time.monotonic() + PATIENCE
        while not condition():  # type: ignore[operator]
            assert time.monotonic() < deadline, self.output[-3000:]
            assert all(p.poll() is None for p in self.processes), self.output[-3000:]
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL to everything that is left."""
        for one in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(one.pid, signal.SIGKILL)
        for process in self.processes:
            process.wait(PATIENCE)


@contextlib.contextmanager
def launched(
    folder: Path, launcher: str, arguments: list[str], script: str = "launch/pretrain.py"
) -> Iterator[LaunchedRun]:
    """A :class:`LaunchedRun`; nothing of it is left after the block."""
    run = LaunchedRun(folder, launcher, arguments, script)
    try:
        yield run
    finally:
        run.kill()


def pretraining(shards: Path, run: Path, steps: int, *more: str) -> list[str]:
    """Flags of a tiny run with dropout and ZeRO 1 that logs each update."""
    return last_given([
        *TINY, "--data", str(shards), "--output", str(run), "--steps", str(steps),
        "--zero-stage", "1", *more,
    ])  # fmt: skip


def trained_steps(run: Path) -> list[int]:
    """Updates in metrics.jsonl, whose last line may be half a line."""
    path = run / "metrics.jsonl"
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            values = json.loads(line)
            if "loss" in values:
                found.append(int(values["step"]))
    return found
