"""What is probed: every whole checkpoint of the runs, and folders with weights.

A model is known by the content of its files, not by its place: a run that was moved keeps its results.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from megabert.checkpoint.record import (
    Checkpoint,
    UnreadableCheckpoint,
    read_checkpoint_record,
    tagged_folders,
)
from megabert.common.errors import UserError
from megabert.common.files import new_folder, sha256_of, sha256_of_file
from megabert.common.log import get_logger
from megabert.common.names import BEST, CHECKPOINT_RECORD, RUN_CHECKPOINTS, RUN_FINAL
from megabert.common.storage import named_storage_errors
from megabert.config.checkpoint_path import named_checkpoint
from megabert.config.sections.initial_weights import InitialWeightSettings
from megabert.convert import own_weights
from megabert.convert.huggingface.model import config_file, read_folder_config
from megabert.convert.huggingface.sentence_modules import encoder_folder
from megabert.convert.tokenizer import open_tokenizer
from megabert.finetune.starting_weights import read_weights
from megabert.model.weights import is_weights_folder
from megabert.predict.fill_mask import FillMask

log = get_logger()


@dataclass(frozen=True)
class ProbedModel:
    """A checkpoint, or a folder with weights.

    Attributes:
        name: for tables.
        run: name of the run, or of the folder.
        folder: where it is.
        identity: SHA-256 of what it consists of.
        step, tokens: of a checkpoint: updates and tokens of its run; None if not known.
        evaluation: of a checkpoint: values of the run's evaluation at this step.
        best: whether ``--keep-best`` has marked it.
        initial: of a checkpoint: how its run's initial weights were drawn.
    """

    name: str
    run: str
    folder: Path
    identity: str
    step: int | None = None
    tokens: int | None = None
    evaluation: Mapping[str, float] = field(default_factory=dict)
    best: bool = False
    initial: InitialWeightSettings = field(default_factory=InitialWeightSettings)


@dataclass(frozen=True)
class Found:
    """What the command line names.

    Attributes:
        models: those that can be probed, each run in order of its updates.
        damaged: name and fault of the others.
    """

    models: list[ProbedModel]
    damaged: dict[str, str]


def find_models(paths: list[Path]) -> Found:
    """The models that are there now; a run may write more of them later.

    Raises:
        UserError: a path is none of a run, a checkpoint, a megabert folder or a Hugging Face folder, or a run has
            no whole checkpoint.
    """
    models: dict[str, ProbedModel] = {}
    damaged: dict[str, str] = {}
    for path in paths:
        with named_storage_errors(path, "cannot be read"):
            found = _models_of(path)
        for model in found.models:
            same = models.setdefault(model.identity, model)
            if same.folder.absolute() != model.folder.absolute():
                log.info("%s is the same model as %s: it is probed once", model.folder, same.folder)
        damaged |= found.damaged
    for name, fault in damaged.items():
        log.warning("%s is damaged and is skipped: %s", name, fault)
    return Found(_with_own_names(list(models.values())), damaged)


def _with_own_names(models: list[ProbedModel]) -> list[ProbedModel]:
    """The models; runs of one name in different folders are named with as many of these as tell them apart."""
    roots: dict[str, dict[Path, str]] = {}
    for model in models:
        roots.setdefault(model.run, {})[_root(model)] = model.run
    for names in roots.values():
        depth = 1
        while len(set(names.values())) < len(names):
            depth += 1
            names.update({root: "/".join(root.parts[-depth:]) for root in names})
    found = [(model, roots[model.run][_root(model)]) for model in models]
    return [
        replace(model, run=run, name=run + model.name.removeprefix(model.run))
        for model, run in found
    ]


def _root(model: ProbedModel) -> Path:
    """The run's folder, or the folder with weights itself."""
    folder = model.folder.absolute()
    if model.step is not None:
        return folder.parent.parent
    return folder.parent if folder.name == RUN_FINAL != model.run else folder


def _models_of(path: Path) -> Found:
    folder = named_checkpoint(path)
    if not folder.is_dir():
        raise UserError(
            f"{path} is not a folder; name a run, a checkpoint or a folder with weights"
        )
    final = folder / RUN_FINAL
    if is_weights_folder(folder):
        return Found([_of_folder(folder)], {})
    if (folder / RUN_CHECKPOINTS).is_dir():
        return _of_run(folder)
    if is_weights_folder(final):
        return Found([_of_folder(final, folder.absolute().name)], {})
    if (folder / CHECKPOINT_RECORD).is_file():
        run = folder.absolute().parent.parent.name
        return Found([_of_checkpoint(read_checkpoint_record(folder), run)], {})
    if any((folder / name).is_file() for name in ("config.json", "modules.json")):
        read_folder_config(config_file(encoder_folder(folder)))  # of another family: refused here
        return Found([_of_folder(folder)], {})
    raise UserError(
        f"{path} is not a run, a checkpoint, a megabert folder or a Hugging Face BERT folder"
    )


def _of_run(folder: Path) -> Found:
    models: list[ProbedModel] = []
    damaged: dict[str, str] = {}
    run = folder.absolute().name
    for tagged in reversed(tagged_folders(folder / RUN_CHECKPOINTS)):
        try:
            models.append(_of_checkpoint(read_checkpoint_record(tagged), run))
        except UnreadableCheckpoint:
            raise
        except UserError as error:
            if tagged.exists():  # the run may remove it now
                damaged[f"{run}/{tagged.name}"] = str(error)
    if not models:
        fault = next(iter(damaged.values()), "it has saved none yet")
        raise UserError(f"{folder} has no whole checkpoint: {fault}")
    return Found(models, damaged)


def _of_checkpoint(checkpoint: Checkpoint, run: str) -> ProbedModel:
    record, folder = checkpoint.record, checkpoint.folder
    files = {name: entry["sha256"] for name, entry in record["files"].items()}
    drawn = {name: record[name] for name in ("init_scheme", "init_local_heads") if name in record}
    initial = InitialWeightSettings(**drawn)
    known = [files, record["model"], record.get("tokenizer_sha256"), *_drawn_otherwise(initial)]
    marked = folder.parent / BEST
    best = False
    if marked.is_file():
        try:
            best = named_checkpoint(marked).name == folder.name
        except UserError:
            best = False
    return ProbedModel(
        f"{run}/{folder.name}",
        run,
        folder,
        sha256_of(json.dumps(known, sort_keys=True)),
        checkpoint.step,
        record.get("tokens"),
        record.get("evaluation", {}),
        best,
        initial,
    )


def _drawn_otherwise(initial: InitialWeightSettings) -> list[Any]:
    """What a checksum needs to know of initial weights: nothing if they are drawn by the defaults."""
    return [] if initial == InitialWeightSettings() else [asdict(initial)]


def _of_folder(folder: Path, name: str = "") -> ProbedModel:
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    ]
    sums = {str(path.relative_to(folder)): sha256_of_file(path) for path in files}
    name = name or folder.absolute().name
    return ProbedModel(name, name, folder, sha256_of(json.dumps(sums, sort_keys=True)))


@dataclass(frozen=True)
class Export:
    """A model as a megabert folder of whole fp32 tensors, which every probe of it reads.

    Attributes:
        folder: where.
        shape: SHA-256 of its shape, its tokenizer and ``initial``: random weights of one shape are the same.
        initial: how random weights are drawn, as the run's.
        predicts_masks: whether it has the head of the masked language model.
    """

    folder: Path
    shape: str
    initial: InitialWeightSettings
    predicts_masks: bool


def export_model(model: ProbedModel, folder: Path) -> Export:
    """Write the model's weights and tokenizer into a new ``folder``; a checkpoint is verified before.

    Raises:
        UserError: it is damaged, or was removed meanwhile.
    """
    source, trained_with = read_weights(model.folder)
    if source.tokenizer is None:
        raise UserError(
            f"{model.folder} has no tokenizer; put its vocab.txt or tokenizer.json there"
        )
    tokenizer = open_tokenizer(
        source.tokenizer, source.config.vocab_size, str(model.folder), trained_with
    )
    write = own_weights.FORMAT.write
    assert write is not None
    with new_folder(folder) as temporary:
        write(temporary, source, tokenizer)
    known = [source.config.to_dict(), tokenizer.sha256, *_drawn_otherwise(model.initial)]
    shape = sha256_of(json.dumps(known, sort_keys=True))
    return Export(folder, shape, model.initial, source.head in FillMask.heads)
