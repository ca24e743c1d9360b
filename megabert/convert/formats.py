"""The formats by name: how each is read, written, and run for the check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.common.names import RUN_CHECKPOINTS, WEIGHTS_RECORD
from megabert.convert import checkpoint
from megabert.convert.foreign_files import WEIGHT_FILES
from megabert.convert.huggingface import model as huggingface
from megabert.convert.huggingface.config import CONFIG_FILES
from megabert.convert.tokenizer import complete, tokenizer_in, word_count
from megabert.convert.whole_model import WholeModel
from megabert.data.tokenizers.base import Tokenizer
from megabert.model.weights import write_weights

MEGABERT = "megabert"
HUGGINGFACE = "huggingface"
GOOGLE_TF = "google-tf"
NVIDIA = "nvidia"
MINDSPORE = "mindspore"
_ENDINGS = {".index": GOOGLE_TF, ".pt": NVIDIA, ".ckpt": MINDSPORE}

log = get_logger("megabert.convert")


@dataclass(frozen=True)
class Source:
    """Where weights are read from.

    Attributes:
        path: a folder; some formats take a file or a checkpoint's prefix.
        tokenizer: folder of tokenizer files, or a vocabulary file, to use instead of those beside
            the weights.
        model_config: JSON with the encoder's shape, for weights that lie without one.
        scratch: disk space for merging a partitioned checkpoint.
    """

    path: Path
    tokenizer: Path | None = None
    model_config: Path | None = None
    scratch: Path | None = None


Reader = Callable[[Source], tuple[WholeModel, str | None]]
"""Gives the model, and the SHA-256 of the tokenizer that it was trained with where it is known."""
Writer = Callable[[Path, WholeModel, Tokenizer | None], None]
"""Fills an existing folder; the tokenizer is the model's own."""


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: as ``--from`` and ``--to`` give it.
        read: gives the whole model of a source.
        write: None for a format that is only read.
    """

    name: str
    read: Reader
    write: Writer | None = None


def true_words(source: Source) -> int | None:
    """Entries of the tokenizer that is given or lies beside the weights; None without one."""
    beside = source.path if source.path.is_dir() else source.path.parent
    tokenizer = source.tokenizer or tokenizer_in(beside)
    return None if tokenizer is None else word_count(tokenizer)


def _read_megabert(source: Source) -> tuple[WholeModel, str | None]:
    if source.model_config is not None:
        log.warning("--model-config has no effect: %s states its model", source.path)
    return checkpoint.read(source.path, scratch=source.scratch, tokenizer=source.tokenizer)


def _write_megabert(folder: Path, model: WholeModel, tokenizer: Tokenizer | None) -> None:
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
    )
    if tokenizer is not None:
        complete(folder, tokenizer)


def _read_huggingface(source: Source) -> tuple[WholeModel, str | None]:
    return huggingface.read(source.path, source.tokenizer, source.model_config), None


def _write_huggingface(folder: Path, model: WholeModel, tokenizer: Tokenizer | None) -> None:
    huggingface.write(folder, model, tokenizer)


def _exists(path: Path) -> bool:
    """Whether there is such a file or folder, or files of which it is the prefix."""
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    return path.exists() or any(other.name.startswith(f"{path.name}.") for other in beside)


def _foreign_reader(package: str) -> Reader:
    """The reader in ``megabert.convert.<package>.model``, which is imported when it is needed.

    It is called as ``read(path, vocab_size, model_config=...)``.
    """

    def read(source: Source) -> tuple[WholeModel, str | None]:
        if not _exists(source.path):
            raise UserError(f"{source.path} does not exist")
        reader = import_module(f"megabert.convert.{package}.model")
        more = {} if source.model_config is None else {"model_config": source.model_config}
        model: WholeModel = reader.read(source.path, true_words(source), **more)
        if source.tokenizer is not None:
            model.tokenizer = source.tokenizer
        return model, None

    return read


def _write_google(folder: Path, model: WholeModel, tokenizer: Tokenizer | None) -> None:
    import_module("megabert.convert.google.model").write(folder, model, tokenizer)


FORMATS: dict[str, Format] = {
    made.name: made
    for made in (
        Format(MEGABERT, _read_megabert, _write_megabert),
        Format(HUGGINGFACE, _read_huggingface, _write_huggingface),
        Format(GOOGLE_TF, _foreign_reader("google"), _write_google),
        Format(NVIDIA, _foreign_reader("nvidia")),
        Format(MINDSPORE, _foreign_reader("mindspore")),
    )
}
WRITTEN = tuple(name for name, made in FORMATS.items() if made.write is not None)
"""Formats that ``--to`` takes."""


def known(name: str) -> Format:
    """The format of this name.

    Raises:
        UserError: there is none.
    """
    if name not in FORMATS:
        raise UserError(f"unknown format {name!r}; there are: {', '.join(FORMATS)}")
    return FORMATS[name]


def looks_like(path: Path) -> set[str]:
    """Names of the formats whose files lie at ``path``: for a hint, not for a decision."""
    names = [other.name for other in path.iterdir()] if path.is_dir() else [path.name]
    if WEIGHTS_RECORD in names or RUN_CHECKPOINTS in names:
        return {MEGABERT}
    found = {fmt for end, fmt in _ENDINGS.items() if any(name.endswith(end) for name in names)}
    weights = any(name.startswith(WEIGHT_FILES) for name in names)
    if weights and any(name in CONFIG_FILES for name in names):
        found.add(HUGGINGFACE)
    return found
