"""``tokenizer.json`` of the ``tokenizers`` library.

A file that describes BERT's own WordPiece becomes a :class:`WordPieceTokenizer`, so that its
identity does not depend on the file it came from. Everything else runs as the library reads it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

from megabert.common.errors import UserError
from megabert.common.files import sha256_of
from megabert.data.tokenizers.base import (
    CONFIG_FILE,
    JSON_FILE,
    NO_OFFSETS,
    Encoded,
    Tokenizer,
    are_ideographs,
    find_special,
    tokenizer_config,
    without_surrogates,
)
from megabert.data.tokenizers.wordpiece import MAX_WORD_CHARACTERS, PREFIX, WordPieceTokenizer

_KINDS = {"WordPiece": "wordpiece", "Unigram": "unigram", "BPE": "bpe"}
_BATCH = 1024


class JsonTokenizer(Tokenizer):
    """Any ``tokenizer.json``; words are the pieces of its pre-tokenizer, and single ideographs."""

    def __init__(self, place: Path, text: str) -> None:
        backend = tokenizers.Tokenizer.from_str(text)
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        body = json.loads(text)
        self._text = text
        self._backend = backend
        self.kind = _KINDS[body["model"]["type"]]
        ids = backend.get_vocab(with_added_tokens=True)
        self.vocab_size = max(ids.values()) + 1
        self.special_tokens, self.special = find_special(place, ids)
        probe = backend.normalizer.normalize_str("A") if backend.normalizer else "A"
        self.lower_case = "A" not in probe
        rules = [body.get(k) for k in ("added_tokens", "normalizer", "pre_tokenizer", "model")]
        self.sha256 = sha256_of(json.dumps(rules, sort_keys=True))

    def encode_sentences(
        self, sentences: Sequence[str], *, with_offsets: bool = True
    ) -> list[Encoded]:
        result = []
        sentences = without_surrogates(sentences)
        for first in range(0, len(sentences), _BATCH):
            batch = list(sentences[first : first + _BATCH])
            encodings = self._backend.encode_batch(batch, add_special_tokens=False)
            for sentence, encoding in zip(batch, encodings):
                ids = np.array(encoding.ids, np.int32)
                offsets = np.array(encoding.offsets, np.int32).reshape(-1, 2)
                starts = _word_starts(sentence, encoding.word_ids, offsets)
                result.append(Encoded(ids, starts, offsets if with_offsets else NO_OFFSETS))
        return result

    def tokens(self, ids: Sequence[int] | npt.NDArray[Any]) -> list[str]:
        return [str(self._backend.id_to_token(int(i))) for i in ids]

    def decode(self, ids: Sequence[int] | npt.NDArray[Any]) -> str:
        return str(self._backend.decode([int(i) for i in ids], skip_special_tokens=False))

    def files(self) -> dict[str, bytes]:
        return {
            JSON_FILE: self._text.encode(),
            CONFIG_FILE: tokenizer_config(self, "PreTrainedTokenizerFast"),
        }


def _word_starts(
    sentence: str, word_ids: Sequence[int | None], offsets: npt.NDArray[np.int32]
) -> npt.NDArray[np.bool_]:
    """bool [n]: True where the pre-tokenizer's word changes and at an ideograph's first token."""
    words = np.array([-1 if word is None else word for word in word_ids], np.int64)
    starts = np.diff(words, prepend=-2) != 0
    if not sentence.isascii():
        codes = np.append(np.frombuffer(sentence.encode("utf-32-le"), "<u4"), 0)
        begins, ends = offsets.T
        first = (begins < ends) & (np.diff(begins, prepend=-1) != 0)
        starts |= first & are_ideographs(codes[begins])
    return starts


def load_json(path: Path) -> Tokenizer:
    """Read a ``tokenizer.json``.

    Raises:
        UserError: the file is not a tokenizer.json, or its model is of an unknown type.
    """
    text = path.read_text(encoding="utf-8")
    try:
        body = json.loads(text)
        kind = body["model"]["type"]
        if kind not in _KINDS:
            raise UserError(f"{path}: tokenizer model {kind!r} is not one of {', '.join(_KINDS)}")
        vocabulary = _bert_vocabulary(body)
        if vocabulary is None:
            return JsonTokenizer(path, text)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a tokenizer.json: {error}") from None
    rules = body["normalizer"]
    return WordPieceTokenizer(
        path,
        vocabulary,
        lower_case=rules["lowercase"],
        strip_accents=rules["strip_accents"],
        split_ideographs=rules["handle_chinese_chars"],
    )


def _bert_vocabulary(body: dict[str, Any]) -> list[str] | None:
    """Entries in the order of their ids if the file is exactly BERT's WordPiece, else None."""
    model = body["model"]
    is_bert = (
        model["type"] == "WordPiece"
        and (body.get("normalizer") or {}).get("type") == "BertNormalizer"
        and body["normalizer"].get("clean_text") is True
        and (body.get("pre_tokenizer") or {}).get("type") == "BertPreTokenizer"
        and model["continuing_subword_prefix"] == PREFIX
        and model["max_input_chars_per_word"] == MAX_WORD_CHARACTERS
    )
    if not is_bert:
        return None
    vocabulary = dict(model["vocab"])
    for token in body.get("added_tokens", []):
        vocabulary.setdefault(token["content"], token["id"])
    entries = sorted(vocabulary, key=vocabulary.__getitem__)
    whole = [vocabulary[e] for e in entries] == list(range(len(entries)))
    return entries if whole else None
