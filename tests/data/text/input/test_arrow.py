"""Arrow files, and folders of the datasets library as it writes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest

from megabert.common.errors import UserError
from megabert.common.processes.isolated import IsolatedWorker
from megabert.data.text.input.arrow import messages, pages
from megabert.data.text.input.arrow.messages import answer_arrow
from megabert.data.text.input.arrow.pages import arrow_pieces, read_arrow_piece
from megabert.data.text.input.segments import arrow_segments, inspect_file
from megabert.data.text.input.sources import (
    datasets_in,
    detect_format,
    input_files,
    iter_pages,
    source_sha256,
)
from megabert.data.text.pages import Page
from megabert.data.text.reading import BAD_LINE, ReadingRules

datasets.disable_progress_bars()


def dataset(count: int = 250, first: int = 0) -> datasets.Dataset:
    numbers = range(first, first + count)
    columns = {
        "title": [f"T{n}" for n in numbers],
        "labels": [[n, n] for n in numbers],
        "text": [f"This is row {n}." for n in numbers],
    }
    return datasets.Dataset.from_dict(columns)


def table_file(
    path: Path, rows: int = 1000, *, stream: bool = True, packed: str | None = None
) -> Path:
    table = pa.table(
        {
            "kind": pa.array(["a", "b"] * (rows // 2)).dictionary_encode(),
            "text": [f"Hello {n}, and again {n}." for n in range(rows)],
        }
    ).select(["text"] if stream else ["kind", "text"])
    options = pa.ipc.IpcWriteOptions(compression=packed)
    writer = pa.ipc.new_stream if stream else pa.ipc.new_file
    with writer(path, table.schema, options=options) as out:
        out.write_table(table, max_chunksize=100)
    return path


def by_segments(paths: list[Path]) -> tuple[list[Page], int]:
    """The pages of all pieces, and the number of pieces."""
    found: list[Page] = []
    before = pieces = 0
    for path in paths:
        form = inspect_file(path)
        for segment in arrow_segments(form, before):
            found += segment.pages()
            pieces += 1
        before += form.rows
    return found, pieces


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "PIECE_BYTES", 1)
    monkeypatch.setattr(pages, "_worker", IsolatedWorker(answer_arrow))


@pytest.mark.usefixtures("small_pieces")
def test_shards_of_a_saved_dataset(tmp_path: Path) -> None:
    """Read whole or in pieces, rows are numbered over all shards."""
    dataset().save_to_disk(tmp_path / "saved", num_shards=3)
    found = list(iter_pages(tmp_path / "saved"))
    assert [(p.page_id, p.title, p.text) for p in found] == [
        (n + 1, f"T{n}", f"This is row {n}.") for n in range(250)
    ]
    files = input_files(tmp_path / "saved")
    assert [path.name for path in files] == [f"data-0000{n}-of-00003.arrow" for n in range(3)]
    assert by_segments(files)[0] == found
    assert detect_format(tmp_path / "saved") == "arrow"


def test_the_split_of_a_dict(tmp_path: Path) -> None:
    both = datasets.DatasetDict({"validation": dataset(3), "train": dataset(5, 100)})
    both.save_to_disk(tmp_path / "both")
    assert [p.title for p in iter_pages(tmp_path / "both")] == [f"T{n}" for n in range(100, 105)]
    rules = ReadingRules(split="validation")
    assert [p.title for p in iter_pages(tmp_path / "both", rules)] == ["T0", "T1", "T2"]
    [folder] = datasets_in(tmp_path / "both")
    assert folder.notice.endswith(
        "split train, 1 Arrow file; not read: validation (--split names another)"
    )
    with pytest.raises(
        UserError, match="no split 'dev'; choose one with --split: validation, train"
    ):
        input_files(tmp_path / "both", "dev")
    datasets.DatasetDict({"a": dataset(2), "b": dataset(3)}).save_to_disk(tmp_path / "ab")
    with pytest.raises(UserError, match="no split 'train'; choose one with --split: a, b"):
        input_files(tmp_path / "ab")
    datasets.DatasetDict({"only": dataset(2)}).save_to_disk(tmp_path / "one")
    assert len(list(iter_pages(tmp_path / "one"))) == 2


def test_datasets_next_to_other_files(tmp_path: Path) -> None:
    """A folder of both: each dataset at its place, its JSON files are not text."""
    (tmp_path / "a.txt").write_text("One line.\n")
    dataset(2).save_to_disk(tmp_path / "b")
    (tmp_path / "c.jsonl").write_text('{"text": "Last."}\n')
    assert [p.text for p in iter_pages(tmp_path)] == [
        "One line.", "This is row 0.", "This is row 1.", "Last.",
    ]  # fmt: skip
    assert len(source_sha256(tmp_path)) == 64


def test_the_cache_of_the_library(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text("".join(json.dumps({"text": f"Row {n}."}) + "\n" for n in range(9)))
    files = {"train": str(source), "test": str(source)}
    cache = tmp_path / "cache"
    loaded = datasets.load_dataset("json", data_files=files, cache_dir=str(cache))
    loaded["train"].map(lambda row: {"text": row["text"] * 2})  # which leaves a cache-*.arrow
    [folder] = datasets_in(cache)
    assert (folder.split, set(folder.splits)) == ("train", {"train", "test"})
    assert [p.text for p in iter_pages(cache)] == [f"Row {n}." for n in range(9)]
    assert list(cache.rglob("cache-*.arrow"))
    (folder.path / "json-train.arrow.incomplete").write_bytes(b"")
    with pytest.raises(UserError, match="an unfinished download of the datasets library"):
        input_files(cache)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("packed", [None, "zstd", "lz4"])
def test_bare_files(stream: bool, packed: str | None, tmp_path: Path) -> None:
    path = table_file(tmp_path / "a.arrow", stream=stream, packed=packed)
    found, pieces = by_segments([path])
    assert [p.text for p in found] == [f"Hello {n}, and again {n}." for n in range(1000)]
    assert pieces == 10
    assert found == list(iter_pages(path))
    path.rename(tmp_path / "renamed")
    assert detect_format(tmp_path / "renamed") == "arrow"


@pytest.mark.usefixtures("small_pieces")
def test_a_stream_with_dictionaries_is_one_piece(tmp_path: Path) -> None:
    table = pa.table({"text": pa.array(["one", "two"] * 50).dictionary_encode()})
    with pa.ipc.new_stream(tmp_path / "a.arrow", table.schema) as out:
        out.write_table(table, max_chunksize=10)
    found, pieces = by_segments([tmp_path / "a.arrow"])
    assert [p.text for p in found] == ["one", "two"] * 50
    assert pieces == 1


@pytest.mark.parametrize("stream", [True, False])
def test_damage(stream: bool, tmp_path: Path) -> None:
    path = table_file(tmp_path / "a.arrow", stream=stream)
    whole = path.read_bytes()
    for part in (b"", whole[:3], whole[:100], whole[: len(whole) // 2], whole[:-8], whole + b"x"):
        path.write_bytes(part)
        with pytest.raises(
            UserError, match=r"a\.arrow: damaged or not complete at record batch \d"
        ):
            list(iter_pages(path))
    if stream:
        table_file(path, packed="zstd")
        torn = bytearray(path.read_bytes())
        torn[3 * len(torn) // 4 : 3 * len(torn) // 4 + 200] = bytes(200)
        path.write_bytes(torn)
        with pytest.raises(UserError, match=r"a\.arrow: .*record batch [5-9]"):
            list(iter_pages(path))


def test_offsets_that_lead_outside(tmp_path: Path) -> None:
    """Numbers inside of a batch that Arrow would follow anywhere."""
    path = table_file(tmp_path / "a.arrow", rows=4)
    texts = pa.array([f"Hello {n}, and again {n}." for n in range(4)])
    content, offsets = path.read_bytes(), texts.buffers()[1].to_pybytes()
    assert content.count(offsets) == 1
    path.write_bytes(content.replace(offsets, offsets[:8] + b"\xff\xff\xff\x7f" + offsets[12:]))
    with pytest.raises(UserError, match=r"a\.arrow: damaged: record batch 0 cannot be read"):
        list(iter_pages(path))


def test_a_text_that_is_not_unicode_is_a_bad_line(tmp_path: Path) -> None:
    raw = pa.array([b"good", b"\xff\xfe", b"fine"], pa.binary())
    table = pa.table({"text": pa.Array.from_buffers(pa.string(), 3, raw.buffers())})
    with pa.ipc.new_file(tmp_path / "a", table.schema) as out:
        out.write_table(table)
    with pytest.raises(UserError, match="row 2 from record batch 0 on is not UTF-8"):
        list(iter_pages(tmp_path / "a"))
    [piece] = arrow_pieces(tmp_path / "a")
    found = read_arrow_piece(tmp_path / "a", piece, 0, ReadingRules(bad_lines="skip"))
    assert [p.model for p in found] == ["wikitext", BAD_LINE, "wikitext"]


def _state(folder: Path, **changes: Any) -> None:
    path = folder / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: _state(f, _data_files=None), "state.json lists no data files"),
        (lambda f: _state(f, _data_files=[{"filename": "../x"}]), "'../x' is not the name of a file"),
        (lambda f: _state(f, _indices_data_files=[{"filename": "i"}]), "flatten_indices"),
        (lambda f: next(f.glob("*.arrow")).unlink(), "data-00000-of-00001.arrow, which state.json"),
        (lambda f: (f / "state.json").write_text("[]"), "state.json"),
    ],
)  # fmt: skip
def test_folders_that_are_not_complete(
    change: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    dataset(2).save_to_disk(tmp_path / "saved")
    change(tmp_path / "saved")
    with pytest.raises(UserError, match=message) as caught:
        list(iter_pages(tmp_path / "saved"))
    assert "\n" not in str(caught.value)


def test_wrong_columns_and_no_rows(tmp_path: Path) -> None:
    dataset(2).save_to_disk(tmp_path / "saved")
    for field, message in (
        ("body", "Arrow has no field 'body' .it has 'title', 'labels', 'text'.*--text-field"),
        ("labels", "column 'labels' holds list<.*not strings"),
    ):
        with pytest.raises(UserError, match=message):
            list(iter_pages(tmp_path / "saved", ReadingRules(text_field=field)))
    dataset(0).save_to_disk(tmp_path / "empty")
    with pytest.raises(UserError, match="empty: the dataset holds no row"):
        list(iter_pages(tmp_path / "empty"))
