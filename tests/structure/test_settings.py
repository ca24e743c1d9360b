"""Resolved settings hold a value for everything that has one."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import pytest

from megabert.config import flags, training
from megabert.config.values import hints
from megabert.finetune import settings as finetuning

RESOLVED = [
    kind
    for module in (training, finetuning)
    for name, kind in vars(module).items()
    if isinstance(kind, type)
    and kind.__module__ == module.__name__
    and name.startswith(("Resolved", "Divided"))
]


def _optional(kind: type) -> set[str]:
    return {name for name, hint in hints(kind).items() if type(None) in get_args(hint)}


def test_there_are_resolved_settings() -> None:
    assert len(RESOLVED) >= 8


@pytest.mark.parametrize("kind", RESOLVED, ids=lambda kind: kind.__name__)
def test_only_optional_inputs_may_be_none(kind: Any) -> None:
    assert _optional(kind) == set(getattr(kind, "optional_inputs", ()))


@pytest.mark.parametrize("kind", RESOLVED, ids=lambda kind: kind.__name__)
def test_a_resolved_section_has_the_settings_of_its_section(kind: Any) -> None:
    """Same names in the same order: the file that records them keeps its keys."""
    for base in kind.__mro__[1:]:
        if dataclasses.is_dataclass(base) and base.__name__.endswith("Settings"):
            asked = [field.name for field in dataclasses.fields(base)]
            assert [field.name for field in dataclasses.fields(kind)][: len(asked)] == asked


@pytest.mark.parametrize("tree", [training.PretrainSettings, finetuning.finetune_settings()])
def test_settings_have_help_that_ends_without_a_full_stop(tree: type) -> None:
    for section in flags.sections(tree).values():
        for field in dataclasses.fields(section):
            assert field.metadata["help"]
            assert not field.metadata["help"].endswith(".")
