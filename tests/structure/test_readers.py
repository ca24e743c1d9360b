"""JSON and YAML are read by one module each, so that whatever is wrong with a file is one line."""

from __future__ import annotations

import ast

import pytest

from tests.structure.sources import sources

_READERS = {
    "json": ({"load", "loads", "JSONDecoder"}, "megabert.common.json_text"),
    "yaml": (
        {"load", "load_all", "safe_load", "safe_load_all", "compose", "compose_all", "SafeLoader"},
        "megabert.common.yaml_text",
    ),
}
_OF_OWN_VALUES = {("megabert.checkpoint.record", "json.loads")}
"""Reads back what the same line wrote."""


def _uses(tree: ast.AST) -> set[tuple[str, str]]:
    """(library, what) of every reader of JSON and YAML that a syntax tree uses."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names, _ = _READERS.get(node.value.id, (set(), ""))
            if node.attr in names:
                found.add((node.value.id, f"{node.value.id}.{node.attr}"))
        elif isinstance(node, ast.ImportFrom) and node.module in _READERS:
            names, _ = _READERS[node.module]
            found |= {
                (node.module, f"{node.module}.{a.name}") for a in node.names if a.name in names
            }
    return found


def test_one_reader_of_json_and_one_of_yaml() -> None:
    wrong = [
        f"{source.path}: {what}; use {_READERS[library][1]}"
        for source in sources()
        for library, what in sorted(_uses(source.tree))
        if source.module != _READERS[library][1] and (source.module, what) not in _OF_OWN_VALUES
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("json.loads(text)", {"json.loads"}),
        ("json.JSONDecoder().raw_decode(text)", {"json.JSONDecoder"}),
        ("from json import load", {"json.load"}),
        ("yaml.safe_load(text)", {"yaml.safe_load"}),
        ("json.dumps(value)", set()),
        ("torch.load(path)", set()),
    ],
)
def test_the_check_itself(source: str, found: set[str]) -> None:
    assert {what for _, what in _uses(ast.parse(source))} == found
