"""Every task by its name."""

from __future__ import annotations

from megabert.common.errors import UserError
from megabert.tasks.base import Task
from megabert.tasks.classification.glue import GLUE
from megabert.tasks.classification.task import Classification
from megabert.tasks.classification.tnews import Tnews
from megabert.tasks.settings import ClassificationSettings, SquadSettings, TaggingSettings
from megabert.tasks.squad.task import Squad
from megabert.tasks.squad.task_v2 import Squad2
from megabert.tasks.tagging.cluener import Cluener
from megabert.tasks.tagging.conll import Conll

QA_LENGTH, OTHER_LENGTH = 384, 128
"""Tokens of a row where ``--max-length`` is not given: question answering, and other tasks."""
QUESTION_ANSWERING = ("squad", "squad2")
CLASSIFICATION = (*GLUE, "tnews")
TAGGING = ("cluener", "conll")


def make_task(
    name: str,
    max_length: int | None,
    squad: SquadSettings,
    classification: ClassificationSettings,
    tagging: TaggingSettings,
) -> Task:
    """The task of this name.

    Raises:
        UserError: there is none.
    """
    longest = max_length or (QA_LENGTH if name in QUESTION_ANSWERING else OTHER_LENGTH)
    if name == "squad":
        return Squad(squad, longest)
    if name == "squad2":
        return Squad2(squad, longest)
    if name == "cluener":
        return Cluener(tagging, longest)
    if name == "conll":
        return Conll(tagging, longest)
    if name in GLUE:
        return Classification(GLUE[name], classification, longest)
    if name == "tnews":
        return Classification(Tnews(), classification, longest)
    raise UserError(f"unknown task {name!r}")
