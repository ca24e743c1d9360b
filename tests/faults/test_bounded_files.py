"""Files of runs and tokenizers that are far too large, or pipes: one line, little memory, no waiting."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from megabert.common.errors import UserError
from megabert.common.files import limited_lines, read_limited
from megabert.common.processes.locks import FolderLock, lock_inside
from megabert.data.text.input.sources import input_files
from megabert.data.tokenizers.load import load_tokenizer
from megabert.engine.metrics.writer import MetricsWriter
from tests.helpers.planted import called


def _huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 12 << 30)


FAULTS = [(_huge, "more than"), (os.mkfifo, "is a pipe, it is not a regular file")]
by_fault = pytest.mark.parametrize(("make", "message"), FAULTS, ids=["huge", "pipe"])
Make = Callable[[Path], None]


@by_fault
@pytest.mark.parametrize("name", ["vocab.txt", "spiece.model", "tokenizer.json"])
def test_tokenizers(name: str, make: Make, message: str, tmp_path: Path) -> None:
    make(tmp_path / name)
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path / name)


@by_fault
def test_metrics(make: Make, message: str, tmp_path: Path) -> None:
    make(tmp_path / "metrics.jsonl")
    assert message in called("launch/report.py", tmp_path).one_line(2)
    with pytest.raises(UserError, match=message):
        MetricsWriter(tmp_path, enabled=True, resumed_step=1)
    assert not (tmp_path / "metrics.jsonl.tmp").exists()


@by_fault
def test_locks(make: Make, message: str, tmp_path: Path) -> None:
    make(lock_inside(tmp_path))
    with pytest.raises(UserError, match=message):
        FolderLock(lock_inside(tmp_path), tmp_path).take()
    assert lock_inside(tmp_path).exists()


def test_metrics_are_cut_line_by_line(tmp_path: Path) -> None:
    lines = [json.dumps({"step": step, "loss": 1.0}) + "\n" for step in range(5)]
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(lines) + '{"step": 2, "lo')
    MetricsWriter(tmp_path, enabled=True, resumed_step=2).close()
    assert metrics.read_text() == "".join(lines[:3])


def test_limits(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a\n" + b"b" * (1 << 20))
    assert sum(map(len, limited_lines(path))) == 2 + (1 << 20)
    path.write_bytes(b"a\n" + b"b" * (1 << 20) + b"\n")
    with pytest.raises(UserError, match="line 2 has more than 1 MiB"):
        list(limited_lines(path))
    assert len(read_limited(path, path.stat().st_size, "a test")) == path.stat().st_size


def test_a_pipe_of_text(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "dump")
    with pytest.raises(UserError, match="dump is a pipe, it is not a regular file"):
        input_files(tmp_path / "dump")
