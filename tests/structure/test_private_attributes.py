"""Attributes that belong to one package: nobody else reads them."""

from __future__ import annotations

import ast
from pathlib import Path

OWNERS = {"deepspeed": (), "_deepspeed": ("megabert/engine",)}
"""Attribute -> folders whose files may use it."""


def _attributes(path: Path) -> set[str]:
    """Attributes in :data:`OWNERS` that a file reads or sets."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {n.attr for n in nodes if isinstance(n, ast.Attribute) and n.attr in OWNERS}


def test_only_the_engine_touches_deepspeeds_engine(root: Path) -> None:
    wrong = []
    for top in ("megabert", "launch", "data_tools", "benchmarks", "tests"):
        for path in sorted((root / top).rglob("*.py")):
            place = path.relative_to(root).as_posix()
            for name in _attributes(path):
                if not any(place.startswith(owner + "/") for owner in OWNERS[name]):
                    wrong.append(f"{place} uses .{name}; add a method to TrainingEngine instead")
    assert not wrong, "\n".join(wrong)
