"""Zstandard streams: several frames, tar archives inside, and damage that is named."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest

from megabert.common.errors import UserError
from megabert.data.text.input.sources import iter_pages
from megabert.data.text.input.streams import packing


def packed(content: bytes) -> bytes:
    target = pa.BufferOutputStream()
    with pa.CompressedOutputStream(target, "zstd") as out:
        out.write(content)
    return target.getvalue().to_pybytes()


def lines(first: int, count: int) -> bytes:
    rows = ({"text": f"Row {n} of {n * n}."} for n in range(first, first + count))
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_frames_and_archives(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(packed(lines(0, 9000)) + packed(lines(9000, 10)))
    assert [p.text for p in iter_pages(path)] == [f"Row {n} of {n * n}." for n in range(9010)]
    assert packing(path) == ("zst",)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(path, "a.jsonl.zst")
    (tmp_path / "a.tar.zst").write_bytes(packed((tmp_path / "a.tar").read_bytes()))
    assert len(list(iter_pages(tmp_path / "a.tar.zst"))) == 9010
    (tmp_path / "a.csv.zst").write_bytes(packed(b"id,text\n1,One.\n2,Two.\n"))
    assert [p.text for p in iter_pages(tmp_path / "a.csv.zst")] == ["One.", "Two."]


@pytest.mark.parametrize("end", [b"garbage!", bytes(8), None])
def test_damage(end: bytes | None, tmp_path: Path) -> None:
    whole = packed(lines(0, 9000))
    (tmp_path / "a.zst").write_bytes(whole[: len(whole) // 2] if end is None else whole + end)
    with pytest.raises(
        UserError,
        match=r"a\.zst: damaged or truncated zst data .* at compressed byte [\d,]+; fetch",
    ):
        list(iter_pages(tmp_path / "a.zst"))
