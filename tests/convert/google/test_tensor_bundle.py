"""TensorFlow's tensor bundles: bytes as TensorFlow writes them, parts and shards, every kind of damage."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pyarrow
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from megabert.common.errors import UserError
from megabert.convert.google.tensor_bundle import Bundle, snappy, write_bundle
from megabert.convert.google.tensor_bundle.entries import (
    CODES,
    BundleEntry,
    Header,
    ordered_signed,
    part_key,
)
from megabert.convert.google.tensor_bundle.table import read_sorted_table, table_bytes
from megabert.data.foreign.tfrecord import masked_crc32c
from megabert.data.tokenizers.protobuf import read_varint, varint

MAGIC = bytes.fromhex("57fb808b247547db")
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40).filter(
    lambda name: name[0] != "\0"
)
SHAPES = st.lists(st.integers(0, 5), max_size=4)
FEW = settings(max_examples=40, deadline=None)


def tensor_of(shape: list[int], dtype: torch.dtype, seed: int) -> Tensor:
    """A tensor of random bytes: every bit pattern, NaNs too."""
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.randint(2, shape, generator=generator).bool()
    size = torch.Size(shape).numel() * dtype.itemsize
    content = torch.randint(256, (size,), dtype=torch.uint8, generator=generator)
    return content.view(dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype)


def same(left: Tensor, right: Tensor) -> bool:
    """Equal in type, shape and every bit."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    return torch.equal(left.reshape(-1).view(torch.uint8), right.reshape(-1).view(torch.uint8))


def read_all(prefix: Path) -> dict[str, Tensor]:
    bundle = Bundle(prefix)
    return {name: bundle.read(name) for name in bundle.names}


def files(prefix: Path) -> tuple[Path, Path]:
    """Index and data file of a bundle of one shard."""
    return Path(f"{prefix}.index"), Path(f"{prefix}.data-00000-of-00001")


def hand_table(blocks: list[list[tuple[bytes, bytes]]], compress: bool = False) -> bytes:
    """A table written from the format's description, without shared beginnings of keys."""
    out = bytearray()

    def block(entries: list[tuple[bytes, bytes]]) -> bytes:
        content = bytearray()
        for key, value in entries:
            content += varint(0) + varint(len(key)) + varint(len(value)) + key + value
        content += struct.pack("<II", 0, 1)
        kind = b"\1" if compress else b"\0"
        stored = bytes(content)
        if compress:
            stored = pyarrow.compress(stored, codec="snappy", asbytes=True)
        place = varint(len(out)) + varint(len(stored))
        out.extend(stored + kind + struct.pack("<I", masked_crc32c(stored + kind)))
        return place

    index = [(entries[-1][0], block(entries)) for entries in blocks]
    footer = block([]) + block(index)
    return bytes(out) + footer.ljust(40, b"\0") + MAGIC


def write_by_hand(
    prefix: Path,
    shards: list[bytes],
    entries: dict[bytes, BundleEntry],
    header: Header | None = None,
) -> None:
    """A bundle of these data files and entries, whether they fit or not."""
    stored = [(b"", (header or Header(len(shards))).encoded())]
    stored += [(key, entry.encoded()) for key, entry in sorted(entries.items())]
    Path(f"{prefix}.index").write_bytes(
        hand_table([stored[i : i + 3] for i in range(0, len(stored), 3)])
    )
    for i, content in enumerate(shards):
        Path(f"{prefix}.data-{i:05d}-of-{len(shards):05d}").write_bytes(content)


def stored_in(shards: list[bytearray], shard: int, tensor: Tensor) -> BundleEntry:
    """Append a tensor to a data file; its entry."""
    content = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    entry = BundleEntry(
        CODES[tensor.dtype],
        tuple(tensor.shape),
        shard,
        len(shards[shard]),
        len(content),
        masked_crc32c(content),
    )
    shards[shard] += content
    return entry


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A bundle of three tensors."""
    prefix = tmp_path / "model.ckpt"
    generator = torch.Generator().manual_seed(0)
    write_bundle(
        prefix,
        {
            "dense/kernel": torch.randn(3, 2, generator=generator),
            "dense/bias": torch.randn(2, generator=generator).half(),
            "global_step": torch.tensor(1234),
        },
    )
    return prefix


def test_a_real_file_is_rewritten_byte_for_byte(shared_data: Path, tmp_path: Path) -> None:
    """What TensorFlow wrote and what is written here from its tensors are the same files."""
    source = shared_data / "checkpoints" / "google_tf_toy" / "bert_model.ckpt"
    tensors = read_all(source)
    assert len(tensors) == 139
    assert tensors["global_step"].item() == 20
    assert tensors["bert/encoder/layer_0/intermediate/dense/kernel"].shape == (4, 16)
    write_bundle(tmp_path / "again", tensors)
    for theirs, ours in zip(files(source), files(tmp_path / "again")):
        assert theirs.read_bytes() == ours.read_bytes()


@given(
    st.dictionaries(NAMES, st.tuples(SHAPES, st.sampled_from(sorted(CODES, key=str))), max_size=40)
)
@FEW
def test_written_and_read_back(
    tmp_path_factory: pytest.TempPathFactory, kinds: dict[str, tuple[list[int], torch.dtype]]
) -> None:
    """Any names, types and shapes, bit for bit."""
    tensors = {
        name: tensor_of(shape, dtype, seed)
        for seed, (name, (shape, dtype)) in enumerate(kinds.items())
    }
    prefix = tmp_path_factory.mktemp("bundle") / "x"
    write_bundle(prefix, tensors)
    bundle = Bundle(prefix)
    assert bundle.names == [key.decode() for key in sorted(name.encode() for name in tensors)]
    for name, tensor in tensors.items():
        assert bundle.shape(name) == tuple(tensor.shape)
        assert bundle.dtype(name) == tensor.dtype
        assert same(bundle.read(name), tensor), name


@pytest.mark.parametrize("name", ["", "\0part", "x" * 5000])
def test_a_name_that_no_bundle_can_hold(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot be stored"):
        write_bundle(tmp_path / "x", {name: torch.zeros(1)})


@given(
    st.dictionaries(
        st.text("ab/é\0", max_size=30).map(str.encode) | st.binary(max_size=6),
        st.binary(max_size=30),
        max_size=80,
    ),
    st.integers(1, 300),
)
@FEW
def test_tables_of_many_blocks(
    tmp_path_factory: pytest.TempPathFactory, entries: dict[bytes, bytes], block_bytes: int
) -> None:
    """Shared beginnings, restarts and shortened keys of the index, at any size of a block."""
    path = tmp_path_factory.mktemp("table") / "t.index"
    path.write_bytes(table_bytes(sorted(entries.items()), block_bytes))
    assert read_sorted_table(path) == sorted(entries.items())


def test_restarts_and_shared_beginnings() -> None:
    """One restart in 16 entries, and names that share their beginning are stored once."""
    names = [f"bert/encoder/layer_{i:02d}/attention/self/query/kernel".encode() for i in range(40)]
    table = table_bytes([(name, b"v") for name in names])
    index_at, _ = _footer_places(table)[1]
    block = table[: index_at - 5 - 8 - 5]  # without the trailers, and the meta block of 8 bytes
    restarts = struct.unpack("<4I", block[-16:])
    assert restarts[-1] == 3
    assert restarts[0] == 0
    for i, place in zip((0, 16, 32), restarts):
        assert block[place : place + 3] == bytes((0, len(names[i]), 1))
        assert block[place + 3 :].startswith(names[i])
    assert block.count(b"bert/encoder") == 3


def _footer_places(table: bytes) -> list[tuple[int, int]]:
    footer, at, places = table[-48:], 0, []
    for _ in range(2):
        offset, at = read_varint(footer, at)
        size, at = read_varint(footer, at)
        places.append((offset, size))
    return places


def test_compressed_tables_written_by_another_hand(tmp_path: Path) -> None:
    """Blocks as a merging TensorFlow compressed them."""
    entries = [(f"layer_{i:03d}".encode(), bytes([i]) * 50) for i in range(200)]
    path = tmp_path / "t.index"
    for compress in (False, True):
        path.write_bytes(hand_table([entries[:150], entries[150:]], compress))
        assert read_sorted_table(path) == entries
    assert path.stat().st_size < 8000


@given(
    st.binary(max_size=300)
    | st.lists(st.sampled_from([b"bert/", b"kernel", b"a", b"xy"]), max_size=300).map(b"".join)
)
@FEW
def test_snappy(data: bytes) -> None:
    """What another implementation compressed; cut off, it is refused."""
    packed = pyarrow.compress(data, codec="snappy", asbytes=True)
    assert snappy.decompress(packed) == data
    for size in range(len(packed)):
        with pytest.raises(ValueError):
            snappy.decompress(packed[:size])


@given(st.binary(min_size=1, max_size=60))
@settings(max_examples=300, deadline=None)
def test_snappy_takes_any_bytes(data: bytes) -> None:
    """Noise gives bytes or ``ValueError``, never more than it states."""
    try:
        size, _ = read_varint(data, 0)
        assert len(snappy.decompress(data)) == size <= 64 * len(data)
    except ValueError:
        pass


@pytest.mark.parametrize("element", ["f0ff", "fcffffffff41", "0100", "fe0500", "02"])
def test_snappy_elements_that_lie(element: str) -> None:
    """Literals past the end, copies from before the beginning, a length of a terabyte."""
    with pytest.raises(ValueError):
        snappy.decompress(varint(8) + bytes.fromhex(element))
    with pytest.raises(ValueError, match="cannot decode to"):
        snappy.decompress(varint(1 << 40) + bytes.fromhex(element))


def test_order_preserving_numbers() -> None:
    """The two examples of the format's description, and the order of the codes."""
    assert ordered_signed(0x424242).hex() == "f0424242"
    assert ordered_signed(-0x800).hex() == "3800"
    numbers = sorted(
        {sign * (1 << bits) + more for bits in range(63) for sign in (1, -1) for more in (-1, 0, 1)}
    )
    codes = [ordered_signed(number) for number in numbers]
    assert codes == sorted(codes)
    assert len(set(codes)) == len(codes)


def test_key_of_a_part() -> None:
    """As TensorFlow 2.21 names rows 3 to 5 of 5 columns, and zero and 255 in a name are escaped."""
    assert part_key(b"p/table", ((3, 3), (0, 5))).hex() == "00702f7461626c650001010283838085"
    assert part_key(b"a\0\xffb", ((0, -1),)).hex() == "006100ffff006200010101807f"


@given(st.data())
@FEW
def test_parts_over_many_shards(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Partitioned variables, cut anywhere along both axes and spread over data files."""
    prefix = tmp_path_factory.mktemp("parts") / "x"
    count = data.draw(st.integers(1, 4))
    shards = [bytearray() for _ in range(count)]
    entries, expected = {}, {}
    for number in range(data.draw(st.integers(1, 3))):
        name, rows, columns = (
            f"v{number}",
            data.draw(st.integers(1, 6)),
            data.draw(st.integers(1, 6)),
        )
        dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool]))
        whole = expected[name] = tensor_of([rows, columns], dtype, number)
        row_cuts = _cuts(data, rows)
        column_cuts = _cuts(data, columns)
        places = []
        for top, bottom in pairwise(row_cuts):
            for left, right in pairwise(column_cuts):
                across = (left, right - left) if len(column_cuts) > 2 else (0, -1)
                place = ((top, bottom - top), across)
                part = whole[top:bottom, left:right]
                shard = data.draw(st.integers(0, count - 1))
                entries[part_key(name.encode(), place)] = stored_in(shards, shard, part)
                places.append(place)
        entries[name.encode()] = BundleEntry(CODES[dtype], (rows, columns), parts=tuple(places))
    plain = expected["plain"] = tensor_of([4], torch.float16, 99)
    entries[b"plain"] = stored_in(shards, count - 1, plain)
    write_by_hand(prefix, [bytes(s) for s in shards], entries)
    bundle = Bundle(prefix)
    assert bundle.names == sorted(expected)
    assert bundle.shards == count
    assert all(same(bundle.read(name), tensor) for name, tensor in expected.items())


def _cuts(data: st.DataObject, size: int) -> list[int]:
    inner = data.draw(st.sets(st.integers(1, size - 1), max_size=3)) if size > 1 else set()
    return [0, *sorted(inner), size]


def test_every_flipped_bit_of_the_index(small: Path) -> None:
    index, _ = files(small)
    good = index.read_bytes()
    for place in range(len(good)):
        for bit in range(8):
            bad = bytearray(good)
            bad[place] ^= 1 << bit
            index.write_bytes(bad)
            with pytest.raises(UserError) as caught:
                Bundle(small)
            assert str(index) in str(caught.value)


def test_every_flipped_byte_of_the_data(small: Path) -> None:
    _, data = files(small)
    good = data.read_bytes()
    bundle = Bundle(small)
    owners = ["dense/bias"] * 4 + ["dense/kernel"] * 24 + ["global_step"] * 8
    assert len(owners) == len(good)
    for place, owner in enumerate(owners):
        bad = bytearray(good)
        bad[place] ^= 1 << place % 8
        data.write_bytes(bad)
        for name in bundle.names:
            if name == owner:
                with pytest.raises(UserError, match=f"damaged.*{owner}") as caught:
                    bundle.read(name)
                assert str(data) in str(caught.value)
            else:
                bundle.read(name)


def test_flipped_bytes_of_a_real_file(shared_data: Path, tmp_path: Path) -> None:
    """Of 100 random places in the index and in the data, none goes unseen."""
    source = shared_data / "checkpoints" / "google_tf_toy" / "bert_model.ckpt"
    chance = random.Random(4)
    for theirs, ours in zip(files(source), files(tmp_path / "x")):
        ours.write_bytes(theirs.read_bytes())
    for path in files(tmp_path / "x"):
        good = path.read_bytes()
        for place in sorted(chance.sample(range(len(good)), 50)):
            bad = bytearray(good)
            bad[place] ^= chance.randrange(1, 256)
            path.write_bytes(bad)
            with pytest.raises(UserError) as caught:
                read_all(tmp_path / "x")
            assert str(path) in str(caught.value)
        path.write_bytes(good)


def test_cut_off_anywhere(small: Path) -> None:
    for path in files(small):
        good = path.read_bytes()
        for size in range(len(good)):
            path.write_bytes(good[:size])
            with pytest.raises(UserError, match=r"truncated|damaged") as caught:
                Bundle(small)
            assert str(path) in str(caught.value)
        path.write_bytes(good)


def test_missing_files(small: Path) -> None:
    index, data = files(small)
    data.unlink()
    with pytest.raises(UserError, match=r"data-00000-of-00001 is missing"):
        Bundle(small)
    index.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        Bundle(small)


Lie = Callable[[dict[bytes, BundleEntry]], None]


def _change(**fields: object) -> Lie:
    def change(entries: dict[bytes, BundleEntry]) -> None:
        entries[b"a"] = replace(entries[b"a"], **fields)  # type: ignore[arg-type]

    return change


def _parts(*places: tuple[tuple[int, int], ...], shape: tuple[int, ...] = (4,)) -> Lie:
    """A variable ``whole`` whose parts are the tensors ``a`` and ``b`` under the keys of the places."""

    def change(entries: dict[bytes, BundleEntry]) -> None:
        stored = [entries.pop(b"a"), entries.pop(b"b")]
        for place, entry in zip(places, stored):
            entries[part_key(b"whole", place)] = entry
        entries[b"whole"] = BundleEntry(1, shape, parts=places)

    return change


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        (_change(size=1 << 40, shape=(1 << 38,)), "a ends at byte 1,099,511,627,776 of 16"),
        (_change(offset=1 << 62), "truncated: a ends at byte"),
        (_change(shape=(1 << 40,)), r"a has 8 bytes, but shape \[1099511627776\]"),
        (_change(shape=(1 << 40, 1 << 40, 0), size=0), "a cannot be read: .* too many elements"),
        (_change(shape=(1,) * 300, size=4), "a cannot be read: .* too many dimensions"),
        (_change(shard=1), "a is in data file 1 of 1"),
        (_change(offset=4), "b overlaps another tensor"),
        (_change(code=7), "a holds no numbers .*type 7"),
        (_change(code=2), "a has 8 bytes, but shape"),
        (_change(checksum=1), "damaged: the 8 bytes of a"),
        (_parts(((0, 2),), ((1, 2),)), "parts of whole overlap"),
        (_parts(((0, 2),), ((0, 2),)), "part of it occurs twice"),
        (_parts(((0, 2),), ((2, 3),)), "ends at row 5 of 4"),
        (_parts(((0, 2),), ((2, 1),)), "another type or shape"),
        (_parts(((0, 2),), ((2, 2),), ((0, 1),)), r"part \[\(0, 1\)\] is missing"),
        (_parts(((0, 2),), shape=(4,)), "parts of whole do not have its size"),
        (_parts(((0, 2),), ((2, 2),), shape=(1 << 40,)), "parts of whole do not have its size"),
        (_parts(((0, 2), (0, 1)), ((2, 2),)), "differ in their number of dimensions"),
    ],
)
def test_an_index_with_wrong_entries(tmp_path: Path, lie: Lie, message: str) -> None:
    """Right checksums around wrong statements: refused, and nothing of the stated size is made."""
    shards = [bytearray()]
    entries = {
        b"a": stored_in(shards, 0, torch.ones(2)),
        b"b": stored_in(shards, 0, torch.zeros(2)),
    }
    lie(entries)
    write_by_hand(tmp_path / "x", [bytes(shards[0])], entries)
    with pytest.raises(UserError, match=message):
        read_all(tmp_path / "x")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (Header(1, big_endian=True), "big-endian"),
        (Header(1, min_consumer=2), "reader of version 2"),
        (Header(2), "data-00000-of-00002 is missing"),
        (Header(0), "without data files"),
        (Header(1 << 40), "1,099,511,627,776 data files"),
    ],
)
def test_headers(tmp_path: Path, header: Header, message: str) -> None:
    shards = [bytearray()]
    write_by_hand(tmp_path / "x", [b"\0" * 8], {b"a": stored_in(shards, 0, torch.zeros(2))}, header)
    with pytest.raises(UserError, match=message):
        Bundle(tmp_path / "x")


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([[(b"b", b""), (b"a", b"")]], "a key beyond the last one"),
        ([[(b"b", b"")], [(b"a", b"")]], "not sorted"),
        ([[(b"a", b""), (b"a", b"")]], "not sorted"),
        ([[(b"a", b"")]], "no header"),
        ([], "no header"),
        ([[(b"", b"\x08\x01"), (b"a", b"\x0b")]], "a cannot be read"),
        ([[(b"", b"\x08\x01"), (b"\xfe", b"")]], r"\\xfe cannot be read"),
        ([[(b"a" * 5000, b"")]], "a name of 5,000 bytes"),
    ],
)
def test_tables_that_are_not_an_index(
    tmp_path: Path, blocks: list[list[tuple[bytes, bytes]]], message: str
) -> None:
    (tmp_path / "x.index").write_bytes(hand_table(blocks))
    with pytest.raises(UserError, match=message):
        Bundle(tmp_path / "x")
