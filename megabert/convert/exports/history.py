"""How a model was trained: a list of stages, plain values that travel with its weights.

A checkpoint's record, its run's settings and metrics, and the results of a fine-tuning say it; a
megabert folder (``history`` in megabert.json) and a converted folder (the same in conversion.json)
carry it on. What no file says is left out. Of paths only the last name is kept.

    {"kind": "pretraining", "steps": 7038, "tokens": ..., "data": {...}, "evaluation": {...}, ...}
    {"kind": "fine-tuning", "task": "squad", "scores": {...}, ...}
    {"kind": "conversion", "changes": [...]}    another vocabulary, more positions, a mean of models
    {"kind": "start", "name": "bert-base"}      a model whose training is not known
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from megabert.common.files import limited_lines, sha256_of_file
from megabert.common.json_text import parse_json, read_json_object
from megabert.common.names import (
    CHECKPOINT_RECORD,
    LATEST,
    RUN_CHECKPOINTS,
    RUN_CONFIG,
    RUN_FINAL,
    RUN_METRICS,
    RUN_RESULTS,
    WEIGHTS_FILE,
    WEIGHTS_FORMAT,
    WEIGHTS_RECORD,
)
from megabert.common.yaml_text import read_yaml_value

CONVERSION_RECORD = "conversion.json"
"""Record of a conversion, in the folder that it made."""
Stage = dict[str, Any]
_MOST_STAGES = 20
_RECORDED = (
    "program",
    "phase",
    "step",
    "tokens",
    "consumed_samples",
    "global_batch_size",
    "seq_length",
    "masking",
    "mask_fraction",
    "final_mask_fraction",
    "sentence_task",
    "precision",
    "data",
    "mixture",
)
"""Values of a checkpoint's record."""
_OPTIMIZER = ("optimizer", "lr", "schedule", "warmup_fraction", "weight_decay", "epochs")
_SCHEDULE = ("warmup", "final_lr_fraction")
_DECAY = ("decay", "decay_duration")
_FINE_TUNED = ("task", "steps", "seed", "train", "eval", "precision", "metric", "kept", "scores")
_TRAINING_LOSSES = ("loss", "mlm_loss", "nsp_loss")


def checkpoint_history(folder: Path, record: Mapping[str, Any]) -> list[Stage]:
    """Stages of a checkpoint: those of its starting point, and its run's up to this checkpoint."""
    return _pretraining(folder, record, set())


def folder_history(folder: Path, record: Mapping[str, Any]) -> list[Stage]:
    """Stages of a megabert folder; of the ``final`` of a run also its fine-tuning."""
    stages = stages_in(record)
    return stages + _fine_tuning(folder.parent) if folder.name == RUN_FINAL else stages


def converted_record(folder: Path) -> dict[str, Any]:
    """The record of the conversion that made a folder; {} without one, or if its weights are others."""
    record = _object(folder / CONVERSION_RECORD)
    files = record.get("files")
    file = folder / WEIGHTS_FILE
    known = files.get(WEIGHTS_FILE) if isinstance(files, dict) else None
    try:
        return record if known is not None and known == sha256_of_file(file) else {}
    except (OSError, UserError):
        return {}


def stages_in(record: Mapping[str, Any]) -> list[Stage]:
    """The stages that a record lists."""
    found = record.get("history")
    stages = found if isinstance(found, list) else []
    return [dict(stage) for stage in stages if isinstance(stage, dict)][-_MOST_STAGES:]


def _object(file: Path) -> dict[str, Any]:
    """A JSON object, {} where there is none."""
    try:
        return read_json_object(file, of_data=True)
    except (OSError, UserError):
        return {}


def _history(path: Path, seen: set[Path]) -> list[Stage]:
    """Stages of anything that a run can start from; at least its name."""
    unknown = [{"kind": "start", "name": path.name}]
    place = path.absolute()
    if place in seen or len(seen) > _MOST_STAGES:
        return unknown
    seen.add(place)
    try:
        base = path / RUN_CHECKPOINTS
        if base.is_dir():
            path = base / Path((base / LATEST).read_text(encoding="utf-8").strip()).name
        elif (path / RUN_FINAL / WEIGHTS_RECORD).is_file():
            path = path / RUN_FINAL
    except (OSError, UnicodeDecodeError):
        return unknown
    record = _object(path / CHECKPOINT_RECORD)
    if record.get("format") == WEIGHTS_FORMAT:
        return folder_history(path, record) or unknown
    if record:
        return _pretraining(path, record, seen)
    return stages_in(converted_record(path)) or unknown


def _pretraining(folder: Path, record: Mapping[str, Any], seen: set[Path]) -> list[Stage]:
    run = folder.parent.parent
    settings = _settings(run)
    stage: Stage = {"kind": "pretraining"}
    stage |= {name: record[name] for name in _RECORDED if record.get(name) is not None}
    wanted = settings.get("optimizer", {})
    stage |= {name: wanted[name] for name in _OPTIMIZER if wanted.get(name) is not None}
    schedule = settings.get("schedule", {})
    names = (*_SCHEDULE, *_DECAY) if wanted.get("schedule") == "wsd" else _SCHEDULE
    stage |= {name: schedule[name] for name in names if schedule.get(name)}
    if record.get("steps") is not None:
        stage["planned_steps"] = record["steps"]
    stage |= _measured(run / RUN_METRICS, int(record.get("step", 0)))
    start = settings.get("run", {}).get("init_from")
    return [*(_history(Path(start), seen) if isinstance(start, str) else []), stage]


def _settings(run: Path) -> dict[str, dict[str, Any]]:
    """Sections of a run's settings; {} where there are none."""
    try:
        found = read_yaml_value(run / RUN_CONFIG)
    except (OSError, UserError):
        return {}
    sections = found.items() if isinstance(found, dict) else ()
    return {name: section for name, section in sections if isinstance(section, dict)}


def _measured(metrics: Path, step: int) -> Stage:
    """The last training losses and the last evaluation up to a step."""
    losses: dict[str, float] = {}
    evaluation: dict[str, float] = {}
    for line in _lines(metrics):
        number = line.get("step")
        if not isinstance(number, int) or number > step:
            continue
        numbers = {name: value for name, value in line.items() if type(value) in (int, float)}
        scores = {name: value for name, value in numbers.items() if name.startswith("eval_")}
        trained = {name: numbers[name] for name in _TRAINING_LOSSES if name in numbers}
        losses, evaluation = trained or losses, scores or evaluation
    return {
        **({"training_loss": losses} if losses else {}),
        **({"evaluation": evaluation} if evaluation else {}),
    }


def _lines(metrics: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of metrics; lines that are cut off are skipped."""
    with suppress(OSError, UserError):
        for content in limited_lines(metrics):
            with suppress(ValueError):
                line = parse_json(content)
                if isinstance(line, dict):
                    yield line


def _fine_tuning(run: Path) -> list[Stage]:
    results = _object(run / RUN_RESULTS)
    if not isinstance(results.get("task"), str):
        return []
    stage: Stage = {"kind": "fine-tuning"}
    stage |= {name: results[name] for name in _FINE_TUNED if results.get(name) is not None}
    settings = _settings(run) or results.get("settings")
    if isinstance(settings, dict):
        optimizer, batch, task = (settings.get(n) or {} for n in ("optimizer", "batch", "task"))
        stage |= {name: optimizer[name] for name in _OPTIMIZER if optimizer.get(name) is not None}
        if batch.get("global_batch_size") is not None:
            stage["global_batch_size"] = batch["global_batch_size"]
        files = {n: Path(task[n]).name for n in ("train", "eval") if isinstance(task.get(n), str)}
        stage |= {"files": files} if files else {}
    return [stage]
