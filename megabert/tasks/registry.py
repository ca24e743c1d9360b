"""Every task by its name, and the settings that tasks bring.

What a task must provide is in :mod:`megabert.tasks.base`. Another package adds a task with
:func:`register_task`, or with an entry point of the group ``megabert.tasks``:

    [project.entry-points."megabert.tasks"]
    sentence-length = "my_package.sentence_length:SentenceLength"

A file in ``megabert/tasks/single_file/`` is a task of its own and needs no other line.

The built-in tasks are listed here by place, so that ``--help`` knows their names and settings without
importing torch.
"""

from __future__ import annotations

from importlib import import_module
from inspect import isabstract
from typing import TYPE_CHECKING, Any, TypeVar

from megabert.common.errors import UserError
from megabert.common.registry import Registry

if TYPE_CHECKING:
    from megabert.model.head_registry import Head
    from megabert.tasks.base import ItemFormat, Task

    T = TypeVar("T", bound=Task)

DEFAULT_TASK = "squad"


def _check_task(name: str, task: object) -> None:
    from megabert.tasks.base import Task

    if not (isinstance(task, type) and issubclass(task, Task)):
        raise UserError(
            f"task {name!r} is of type {type(task).__name__}; its entry point must name a subclass of "
            "megabert.tasks.base.Task"
        )
    if isabstract(task):
        missing = ", ".join(sorted(task.__abstractmethods__))
        raise UserError(f"task {name!r} ({task.__name__}) lacks the methods {missing}")


_GLUE = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")
_TASKS: Registry[type[Task]] = Registry(
    "task",
    {
        "squad": "megabert.tasks.squad.task:Squad",
        "squad2": "megabert.tasks.squad.task_v2:Squad2",
        **dict.fromkeys(_GLUE, "megabert.tasks.classification.task:Classification"),
        "tnews": "megabert.tasks.classification.task:Classification",
        "classify": "megabert.tasks.own_labels.classify:Classify",
        "regress": "megabert.tasks.own_labels.regress:Regress",
        "cluener": "megabert.tasks.tagging.cluener:Cluener",
        "conll": "megabert.tasks.tagging.conll:Conll",
        "tag": "megabert.tasks.own_labels.tag:OwnTags",
    },
    "megabert.tasks",
    folder="megabert.tasks.single_file",
    check=_check_task,
)
_SECTIONS = {
    "squad": "megabert.tasks.squad.settings:SquadSettings",
    "classification": "megabert.tasks.classification.settings:ClassificationSettings",
    "tagging": "megabert.tasks.tagging.settings:TaggingSettings",
}
"""Section of the settings -> dataclass, of the built-in tasks."""


def register_task(task: type[T]) -> type[T]:
    """Class decorator: make a task known under its names.

    Raises:
        UserError: another task has one of them.
    """
    for name in task.names():
        _TASKS.register(name, task)
    return task


def task_names() -> tuple[str, ...]:
    """Names of all tasks; imports none of them."""
    return _TASKS.names()


def task_class(name: str) -> type[Task]:
    """The class of a task.

    Raises:
        UserError: there is none of this name, or its package does not give a complete task.
    """
    return _TASKS.get(name)


def tasks_with(head: Head) -> tuple[str, ...]:
    """Names of the tasks whose models have this head."""
    return tuple(name for name, task in _TASKS.usable(task_names()) if task.head is head)


def item_formats() -> dict[str, ItemFormat]:
    """The document formats of all tasks by name."""
    found = (task.item_format for _, task in _TASKS.usable(task_names()))
    return {form.name: form for form in found if form is not None}


def all_input_fields() -> tuple[tuple[tuple[str, ...], ...], ...]:
    """``input_fields`` of the built-in tasks."""
    made = (make_task(name) for name in task_names() if name not in _TASKS.own_names())
    return tuple(dict.fromkeys(task.input_fields for task in made))


def settings_sections() -> dict[str, type]:
    """Section of the settings -> dataclass, of all tasks; imports the tasks of other packages.

    Raises:
        UserError: two tasks give one section different dataclasses.
    """
    sections: dict[str, type] = {}
    for section, place in _SECTIONS.items():
        module, attribute = place.split(":")
        sections[section] = getattr(import_module(module), attribute)
    for name, task in _TASKS.usable(_TASKS.own_names()):
        if task.section is None or task.settings_class is None:
            continue
        if sections.setdefault(task.section, task.settings_class) is not task.settings_class:
            raise UserError(
                f"task {name!r}: another task has a settings section {task.section!r}; rename it"
            )
    return sections


def make_task(name: str, settings: Any = None, max_length: int | None = None) -> Task:
    """The task of this name.

    Args:
        name: one of :func:`task_names`.
        settings: an object of the task's ``settings_class``; None: its defaults.
        max_length: tokens per row at most; None: the task's default.

    Raises:
        UserError: there is no such task, or its settings contradict it.
    """
    task = task_class(name)
    if settings is None and task.settings_class is not None:
        settings = task.settings_class()
    return task.create(name, settings, max_length)
