"""A sharding job whose other rank hangs ends, and says what there is of its result."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from megabert.common.names import MANIFEST
from tests.helpers.small_dump import write_dump, write_vocabulary

MPIRUN = Path(sys.executable).parent / "mpirun"
# the command, where rank 1 hangs instead of a message
HANGS = """
import runpy, sys, time
from megabert.data.prepare import mpi_ranks
mpi_ranks._STOP_TIMEOUT = mpi_ranks._START_TIMEOUT = 2.0
hangs = sys.argv.pop(1)
send = mpi_ranks.Ranks.send
def hang(self, rank, message):
    if message[0] == hangs:
        time.sleep(1000)
    send(self, rank, message)
mpi_ranks.Ranks.send = hang
sys.argv[0] = "data_tools/shard_wiki.py"
runpy.run_path(sys.argv[0], run_name="__main__")
"""

pytestmark = pytest.mark.skipif(
    not MPIRUN.is_file(), reason="no mpirun next to the interpreter: pip install 'megabert[mpi]'"
)


@pytest.mark.parametrize("whole", [True, False])
def test_a_rank_that_never_says_goodbye(root: Path, tmp_path: Path, whole: bool) -> None:
    dump = write_dump(tmp_path / "wiki.xml.bz2", count=60)
    vocabulary = write_vocabulary(tmp_path / "vocab.txt")
    output = tmp_path / "shards"
    given = dump if whole else tmp_path / "nowhere.bz2"
    flags = ["--input", str(given), "--tokenizer", str(vocabulary), "--output", str(output)]
    done = subprocess.run(
        [str(MPIRUN), "-n", "2", sys.executable, "-c", HANGS, "goodbye", *flags, "--workers", "1"],
        cwd=root, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "rank 1 on " in errors[0]
    assert " does not answer within 2 s; " in errors[0]
    assert done.returncode == (0 if whole else 2)
    assert (output / MANIFEST).is_file() == whole
    if whole:
        assert errors[0].endswith("the result is complete")
        assert "articles kept" in done.stdout
    else:
        assert errors[0].endswith("there is no result")
        assert "no such file" in errors[1]


def _on_two_ranks(
    root: Path, folder: Path, code: tuple[str, str], *, pages: int, seconds: int
) -> subprocess.CompletedProcess[str]:
    """Two ranks that run ``code`` (its text, and its argument) on a small dump, without a traceback."""
    dump = write_dump(folder / "wiki.xml.bz2", count=pages)
    vocabulary = write_vocabulary(folder / "vocab.txt")
    flags = [
        "--input",
        str(dump),
        "--tokenizer",
        str(vocabulary),
        "--output",
        str(folder / "shards"),
    ]
    done = subprocess.run(
        [str(MPIRUN), "-n", "2", sys.executable, "-c", *code, *flags, "--workers", "1"],
        cwd=root, capture_output=True, text=True, timeout=seconds, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize("kind", ["here", "ready"])
def test_a_rank_that_hangs_before_its_work(root: Path, tmp_path: Path, kind: str) -> None:
    output = tmp_path / "shards"
    done = _on_two_ranks(root, tmp_path, (HANGS, kind), pages=10, seconds=60)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    place = "rank 1" if kind == "here" else f"rank 1 on {socket.gethostname()}"
    assert errors[0].startswith(f"error: {place} does not get {kind} within 2 s: it hangs, or ")
    assert done.returncode == 1
    assert not (output / MANIFEST).exists()


# the command, where a rank is asked to stop before a message
ASKED = """
import os, runpy, signal, sys
from megabert.data.prepare import mpi_ranks
asked = sys.argv.pop(1)
send = mpi_ranks.Ranks.send
def ask(self, rank, message):
    if message[0] == asked:
        os.kill(os.getpid(), signal.SIGTERM)
    send(self, rank, message)
mpi_ranks.Ranks.send = ask
sys.argv[0] = "data_tools/shard_wiki.py"
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    "before",
    ["all here", "ready"]
    + [pytest.param(kind, marks=pytest.mark.slow) for kind in ("here", "result")],
)
def test_one_rank_is_asked_to_stop(root: Path, tmp_path: Path, before: str) -> None:
    done = _on_two_ranks(root, tmp_path, (ASKED, before), pages=60, seconds=30)
    assert done.returncode
    assert "does not" not in done.stderr
    assert not (tmp_path / "shards").exists()
