"""Runs of real processes, in one of which a fault is planted while it trains.

A rank is started through this file as a script, which plants the fault and then calls the command:

    MEGABERT_FAULT=stop:3  python tests/helpers/faulty_ranks.py pretrain --model bert-tiny ...

The fault is planted on the rank of MEGABERT_FAULT_RANK (1), at update 3: ``stop`` (SIGSTOP), ``kill``
(SIGKILL), ``read`` (the reader of samples blocks), ``loop`` (an infinite loop of Python), ``hold`` (a
regular expression that holds Python's lock for hours), ``raise`` (an error of the program), and
on all ranks: ``save`` (a save of 25 s), ``evaluate`` (an evaluation of 25 s).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
SLOW_SECONDS = 25.0
PATIENCE = 150.0


class Ranks:
    """The ranks of one run, started with no launcher; each rank's output is a file."""

    def __init__(
        self, folder: Path, arguments: Sequence[str], count: int = 2, **fault: str
    ) -> None:
        from tests.helpers.distributed import _free_port

        folder.mkdir(parents=True, exist_ok=True)
        port = str(_free_port())
        self.logs = [folder / f"rank-{rank}.txt" for rank in range(count)]
        self.processes = []
        self.ended_at: dict[int, float] = {}
        for rank, log in enumerate(self.logs):
            environment = rank_environment(rank, count, port) | fault
            with log.open("wb") as file:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, str(Path(__file__)), *arguments],
                        env=environment,
                        stdout=file,
                        stderr=file,
                    )
                )

    def wait(self, patience: float = PATIENCE) -> list[int]:
        """Exit statuses of all ranks, which must end by themselves."""
        deadline = time.monotonic() + patience
        try:
            while len(self.ended_at) < len(self.processes):
                for rank, process in enumerate(self.processes):
                    if process.poll() is not None:
                        self.ended_at.setdefault(rank, time.monotonic())
                if time.monotonic() > deadline:
                    raise AssertionError(f"ranks do not end:\n{self.output()}")
                time.sleep(0.02)
        finally:
            for process in self.processes:
                if process.poll() is None:
                    process.kill()
        return [process.wait() for process in self.processes]

    def output(self) -> str:
        """What all ranks wrote."""
        return "".join(log.read_text(errors="replace") for log in self.logs)


def rank_environment(rank: int, count: int, port: str) -> dict[str, str]:
    """The environment of a rank that no launcher starts."""
    return {
        **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1",
    }  # fmt: skip


def wait_until(condition: Callable[[], Any], seconds: float = PATIENCE) -> None:
    """Wait for something that a run does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


# ---------------------------------------------------------------- inside a rank


def _act(fault: str) -> None:
    moment = os.environ.get("MEGABERT_FAULT_MOMENT")
    if moment:
        Path(moment).write_text(repr(time.time()), encoding="utf-8")
    if fault == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == "read":
        reader, _ = os.pipe()
        os.read(reader, 1)
    elif fault == "loop":
        while True:
            pass
    elif fault == "hold":
        re.match(r"(a+)+$", "a" * 60 + "b")
    elif fault == "raise":
        raise KeyError("planted")


def _delayed(act: Callable[..., Any]) -> Callable[..., Any]:
    def later(*inputs: Any) -> Any:
        time.sleep(SLOW_SECONDS)
        return act(*inputs)

    return later


def plant(environment: Mapping[str, str]) -> None:
    """Plant the fault that the environment asks for into this process."""
    fault, _, at = environment.get("MEGABERT_FAULT", "").partition(":")
    from megabert.checkpoint import save_load
    from megabert.pretrain import batches, evaluation, loop

    mine = environment["RANK"] == environment.get("MEGABERT_FAULT_RANK", "1")
    if fault == "save":
        save_load._write_files = _delayed(save_load._write_files)
    elif fault == "evaluate":
        loop.evaluate = _delayed(evaluation.evaluate)
    elif fault.endswith("-saving") and mine:
        write_files = save_load._write_files

        def faulty(*inputs: Any) -> Any:
            if int(inputs[2]["step"]) == int(at):
                _act(fault.removesuffix("-saving"))
            return write_files(*inputs)

        save_load._write_files = faulty
    elif fault and mine:
        opened = batches.open_batches

        def open_batches(*inputs: Any, **named: Any) -> Any:
            made = opened(*inputs, **named)
            following, count = made.next, 0

            def next_batch(*given: Any, **named: Any) -> Any:
                nonlocal count
                count += 1
                if count == int(at):
                    _act(fault)
                return following(*given, **named)

            made.next = next_batch
            return made

        loop.open_batches = open_batches


def main() -> None:
    """Plant the fault and run the command that the first argument names."""
    import importlib

    from megabert.common.log import run_command

    name = next(word for word in sys.argv[1:] if not word.startswith("-"))  # after deepspeed's own
    sys.argv.remove(name)
    command = importlib.import_module(f"launch.{name}")
    plant(os.environ)
    run_command(command.main)


if __name__ == "__main__":
    main()
