"""Weights of any folder that a run or a prediction can start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from megabert.common.json_text import read_json_object
from megabert.common.names import (
    RUN_CHECKPOINTS,
    RUN_CONFIG,
    RUN_FINAL,
    RUN_RESULTS,
    WEIGHTS_RECORD,
)
from megabert.common.storage import named_storage_errors
from megabert.config.checkpoint_path import named_checkpoint
from megabert.convert import own_weights
from megabert.convert.huggingface import model as huggingface
from megabert.convert.whole_model import WholeModel
from megabert.model.weights import is_weights_folder
from megabert.tasks.registry import task_names


def read_weights(path: Path) -> tuple[WholeModel, str | None]:
    """Weights of a Hugging Face folder, a run, a checkpoint folder or a megabert folder.

    Returns:
        the model, and the SHA-256 of the tokenizer it was trained with, if that is known.

    Raises:
        UserError: none of these, damaged, or incomplete.
    """
    with named_storage_errors(path, "cannot be read"):
        return _read_weights(path)


def _read_weights(path: Path) -> tuple[WholeModel, str | None]:
    path = named_checkpoint(path)
    if not path.is_dir():
        raise UserError(f"--checkpoint {path} is not a folder")
    _refuse_several_runs(path)
    foreign = any((path / name).is_file() for name in ("config.json", "modules.json"))
    if foreign and not is_weights_folder(path) and not (path / RUN_CHECKPOINTS).is_dir():
        return huggingface.read(path), None
    try:
        model = own_weights.read(path)
    except UserError as error:
        _name_missing_task(path, error)
        raise
    return model, model.tokenizer_sha256


def _refuse_several_runs(path: Path) -> None:
    """Raise UserError for the folder of a sweep, with the run to take."""
    if (path / RUN_FINAL).is_dir() or is_weights_folder(path):
        return
    runs = sorted(
        folder.parent for folder in path.glob(f"*/{RUN_FINAL}") if is_weights_folder(folder)
    )
    results = _read_object(path / RUN_RESULTS)
    if not runs or not (results or (path / RUN_CONFIG).is_file()):
        return
    best = path / str(results.get("best_run"))
    chosen, note = (best, " (the best)") if best in runs else (runs[0], "")
    raise UserError(
        f"--checkpoint {path} is a folder of {len(runs)} runs: give one of them, such as {chosen}{note}"
    )


def _name_missing_task(path: Path, error: UserError) -> None:
    """Raise UserError if the task of a folder that cannot be read is not known here."""
    for folder in (path / RUN_FINAL, path):
        task = _read_object(folder / WEIGHTS_RECORD).get("task")
        if isinstance(task, str) and task not in task_names():
            raise UserError(
                f"{folder} was fine-tuned for the task {task!r}, which is not known here: install the "
                f"package that adds it ({error})"
            ) from error


def _read_object(file: Path) -> dict[str, Any]:
    """A JSON object, {} where there is none."""
    try:
        return read_json_object(file, of_data=True)
    except (OSError, UserError):
        return {}
