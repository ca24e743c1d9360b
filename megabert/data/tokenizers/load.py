"""Loads a tokenizer of any kind: detects the kind from the files and calls its implementation.

``load_tokenizer`` takes a ``vocab.txt``, a SentencePiece ``.model``, a ``tokenizer.json``, or a
folder that holds one of them (a Hugging Face folder, or ``tokenizer/`` of a folder of shards).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.common.names import TOKENIZER_FOLDER
from megabert.data.tokenizers import json_file, sentencepiece, wordpiece
from megabert.data.tokenizers.base import (
    CONFIG_FILE,
    JSON_FILE,
    SENTENCEPIECE_FILES,
    SPECIAL_NAMES,
    VOCAB_FILE,
    Tokenizer,
    warn_once,
)
from megabert.data.tokenizers.side_files import SideFiles, add_tokens, read_side_files
from megabert.data.tokenizers.vocab_file import read_vocabulary, vocabulary_ids


def load_tokenizer(path: Path | str, *, lower_case: bool | None = None) -> Tokenizer:
    """Load a tokenizer from a file or folder.

    Args:
        path: the file or folder.
        lower_case: only for a bare ``vocab.txt``, where it overrides the casing detected from the
            vocabulary (an entry with an ASCII capital letter means cased). Everywhere else the
            files decide, and a contrary value is an error.

    Raises:
        UserError: nothing is there, the file is not a vocabulary, one of the five special tokens is
            missing, the files in a folder contradict each other, or ``lower_case`` contradicts them.
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
    _warn_of_casing(path, tokenizer)
    return tokenizer


def _load(path: Path, lower_case: bool | None) -> Tokenizer:
    if path.is_dir():
        return _load_folder(path)
    if path.suffix == ".model":
        return sentencepiece.load_sentencepiece(path)
    if path.suffix == ".json":
        return json_file.load_json(path)
    named = path.name == VOCAB_FILE  # transformers' name, so the files next to it belong to it
    side = read_side_files(path.parent) if named else SideFiles(path.parent)
    return _load_vocabulary(path, side, lower_case)


def _load_folder(folder: Path) -> Tokenizer:
    side = read_side_files(folder)
    found = _first_of(folder, side)
    if found is None:
        raise UserError(
            f"{folder}: no tokenizer in this folder; expected {VOCAB_FILE}, {JSON_FILE} or "
            f"{SENTENCEPIECE_FILES[0]}"
            + (
                f"; a run's is {folder / TOKENIZER_FOLDER}"
                if (folder / TOKENIZER_FOLDER).is_dir()
                else ""
            )
        )
    _check_rules(folder, found, side.config)
    return found


def _first_of(folder: Path, side: SideFiles) -> Tokenizer | None:
    """The tokenizer of a SentencePiece model, else of tokenizer.json, else of vocab.txt."""
    json_path, vocab_path = folder / JSON_FILE, folder / VOCAB_FILE
    for name in SENTENCEPIECE_FILES:
        if (folder / name).is_file():
            other = json_path if json_path.is_file() else None
            return _load_model(folder / name, other, side)
    if json_path.is_file():
        entries = read_vocabulary(vocab_path) if vocab_path.is_file() else None
        return json_file.load_json(json_path, side, entries)
    return _load_vocabulary(vocab_path, side, None) if vocab_path.is_file() else None


def _load_vocabulary(path: Path, side: SideFiles, lower_case: bool | None) -> Tokenizer:
    """A ``vocab.txt``, with the tokens that the files next to it add."""
    entries = read_vocabulary(path)
    ids = vocabulary_ids(entries)
    rules = wordpiece.stated_rules(entries, side.config, lower_case)
    plain = all(n in ids and wordpiece.is_never_a_word(n) for n in side.names.values())
    unk = next((n for n in (side.names.get("unk"), *SPECIAL_NAMES["unk"]) if n in ids), None)
    if unk is None or (plain and not side.added and not side.extra):
        return wordpiece.WordPieceTokenizer(path, entries, rules, names=side.names)
    backend = wordpiece.bert_backend(ids, unk, rules)
    add_tokens(backend, side)
    return json_file.from_json(path, backend.to_str(), side, entries)


def _load_model(path: Path, other: Path | None, side: SideFiles) -> Tokenizer:
    """A SentencePiece model, or the tokenizer.json next to it (``other``) if that adds tokens to it.

    Raises:
        UserError: tokens are added without a tokenizer.json, or the two files differ in casing.
    """
    written = json_file.load_json(other, side) if other is not None else None
    try:
        tokenizer = sentencepiece.load_sentencepiece(path, side.names)
    except UserError as error:
        if written is None:
            raise
        get_logger().info("%s; %s is used instead", error, other)
        return written
    absent = _not_in(tokenizer, written, side)
    if not absent:
        _check_casing(path, tokenizer, written)
        return tokenizer
    if written is None:
        raise UserError(
            f"{path.parent}: {absent} are added to {path.name}, which only a tokenizer.json can "
            "describe; load the folder with transformers' AutoTokenizer and save it again "
            "(save_pretrained), or remove the added tokens"
        )
    get_logger().info("%s lacks %s, so %s is used", path, absent, other)
    return written


def _not_in(
    model: sentencepiece.SentencePieceTokenizer, written: Tokenizer | None, side: SideFiles
) -> str:
    """Added tokens that are not pieces of a model under the same id: their number and the first."""
    wanted = {token.content: number for number, token in side.added.items()}
    if written is not None:
        roles = written.special_tokens.items()
        wanted |= {**written.added_tokens, **{name: written.special[role] for role, name in roles}}
    absent = sorted(text for text, number in wanted.items() if model.pieces.get(text) != number)
    return f"{len(absent)} tokens ({absent[0]!r}, ...)" if absent else ""


def _check_casing(path: Path, model: Tokenizer, written: Tokenizer | None) -> None:
    """Raise ``UserError`` if a SentencePiece model and the tokenizer.json next to it differ."""
    if written is not None and written.lower_case != model.lower_case:
        raise UserError(
            f"{path} {_casing(model)}, but {JSON_FILE} next to it {_casing(written)}: give one of "
            "the two files itself, or remove the wrong one"
        )


def _check_rules(folder: Path, tokenizer: Tokenizer, config: Mapping[str, Any]) -> None:
    """Compare what tokenizer_config.json says of the normalisation with what the tokenizer does.

    Raises:
        UserError: they contradict each other.
    """
    found: dict[str, bool] = {"do_lower_case": tokenizer.lower_case}
    if isinstance(tokenizer, wordpiece.WordPieceTokenizer):
        rules = tokenizer.rules
        accents = rules.lower_case if rules.strip_accents is None else rules.strip_accents
        found |= {"strip_accents": accents, "tokenize_chinese_chars": rules.split_ideographs}
    own = next(n for n in (*SENTENCEPIECE_FILES, JSON_FILE, VOCAB_FILE) if (folder / n).is_file())
    for name, value in found.items():
        stated = config.get(name)
        if stated is not None and bool(stated) != value:
            raise UserError(
                f"{folder}: {CONFIG_FILE} says {name} {json.dumps(stated)}, but {own} says "
                f"{json.dumps(value)}: correct the wrong file (transformers follows one of the two, "
                "depending on its version)"
            )


def _warn_of_casing(path: Path, tokenizer: Tokenizer) -> None:
    """Warn of a casing that the folder's name or the vocabulary contradicts."""
    folder = path if path.is_dir() else path.parent
    words = set(re.split(r"[\W_]+", folder.resolve().name.lower()))
    against = "cased" if tokenizer.lower_case else "uncased"
    if against in words and len(words & {"cased", "uncased"}) == 1:
        warn_once(f"{path}: the name says {against}, but this tokenizer {_casing(tokenizer)}")
    if not isinstance(tokenizer, wordpiece.WordPieceTokenizer) or tokenizer.lower_case:
        return
    if not wordpiece.has_capitals(tokenizer.tokens(range(tokenizer.vocab_size))):
        warn_once(
            f"{path} keeps capitals, but no entry has one: each word with a capital letter is "
            "unknown; is it a lower-casing vocabulary (do_lower_case)?"
        )


def _casing(tokenizer: Tokenizer) -> str:
    return "lower-cases" if tokenizer.lower_case else "keeps capitals"
