"""The project's source files as syntax trees, for the tests of its structure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "megabert"


@dataclass(frozen=True)
class Source:
    """A file of the package.

    ``module``: its dotted name (a package's name for ``__init__.py``); ``package``: the folder directly
    under ``megabert`` that holds it; ``path``: relative to the checkout.
    """

    module: str
    package: str
    path: Path
    tree: ast.Module

    def imports(self) -> set[str]:
        """Full names of the modules that the file imports, wherever in it."""
        names = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        return names

    def classes(self) -> dict[str, ast.ClassDef]:
        """Top-level classes by name."""
        return {node.name: node for node in self.tree.body if isinstance(node, ast.ClassDef)}


@cache
def sources() -> tuple[Source, ...]:
    """Every Python file of the package."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        inside = path.relative_to(ROOT)
        module = ".".join(inside.with_suffix("").parts).removesuffix(".__init__")
        parts = inside.parts[1:]
        package = parts[0] if len(parts) > 1 else ""
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found.append(Source(module, package, inside, tree))
    return tuple(found)


def public_functions(source: Source) -> Iterator[tuple[str, ast.FunctionDef, bool]]:
    """(name, function, whether it is a method) of public functions and public classes' methods."""
    for node in source.tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node, False
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and (
                    item.name == "__init__" or not item.name.startswith("_")
                ):
                    yield f"{node.name}.{item.name}", item, True
