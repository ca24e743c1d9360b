"""Renames, fsync and SHA-256 are in ``megabert/common/files.py`` alone: one way to write a file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ONLY_THERE = "common/files.py"
_FUNCTIONS = {
    "os": {"replace", "rename", "renames", "link", "fsync", "fdatasync", "sync"},
    "shutil": {"move"},
    "hashlib": {"sha256", "file_digest"},
}


def _uses(source: str) -> Iterator[tuple[int, str]]:
    """(line, what) of every rename, fsync and SHA-256 of a source text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module in _FUNCTIONS:
            for alias in node.names:
                if alias.name in _FUNCTIONS[node.module]:
                    yield node.lineno, f"{node.module}.{alias.name}"
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.attr in _FUNCTIONS.get(node.value.id, ())
        ):
            yield node.lineno, f"{node.value.id}.{node.attr}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            # of a path: str.replace takes two arguments, dataclasses.replace keywords
            one = len(node.args) == 1 and not node.keywords
            if one and node.func.attr in ("replace", "rename"):
                yield node.lineno, f"Path.{node.func.attr}"
            named = any(isinstance(a, ast.Constant) and a.value == "sha256" for a in node.args)
            if node.func.attr == "new" and named:
                yield node.lineno, "hashlib.new"


def test_only_one_file_renames_syncs_and_digests(root: Path) -> None:
    wrong = []
    for folder in ("megabert", "data_tools", "launch"):
        for path in sorted((root / folder).rglob("*.py")):
            if path != root / "megabert" / ONLY_THERE:
                found = _uses(path.read_text(encoding="utf-8"))
                wrong += [f"{path.relative_to(root)}:{line}: {what}" for line, what in found]
    assert not wrong, "use megabert.common.files:\n" + "\n".join(wrong)


def test_that_file_does(root: Path) -> None:
    source = (root / "megabert" / ONLY_THERE).read_text(encoding="utf-8")
    assert {"Path.replace", "os.fsync", "hashlib.sha256"} <= {what for _, what in _uses(source)}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("os.replace(a, b)", "os.replace"),
        ("from os import fsync", "os.fsync"),
        ("temporary.replace(path)", "Path.replace"),
        ("(folder / 'a').rename(folder / 'b')", "Path.rename"),
        ("hashlib.sha256(b'')", "hashlib.sha256"),
        ("hashlib.new('sha256')", "hashlib.new"),
        ("'text'.replace('a', 'b')", None),
        ("dataclasses.replace(settings, seed=1)", None),
        ("hashlib.blake2b(b'')", None),
    ],
)
def test_the_check_itself(source: str, found: str | None) -> None:
    assert [what for _, what in _uses(source)] == ([found] if found else [])
