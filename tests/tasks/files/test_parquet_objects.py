"""Rows of Parquet files of tasks: their objects, and how much memory they may take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megabert.common.errors import UserError
from megabert.common.processes.isolated import IsolatedFault
from megabert.tasks.files import parquet_objects
from megabert.tasks.files.json_lines import read_json_lines


def test_columns_of_parquet(tmp_path: Path) -> None:
    """What JSON has values for, nested too; the rest is left out, two columns of one name are refused."""
    path = tmp_path / "train.parquet"
    columns = {
        "text": pa.array(["a", "b"]).dictionary_encode(),
        "answers": [{"text": ["x"], "start": [1]}, {"text": [], "start": None}],
        "score": [0.5, float("nan")],
        "when": pa.array([1, 2], pa.timestamp("s")),
        "parts": [[b"x"], []],
    }
    pq.write_table(pa.table(columns), path, row_group_size=1)
    rows = [row for _, row in read_json_lines(path)]
    assert repr(rows) == repr([
        {"text": "a", "answers": {"text": ["x"], "start": [1]}, "score": 0.5},
        {"text": "b", "answers": {"text": [], "start": None}, "score": float("nan")},
    ])  # fmt: skip
    pq.write_table(pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), path)
    with pytest.raises(UserError, match="two columns are named 'a'"):
        list(read_json_lines(path))


def test_rows_of_parquet_after_the_process_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, asked = tmp_path / "train.parquet", 0
    pq.write_table(pa.table({"n": list(range(200))}), path, row_group_size=70)
    ask = parquet_objects._worker.ask

    def lossy(request: bytes) -> bytes:
        nonlocal asked
        asked += 1
        if asked in (3, 12):
            parquet_objects._worker._end()
            raise IsolatedFault("lost")
        return ask(request)

    monkeypatch.setattr(parquet_objects._worker, "ask", lossy)
    rows = read_json_lines(path)
    assert [next(rows) for _ in range(72)] == [(n + 1, {"n": n}) for n in range(72)]
    with pytest.raises(UserError, match="row 73 cannot be read: it is damaged, or its page"):
        next(rows)


@pytest.mark.slow
def test_a_dictionary_of_parquet_takes_little_memory(tmp_path: Path) -> None:
    """60 rows of 60 MB are one entry of the dictionary: 8 kB."""
    code = (
        "import sys, resource; from pathlib import Path\n"
        "from megabert.tasks.files.json_lines import read_json_lines\n"
        "sizes = [len(row['text']) for _, row in read_json_lines(Path(sys.argv[1]))]\n"
        "print(len(sizes), sizes[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    path = tmp_path / "a.parquet"
    texts = pa.DictionaryArray.from_arrays([0] * 60, ["x" * 60_000_000])
    pq.write_table(pa.table({"text": texts}), path, compression="zstd")
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    count, size, peak = map(int, done.stdout.split())
    assert (count, size) == (60, 60_000_000)
    assert peak < 1 << 20, f"{peak} KiB"
