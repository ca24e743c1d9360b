"""HDF5 files that name other files or programs: refused in one line, and the other file is not read."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from megabert.data.foreign.hdf5 import Hdf5File
from megabert.data.foreign.static import ForeignShardError, StaticSample
from megabert.data.shards import layout
from megabert.data.shards.manifest import ShardError
from megabert.data.shards.plain_hdf5 import Hdf5Refused, require_own_data, require_own_links
from megabert.data.shards.reader import ShardFile
from tests.helpers.foreign_shards import random_samples, write_fixed, write_variable

SAMPLES = [
    StaticSample(np.array([2, 7, 8, 3]), np.zeros(4, np.int64), np.array([1]), np.array([9]), 0)
] * 5
WIDTH = 8


def _move_out(path: Path, name: str) -> tuple[Path, np.ndarray]:
    """Take a dataset out of a file, and put it into one of its own; that file, and the values."""
    secret = path.with_name("secret.h5")
    with h5py.File(path, "r+") as file:
        values = file[name][()]
        del file[name]
    with h5py.File(secret, "w") as file:
        file["x"] = values
    return secret, values


def external_link(path: Path) -> None:
    secret, _ = _move_out(path, "input_ids")
    with h5py.File(path, "r+") as file:
        file["input_ids"] = h5py.ExternalLink(str(secret), "/x")


def soft_link(path: Path) -> None:
    """A soft link to an external link deeper in the file."""
    secret, _ = _move_out(path, "input_ids")
    with h5py.File(path, "r+") as file:
        file.create_group("g")["y"] = h5py.ExternalLink(str(secret), "/x")
        file["input_ids"] = h5py.SoftLink("/g/y")


def unused_link(path: Path) -> None:
    """Under a name that no sample needs."""
    with h5py.File(path, "r+") as file:
        file["packed_input_len"] = h5py.ExternalLink("/etc/passwd", "/x")


def virtual(path: Path) -> None:
    secret, values = _move_out(path, "input_ids")
    with h5py.File(path, "r+") as file:
        table = h5py.VirtualLayout(values.shape, values.dtype)
        table[:] = h5py.VirtualSource(secret, "x", values.shape)
        file.create_virtual_dataset("input_ids", table)


def external_storage(path: Path) -> None:
    _, values = _move_out(path, "input_ids")
    raw = path.with_name("raw.bin")
    raw.write_bytes(values.tobytes())
    with h5py.File(path, "r+") as file:
        place = [(str(raw), 0, values.nbytes)]
        file.create_dataset("input_ids", values.shape, values.dtype, external=place)


def strange_filter(path: Path) -> None:
    """A filter that no library here has: HDF5 would look for a program in its folder of plug-ins."""
    _, values = _move_out(path, "input_ids")
    with h5py.File(path, "r+") as file:
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_chunk(values.shape)
        creation.set_filter(305, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple(values.shape)
        kind = h5py.h5t.py_create(values.dtype)
        h5py.h5d.create(file.id, b"input_ids", kind, space, creation)


TRICKS: dict[Callable[[Path], None], str] = {
    external_link: "'input_ids' is a link to another file",
    soft_link: "'input_ids' is a soft link",
    unused_link: "'packed_input_len' is a link to another file",
    virtual: "'input_ids' is a virtual dataset",
    external_storage: "'input_ids' is stored in other files",
    strange_filter: "'input_ids' needs the filter 305 of a plug-in",
}


@pytest.mark.parametrize(("trick", "words"), TRICKS.items(), ids=[t.__name__ for t in TRICKS])
def test_foreign_shards(trick: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    path = write_fixed(tmp_path / "shard.hdf5", SAMPLES, WIDTH)
    assert Hdf5File(path).samples == 5
    trick(path)
    with pytest.raises(ForeignShardError, match=words) as caught:
        Hdf5File(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_replaced_after_it_was_inspected(tmp_path: Path) -> None:
    path = write_fixed(tmp_path / "shard.hdf5", SAMPLES, WIDTH)
    file = Hdf5File(path)
    external_link(path)
    with pytest.raises(ForeignShardError, match="'input_ids' is a link to another file"):
        file.read(0)


def test_filters_of_the_library_are_read(tmp_path: Path) -> None:
    for options in (
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"compression": "lzf"},
    ):
        path = write_fixed(tmp_path / "shard.hdf5", SAMPLES, WIDTH, **options)
        assert Hdf5File(path).read(0).input_ids.tolist() == [2, 7, 8, 3]


def test_own_shards(shard_copy: Path) -> None:
    """With right checksums: the file's writer can make those too."""
    with h5py.File(shard_copy, "r+") as file:
        file["more"] = h5py.ExternalLink("/etc/passwd", "/x")
    _sums_made_right(shard_copy)
    with pytest.raises(ShardError, match="'more' is a link to another file") as caught:
        ShardFile(shard_copy).attributes()
    assert str(shard_copy) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def shard_copy(tmp_path: Path) -> Path:
    source = Path(__file__).resolve().parents[1] / "fixtures" / "shards"
    first = sorted(source.glob("train*"))[0]
    copy = tmp_path / first.name
    copy.write_bytes(first.read_bytes())
    assert ShardFile(copy).attributes()["split"] == "train"
    return copy


def _sums_made_right(path: Path) -> None:
    """Write the checksums that the file's present content has."""
    content = bytearray(path.read_bytes())
    head = json.loads(content[: layout.PREAMBLE_BYTES - len("01234567\n")])
    head["arrays"] = {name: tuple(place) for name, place in head["arrays"].items()}
    plan = dataclasses.replace(layout.Preamble(**head), file_bytes=len(content))
    table = np.frombuffer(bytes(content[plan.checksums_offset : plan.checksums_end]), "<u4").copy()
    for block in range(plan.blocks):
        first, stop = plan.block_range(block)
        table[block] = plan.block_crc32(bytes(content[first:stop]), block)
    content[plan.checksums_offset : plan.checksums_end] = table.tobytes()
    plan = dataclasses.replace(plan, checksums_crc32=zlib.crc32(table.tobytes()))
    content[: layout.PREAMBLE_BYTES] = plan.encode()
    path.write_bytes(content)


def test_a_command_says_it_in_one_line(tmp_path: Path) -> None:
    path = write_fixed(tmp_path / "shard.hdf5", SAMPLES, WIDTH)
    external_link(path)
    assert "is a link to another file" in _refused(path, tmp_path)


def _without_end(path: Path) -> None:
    """Zeros where the lists of variable length are: the library reads them without end."""
    content = bytearray(path.read_bytes())
    place = content.find(b"GCOL") + 48
    content[place : place + 64] = bytes(64)
    path.write_bytes(content)


def test_lists_that_are_read_without_end(tmp_path: Path) -> None:
    """Input 1028 of the campaign in tests/faults/fuzz. Other files are read after it."""
    path = write_variable(tmp_path / "a.hdf5", random_samples(4))
    file = Hdf5File(path)
    assert len(file.read_rows(range(4))) == 4
    _without_end(path)
    file = Hdf5File(path)
    with pytest.raises(ForeignShardError, match=r"a\.hdf5: damaged.* does not come to an end"):
        file.read(0)
    other = Hdf5File(write_fixed(tmp_path / "shard.hdf5", SAMPLES, WIDTH))
    assert other.read(0).input_ids.tolist() == [2, 7, 8, 3]
    file.close()
    started = time.monotonic()
    assert "does not come to an end" in _refused(path, tmp_path)
    assert time.monotonic() - started < 60


def test_a_worker_of_each_process(tmp_path: Path) -> None:
    """A fork does not answer for its parent, and both read further."""
    file = Hdf5File(write_fixed(tmp_path / "shard.hdf5", SAMPLES, WIDTH))
    file.read(0)
    child = os.fork()
    if child == 0:
        os._exit(len(file.read_rows([3, 1])))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    assert file.read(4).next_sentence == 0


def _refused(path: Path, tmp_path: Path) -> str:
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]) + "\n")
    tool = Path(__file__).resolve().parents[2] / "data_tools" / "import_shards.py"
    command = [sys.executable, str(tool), "--input", str(path), "--tokenizer", str(vocab)]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert str(path) in line
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
    return line


def test_nothing_is_followed() -> None:
    """Both checks are needed: the second one opens datasets by name."""
    with h5py.File.in_memory() as file:
        file["a"] = h5py.ExternalLink("/nowhere", "/x")
        with pytest.raises(Hdf5Refused):
            require_own_links(file)
        file["b"] = np.zeros(3)
        require_own_data(file, ["b", "absent"])
