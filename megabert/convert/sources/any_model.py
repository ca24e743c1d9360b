"""Reads a model from any folder or file that training can start from, whatever its format."""

from __future__ import annotations

from pathlib import Path

from megabert.common.errors import UserError
from megabert.common.json_text import read_json_object
from megabert.common.log import get_logger
from megabert.common.names import (
    CHECKPOINT_RECORD,
    RUN_CHECKPOINTS,
    RUN_CONFIG,
    RUN_FINAL,
    RUN_RESULTS,
)
from megabert.common.storage import named_storage_errors
from megabert.config.checkpoint_path import named_checkpoint
from megabert.convert.file_kinds import FILE_FORMATS, kind_of, wrong_file
from megabert.convert.foreign_files import WEIGHT_FILES
from megabert.convert.format import ModelSource
from megabert.convert.formats import find_format, looks_like, read_formats
from megabert.convert.name_table import first_names
from megabert.convert.whole_model import WholeModel
from megabert.model.parameters import LAYERS, VOCABULARY_TENSORS
from megabert.model.weights import is_weights_folder

_OWN, _HUGGINGFACE, _GOOGLE = "megabert", "huggingface", "google-tf"
_CONVERT_FLAGS = ("--input", "--model-config", "--tokenizer", "--from")

log = get_logger()


def read_any_model(path: Path, flag: str) -> WholeModel:
    """The model at ``path``, of any format that ``launch/convert.py --from`` takes.

    Args:
        path: a run, a checkpoint, a megabert or Hugging Face folder, a file or folder of another
            project, or the prefix of a TensorFlow checkpoint.
        flag: what named it, for messages.

    Raises:
        UserError: none of these, damaged, incomplete, or without trained values.
    """
    path = named_checkpoint(path)
    with named_storage_errors(path, "cannot be read"):
        name = _format_of(path, flag)
        try:
            model = find_format(name).read(ModelSource(path))
        except UserError as error:
            raise UserError(_with_advice(error, path, name)) from error
    _require_values(model)
    return model


def is_run(path: Path) -> bool:
    """Whether ``path`` is a pretraining run, or one checkpoint of it, and not a finished fine-tuning."""
    path = named_checkpoint(path)
    if (path / RUN_CHECKPOINTS).is_dir():
        return True
    if (path / CHECKPOINT_RECORD).is_file():
        return not is_weights_folder(path)
    return False


def _format_of(path: Path, flag: str) -> str:
    if path.is_dir():
        return _format_of_folder(path, flag)
    if path.is_file():
        kind = kind_of(path)
        known = [] if kind is None else [n for n in kind.formats if n in (*FILE_FORMATS, _GOOGLE)]
        if known:
            return known[0]
        if kind is not None:
            raise UserError(f"{flag} {kind.message(path)}")
        raise UserError(
            f"{flag} {path} is not a file of weights; name a run, a checkpoint, a Hugging Face folder, or a "
            "checkpoint of Google (TensorFlow), NVIDIA (.pt) or MindSpore (.ckpt)"
        )
    if path.with_name(f"{path.name}.index").is_file():
        return _GOOGLE
    raise UserError(f"{flag} {path} does not exist")


def _format_of_folder(path: Path, flag: str) -> str:
    if is_run(path) or is_weights_folder(path):
        return _OWN
    _refuse_several_runs(path, flag)
    if is_weights_folder(path / RUN_FINAL):
        return _OWN
    if any((path / name).is_file() for name in ("config.json", "modules.json")):
        return _HUGGINGFACE
    found = [name for name in read_formats() if name in looks_like(path) and name != _OWN]
    if found or (path / RUN_CONFIG).is_file():
        return found[0] if found else _OWN
    weights = [name for name in WEIGHT_FILES if (path / name).is_file()]
    holds = f"{weights[0]} and no config.json" if weights else "no model"
    raise UserError(
        f"{flag} {path} holds {holds}; name a run, a checkpoint (megabert.json), or a folder with a model's "
        "config.json and its weights"
    )


def _refuse_several_runs(path: Path, flag: str) -> None:
    """Raise UserError for the folder of a sweep, with the run to take."""
    if (path / RUN_FINAL).is_dir():
        return
    runs = sorted(
        folder.parent for folder in path.glob(f"*/{RUN_FINAL}") if is_weights_folder(folder)
    )
    try:
        results = read_json_object(path / RUN_RESULTS, of_data=True)
    except (OSError, UserError):
        results = {}
    if not runs or not (results or (path / RUN_CONFIG).is_file()):
        return
    best = path / str(results.get("best_run"))
    chosen, note = (best, " (the best)") if best in runs else (runs[0], "")
    raise UserError(
        f"{flag} {path} is a folder of {len(runs)} runs: give one of them, such as {chosen}{note}"
    )


def _with_advice(error: UserError, path: Path, name: str) -> str:
    """What was wrong, and where the flags are that the message names."""
    said = wrong_file(path, name) or str(error)
    if name == _OWN or not any(one in said for one in _CONVERT_FLAGS):
        return said
    return (
        f"{said} (flags of launch/convert.py --from {name} --to megabert, whose output fits here)"
    )


def _require_values(model: WholeModel) -> None:
    """Raise UserError for weights that were never written: a layer's matrices, or the words, all zero."""
    names = [VOCABULARY_TENSORS[0]]
    if model.tensors[names[0]].any():
        layers: dict[str, list[str]] = {}
        for name, tensor in model.tensors.items():
            if name.startswith(LAYERS) and tensor.dim() > 1:
                layers.setdefault(name.removeprefix(LAYERS).split(".")[0], []).append(name)
        names = next(
            (group for group in layers.values() if not any(model.tensors[n].any() for n in group)),
            [],
        )
    if names:
        raise UserError(
            f"{model.origin}: tensors of zeros: {first_names(names)}: these weights were never written, or the "
            "file was damaged; get it again"
        )
