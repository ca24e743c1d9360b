"""The file of a MindSpore checkpoint: what the protocol-buffer runtime writes, and damage."""

from __future__ import annotations

import mmap
import struct
import zlib
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from megabert.common.errors import UserError
from megabert.convert.mindspore import model as mindspore
from megabert.convert.mindspore.proto import read_parameters
from tests.helpers.mindspore_writer import CHECKPOINT, encode, one, write

CHECKSUM_BYTES = len(b"crc_num") + 10


def outcome(path: Path) -> tuple[dict[str, Tensor], str]:
    """All parameters of a file, or what is said against it."""
    try:
        return {name: found.tensor(path) for name, found in read_parameters(path).items()}, ""
    except UserError as error:
        return {}, str(error)


def test_other_files(tmp_path: Path) -> None:
    """Encrypted, empty, pickled, of another tool; sizes and types that lie."""
    path = tmp_path / "bert.ckpt"
    for content, words in (
        (struct.pack("<I", 0x7F3A5ED8) + b"secret" * 9, "encrypted"),
        (b"", "cannot be read"),
        (b"PK\x03\x04" + bytes(60), "not a complete MindSpore checkpoint"),
        (
            one("a", "Float32", [3], bytes(8)),
            r"a of shape \[3\] and type float32 has 8 bytes instead of 12",
        ),
        (one("a", "Float32", [2**62, 4], bytes(8)), "has 8 bytes instead of"),
        (one("a", "Float32", [0, 2**62], b""), "damaged"),
        (one("a", "Float32", [-1, -2], bytes(8)), "damaged"),
        (one("a", "QInt4x2", [2], bytes(8)), "type 'qint4x2'"),
        (one("a", "Float32", [2], bytes(8)) + one("a", "Float32", [3], bytes(12)), "occurs twice"),
        (one("a", "Float32", [2], bytes(8)) * 2, "has 16 bytes instead of 8"),
        (b"\x0a\x07\x0a\x01a\x1a\x02\x0a\x00", "a is not a tensor"),
        (b"\x0a\x02\x12\x00", "without a name"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=words) as caught:
            mindspore.read(path)
        assert "bert.ckpt" in str(caught.value)
    with pytest.raises(UserError, match=r"has no \*\.ckpt"):
        mindspore.read(tmp_path / "..")
    message = CHECKPOINT(model_type="normal").SerializeToString()
    path.write_bytes(one("a", "Int32", [0], bytes(4)) + message)  # a file of 2020
    assert read_parameters(path)["a"].tensor(path).shape == ()


ARRAYS = st.lists(
    st.tuples(
        st.text("abc._0", min_size=1, max_size=9),
        st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int32]),
        st.lists(st.integers(1, 4), max_size=3),
        st.integers(1, 4),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda made: made[0],
)


@settings(max_examples=40, deadline=None)
@given(arrays=ARRAYS, checksum=st.booleans(), packed=st.booleans(), seed=st.integers(0, 99))
def test_any_parameters(
    tmp_path_factory: pytest.TempPathFactory,
    arrays: list[tuple[str, torch.dtype, list[int], int]],
    checksum: bool,
    packed: bool,
    seed: int,
) -> None:
    """What the protocol-buffer runtime wrote is read back bit for bit, in pieces or whole."""
    generator = torch.Generator().manual_seed(seed)
    made = {
        name: (100 * torch.randn(shape, generator=generator)).to(dtype)
        for name, dtype, shape, _ in arrays
    }
    content = b"".join(encode(name, made[name], pieces) for name, _, _, pieces in arrays)
    if packed:  # all values in one message, as the first versions wrote them
        joined = CHECKPOINT.FromString(content)
        content = joined.SerializeToString()
    if checksum:
        content += b"crc_num" + zlib.crc32(content).to_bytes(10, "big")
    path = tmp_path_factory.mktemp("wire") / "a.ckpt"
    path.write_bytes(content)
    found = read_parameters(path)
    assert found.keys() == made.keys()
    for name, tensor in made.items():
        read = found[name].tensor(path)
        assert (read.dtype, read.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(read, tensor)


@settings(max_examples=60, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
@example(where=0.890625, bit=0, cut=True)  # the checksum alone is gone
def test_damage_is_found(
    tmp_path_factory: pytest.TempPathFactory, where: float, bit: int, cut: bool
) -> None:
    """With a checksum every flipped bit is found; a cut file is refused, or lacks whole parameters.

    A file cut where its checksum begins is a whole one without a checksum.
    """
    made = {f"w{i}": torch.arange(6.0) + i for i in range(3)}
    path = write(tmp_path_factory.mktemp("damage") / "a.ckpt", made, checksum=True)
    raw = bytearray(path.read_bytes())
    place, size = int(where * len(raw)), len(raw)
    if cut:
        raw = raw[:place]
    else:
        raw[place] ^= 1 << bit
    path.write_bytes(raw)
    found, said = outcome(path)
    if said:
        assert "a.ckpt" in said
        assert "\n" not in said
        return
    assert cut
    assert len(found) < len(made) or place == size - CHECKSUM_BYTES
    assert all(torch.equal(tensor, made[name]) for name, tensor in found.items())


def test_nothing_is_copied_that_is_not_asked_for(tmp_path: Path) -> None:
    """The parameters are views of one mapped file."""
    made = {f"w{i}": torch.zeros(100, 100) for i in range(3)}
    stored = read_parameters(write(tmp_path / "a.ckpt", made, pieces=4))
    pieces = [piece for parameter in stored.values() for piece in parameter.pieces]
    assert len(pieces) == 12
    assert len({id(piece.obj) for piece in pieces}) == 1
    assert isinstance(pieces[0].obj, mmap.mmap)
