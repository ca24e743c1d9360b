"""The sharding job under mpirun: the same bytes for any number of ranks and workers."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megabert.common.names import MANIFEST
from megabert.data.prepare.mpi_ranks import launched_ranks
from tests.helpers.small_dump import write_dump, write_vocabulary

TOOL = "data_tools/shard_wiki.py"
MPIRUN = Path(sys.executable).parent / "mpirun"

pytestmark = pytest.mark.skipif(
    not MPIRUN.is_file(), reason="no mpirun next to the interpreter: pip install 'megabert[mpi]'"
)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Flags that name a small dump and its vocabulary."""
    folder = tmp_path_factory.mktemp("sources")
    dump = write_dump(folder / "wiki.xml.bz2", count=2500)
    vocabulary = write_vocabulary(folder / "vocab.txt")
    flags = ["--shards", "3", "--deduplicate", "near"]
    return ["--input", str(dump), "--tokenizer", str(vocabulary), *flags]


@pytest.fixture(scope="module")
def real_sources(shared_data: Path) -> list[str]:
    """The longer English dump and the Latgalian one."""
    dumps = sorted((shared_data / "wiki_xml").glob("*pages-articles*.bz2"))
    vocabulary = shared_data / "vocab" / "bert-base-uncased-vocab.txt"
    return ["--input", *map(str, dumps), "--tokenizer", str(vocabulary), "--shards", "5"]


def command(ranks: int, flags: list[str], output: Path, *more: str) -> list[str]:
    start = [str(MPIRUN), "-n", str(ranks)] if ranks > 1 else []
    return [*start, sys.executable, TOOL, *flags, "--output", str(output), *more]


def run(
    root: Path, ranks: int, flags: list[str], output: Path, *more: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(ranks, flags, output, *more), cwd=root, capture_output=True, text=True, timeout=170
    )


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def processes_of(output: Path) -> list[int]:
    """The main processes and workers of a job, by the output they were given."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        helper = any(b"resource_tracker" in word for word in words)
        if words[0].endswith(b"python") and not helper:
            found.append((int(entry.name), parent, os.fsencode(output) in words))
    mains = {process for process, _, named in found if named}
    return [process for process, parent, _ in found if process in mains or parent in mains]


def kill_at_random(
    root: Path, flags: list[str], output: Path, draw: random.Random, after: float
) -> bool:
    """Start three ranks of one worker, kill one process of them, and see that all end.

    Returns whether it was killed before its work was done.
    """
    job = subprocess.Popen(
        command(3, flags, output, "--workers", "1", "--resume"),
        cwd=root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not (output / ".sharding").is_dir() and job.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(after)
    running = processes_of(output)
    if job.poll() is None and running:
        os.kill(draw.choice(running), signal.SIGKILL)
    status = job.wait(60)
    assert status != 0 or (output / MANIFEST).is_file()
    while processes_of(output):
        assert time.monotonic() < deadline + 60, "processes of the job are left"
        time.sleep(0.05)
    return status != 0


def test_two_ranks_give_the_bytes_of_one(root: Path, sources: list[str], tmp_path: Path) -> None:
    alone = run(root, 1, sources, tmp_path / "alone", "--workers", "1")
    assert alone.returncode == 0, alone.stderr
    both = run(root, 2, sources, tmp_path / "both", "--workers", "2")
    assert both.returncode == 0, both.stderr
    assert both.stdout.count("articles kept") == 1
    assert "in each of 4 workers" in both.stdout
    assert contents(tmp_path / "both") == contents(tmp_path / "alone")


def test_a_wrong_input_is_one_line_of_one_rank(
    root: Path, sources: list[str], tmp_path: Path
) -> None:
    flags = ["--input", str(tmp_path / "nowhere.bz2"), *sources[2:]]
    wrong = run(root, 2, flags, tmp_path / "shards", "--workers", "1")
    lines = [line for line in wrong.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert "no such file" in lines[0]
    assert wrong.returncode == 2
    assert not (tmp_path / "shards").exists()


def test_a_killed_process_ends_the_job_and_resume_completes_it(
    root: Path, sources: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "shards"
    assert kill_at_random(root, sources, output, random.Random(0), 0.1)
    done = run(root, 2, sources, output, "--workers", "1", "--resume")
    assert done.returncode == 0, done.stderr
    assert run(root, 1, sources, tmp_path / "alone", "--workers", "1").returncode == 0
    assert contents(output) == contents(tmp_path / "alone")


def test_ranks_of_each_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    assert launched_ranks() == 1
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"):
        with monkeypatch.context() as inside:
            inside.setenv(name, "4")
            assert launched_ranks() == 4


def test_a_launcher_without_mpi4py_is_named(root: Path, sources: list[str], tmp_path: Path) -> None:
    (tmp_path / "mpi4py.py").write_text("raise ImportError('no mpi4py here')\n")
    environment = os.environ | {"PMI_SIZE": "2", "PYTHONPATH": f"{tmp_path}:{root}"}
    wrong = subprocess.run(
        command(1, sources, tmp_path / "shards"),
        cwd=root, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert wrong.returncode == 2
    assert "megabert[mpi]" in wrong.stderr
    assert len(wrong.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_any_ranks_and_workers_on_real_dumps(
    root: Path, real_sources: list[str], tmp_path: Path
) -> None:
    expected = None
    for ranks in (1, 2, 4):
        for workers in (1, 2, 4):
            output = tmp_path / f"{ranks}-{workers}"
            done = run(root, ranks, real_sources, output, "--workers", str(workers))
            assert done.returncode == 0, done.stderr
            expected = expected or contents(output)
            assert contents(output) == expected


@pytest.mark.slow
def test_three_kills_on_real_dumps(root: Path, real_sources: list[str], tmp_path: Path) -> None:
    draw = random.Random(int.from_bytes(os.urandom(4), "big"))
    output = tmp_path / "shards"
    for _ in range(3):
        kill_at_random(root, real_sources, output, draw, draw.uniform(0.2, 2.5))
    done = run(root, 2, real_sources, output, "--workers", "2", "--resume")
    assert done.returncode == 0, done.stderr
    assert run(root, 1, real_sources, tmp_path / "alone").returncode == 0
    assert contents(output) == contents(tmp_path / "alone")
