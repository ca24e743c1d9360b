"""Our own weights as input: a run, one of its checkpoint folders, or a megabert folder."""

from __future__ import annotations

from pathlib import Path

from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.common.names import RUN_CHECKPOINTS, RUN_FINAL, TOKENIZER_FOLDER
from megabert.config.model import ModelConfig
from megabert.convert.foreign_model import in_float32
from megabert.convert.tokenizer import open_tokenizer, tokenizer_in
from megabert.convert.whole_model import WholeModel, settle
from megabert.model.weights import is_weights_folder, load_weights, true_vocabulary


def read(
    path: Path, *, scratch: Path | None = None, tokenizer: Path | None = None
) -> tuple[WholeModel, str | None]:
    """Read our own weights.

    Args:
        path: a RUN (its newest whole checkpoint, or the megabert folder of a finished fine-tuning),
            a checkpoint folder, or a megabert folder.
        scratch: disk space for merging a partitioned checkpoint.
        tokenizer: folder of tokenizer files to use instead of those beside the weights.

    Returns:
        the model, and the SHA-256 of the tokenizer that it was trained with, if recorded.

    Raises:
        UserError: none of these, damaged, or (checkpoints, before the long work of merging) with
            another tokenizer than it was trained with.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(
            f"{path} is not a folder; --input takes a run, a checkpoint or a megabert folder"
        )
    final = path / RUN_FINAL
    if not (path / RUN_CHECKPOINTS).is_dir() and is_weights_folder(final):
        path = final
    if is_weights_folder(path):
        return _read_megabert_folder(path, tokenizer)
    return _read_checkpoint(path, scratch, tokenizer)


def _read_megabert_folder(folder: Path, tokenizer: Path | None) -> tuple[WholeModel, str | None]:
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
    )
    settle(model)
    return model, info.get("tokenizer_sha256")


def _read_checkpoint(
    path: Path, scratch: Path | None, tokenizer: Path | None
) -> tuple[WholeModel, str | None]:
    # here, so that other conversions do not wait for DeepSpeed
    from megabert.checkpoint.resume import recorded_parameters
    from megabert.checkpoint.save_load import damaged_file, newest_checkpoint
    from megabert.checkpoint.universal import whole_checkpoint

    checkpoint = newest_checkpoint(path)
    fault = damaged_file(checkpoint)
    if fault is not None:
        raise UserError(f"the checkpoint is damaged: {fault}")
    record, folder = checkpoint.record, checkpoint.folder
    config = ModelConfig.from_dict(record["model"])
    parameters = recorded_parameters(config, record["heads"])
    trained_with = record.get("tokenizer_sha256")
    tokenizer = tokenizer or tokenizer_in(folder.parent.parent / TOKENIZER_FOLDER)
    if tokenizer is not None:
        open_tokenizer(tokenizer, config.vocab_size, str(folder), trained_with)
    get_logger("megabert.convert").info(
        "merging %s: ZeRO %s, tensor parallel %s, data parallel %s",
        folder,
        record.get("zero_stage"),
        record.get("tensor_parallel"),
        record.get("data_parallel"),
    )
    with whole_checkpoint(folder, parameters, scratch=scratch) as whole:
        if whole.step != checkpoint.step:
            raise UserError(
                f"{folder}: its record says step {checkpoint.step}, its optimizer {whole.step}"
            )
        tensors = {
            name: true_vocabulary(name, tensor, config.vocab_size).clone()
            for name, tensor in whole.weights().items()
        }
    model = WholeModel(
        config=config,
        tensors=tensors,
        tokenizer=tokenizer,
        trained_positions=int(record.get("trained_positions", config.max_position_embeddings)),
        origin=f"{folder} (step {checkpoint.step})",
    )
    settle(model)
    return model, trained_with
