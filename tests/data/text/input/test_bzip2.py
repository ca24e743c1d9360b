"""bzip2 by blocks, and dumps by segments: the same as read from one end to the other, or an error."""

from __future__ import annotations

import bz2
import random
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megabert.common.errors import UserError
from megabert.data.text.input import bzip2
from megabert.data.text.input.bzip2 import BlockFile, find_blocks
from megabert.data.text.input.bzip2_marks import BLOCK_MAGIC, OVERLAP, Marks, find_marks
from megabert.data.text.input.segment_xml import segment_xml
from megabert.data.text.input.segments import (
    Segment,
    block_segments,
    byte_segments,
    inspect_file,
)
from megabert.data.text.input.sources import iter_pages
from megabert.data.text.input.streams import DecompressedFile, buffered
from megabert.data.text.pages import Page
from tests.helpers.small_dump import pages_xml, write_dump

quick = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

texts = st.one_of(
    st.binary(max_size=3000),
    st.builds(
        lambda seed, n: random.Random(seed).randbytes(n), st.integers(0, 99), st.just(250_000)
    ),
    st.builds(lambda unit, n: unit * n, st.binary(min_size=1, max_size=9), st.integers(0, 40_000)),
)
files = st.lists(st.tuples(texts, st.integers(1, 9)), min_size=1, max_size=4)


def marks_of(content: bytes, piece: int) -> Marks:
    """The marks of a file that is looked through in pieces."""
    starts = range(0, len(content), piece)
    return Marks.joined(
        [
            find_marks(content[i : i + piece + OVERLAP], i, min(piece, len(content) - i))
            for i in starts
        ]
    )


def by_blocks(path: Path, piece: int = 1 << 20) -> bytes:
    with BlockFile(path) as source:
        blocks = find_blocks(marks_of(path.read_bytes(), piece), source)
        try:
            return b"".join(source.decode(*block) for block in blocks.tolist())
        except OSError as error:
            raise UserError(f"{path}: {error}") from None


def in_one_piece(path: Path) -> bytes:
    with path.open("rb") as file:
        return buffered(DecompressedFile(file, "bz2", str(path))).read()


def packed(streams: list[tuple[bytes, int]]) -> bytes:
    return b"".join(bz2.compress(text, level) for text, level in streams)


@quick
@given(files, st.integers(1, 12), st.integers(0, 20))
def test_any_file(tmp_path: Path, streams: list, pieces: int, padding: int) -> None:
    path = tmp_path / "a.bz2"
    content = packed(streams) + bytes(padding)
    path.write_bytes(content)
    assert by_blocks(path, 1 + len(content) // pieces) == b"".join(text for text, _ in streams)


@quick
@given(files, st.floats(0, 1, exclude_max=True))
def test_every_cut_is_found(tmp_path: Path, streams: list, place: float) -> None:
    path = tmp_path / "a.bz2"
    whole = packed(streams)
    path.write_bytes(whole[: 4 + int(place * (len(whole) - 4))])
    try:
        expected = in_one_piece(path)
    except UserError as error:
        with pytest.raises(UserError, match=re.escape(str(error))):
            by_blocks(path)
    else:  # cut between two streams
        assert by_blocks(path) == expected


@quick
@given(files, st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=3))
def test_every_flip_is_found(tmp_path: Path, streams: list, places: list[float]) -> None:
    path = tmp_path / "a.bz2"
    content = bytearray(packed(streams))
    for place in places:
        bit = 32 + int(place * 8 * (len(content) - 4))
        content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(content))
    try:
        expected = in_one_piece(path)
    except UserError:
        with pytest.raises(UserError) as caught:
            by_blocks(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
    else:  # padding bits, and bits that were flipped back
        assert by_blocks(path) == expected


@pytest.mark.parametrize("shift", range(8))
def test_marks_at_every_bit(shift: int) -> None:
    number = (BLOCK_MAGIC << 32 | 0xDEADBEEF) << (16 - shift)
    content = b"\xa5" * 1001 + number.to_bytes(13, "big") + b"\x5a" * 50
    for piece in (1000, 1001, 1002, 1005, 5000):
        marks = marks_of(content, piece)
        assert marks.bits.tolist() == [8 * 1002 + shift]
        assert marks.checksum.tolist() == [0xDEADBEEF]
        assert marks.trailer.tolist() == [False]


def test_a_chance_magic_number_is_found_out(tmp_path: Path) -> None:
    """Marks that lie inside of blocks are added by hand, since none can be compressed at will."""
    path = tmp_path / "a.bz2"
    text = random.Random(1).randbytes(500_000)
    path.write_bytes(bz2.compress(text, 1) + bz2.compress(b"more") + bz2.compress(text, 2))
    true = find_marks(path.read_bytes())
    with BlockFile(path) as source:
        expected = find_blocks(true, source)
    for trailer in (False, True):
        draw = random.Random(trailer)
        false = [draw.randrange(40, 8 * 500_000) for _ in range(2)]
        bits = np.concatenate([true.bits, np.array(false)])
        order = np.argsort(bits)
        marks = Marks(
            bits[order],
            np.concatenate([true.trailer, [trailer, trailer]])[order],
            np.concatenate([true.checksum, np.array([1, 2], np.uint32)])[order],
            np.concatenate([true.following, np.array([0, 0], np.uint32)])[order],
        )
        with BlockFile(path) as source:
            assert find_blocks(marks, source).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[:-3], "truncated: it ends at compressed byte"),
        (lambda b: b[:6], "truncated"),
        (lambda b: b + b"junk", "not a bz2 stream at compressed byte"),
        (lambda b: b + b"\0\0x", "not a bz2 stream"),
        (lambda b: b + b"BZh9junkjunkjunk", "neither a block nor the end"),
        (lambda b: b[:3] + b"0" + b[4:], "damaged bz2 data"),
        (lambda b: b[:-2] + b"xy", "the checksum of the stream is wrong"),
        (lambda b: b[:10] + b"\0\0\0\0" + b[14:], "damaged bz2 data"),
        (lambda b: b"x" + b, "not a bz2 stream at compressed byte 0"),
    ],
)
def test_kinds_of_damage(tmp_path: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "a.bz2"
    path.write_bytes(change(bz2.compress(b"text" * 100)))
    with pytest.raises(UserError, match=message) as caught:
        by_blocks(path)
    assert str(path) in str(caught.value)


def test_most_damage_needs_no_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the checksums fit, and where a file is cut off, no block is decoded in the scan."""
    path = tmp_path / "a.bz2"
    content = bz2.compress(random.Random(1).randbytes(600_000), 1)
    path.write_bytes(content)
    monkeypatch.setattr(bzip2.BlockFile, "decode", None)
    with BlockFile(path) as source:
        assert len(find_blocks(find_marks(content), source)) > 3
    path.write_bytes(content[:300_000])
    with BlockFile(path) as source, pytest.raises(UserError, match="truncated"):
        find_blocks(find_marks(content[:300_000]), source)


# --- segments of a dump ----------------------------------------------------------------------


def segments_of(path: Path, size: int) -> list[Segment]:
    form = inspect_file(path)
    if form.kind == "bytes":
        return list(byte_segments(form, size))
    assert form.kind == "blocks"
    with BlockFile(path) as source:
        blocks = find_blocks(find_marks(path.read_bytes()), source)
    table = path.with_name(f"{path.name}.npy")
    np.save(table, blocks)
    return list(block_segments(form, table, blocks, size))


def by_segments(path: Path, size: int) -> Iterator[Page]:
    for segment in segments_of(path, size):
        yield from segment.pages()


@quick
@given(st.integers(1, 6), st.integers(30, 900), st.integers(1, 3000), st.booleans())
def test_segments_of_any_size(
    tmp_path: Path, count: int, stream_bytes: int, size: int, is_packed: bool
) -> None:
    path = write_dump(tmp_path / "d", count, stream_bytes=stream_bytes)
    expected = list(iter_pages(path))
    if not is_packed:
        path.write_bytes(in_one_piece(path))
    assert list(by_segments(path, size)) == expected


@quick
@given(st.binary(max_size=30), st.lists(st.integers(1, 9), max_size=40), st.integers(0, 40))
def test_a_tag_across_any_border(noise: bytes, sizes: list[int], owned: int) -> None:
    """``segment_xml`` gives each tag to one segment, however the pieces are cut."""
    text = (
        b"<head/>" + noise.replace(b"<", b"") + b"<page>1</page><pages/><page >2</page></mediawiki>"
    )
    owned = min(owned, len(text))

    def pieces(part: bytes) -> Iterator[bytes]:
        at = 0
        for size in sizes:
            yield part[at : at + size]
            at += size
        yield part[at:]

    first = b"".join(segment_xml(pieces(text[:owned]), pieces(text[owned:]), whole=True))
    rest = b"".join(segment_xml(pieces(text[owned:]), [], whole=False))
    first = first.removesuffix(b"</mediawiki>")
    rest = rest.removeprefix(b"<mediawiki>")
    assert (first + rest).removesuffix(b"</mediawiki>") == text.removesuffix(b"</mediawiki>")


HEAD = b'<mediawiki xml:lang="en"><siteinfo><namespaces/></siteinfo>'


def test_pages_without_a_number(tmp_path: Path) -> None:
    path = tmp_path / "d.xml"
    page = b"<page><title>A</title><ns>0</ns><revision><text>t</text></revision></page>"
    path.write_bytes(HEAD + 4 * page + b"</mediawiki>")
    assert [p.page_id for p in iter_pages(path)] == [1, 2, 3, 4]
    size = len(HEAD) + 2 * len(page)
    assert [p.page_id for p in by_segments(path, size)] == [1, 2, 2**32 + 1, 2**32 + 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[: len(x) // 2], "the XML is truncated: it ends at .*, without </med"),
        (lambda x: x.replace(b"</mediawiki>", b""), "truncated"),
        (lambda x: x.replace(b"</title>", b"</titel>"), "not well-formed XML at .*mismatched tag"),
        (lambda x: x.replace(b"</page><page>", b"<page>", 3), "not well-formed"),
        (lambda x: x.replace(b"</mediawiki>", b"</mediawiki><x/>"), "junk after"),
        (lambda x: x.replace(b"</page>", b"</page><![CDATA[<page>]]>"), "a CDATA section"),
        (lambda x: x.replace(b"</page>", b"</page><!-- <page> -->"), "a comment|truncated"),
        (lambda x: b"<!DOCTYPE mediawiki>" + x, "document type"),
    ],
)
@pytest.mark.parametrize("size", [300, 5000, 10**9])
@pytest.mark.parametrize("is_packed", [False, True])
def test_wrong_xml_is_found_in_segments(  # type: ignore[no-untyped-def]
    tmp_path: Path, change, message: str, size: int, is_packed: bool
) -> None:
    path = tmp_path / "d.xml"
    xml = change(HEAD + pages_xml(12).encode() + b"</mediawiki>")
    if is_packed:
        xml = b"".join(bz2.compress(xml[i : i + 1000]) for i in range(0, len(xml), 1000))
    path.write_bytes(xml)
    with pytest.raises(UserError, match=message) as caught:
        list(by_segments(path, size))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damage_inside_a_block_is_named(tmp_path: Path) -> None:
    path = write_dump(tmp_path / "d.xml.bz2", 30, stream_bytes=20_000)
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 4
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"damaged bz2 data .* at compressed byte [\d,]+;"):
        list(by_segments(path, 2000))


def test_the_real_dumps_in_segments(shared_data: Path, tmp_path: Path) -> None:
    """As published (one stream), as many streams, and unpacked."""
    for path in sorted((shared_data / "wiki_xml").glob("*.bz2")):
        expected = list(iter_pages(path))
        xml = bz2.decompress(path.read_bytes())
        (tmp_path / "d.xml").write_bytes(xml)
        (tmp_path / "one.bz2").symlink_to(path)
        step = 1 + len(xml) // 30
        many = b"".join(bz2.compress(xml[i : i + step], 1) for i in range(0, len(xml), step))
        (tmp_path / "many.bz2").write_bytes(many)
        for name in ("d.xml", "one.bz2", "many.bz2"):
            for size in (10_000, 99_991, 10**7) if len(xml) < 3e6 else (300_000, 10**7):
                assert list(by_segments(tmp_path / name, size)) == expected, (path, name, size)
        (tmp_path / "one.bz2").unlink()
