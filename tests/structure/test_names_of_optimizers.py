"""Optimizers are found by their registry: no name of one is compared, and no class asked for, elsewhere."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from megabert.config.optimizers import OPTIMIZERS
from tests.structure.sources import Source, sources

OWNERS = ("megabert.optim.lamb.", "megabert.config.optimizers")
"""Modules that may compare names of optimizers: their own."""


def _literals(node: ast.AST) -> Iterator[str]:
    for child in ast.walk(node):
        if isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield child.value.lower()


def _compared(source: Source) -> Iterator[str]:
    names = set(OPTIMIZERS.names())
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Compare | ast.MatchValue):
            for name in names & set(_literals(node)):
                yield f"{source.path}:{node.lineno} compares {name!r}"
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
            for name in ast.walk(node.args[1]):
                if getattr(name, "id", getattr(name, "attr", "")) == "Lamb":
                    yield f"{source.path}:{node.lineno} asks for the class Lamb"


def test_no_optimizer_is_asked_for_by_name() -> None:
    wrong = [
        line
        for source in sources()
        if not source.module.startswith(OWNERS)
        for line in _compared(source)
    ]
    assert not wrong, "\n".join(wrong)
