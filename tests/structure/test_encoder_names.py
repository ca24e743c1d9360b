"""Encoders are found by their registry: nothing else compares their names or kinds of positions."""

from __future__ import annotations

import ast

from megabert.config.model import ENCODERS
from tests.structure.sources import sources

NAMES = {*ENCODERS.names(), "absolute", "relative"}
ALLOWED = {
    "megabert.convert.huggingface.config",  # model_type in the files of transformers
}


def compared_names(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, name) of every comparison with a name of an encoder, or with one in a tuple of names."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare | ast.MatchValue):
            parts = (
                [node.left, *node.comparators] if isinstance(node, ast.Compare) else [node.value]
            )
            for part in parts:
                inside = part.elts if isinstance(part, ast.Tuple | ast.List | ast.Set) else [part]
                found += [
                    (node.lineno, item.value)
                    for item in inside
                    if isinstance(item, ast.Constant) and item.value in NAMES
                ]
    return found


def test_no_encoder_is_asked_for_by_name() -> None:
    wrong = [
        f"{source.path}:{line} compares {name!r}"
        for source in sources()
        if source.module not in ALLOWED and not source.module.startswith("megabert.model.encoders")
        for line, name in compared_names(source.tree)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_check_finds_comparisons() -> None:
    code = "a.encoder == 'nezha'\nif b in ('bert', 'x'): pass\nmatch c:\n  case 'relative': pass"
    assert compared_names(ast.parse(code)) == [(1, "nezha"), (2, "bert"), (4, "relative")]
    assert not compared_names(ast.parse("x = {'bert': 1}; y == 'pre'"))
