"""The labels of token features: their numbers, from a file in the same folder.

    label2id.json    {"O": 0, "B_address": 1, ...}
    label2id.pkl     the same as a pickled dictionary, as the scripts that make features leave it behind

A label is a tag, or the name of a token that has none: a special token, or a further piece of a word.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from megabert.common.files import read_limited
from megabert.common.json_text import parse_json
from megabert.tasks.tagging.entity_spans import Tag, parse_tag

NAMES = ("label2id.json", "label2id.pkl")
_WITHOUT_TAG = frozenset(
    [
        "x", "[cls]", "[sep]", "[pad]", "##wordpiece", "[##wordpiece]", "pad", "<pad>",
        "<start>", "<stop>", "**null**",
    ]
)  # fmt: skip
_MOST_BYTES = 1 << 22


@dataclass(frozen=True)
class LabelMap:
    """``tags``: number -> its tag, or None for a label of tokens without a tag."""

    path: Path
    tags: dict[int, Tag | None]


def read_label_map(features: Path) -> LabelMap:
    """The labels of a file of features.

    Raises:
        UserError: there is no such file, it is damaged, or not of this form; a label is neither a tag nor
            known to be of tokens without one.
    """
    path = next(
        (features.parent / name for name in NAMES if (features.parent / name).is_file()), None
    )
    if path is None:
        raise UserError(
            f"{features}: token features hold numbers of labels, not their names; put {NAMES[0]}, "
            '{"O": 0, "B-LOC": 1, ...}, into the same folder'
        )
    content = _load(path)
    if not isinstance(content, dict) or not content:
        raise UserError(f'{path} is not an object of labels and numbers, as {{"O": 0, "B-LOC": 1}}')
    tags: dict[int, Tag | None] = {}
    for name, number in content.items():
        if not isinstance(name, str) or type(number) is not int or number < 0:
            raise UserError(f"{path}: {name!r}: {number!r} is not a label and its number")
        if number in tags:
            raise UserError(f"{path}: two labels have the number {number}, one of them is {name!r}")
        tag = parse_tag(name.strip())
        if tag is None and name.strip().lower() not in _WITHOUT_TAG:
            raise UserError(
                f"{path}: {name!r} is not a tag; expected O, or B, I, M, E or S with '-' or '_' and a type, as "
                "B-LOC"
            )
        tags[number] = tag
    if not any(tag is not None and tag.type for tag in tags.values()):
        raise UserError(f"{path} names no tag of an entity, as B-LOC")
    return LabelMap(path, tags)


def _load(path: Path) -> Any:
    """The content of a file; a pickle may hold plain values only."""
    try:
        data = read_limited(path, _MOST_BYTES, "a table of labels")
        if path.suffix == ".json":
            return parse_json(data)
        return _PlainValues(io.BytesIO(data)).load()
    except UserError:
        raise
    except Exception as error:  # a damaged pickle raises anything
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"{path} cannot be read ({reason}); write it again as {NAMES[0]}"
        ) from error


class _PlainValues(pickle.Unpickler):
    """Refuses every pickle that holds classes or functions, so that loading one runs no code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it holds {module}.{name}, not plain labels and numbers")
