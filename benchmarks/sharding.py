#!/usr/bin/env python
"""Sharding the same dumps with K ranks of N workers each: speed, memory, and whether a byte differs.

    python benchmarks/sharding.py --input DUMP... --tokenizer FILE [--language en] [--ranks 1 2 4]
        [--workers 1 2 4] [--kills 3] [--json FILE]

Each combination is a run of its own: `data_tools/shard_wiki.py`, under `mpirun` for more than one
rank. Wall time holds start-up, reading and writing; CPU time is that of all processes. With `--kills` a
last job loses a process at a random moment and is resumed, as often as the flag says.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_SUMMARY = re.compile(r"([\d.]+) MB of text.*?memory: at most (\d+) MiB", re.DOTALL)
_MAIN = re.compile(r"(\d+) MiB in the main process")


@dataclass(frozen=True)
class Row:
    """One job; MB are 10^6 bytes, memory is in MiB."""

    ranks: int
    workers: int
    seconds: float
    cpu_seconds: float
    input_mb: float
    text_mb: float
    worker_memory: int
    main_memory: int
    digest: str


def command(arguments: argparse.Namespace, ranks: int, workers: int, output: Path) -> list[str]:
    """The command line of one job."""
    mpirun = str(Path(sys.executable).parent / "mpirun")
    start = [mpirun, "-n", str(ranks)] if ranks > 1 else []
    tool = [sys.executable, str(ROOT / "data_tools" / "shard_wiki.py")]
    flags = ["--tokenizer", str(arguments.tokenizer), "--language", arguments.language]
    inputs = ["--input", *map(str, arguments.input)]
    return [*start, *tool, *inputs, *flags, "--output", str(output), "--workers", str(workers)]


def digest_of(folder: Path) -> str:
    """SHA-256 over the names and contents of all files."""
    state = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        state.update(path.relative_to(folder).as_posix().encode() + b"\0")
        state.update(hashlib.sha256(path.read_bytes()).digest())
    return state.hexdigest()


def measure(arguments: argparse.Namespace, ranks: int, workers: int, folder: Path) -> Row:
    """Run one job."""
    output = folder / f"{ranks}-{workers}"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    done = subprocess.run(
        command(arguments, ranks, workers, output), capture_output=True, text=True, check=True
    )
    seconds = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    summary, main = _SUMMARY.search(done.stdout), _MAIN.search(done.stdout)
    assert summary is not None, done.stdout
    assert main is not None, done.stdout
    size = sum(path.stat().st_size for path in arguments.input) / 1e6
    return Row(
        ranks, workers, seconds, cpu, size,
        float(summary[1]), int(summary[2]), int(main[1]), digest_of(output),
    )  # fmt: skip


def kill_and_resume(arguments: argparse.Namespace, folder: Path, typical: float) -> str:
    """Digest of a job that was killed ``arguments.kills`` times, two ranks of one worker."""
    output = folder / "killed"
    line = [*command(arguments, 2, 1, output), "--resume"]
    draw = random.Random()
    for _ in range(arguments.kills):
        job = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(draw.uniform(0.1, 0.3) * typical)
        victims = [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and _names(entry, output)
        ]
        if job.poll() is None and victims:
            victim = draw.choice(victims)
            os.kill(victim, signal.SIGKILL)
            print(f"killed process {victim}, the job ended with status {job.wait()}", flush=True)
        job.wait()
    subprocess.run(line, capture_output=True, check=True)
    return digest_of(output)


def _names(entry: Path, output: Path) -> bool:
    """Whether a process is a rank of the job with this output."""
    try:
        words = (entry / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return words[0].endswith(b"python") and os.fsencode(output) in words


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", nargs="+", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--language", default="en")
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    arguments = parser.parse_args()
    rows = []
    print("| ranks | workers per rank | wall s | MB/s of input | MB/s of text | CPU s", end=" ")
    print("| MiB per worker | MiB main | same bytes |\n|" + "---|" * 9)
    with tempfile.TemporaryDirectory() as name:
        for ranks in arguments.ranks:
            for workers in arguments.workers:
                row = measure(arguments, ranks, workers, Path(name))
                rows.append(row)
                same = "yes" if row.digest == rows[0].digest else "NO"
                print(
                    f"| {ranks} | {workers} | {row.seconds:.1f} | {row.input_mb / row.seconds:.2f} "
                    f"| {row.text_mb / row.seconds:.2f} | {row.cpu_seconds:.1f} "
                    f"| {row.worker_memory} | {row.main_memory} | {same} |",
                    flush=True,
                )
        if arguments.kills:
            digest = kill_and_resume(arguments, Path(name), rows[0].seconds)
            same = "the same bytes" if digest == rows[0].digest else "OTHER BYTES"
            print(f"after {arguments.kills} kills: {same}")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
