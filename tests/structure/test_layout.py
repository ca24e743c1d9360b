"""Folders stay small, names stay apart, functions stay narrow, packages say what they are."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from pathlib import Path

from tests.structure.sources import PACKAGE, Source, public_functions, sources

MOST_FILES = 14
"""Source files in one folder, without ``__init__.py``."""
MOST_PREFIXED = 2
"""Files of one folder that share the part of their name before the first underscore."""
MOST_PARAMETERS = 6
"""Parameters of a public function outside kernels/, ``self`` not counted."""
ROLES = frozenset(
    {"main", "read", "write", "register", "start", "names", "PREFIX", "FORMAT", "ENDINGS", "log"}
)
"""Names that several modules define by convention: an entry point, one side of a registered format."""


def _folders() -> dict[Path, list[str]]:
    found: dict[Path, list[str]] = defaultdict(list)
    for source in sources():
        if source.path.name != "__init__.py":
            found[source.path.parent].append(source.path.stem)
    return found


def test_folders_are_small() -> None:
    large = {
        str(folder): len(files) for folder, files in _folders().items() if len(files) > MOST_FILES
    }
    assert not large


def test_prefixes_become_folders() -> None:
    wrong = []
    for folder, files in _folders().items():
        shared = Counter(name.split("_")[0] for name in files)
        wrong += [f"{folder}/{p}_*: {n} files" for p, n in shared.items() if n > MOST_PREFIXED]
    assert not wrong, "\n".join(wrong)


def _bases(source: Source) -> dict[str, set[str]]:
    return {
        name: {ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases}
        for name, node in source.classes().items()
    }


def test_public_names_differ() -> None:
    """Two modules do not give different things one name (implementations of a protocol aside)."""
    where: dict[str, list[str]] = defaultdict(list)
    for source in sources():
        for node in source.tree.body:
            name = getattr(node, "name", "")
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not name.startswith("_"):
                where[name].append(source.module)
    alike = {
        name: modules
        for name, modules in where.items()
        if len(modules) > 1 and name not in ROLES and not _implementations(name, modules)
    }
    assert not alike, "\n".join(f"{name}: {', '.join(found)}" for name, found in alike.items())


def _implementations(name: str, modules: list[str]) -> bool:
    """Kernels implement the same operators for several devices, under one name each."""
    return all(
        module.startswith(("megabert.kernels.", "megabert.optim.lamb.")) for module in modules
    )


def test_functions_are_narrow() -> None:
    wide = []
    for source in sources():
        if source.package == "kernels":
            continue
        for name, function, method in public_functions(source):
            given = function.args
            count = len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs) - method
            if count > MOST_PARAMETERS:
                wide.append(f"{source.path} {name} has {count} parameters")
    assert not wide, "\n".join(wide)


def test_packages_say_what_they_are() -> None:
    wrong = []
    for folder in {path.parent for path in PACKAGE.rglob("*.py")} - {PACKAGE}:
        text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
        for part in ("Owns: ", "May import: ", "Start reading: "):
            if part not in (text or ""):
                wrong.append(f"{folder.relative_to(PACKAGE)}: its docstring lacks {part.strip()!r}")
    assert not wrong, "\n".join(sorted(wrong))


def test_start_reading_names_files_that_exist() -> None:
    wrong = []
    for folder in {path.parent for path in PACKAGE.rglob("*.py")}:
        text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
        words = (text or "").replace("`", " ").replace(",", " ").replace(";", " ").split()
        for word in words:
            if (
                word.endswith(".py")
                and not (folder / word).is_file()
                and not (PACKAGE.parent / word).is_file()
            ):
                wrong.append(f"{folder.relative_to(PACKAGE.parent)} names {word}")
    assert not wrong, "\n".join(sorted(wrong))
