"""Other libraries are patched in two files only, where a reader finds every such change."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.structure.sources import Source, sources

ALLOWED = ("megabert.engine.zero.fixes", "megabert.engine.launch")
HOOKS = {"sys.unraisablehook", "sys.stdin", "sys.stdout", "sys.stderr"}
"""Names of the standard library that its documentation says to assign."""
OWN_OBJECTS = {"self", "namespace", "found"}
"""Names of objects that ``setattr`` may change: the own one, and argparse's values of the flags."""


def _modules(source: Source) -> set[str]:
    """Names that a file's imports of other libraries bind."""
    names = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("megabert"):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _patches(source: Source) -> Iterator[str]:
    modules = _modules(source)
    for node in ast.walk(source.tree):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setattr":
            targets = [node.args[0]]
            if _root(node.args[0]) not in OWN_OBJECTS:
                yield f"{source.path}:{node.lineno} sets an attribute of {ast.unparse(node.args[0])}"
        for target in targets:
            if not isinstance(target, ast.Attribute) or ast.unparse(target) in HOOKS:
                continue
            if _root(target) in modules:
                yield f"{source.path}:{node.lineno} changes {ast.unparse(target)}"


def test_libraries_are_patched_in_two_files() -> None:
    found = {source.module: list(_patches(source)) for source in sources()}
    wrong = [line for module, lines in found.items() if module not in ALLOWED for line in lines]
    assert not wrong, "\n".join(wrong)
    assert found["megabert.engine.launch"], "the test no longer sees the patches that exist"
