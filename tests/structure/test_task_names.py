"""Task names are compared nowhere but in the registry and in the tasks' own files."""

from __future__ import annotations

import ast
from pathlib import Path

from megabert.tasks.registry import task_class, task_names
from tests.structure.sources import PACKAGE, sources

OTHER_MEANINGS = {("megabert/data/text/wikitext/templates/rules.py", "tag")}
"""A parser function of wikitext."""


def _own_folder(name: str) -> Path:
    """The package of a task, as ``megabert/tasks/squad``."""
    return Path(*task_class(name).__module__.split(".")[:-1])


def _built_in() -> list[str]:
    """Names of the package's own tasks; other tests register more."""
    return [name for name in task_names() if task_class(name).__module__.startswith("megabert.")]


def test_task_names_stay_at_home() -> None:
    own = {name: _own_folder(name) for name in _built_in()}
    wrong = []
    for source in sources():
        if source.path == Path("megabert/tasks/registry.py"):
            continue
        for node in ast.walk(source.tree):
            name = node.value if isinstance(node, ast.Constant) else None
            if (str(source.path), name) in OTHER_MEANINGS:
                continue
            if isinstance(name, str) and name in own and own[name] not in source.path.parents:
                wrong.append(f"{source.path}:{node.lineno} names the task {name!r}")
    assert not wrong, "\n".join(wrong)


def test_every_task_is_in_a_folder_of_its_kind() -> None:
    folders = {_own_folder(name) for name in _built_in()}
    assert folders == {
        Path("megabert/tasks") / kind
        for kind in ("classification", "own_labels", "squad", "tagging")
    }
    assert all((PACKAGE.parent / folder).is_dir() for folder in folders)
