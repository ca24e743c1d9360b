"""The built-in tasks and their declarations agree; names need no torch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from megabert.common.errors import UserError
from megabert.model.head_registry import task_heads
from megabert.tasks.registry import (
    make_task,
    register_task,
    settings_sections,
    task_class,
    task_names,
    tasks_with,
)
from megabert.tasks.squad.settings import SquadSettings
from megabert.tasks.squad.task import Squad


def built_in() -> list[str]:
    """The names whose classes are in the package; other tests register tasks of their own."""
    return [name for name in task_names() if task_class(name).__module__.startswith("megabert.")]


def test_declarations_and_classes_agree() -> None:
    sections = settings_sections()
    for name in built_in():
        task = task_class(name)
        assert name in task.names()
        assert set(task.names()) <= set(task_names())
        assert sections[str(task.section)] is task.settings_class
        assert task.head in task_heads()
        assert name in tasks_with(task.head)
    assert list(sections)[:3] == ["squad", "classification", "tagging"]


def test_defaults() -> None:
    tasks = {name: make_task(name) for name in built_in()}
    assert {name for name, task in tasks.items() if task.max_length == 384} == {"squad", "squad2"}
    assert {task.max_length for task in tasks.values()} == {128, 384}
    assert all(task.name == name for name, task in tasks.items())
    assert make_task("squad", SquadSettings(n_best=3), 64).settings.n_best == 3
    with pytest.raises(UserError, match="unknown task 'colour'; known: squad, squad2, cola"):
        make_task("colour")


@pytest.mark.parametrize(
    ("name", "labels", "outputs", "implied"),
    [
        ("squad", (), 0, "squad"),
        ("squad2", (), 0, None),
        ("cola", (), 1, "stsb"),
        ("cola", ("ENTAILMENT", "not_entailment"), 2, "rte"),
        ("cola", ("entailment", "neutral", "contradiction"), 3, "mnli"),
        ("cola", ("sport", "news"), 2, None),
        ("classify", ("sport", "news"), 2, "classify"),
        ("classify", (), 1, None),
        ("regress", (), 1, None),
        ("cluener", ("O", "B-x"), 2, None),
        ("conll", ("O", "B-x"), 2, "conll"),
        ("tag", ("O", "B-x"), 2, None),
    ],
)
def test_what_a_foreign_head_implies(
    name: str, labels: tuple[str, ...], outputs: int, implied: str | None
) -> None:
    assert task_class(name).implied_by(labels, outputs) == implied


def test_a_taken_name() -> None:
    class Mine(Squad):
        name = "squad"

    with pytest.raises(UserError, match="two objects are registered as task 'squad'"):
        register_task(Mine)


def test_names_and_settings_need_no_torch() -> None:
    code = (
        "import sys; from megabert.tasks.registry import task_names, settings_sections; "
        "task_names(), settings_sections(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


BROKEN = {
    "1 / 0": r"task 'broken' of the package broken cannot be imported: ZeroDivisionError",
    "import no_such_module_at_all": "cannot be imported: No module named 'no_such_module_at_all'",
    "X = 3": "task 'broken' is of type int; its entry point must name a subclass of megabert.tasks",
    "from megabert.tasks.base import Task\nclass X(Task): name = 'broken'": (
        r"task 'broken' \(X\) lacks the methods answers, build_model, "
    ),
}


@pytest.mark.parametrize("code", BROKEN)
def test_a_broken_package_stops_its_own_task_only(code: str, root: Path, tmp_path: Path) -> None:
    (tmp_path / "broken_task.py").write_text(code)
    package = tmp_path / "broken-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[megabert.tasks]\nbroken = broken_task:X\n")
    path = os.pathsep.join([str(tmp_path), str(root), os.environ.get("PYTHONPATH", "")])

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, root / "launch" / "finetune.py", *arguments],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
        )

    shown = command("--help")
    assert shown.returncode == 0
    assert re.search(BROKEN[code], shown.stderr)
    asked = command("--task", "broken", "--checkpoint", str(tmp_path), "--train", __file__)
    assert asked.returncode == 2
    assert re.search(r"error: .*" + BROKEN[code], asked.stderr)
    assert "Traceback" not in asked.stderr
