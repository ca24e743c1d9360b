"""The formats by name: the built-in ones, and those that other packages add.

A package adds a format with :func:`register_format`, or with an entry point of the group
``megabert.formats`` (``name = "module:attribute"``) whose attribute is a
:class:`~megabert.convert.format.Format`. Nothing here imports torch, so that ``--help`` is fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from megabert.common.errors import UserError
from megabert.common.registry import Registry
from megabert.convert.format import Format


@dataclass(frozen=True)
class _BuiltIn:
    """A format of this package, as the command line knows it before its module is imported."""

    place: str
    """``module:attribute`` of the Format."""
    input: str
    """What ``--input`` takes, for ``--help``; "" if the format is only written."""
    written: bool = True


_BUILT_IN = {
    "megabert": _BuiltIn(
        "megabert.convert.own_weights:FORMAT",
        "a run (its newest checkpoint), a checkpoint folder of any ZeRO stage and topology, or a "
        "megabert folder",
    ),
    "huggingface": _BuiltIn(
        "megabert.convert.huggingface.format:FORMAT",
        "the folder with config.json (or bert_config.json)",
    ),
    "google-tf": _BuiltIn(
        "megabert.convert.google.model:FORMAT",
        "a folder with a checkpoint, or its prefix (.../bert_model.ckpt)",
    ),
    "nvidia": _BuiltIn("megabert.convert.nvidia.model:FORMAT", "the .pt file", written=False),
    "mindspore": _BuiltIn(
        "megabert.convert.mindspore.model:FORMAT", "the .ckpt file", written=False
    ),
    "sentence-transformers": _BuiltIn(
        "megabert.convert.exports.sentence_folder:FORMAT", "the folder with modules.json"
    ),
    "onnx": _BuiltIn("megabert.convert.exports.onnx_file:FORMAT", ""),
}
_FORMATS: Registry[Format] = Registry(
    "format", {name: one.place for name, one in _BUILT_IN.items()}, "megabert.formats"
)


def register_format(name: str, new: Format) -> Format:
    """Make a format known under a name, as ``--from`` and ``--to`` take it; returns it.

    Raises:
        UserError: another format has this name.
    """
    _FORMATS.register(name, new)
    return new


def read_formats() -> tuple[str, ...]:
    """Names that ``--from`` takes, the built-in ones first: formats that are only written are left out."""
    return tuple(
        name for name in _FORMATS.names() if name not in _BUILT_IN or _BUILT_IN[name].input
    )


def written_formats() -> tuple[str, ...]:
    """Names that ``--to`` takes: formats known to be read only are left out."""
    return tuple(
        name for name in _FORMATS.names() if name not in _BUILT_IN or _BUILT_IN[name].written
    )


def input_help() -> str:
    """What ``--input`` takes, for each built-in format."""
    return "; ".join(f"{name}: {one.input}" for name, one in _BUILT_IN.items() if one.input)


def find_format(name: str) -> Format:
    """The format of this name, imported if needed.

    Raises:
        UserError: no format has this name, or its package cannot be imported.
    """
    return _FORMATS.get(name)


def looks_like(path: Path) -> set[str]:
    """Names of the formats whose files are at ``path``: for a hint, not for a decision."""
    files = [other.name for other in path.iterdir()] if path.is_dir() else [path.name]
    found = set()
    for name in _FORMATS.names():
        try:
            marks = find_format(name).marks
        except UserError:  # another package that cannot be imported
            continue
        matched = (any(fnmatch(file, p) for file in files for p in group) for group in marks)
        if marks and all(matched):
            found.add(name)
    return found
