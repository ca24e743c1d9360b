"""Shards that are written, replaced or deleted while they are read: found at the next read, and named."""

from __future__ import annotations

import os
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from megabert.common.errors import UserError
from megabert.data.foreign.files import open_foreign
from megabert.data.shards.corpus import Corpus
from megabert.data.shards.manifest import ShardError
from tests.helpers.foreign_shards import write_fixed, write_tfrecord
from tests.helpers.training_runs import make_shards

TICK = 0.02
"""Seconds in which a file system's clock certainly advances."""


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """A split of two shards of which every document has been read, so that no block is left to check."""
    corpus = Corpus.open(make_shards(tmp_path / "shards"), "train")
    for document in range(corpus.num_documents):
        corpus.tokens(document)
    time.sleep(TICK)
    return corpus


def first_shard(corpus: Corpus) -> Path:
    return corpus.shard_of(0)[0]


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def token_place(corpus: Corpus) -> int:
    return corpus._shards.file(0).preamble.arrays["tokens"][0]


def flip_in_place(corpus: Corpus) -> None:
    """A token of the first document, with the file's time set back, as ``rsync -t`` does."""
    path = first_shard(corpus)
    status = path.stat()
    place = token_place(corpus)
    overwrite(path, place, bytes([path.read_bytes()[place] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def truncate(corpus: Corpus) -> None:
    path = first_shard(corpus)
    os.truncate(path, path.stat().st_size - 1)


def extend(corpus: Corpus) -> None:
    with first_shard(corpus).open("ab") as file:
        file.write(b"x")


def delete(corpus: Corpus) -> None:
    first_shard(corpus).unlink()


def replace(corpus: Corpus) -> None:
    path = first_shard(corpus)
    shutil.copy(path, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def other_shard(corpus: Corpus) -> None:
    """Another shard with right sums, of the same size, written over it."""
    path = first_shard(corpus)
    other = make_shards(corpus.folder.parent / "other", sha256="cd" * 32)
    content = (other / path.name).read_bytes()
    assert len(content) == path.stat().st_size
    path.write_bytes(content)


CHANGES: dict[Callable[[Corpus], None], str] = {
    flip_in_place: "damaged: dataset tokens, block",
    truncate: "the file was truncated while it was in use",
    extend: "the file was extended while it was in use",
    delete: "the file was deleted or replaced while it was in use",
    replace: "the file was deleted or replaced while it was in use",
    other_shard: "the file was overwritten while it was in use",
}


@pytest.mark.parametrize(("change", "words"), CHANGES.items(), ids=[c.__name__ for c in CHANGES])
def test_changes_are_found_at_the_next_read(
    change: Callable[[Corpus], None], words: str, corpus: Corpus
) -> None:
    path = first_shard(corpus)
    change(corpus)
    for _ in range(2):  # it does not become usable by being read again
        with pytest.raises(ShardError, match=words) as caught:
            corpus.tokens(0)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    other = corpus.num_documents - 1
    assert len(corpus.tokens(other))  # the other shard is as it was


def touch(corpus: Corpus) -> None:
    first_shard(corpus).touch()


def same_content(corpus: Corpus) -> None:
    path = first_shard(corpus)
    content = path.read_bytes()
    path.write_bytes(content)


def permissions(corpus: Corpus) -> None:
    first_shard(corpus).chmod(0o400)


def another_name(corpus: Corpus) -> None:
    path = first_shard(corpus)
    os.link(path, path.with_suffix(".backup"))


@pytest.mark.parametrize("change", [touch, same_content, permissions, another_name])
def test_the_same_content_is_checked_again_and_used(
    change: Callable[[Corpus], None], corpus: Corpus, capfd: pytest.CaptureFixture[str]
) -> None:
    before = corpus.tokens(0)
    change(corpus)
    assert np.array_equal(corpus.tokens(0), before)
    lines = capfd.readouterr().err.splitlines()
    assert [str(first_shard(corpus)) in line for line in lines] == [True]
    assert "changed while it was in use; it is checked again" in lines[0]
    corpus.tokens(0)
    assert not capfd.readouterr().err  # once


def test_a_change_in_a_loader_process(corpus: Corpus) -> None:
    """Workers get the corpus pickled, and look at the files themselves."""
    worker = pickle.loads(pickle.dumps(corpus))
    worker.tokens(0)
    flip_in_place(corpus)
    with pytest.raises(ShardError, match="damaged: dataset tokens"):
        worker.tokens(0)


@pytest.mark.parametrize("write", [write_fixed, write_tfrecord])
@pytest.mark.parametrize("change", ["bytes", "replaced", "deleted", "cut"])
def test_shards_of_other_projects(write: Callable[..., Path], change: str, tmp_path: Path) -> None:
    """Without checksums (HDF5), or with sums of each record alone: any change is an error."""
    from tests.faults.test_hdf5 import SAMPLES, WIDTH

    path = write(tmp_path / "shard", SAMPLES, WIDTH)
    (file,) = open_foreign([path]).train
    file.read(0)
    time.sleep(TICK)
    if change == "bytes":
        overwrite(path, path.stat().st_size - 1, b"\x7f")
    elif change == "cut":
        os.truncate(path, path.stat().st_size - 1)
    elif change == "replaced":
        write(tmp_path / "new", SAMPLES, WIDTH).replace(path)
    else:
        path.unlink()
    with pytest.raises(UserError, match="while it was in use") as caught:
        file.read(0)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
