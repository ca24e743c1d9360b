"""What a fine-tuning run starts from: checkpoint, tokenizer, features and a free run folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from megabert.convert import checkpoint as own_weights
from megabert.convert import huggingface
from megabert.convert.whole_model import WholeModel
from megabert.data.tokenization import Tokenizer, load_tokenizer
from megabert.engine.exchange import from_main, tensors_from_main
from megabert.engine.launch import World
from megabert.log import UserError, get_logger
from megabert.model.weights import is_weights_folder
from megabert.naming import RUN_CHECKPOINTS
from megabert.task_config import FinetuneSettings
from megabert.tasks.base import Features, Task

log = get_logger()


@dataclass(frozen=True)
class Inputs:
    """What a run starts from."""

    model: WholeModel
    tokenizer: Tokenizer
    train: Features | None
    evaluation: Features | None


def read_weights(path: Path) -> tuple[WholeModel, str | None]:
    """Weights of a Hugging Face folder, a run, a checkpoint folder or a megabert folder.

    Returns:
        the model, and the SHA-256 of the tokenizer it was trained with, if that is known.

    Raises:
        UserError: none of these, damaged, or incomplete.
    """
    if not path.is_dir():
        raise UserError(f"--checkpoint {path} is not a folder")
    foreign = any((path / name).is_file() for name in ("config.json", "modules.json"))
    if foreign and not is_weights_folder(path) and not (path / RUN_CHECKPOINTS).is_dir():
        return huggingface.read(path), None
    return own_weights.read(path)


def open_inputs(settings: FinetuneSettings, task: Task, world: World) -> Inputs:
    """Read checkpoint, tokenizer and files, and check that they fit (a collective).

    The main rank reads the weights and hands them to the others.
    """
    place = settings.task
    assert place.checkpoint is not None
    path = place.checkpoint
    tensors: dict[str, torch.Tensor] = {}

    def read() -> tuple[WholeModel, str | None]:
        model, trained_with = read_weights(path)
        tensors.update(model.tensors)
        return replace(model, tensors={}), trained_with

    model, trained_with = from_main(world, read)
    model.tensors = tensors_from_main(world, tensors)
    if model.tokenizer is None:
        raise UserError(
            f"--checkpoint {path} holds no tokenizer; put its vocab.txt or tokenizer.json there"
        )
    tokenizer = load_tokenizer(model.tokenizer)
    if trained_with is not None and tokenizer.sha256 != trained_with:
        raise UserError(
            f"{model.tokenizer} is not the tokenizer that {path} was trained with "
            f"(SHA-256 {tokenizer.sha256[:12]}..., not {trained_with[:12]}...)"
        )
    if tokenizer.vocab_size > model.config.vocab_size:
        raise UserError(
            f"the tokenizer {model.tokenizer} has {tokenizer.vocab_size} words, the model {path} "
            f"only {model.config.vocab_size}"
        )
    _check_length(task.max_length, model, path)
    train = evaluation = None
    if place.train is not None:
        train = task.train_features(place.train, tokenizer, place.max_train_examples, place.seed)
        log.info("train %s", train.describe())
    if place.eval is not None:
        evaluation = task.eval_features(place.eval, tokenizer)
        log.info("eval %s", evaluation.describe())
    return Inputs(model, tokenizer, train, evaluation)


def _check_length(length: int, model: WholeModel, path: Path) -> None:
    if length > model.config.max_position_embeddings:
        raise UserError(
            f"--max-length {length} is longer than the position table of {path}, "
            f"{model.config.max_position_embeddings} rows"
        )
    if length > model.trained_positions:
        log.warning(
            "pretraining saw positions up to %d only; those up to --max-length %d start untrained",
            model.trained_positions,
            length,
        )


def check_free(output: Path) -> None:
    """Raise UserError if the run folder is there and not empty."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} is not empty: it may be another run's; choose another --output")


def claim_output(output: Path, world: World) -> None:
    """Make the run folder (a collective).

    Raises:
        UserError: it is there and not empty, or cannot be made.
    """

    def make() -> None:
        check_free(output)
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--output {output} cannot be made: {error.strerror}") from error

    from_main(world, make)
