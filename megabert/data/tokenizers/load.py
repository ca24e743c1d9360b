"""Loads a tokenizer of any kind: detects the kind from the files and calls its implementation.

``load_tokenizer`` takes a ``vocab.txt``, a SentencePiece ``.model``, a ``tokenizer.json``, or a
folder that holds one of them (a Hugging Face folder, or ``tokenizer/`` of a folder of shards).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from megabert.data.tokenizers import json_file, sentencepiece, wordpiece
from megabert.data.tokenizers.base import (
    CONFIG_FILE,
    JSON_FILE,
    SENTENCEPIECE_FILES,
    VOCAB_FILE,
    Tokenizer,
)


def load_tokenizer(path: Path | str, *, lower_case: bool | None = None) -> Tokenizer:
    """Load a tokenizer from a file or folder.

    Args:
        path: the file or folder.
        lower_case: only for a bare ``vocab.txt``, where it overrides the casing detected from the
            vocabulary (an entry with an ASCII capital letter means cased). Everywhere else the
            files decide, and a contrary value is an error.

    Raises:
        UserError: nothing is there, the file is not a vocabulary, one of the five special tokens is
            missing, or ``lower_case`` contradicts the files.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such tokenizer file or folder")
    try:
        tokenizer = _load(path, lower_case)
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a vocabulary: it is not UTF-8 text") from None
    if lower_case is not None and tokenizer.lower_case != lower_case:
        found = "lower-casing" if tokenizer.lower_case else "cased"
        raise UserError(
            f"{path}: this tokenizer is {found} according to its own files; remove "
            "--lower-case/--cased"
        )
    return tokenizer


def _load(path: Path, lower_case: bool | None) -> Tokenizer:
    if path.is_dir():
        return _load_folder(path)
    if path.suffix == ".model":
        return sentencepiece.load_sentencepiece(path)
    if path.suffix == ".json":
        return json_file.load_json(path)
    config_path = path.parent / CONFIG_FILE
    config = {}
    if path.name == VOCAB_FILE and lower_case is None and config_path.is_file():
        config = _read_json(config_path)
    return wordpiece.load_wordpiece(path, lower_case, config)


def _load_folder(folder: Path) -> Tokenizer:
    config = _read_json(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else {}
    for name in SENTENCEPIECE_FILES:
        if (folder / name).is_file():
            return sentencepiece.load_sentencepiece(folder / name)
    if (folder / JSON_FILE).is_file():
        return json_file.load_json(folder / JSON_FILE)
    if (folder / VOCAB_FILE).is_file():
        return wordpiece.load_wordpiece(folder / VOCAB_FILE, None, config)
    raise UserError(
        f"{folder}: no tokenizer in this folder; expected {VOCAB_FILE}, {JSON_FILE} or "
        f"{SENTENCEPIECE_FILES[0]}"
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object")
    return content
