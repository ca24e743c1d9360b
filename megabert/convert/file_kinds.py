"""What a weight file is by its content, for the message when it is given as another format's."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

from megabert.common.downloads import left_by_download
from megabert.common.files import open_file
from megabert.data.tokenizers.protobuf import read_varint

_WEIGHTS = re.compile(
    r".*\.(ckpt|ckpt-\d+|pt|pth|bin|safetensors|h5|hdf5|keras|msgpack|gguf|onnx|npz|index|meta|"
    r"zip|tar|tgz|gz|bz2|xz|7z)|.*\.data-\d+-of-\d+",
    re.I,
)
_TABLE_MAGIC = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"  # last 8 bytes of a table of TensorFlow
_BUNDLE_PART = re.compile(r"(.+)\.(index|meta|data-\d+-of-\d+)")
FILE_FORMATS = ("nvidia", "mindspore")
"""Formats of a single file, which folders of other formats may hold too."""
_FOLDERS = ("huggingface", "megabert")  # formats of whole folders, which their marks describe
_SAVE_TABLE = "save its weights as docs/reference/conversion.md shows and give that file"
_EXAMINED = 2**20


@dataclass(frozen=True)
class FileKind:
    """A kind of file: what it is, the formats (``--from``) that read it, and what to do."""

    what: str
    formats: tuple[str, ...] = ()
    advice: str = ""

    def message(self, path: Path) -> str:
        """One line about a file of this kind, which was given as something else."""
        names = " or ".join(f"--from {name}" for name in self.formats)
        use = f"use {names}" if names else ""
        return f"{path} is {self.what}: {'; '.join(filter(None, (use, self.advice)))}"


_LIGHTNING = FileKind(
    "a PyTorch Lightning checkpoint",
    advice="load it in its program and save the model's encoder with save_pretrained (--from "
    f"huggingface), or {_SAVE_TABLE} to --from nvidia",
)
_TORCH = FileKind(
    "a file of PyTorch (torch.save)",
    ("nvidia",),
    "or, next to its config.json as pytorch_model.bin, its folder with --from huggingface",
)
_BUNDLE = FileKind("a part of a TensorFlow checkpoint", ("google-tf",))
_OLD_TABLE = FileKind("a TensorFlow checkpoint of the old format (V1)", ("google-tf",))
_MINDSPORE = FileKind("a MindSpore checkpoint", ("mindspore",))
_SAFETENSORS = FileKind(
    "a safetensors file", ("huggingface", "megabert"), "with the folder that holds it as --input"
)
_STARTS = (
    (
        b"\x89HDF\r\n\x1a\n",
        FileKind("an HDF5 file (as of Keras)", (), "use the model's PyTorch files"),
    ),
    (b"GGUF", FileKind("a GGUF file", (), "use the model's original weights")),
    (b"\x1f\x8b", FileKind("compressed with gzip", (), "unpack it first")),
    (b"BZh", FileKind("compressed with bzip2", (), "unpack it first")),
    (b"\xfd7zXZ\0", FileKind("compressed with xz", (), "unpack it first")),
    (b"7z\xbc\xaf\x27\x1c", FileKind("a 7z archive", (), "unpack it first")),
)


def wrong_file(path: Path, source: str) -> str | None:
    """Why an input that could not be read is not of the format ``source``, in one line.

    Args:
        path: a file, a folder, or the prefix of a TensorFlow checkpoint.
        source: the format's name.

    Returns:
        None if nothing is known to be wrong with it.
    """
    files = [path] if path.is_file() else []
    left = left_by_download(path) if files else None
    if left is not None:
        return f"{path} is {left}"
    if path.is_dir() and source not in _FOLDERS:
        named = (f for f in sorted(path.iterdir()) if f.is_file() and not f.name.startswith("."))
        files = [f for f in named if _WEIGHTS.fullmatch(f.name)]
    kinds = {file: kind for file in files if (kind := kind_of(file)) is not None}
    if not path.exists() and path.with_name(f"{path.name}.index").is_file():
        kinds = {path: FileKind("the prefix of a TensorFlow checkpoint", ("google-tf",))}
    if not kinds or any(source in kind.formats for kind in kinds.values()):
        return None
    file, kind = next(iter(kinds.items()))
    return kind.message(file)


def kind_of(path: Path) -> FileKind | None:
    """The kind of a file by its content, or as a part of a TensorFlow checkpoint by its name."""
    try:
        with open_file(path) as file:
            head = file.read(_EXAMINED)
            size = file.seek(0, 2)
            file.seek(max(0, size - len(_TABLE_MAGIC)))
            tail = file.read()
    except OSError:
        return None
    part = _BUNDLE_PART.fullmatch(path.name)
    if part is not None and path.with_name(f"{part[1]}.index").is_file():
        return _BUNDLE
    for start, kind in _STARTS:
        if head.startswith(start):
            return kind
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_zip(path, head)
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return _LIGHTNING if b"pytorch-lightning_version" in head else _TORCH
    if tail == _TABLE_MAGIC:
        return _OLD_TABLE
    if head[257:262] == b"ustar":
        return FileKind("a tar archive", (), "unpack it first")
    length = int.from_bytes(head[:8], "little")
    if 2 <= length < size and head[8:9] == b"{":
        return _SAFETENSORS
    return _MINDSPORE if _is_mindspore(head) else None


def _kind_of_zip(path: Path, head: bytes) -> FileKind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            pickled = next((name for name in names if name.endswith("/data.pkl")), None)
            if pickled is not None:
                head = archive.read(pickled)
    except (OSError, zipfile.BadZipFile, RuntimeError, ValueError):  # truncated: by its beginning
        names = [name for name in ("data.pkl",) if b"/data.pkl" in head]
        pickled = names[0] if names else None
    if pickled is not None:
        return _LIGHTNING if b"pytorch-lightning_version" in head else _TORCH
    if names and all(name.endswith(".npy") for name in names):
        return FileKind("an archive of numpy arrays", (), "use the model's original weights")
    return FileKind("a zip archive", (), "unpack it first")


def _is_mindspore(head: bytes) -> bool:
    """Whether a file begins with a named tensor of MindSpore (``mindspore.proto``)."""
    try:
        if head[:1] != b"\x0a":
            return False
        _, place = read_varint(head, 1)
        if head[place : place + 1] != b"\x0a":
            return False
        size, place = read_varint(head, place + 1)
        name, rest = head[place : place + size], head[place + size :]
        if not name.decode("utf-8").isprintable() or rest[:1] != b"\x12":
            return False
        _, place = read_varint(rest, 1)
        return rest[place] in b"\x08\x0a\x12"  # a dimension, packed dimensions, or the type
    except (ValueError, IndexError):
        return False
