"""The one reader of YAML, of which only plain values are read (no tags of Python).

As :mod:`megabert.common.json_text` for JSON: deep nesting, and references that unfold to many values, are
one line. A file of settings is small.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from megabert.common.errors import UserError
from megabert.common.files import read_limited

_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_BRACKET = re.compile(r"[\[\]{}]")
MAX_YAML_BYTES = 1 << 20
"""Bytes of a file of settings."""
_MAX_DEPTH = 50
_MAX_VALUES = 100_000


def read_yaml_documents(path: Path) -> list[Any]:
    """The values of a YAML file, one per document.

    Raises:
        UserError: it is not YAML, has a key twice, or is too large; the message begins with its name.
        OSError: it cannot be read.
    """
    content = read_limited(path, MAX_YAML_BYTES, "a file of settings")
    try:
        text = content.decode("utf-8-sig")
        _check_brackets(text)
        loader, values = yaml.SafeLoader(text), []
        while loader.check_node():
            node = loader.get_node()
            _check(node)
            values.append(loader.construct_document(node))
        return values
    except RecursionError as error:
        raise UserError(f"{path}: values nested in too many levels") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not YAML: not UTF-8 (byte {error.start})") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {_one_line(error)}") from error
    except _Refused as error:
        raise UserError(f"{path}: {error}") from error
    except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError) as error:
        # from constructors of numbers, dates and binary values, of text that is not one
        raise UserError(f"{path}: a value that YAML does not allow: {_one_line(error)}") from error


def read_yaml_value(path: Path) -> Any:
    """The value of a YAML file of one document; None for an empty one.

    Raises:
        UserError: as :func:`read_yaml_documents`; there are several documents.
        OSError: it cannot be read.
    """
    documents = read_yaml_documents(path)
    if len(documents) > 1:
        raise UserError(f"{path}: {len(documents)} YAML documents, where one is expected")
    return documents[0] if documents else None


class _Refused(Exception):
    """YAML that is not read."""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _check_brackets(text: str) -> None:
    """Refuse deep nesting before the library scans it, in a time that grows with the square of the depth."""
    depth = 0
    for mark in _BRACKET.findall(text):
        depth += 1 if mark in "[{" else -1 if depth else 0
        if depth > _MAX_DEPTH:
            raise _Refused(f"values nested in more than {_MAX_DEPTH} levels")


def _check(node: Any) -> None:
    """Refuse nesting and references that make more of a file than it holds, and repeated keys."""
    level, count = [node], 0
    for _ in range(_MAX_DEPTH):
        inner: list[Any] = []
        for one in level:
            if isinstance(one, yaml.MappingNode):
                inner += [part for pair in one.value for part in pair]
            elif isinstance(one, yaml.SequenceNode):
                inner += one.value
            elif isinstance(one, yaml.ScalarNode) and _NO_TEXT.search(one.value):
                raise _Refused("a text with a character that no setting has (NUL, or half a pair)")
            count += 1
            if count + len(inner) > _MAX_VALUES:
                raise _Refused(f"more than {_MAX_VALUES:,} values, references unfolded")
        if not inner:
            break
        level = inner
    else:
        raise _Refused(f"values nested in more than {_MAX_DEPTH} levels")
    repeated = _repeated_keys(node)
    if repeated:
        raise _Refused("; ".join(f"{key} is given twice; keep one" for key in repeated[:8]))


def _repeated_keys(node: Any, place: str = "") -> list[str]:
    """Keys that a mapping has twice, as ``section.setting`` or ``list[0].setting``."""
    found: list[str] = []
    if isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            found += _repeated_keys(value, f"{place.removesuffix('.')}[{number}].")
        return found
    seen: set[str] = set()
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        name = f"{place}{key.value[:60]}" if isinstance(key, yaml.ScalarNode) else f"{place}?"
        if isinstance(key, yaml.ScalarNode):
            found += [name] if name in seen else []
            seen.add(name)
        found += _repeated_keys(value, f"{name}.")
    return found
