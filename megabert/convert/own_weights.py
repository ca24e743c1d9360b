"""The format "megabert": a run, one of its checkpoint folders, or a megabert folder."""

from __future__ import annotations

from pathlib import Path

from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.common.names import RUN_CHECKPOINTS, RUN_FINAL, TOKENIZER_FOLDER, WEIGHTS_RECORD
from megabert.config.checkpoint_path import named_checkpoint
from megabert.config.model import ModelConfig
from megabert.convert.exports.history import checkpoint_history, folder_history
from megabert.convert.foreign_model import in_float32
from megabert.convert.format import Format, ModelSource
from megabert.convert.tokenizer import complete, open_tokenizer, tokenizer_in
from megabert.convert.whole_model import WholeModel, check_tensors
from megabert.data.tokenizers.base import Tokenizer
from megabert.model.weights import (
    is_weights_folder,
    load_weights,
    true_vocabulary,
    write_weights,
)

log = get_logger("megabert.convert")


def read(path: Path, *, tokenizer: Path | None = None, averaged: bool = False) -> WholeModel:
    """Read megabert's own weights.

    Args:
        path: a RUN (its newest complete checkpoint, or the megabert folder of a finished
            fine-tuning), a checkpoint folder, a run's ``checkpoints/best``, or a megabert folder.
        tokenizer: folder of tokenizer files to use instead of those next to the weights.
        averaged: the moving average of a checkpoint's weights instead of them.

    Raises:
        UserError: ``path`` is none of these, has no averaged weights, or is damaged, or (for checkpoints, before the long
            work of merging) the tokenizer is not the one that the model was trained with.
    """
    path = named_checkpoint(Path(path))
    if not path.is_dir():
        raise UserError(
            f"{path} is not a folder; --input takes a run, a checkpoint or a megabert folder"
        )
    final = path / RUN_FINAL
    if not (path / RUN_CHECKPOINTS).is_dir() and is_weights_folder(final):
        path = final
    if is_weights_folder(path):
        if averaged:
            raise UserError(
                f"--ema: {path} holds one set of weights; name a run or a checkpoint of pretraining with --ema-decay"
            )
        return _read_megabert_folder(path, tokenizer)
    return _read_checkpoint(path, tokenizer, averaged)


def _read_megabert_folder(folder: Path, tokenizer: Path | None) -> WholeModel:
    config, found, info = load_weights(folder)
    tensors, _ = in_float32(found, folder)
    model = WholeModel(
        config=config,
        tensors=tensors,
        tokenizer=tokenizer or tokenizer_in(folder),
        trained_positions=info.get("trained_positions") or config.max_position_embeddings,
        origin=str(folder),
        labels=tuple(map(str, info.get("labels") or ())),
        task=info.get("task"),
        task_record=dict(info.get("task_record") or {}),
        tokenizer_sha256=info.get("tokenizer_sha256"),
        history=folder_history(folder, info),
        embedding=dict(info.get("embedding") or {}),
    )
    check_tensors(model)
    return model


def _read_checkpoint(path: Path, tokenizer: Path | None, averaged: bool) -> WholeModel:
    # imported here, so that other conversions do not wait for DeepSpeed
    from megabert.checkpoint.deepspeed_files import check_content
    from megabert.checkpoint.layout import Layout
    from megabert.checkpoint.merged import whole_checkpoint
    from megabert.checkpoint.record import damaged_file, whole_checkpoints
    from megabert.checkpoint.resume import recorded_parameters
    from megabert.checkpoint.save_load import newest_checkpoint

    checkpoint = newest_checkpoint(path)
    fault = damaged_file(checkpoint)
    if fault is not None:
        others = (c for c in whole_checkpoints(checkpoint.folder.parent) if c != checkpoint)
        sound = next((c.folder for c in others if damaged_file(c) is None), None)
        advice = "no other checkpoint of its run is undamaged"
        if sound is not None:
            advice = f"the newest undamaged one is {sound}: name that folder"
        raise UserError(f"the checkpoint is damaged: {fault}; {advice}")
    record, folder = checkpoint.record, checkpoint.folder
    config = ModelConfig.from_dict(record["model"])
    parameters = recorded_parameters(config, checkpoint.field("heads"))
    trained_with = record.get("tokenizer_sha256")
    tokenizer = tokenizer or tokenizer_in(folder.parent.parent / TOKENIZER_FOLDER)
    if tokenizer is not None:
        open_tokenizer(tokenizer, config.vocab_size, str(folder), trained_with)
    log.info(
        "merging %s: ZeRO %s, tensor parallel %s, data parallel %s",
        folder,
        record.get("zero_stage"),
        record.get("tensor_parallel"),
        record.get("data_parallel"),
    )
    if averaged and not Layout.from_record(record).has_average:
        raise UserError(
            f"--ema: {folder} has no averaged weights, because it was trained without --ema-decay; leave --ema out"
        )
    check_content(folder)
    whole = whole_checkpoint(folder, parameters)
    if whole.step != checkpoint.step:
        raise UserError(
            f"{folder}: its record says step {checkpoint.step}, but its optimizer {whole.step}"
        )
    tensors = {
        name: true_vocabulary(name, tensor, config.vocab_size).clone()
        for name, tensor in whole.weights(averaged=averaged).items()
    }
    whole.log_difference()
    model = WholeModel(
        config=config,
        tensors=tensors,
        tokenizer=tokenizer,
        trained_positions=int(record.get("trained_positions", config.max_position_embeddings)),
        origin=f"{folder} (step {checkpoint.step}{', averaged weights' if averaged else ''})",
        tokenizer_sha256=trained_with,
        history=checkpoint_history(folder, record),
    )
    check_tensors(model)
    return model


def _read_source(source: ModelSource) -> WholeModel:
    if source.model_config is not None:
        log.warning("--model-config has no effect: %s records its own model", source.path)
    return read(source.path, tokenizer=source.tokenizer, averaged=source.averaged)


def _write(folder: Path, model: WholeModel, tokenizer: Tokenizer | None) -> None:
    write_weights(
        folder,
        model.config,
        model.tensors,
        model.tokenizer,
        trained_positions=model.trained_positions,
        source=model.origin,
        tokenizer_sha256=tokenizer.sha256 if tokenizer else None,
        task=model.task,
        labels=list(model.labels),
        task_record=model.task_record,
        **({"history": model.history} if model.history else {}),
        **({"embedding": model.embedding} if model.embedding else {}),
    )
    if tokenizer is not None:
        complete(folder, tokenizer)


FORMAT = Format(
    read=_read_source,
    write=_write,
    marks=((WEIGHTS_RECORD, RUN_CHECKPOINTS),),
    read_again=False,
)
