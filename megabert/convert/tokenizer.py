"""The tokenizer of a model: finding it, checking it, adding missing files."""

from __future__ import annotations

from pathlib import Path

from megabert.common.errors import UserError
from megabert.common.files import open_file
from megabert.data.tokenizers.base import VOCAB_FILE, Tokenizer
from megabert.data.tokenizers.load import load_tokenizer
from megabert.model.weight_files import TOKENIZER_FILES

_MARK = b"\xef\xbb\xbf"  # a byte order mark in UTF-8


def tokenizer_in(folder: Path) -> Path | None:
    """``folder`` if it holds a tokenizer file, else None."""
    has_one = any((folder / name).is_file() for name in TOKENIZER_FILES)
    return folder if has_one else None


def word_count(place: Path) -> int:
    """Number of ids of a tokenizer, including those of added tokens.

    Args:
        place: folder with its files, or a vocabulary file.

    Raises:
        UserError: the tokenizer cannot be loaded.
    """
    return load_tokenizer(place).vocab_size


def open_tokenizer(
    folder: Path, vocab_size: int, origin: str, trained_with: str | None
) -> Tokenizer:
    """Load a model's tokenizer.

    Args:
        folder: holds its files.
        vocab_size: of the model.
        origin: the model, for messages.
        trained_with: SHA-256 of the tokenizer that the model was trained with, if known.

    Raises:
        UserError: the model was trained with another tokenizer, the tokenizer has more words than
            the model, or two of its files contradict each other.
    """
    tokenizer = load_tokenizer(folder)
    if trained_with is not None and tokenizer.sha256 != trained_with:
        raise UserError(
            f"the tokenizer in {folder} is not the one that {origin} was trained with: its SHA-256 is "
            f"{tokenizer.sha256[:12]}..., not {trained_with[:12]}...; put the files of that one there"
        )
    if tokenizer.vocab_size > vocab_size:
        raise UserError(
            f"the tokenizer {folder} has {tokenizer.vocab_size} words, but the model {origin} only "
            f"{vocab_size}; put the tokenizer there that it was trained with"
        )
    return tokenizer


def _is_marked(path: Path) -> bool:
    with open_file(path) as file:
        return file.read(len(_MARK)) == _MARK


def complete(folder: Path, tokenizer: Tokenizer) -> None:
    """Add tokenizer files that the source lacks (an old folder may have only vocab.txt).

    A ``vocab.txt`` that begins with a byte order mark is written again: other programs would take
    the mark for a part of the first entry.
    """
    for name, content in tokenizer.files().items():
        path = folder / name
        marked = name == VOCAB_FILE and path.exists() and _is_marked(path)
        if marked or not path.exists():
            path.write_bytes(content)
