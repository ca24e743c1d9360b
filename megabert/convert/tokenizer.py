"""The tokenizer of a model: finding it, checking it, adding missing files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from megabert.convert.huggingface.config import read_object
from megabert.data.tokenizers.base import VOCAB_FILE, Tokenizer
from megabert.data.tokenizers.load import load_tokenizer
from megabert.model.weight_files import TOKENIZER_FILES


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
    added: list[Any] = []
    if (place / "added_tokens.json").is_file():
        added += read_object(place / "added_tokens.json").values()
    if (place / "tokenizer_config.json").is_file():
        decoder = read_object(place / "tokenizer_config.json").get("added_tokens_decoder")
        added += decoder if isinstance(decoder, dict) else ()
    ids = [int(number) for number in added if str(number).isdecimal()]
    return max(load_tokenizer(place).vocab_size, 1 + max(ids, default=-1))


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
            the model, or two of its files disagree.
    """
    tokenizer = load_tokenizer(folder)
    _check_vocabulary(folder, tokenizer)
    if trained_with is not None and tokenizer.sha256 != trained_with:
        raise UserError(
            f"{folder} is not the tokenizer that {origin} was trained with: its SHA-256 is "
            f"{tokenizer.sha256[:12]}..., not {trained_with[:12]}..."
        )
    if tokenizer.vocab_size > vocab_size:
        raise UserError(
            f"the tokenizer {folder} has {tokenizer.vocab_size} words, but the model {origin} only "
            f"{vocab_size}"
        )
    return tokenizer


def _check_vocabulary(folder: Path, tokenizer: Tokenizer) -> None:
    """Compare vocab.txt, which Google's code reads, with tokenizer.json, which others read.

    Raises:
        UserError: vocab.txt is damaged, or holds other words.
    """
    path = folder / VOCAB_FILE
    if tokenizer.kind != "wordpiece" or not path.is_file():
        return
    listed = load_tokenizer(path)
    most = min(listed.vocab_size, tokenizer.vocab_size)  # added tokens are in only one of them
    if listed.tokens(range(most)) != tokenizer.tokens(range(most)):
        raise UserError(
            f"{path} and tokenizer.json next to it hold different words; remove the wrong one"
        )


def complete(folder: Path, tokenizer: Tokenizer) -> None:
    """Add tokenizer files that the source lacks (an old folder may have only vocab.txt)."""
    for name, content in tokenizer.files().items():
        if not (folder / name).exists():
            (folder / name).write_bytes(content)
