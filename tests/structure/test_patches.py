"""Other libraries are patched in two files only, and docs/reference/patches.md names every such change."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatch

from tests.structure.sources import ROOT, Source, sources

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


# ---------------------------------------------------------------- the page

PAGE = ROOT / "docs/reference/patches.md"
ENGINE = {"engine", "optimizer", "wrapper", "base", "scales"}
"""Names of DeepSpeed's objects in megabert/engine."""
LIBRARIES = {"torch", "dist", "profiler"}


def _assigned(source: Source) -> Iterator[str]:
    """Attributes that a file of the engine sets on DeepSpeed's objects."""
    for node in ast.walk(source.tree):
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        flat = [one for t in targets for one in (t.elts if isinstance(t, ast.Tuple) else [t])]
        for target in flat:
            if isinstance(target, ast.Attribute) and _root(target) in ENGINE | {"deepspeed"}:
                yield target.attr


def _private_names(source: Source) -> Iterator[str]:
    """Names that a file reads through ``private``, or that torch marks as its own."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "private":
            if isinstance(node.args[1], ast.Constant):
                yield str(node.args[1].value)
        elif isinstance(node, ast.Attribute) and re.match("_[^_]", node.attr):
            names = [node.attr] if _root(node) in LIBRARIES else []
            yield from names


def _to_be_named(source: Source) -> set[str]:
    names = set(_private_names(source))
    if source.module.startswith("megabert.engine"):
        names |= set(_assigned(source))
    return names


def test_every_patch_is_on_the_page() -> None:
    named = set(re.findall(r"`([^`\n]+)`", PAGE.read_text(encoding="utf-8")))
    missing, seen = [], set()
    for source in sources():
        for name in sorted(_to_be_named(source)):
            seen.add(name)
            if not any(fnmatch(name, pattern) for pattern in named):
                missing.append(f"{source.path}: {name}")
    assert not missing, f"{PAGE.name} does not name:\n" + "\n".join(missing)
    known = {
        "clip_fp32_gradients",
        "bf16_groups",
        "_scaled_mm",
        "_foreach_mul_",
        "checkpoint_engine",
    }
    assert known <= seen, "the test no longer sees the patches that exist"
