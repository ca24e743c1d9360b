"""The shard files of a foreign file or folder: their layout, splits, and fingerprint."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megabert.common import names
from megabert.common.errors import UserError
from megabert.common.files import open_file, sha256_of
from megabert.data.foreign.hdf5 import SIGNATURE, Hdf5File
from megabert.data.foreign.static import ForeignFile, ForeignShardError
from megabert.data.foreign.tf_example import TFRecordFile
from megabert.data.foreign.tfrecord import HEAD_BYTES, is_tfrecord
from megabert.data.prepare.output_folder import WORK_FOLDER
from megabert.data.shards.manifest import Manifest, TokenizerInfo, load_manifest

EVAL_WORDS = frozenset({"eval", "evaluation", "test", "dev", "valid", "validation"})
"""A file whose name contains one of these words is for evaluation: ``wiki_test_0.hdf5``."""

_OTHER_SUFFIXES = frozenset({".txt", ".md", ".json", ".yaml", ".yml", ".model", ".csv", ".log"})
_SLOW_BYTES = 1 << 18  # unpacked per sample
_GZIP = b"\x1f\x8b"
_SAMPLED_BYTES = 4096  # at each end of a file, for the fingerprint


@dataclass(frozen=True)
class ForeignData:
    """The shard files of each split, in the order of their names."""

    place: Path
    train: tuple[ForeignFile, ...]
    evaluation: tuple[ForeignFile, ...]

    @property
    def files(self) -> tuple[ForeignFile, ...]:
        """All files, those for training first."""
        return self.train + self.evaluation

    @property
    def layout(self) -> str:
        """Name of the files' layout."""
        return self.files[0].layout

    @property
    def advice(self) -> str | None:
        """One line on how to speed up slow shards; None for shards that are not slow."""
        for file in self.files:
            if isinstance(file, Hdf5File) and file.bytes_per_sample > _SLOW_BYTES:
                return (
                    f"{file.path} is stored in chunks: reading a sample unpacks "
                    f"{file.bytes_per_sample / 1e6:.1f} MB; rewrite it with h5repack -f NONE -l "
                    "CONTI to read only the sample itself"
                )
        return None

    def manifest(self, tokenizer: TokenizerInfo) -> Manifest:
        """What a run records about this data, in the form of a manifest of our own shards.

        The fingerprint covers each file's name, size, number of samples, and first and last 4 KiB,
        so it distinguishes files without reading them completely.
        """
        listing = {
            split: [[f.path.name, f.samples, *_size_and_digest(f.path)] for f in files]
            for split, files in ((names.TRAIN, self.train), (names.EVAL, self.evaluation))
        }
        options = {"layout": self.layout, "files": listing}
        return Manifest(tokenizer, language="", seed=0, splits={}, options=options)


def is_foreign(place: Path) -> bool:
    """Whether ``place`` holds foreign shards.

    That is a file, or a folder that is not one of ours and holds HDF5 or TFRecord files.
    """
    if not place.is_dir():
        return place.is_file()
    if (place / names.MANIFEST).exists() or (place / WORK_FOLDER).exists():
        return False
    return any(_kind(path) for path in _candidates(place))


def open_foreign(places: Sequence[Path]) -> ForeignData:
    """Inspect all shards of these files and folders, without subfolders.

    Files named in ``places`` are for training, whatever their names are.

    Raises:
        ForeignShardError: there is no shard; a file is not a shard, damaged or cut off; the shards
            have several layouts; no file is for training.
    """
    train: list[ForeignFile] = []
    evaluation: list[ForeignFile] = []
    for place in places:
        if not place.is_dir():
            train.append(_open(place))
            continue
        _refuse_own(place)
        paths = _candidates(place)
        if not paths:
            raise ForeignShardError(
                f"{place}: holds no shards; name the folder that contains the files itself"
            )
        for path in paths:
            (evaluation if is_for_evaluation(path.name) else train).append(_open(path))
    if not train:
        raise ForeignShardError(
            f"{places[0]}: by their names, all files are for evaluation "
            f"({evaluation[0].path.name}); rename one for training, or give that file itself"
        )
    data = ForeignData(places[0], tuple(train), tuple(evaluation))
    for file in data.files:
        if (file.layout, file.labelled) != (data.files[0].layout, data.files[0].labelled):
            raise ForeignShardError(
                f"{file.path} is {_described(file)}, but {data.files[0].path} is "
                f"{_described(data.files[0])}: keep only shards of one layout in a folder"
            )
    return data


def _refuse_own(folder: Path) -> None:
    try:
        load_manifest(folder)
    except UserError:
        return
    raise ForeignShardError(
        f"{folder}: these are megabert's own shards already, which training reads as they are: --data {folder}"
    )


def is_for_evaluation(name: str) -> bool:
    """Whether a shard is for evaluation, by its name."""
    return not EVAL_WORDS.isdisjoint(re.split(r"[\W_]+|(?<=\D)(?=\d)", name.lower()))


def _described(file: ForeignFile) -> str:
    return file.layout + ("" if file.labelled else " without next_sentence_labels")


def _candidates(folder: Path) -> list[Path]:
    """The files in a folder that may be shards, by their names."""
    found = (
        path
        for path in folder.iterdir()
        if not path.name.startswith(".")
        and path.suffix.lower() not in _OTHER_SUFFIXES
        and path.is_file()
    )
    return sorted(found, key=lambda path: path.name)


def _head(path: Path) -> bytes:
    try:
        with open_file(path) as file:
            return file.read(HEAD_BYTES)
    except FileNotFoundError:
        raise ForeignShardError(f"{path}: no such file or folder") from None
    except OSError as error:
        raise ForeignShardError(f"{path}: cannot be read ({error.strerror})") from None


def is_shard_file(path: Path) -> bool:
    """Whether a file looks like a shard of another project, or like a compressed one, by its start."""
    return _kind(path) is not None or _head(path).startswith(_GZIP)


def _kind(path: Path) -> type[ForeignFile] | None:
    head = _head(path)
    if head.startswith(SIGNATURE):
        return Hdf5File
    return TFRecordFile if is_tfrecord(head) else None


def _open(path: Path) -> ForeignFile:
    kind = _kind(path)
    if kind is not None:
        return kind(path)
    head = _head(path)
    if not head:
        raise ForeignShardError(f"{path}: an empty file instead of a shard")
    if head.startswith(_GZIP):
        raise ForeignShardError(
            f"{path}: is compressed with gzip; unpack it first (gunzip), since samples are read in "
            "random order"
        )
    raise ForeignShardError(
        f"{path}: neither HDF5 nor an uncompressed TFRecord (or its first bytes are damaged); for "
        "megabert's own shards, name their folder"
    )


def _size_and_digest(path: Path) -> tuple[int, str]:
    try:
        with open_file(path) as file:
            first = file.read(_SAMPLED_BYTES)
            size = file.seek(0, 2)
            file.seek(max(0, size - _SAMPLED_BYTES))
            return size, sha256_of(first + file.read())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
