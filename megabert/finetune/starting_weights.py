"""Weights of any folder or file that a run or a prediction can start from."""

from __future__ import annotations

from pathlib import Path

from megabert.common.errors import UserError
from megabert.common.json_text import read_json_object
from megabert.common.names import RUN_FINAL, WEIGHTS_RECORD
from megabert.convert.sources.any_model import read_any_model
from megabert.convert.whole_model import WholeModel
from megabert.tasks.registry import task_names


def read_weights(path: Path) -> tuple[WholeModel, str | None]:
    """The model at ``path`` (:func:`read_any_model`).

    Returns:
        the model, and the SHA-256 of the tokenizer it was trained with, if that is known.

    Raises:
        UserError: there is none, it is damaged, or incomplete.
    """
    try:
        model = read_any_model(path, "--checkpoint")
    except UserError as error:
        _name_missing_task(path, error)
        raise
    return model, model.tokenizer_sha256


def _name_missing_task(path: Path, error: UserError) -> None:
    """Raise UserError if the task of a folder that cannot be read is not known here."""
    for folder in (path / RUN_FINAL, path):
        try:
            task = read_json_object(folder / WEIGHTS_RECORD, of_data=True).get("task")
        except (OSError, UserError):
            continue
        if isinstance(task, str) and task not in task_names():
            raise UserError(
                f"{folder} was fine-tuned for the task {task!r}, which is not known here: install the "
                f"package that adds it ({error})"
            ) from error
