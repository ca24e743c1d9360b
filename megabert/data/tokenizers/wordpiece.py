"""BERT's WordPiece (Devlin et al. 2019): text is split at spaces, punctuation and ideographs, then
matched longest piece first; ``##`` marks a piece that continues a word."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from megabert.common.errors import UserError
from megabert.common.files import sha256_of
from megabert.data.tokenizers.base import (
    CONFIG_FILE,
    JSON_FILE,
    VOCAB_FILE,
    Encoded,
    EncodedBatch,
    Tokenizer,
    WordFinder,
    find_special,
    tokenizer_config,
    without_surrogates,
)
from megabert.data.tokenizers.wordpiece_batch import WordPieceBatchEncoder, WordPieceRules

PREFIX = "##"
MAX_WORD_CHARACTERS = 100
_BATCH = 1024


class WordPieceTokenizer(Tokenizer):
    """A WordPiece vocabulary with BERT's normalisation; ids equal ``BertTokenizer``'s."""

    kind = "wordpiece"

    def __init__(
        self,
        place: Path,
        vocabulary: Sequence[str],
        *,
        lower_case: bool,
        strip_accents: bool | None = None,
        split_ideographs: bool = True,
    ) -> None:
        self._vocabulary = list(vocabulary)
        ids = {token: number for number, token in enumerate(self._vocabulary)}
        self.vocab_size = len(self._vocabulary)
        self.lower_case = lower_case
        self._strip_accents = strip_accents
        self._split_ideographs = split_ideographs
        self.special_tokens, self.special = find_special(place, ids)
        self._begins = np.array([not t.startswith(PREFIX) for t in self._vocabulary], np.bool_)
        self._ids = ids
        self._backend = self._build(ids)
        rules = [self.kind, lower_case, strip_accents, split_ideographs, self._vocabulary]
        self.sha256 = sha256_of(json.dumps(rules))

    def _build(self, ids: Mapping[str, int]) -> tokenizers.Tokenizer:
        backend = tokenizers.Tokenizer(
            models.WordPiece(
                dict(ids),
                unk_token=self.special_tokens["unk"],
                max_input_chars_per_word=MAX_WORD_CHARACTERS,
                continuing_subword_prefix=PREFIX,
            )
        )
        backend.normalizer = normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=self._split_ideographs,
            strip_accents=self._strip_accents,
            lowercase=self.lower_case,
        )
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece(prefix=PREFIX)
        return backend

    def encode_sentences(
        self, sentences: Sequence[str], *, with_offsets: bool = True
    ) -> list[Encoded]:
        if not with_offsets:
            return self.encode_batch(sentences).split()
        result = []
        sentences = without_surrogates(sentences)
        for first in range(0, len(sentences), _BATCH):
            batch = list(sentences[first : first + _BATCH])
            for encoding in self._backend.encode_batch(batch, add_special_tokens=False):
                ids = np.array(encoding.ids, np.int32)
                offsets = np.array(encoding.offsets, np.int32).reshape(-1, 2)
                result.append(Encoded(ids, self._begins[ids], offsets))
        return result

    def encode_batch(
        self, sentences: Sequence[str], words: WordFinder | None = None
    ) -> EncodedBatch:
        sentences = without_surrogates(sentences)
        continues = words.continues("\n".join(sentences)) if words is not None else None
        ids, lengths, continuing = self._batch_encoder.encode(sentences, continues)
        starts = self._begins[ids]
        starts[continuing] = False
        return EncodedBatch(ids, starts, lengths)

    @cached_property
    def _batch_encoder(self) -> WordPieceBatchEncoder:
        return WordPieceBatchEncoder(
            self._backend,
            self._ids,
            WordPieceRules(
                unk=self.special.unk,
                prefix=PREFIX,
                max_word=MAX_WORD_CHARACTERS,
                lower_case=self.lower_case,
                split_ideographs=self._split_ideographs,
            ),
        )

    def tokens(self, ids: Sequence[int] | npt.NDArray[Any]) -> list[str]:
        return [self._vocabulary[int(i)] for i in ids]

    def decode(self, ids: Sequence[int] | npt.NDArray[Any]) -> str:
        return str(self._backend.decode([int(i) for i in ids], skip_special_tokens=False))

    def files(self) -> dict[str, bytes]:
        whole = self._build(self._ids)
        whole.add_special_tokens(list(self.special_tokens.values()))
        cls, sep = self.special_tokens["cls"], self.special_tokens["sep"]
        whole.post_processor = processors.TemplateProcessing(
            single=f"{cls}:0 $A:0 {sep}:0",
            pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
            special_tokens=[(cls, self.special.cls), (sep, self.special.sep)],
        )
        return {
            VOCAB_FILE: ("\n".join(self._vocabulary) + "\n").encode(),
            JSON_FILE: whole.to_str(pretty=True).encode() + b"\n",
            CONFIG_FILE: tokenizer_config(
                self,
                "BertTokenizer",
                do_lower_case=self.lower_case,
                strip_accents=self._strip_accents,
                tokenize_chinese_chars=self._split_ideographs,
            ),
        }


def load_wordpiece(
    path: Path, lower_case: bool | None, config: Mapping[str, Any]
) -> WordPieceTokenizer:
    """Read a ``vocab.txt``: one entry per line, whose number (from 0) is its id.

    Casing: ``lower_case``, else ``do_lower_case`` of ``tokenizer_config.json`` (``config``), else
    detected: cased if an entry other than a ``[...]`` name has an ASCII capital letter.

    Raises:
        UserError: the vocabulary is empty, repeats an entry, or lacks a special token.
    """
    vocabulary = read_vocabulary(path)
    if lower_case is None:
        stated = config.get("do_lower_case")
        lower_case = bool(stated) if stated is not None else not has_capitals(vocabulary)
    return WordPieceTokenizer(
        path,
        vocabulary,
        lower_case=lower_case,
        strip_accents=config.get("strip_accents"),
        split_ideographs=config.get("tokenize_chinese_chars", True),
    )


def read_vocabulary(path: Path) -> list[str]:
    """Lines of a ``vocab.txt``. Only a line feed ends a line: U+2028 and others may be entries.

    Raises:
        UserError: there are no entries, or one occurs twice.
    """
    with path.open(encoding="utf-8") as file:
        lines = [line.rstrip("\n") for line in file]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise UserError(f"{path}: an empty vocabulary")
    seen: dict[str, int] = {}
    for number, entry in enumerate(lines):
        if entry in seen:
            raise UserError(
                f"{path}: not a vocabulary: line {number + 1} repeats line {seen[entry] + 1} "
                f"({entry[:30]!r})"
            )
        seen[entry] = number
    return lines


def has_capitals(vocabulary: Sequence[str]) -> bool:
    """Whether an entry other than a ``[...]`` or ``<...>`` name has an ASCII capital letter."""
    return any(
        any("A" <= c <= "Z" for c in entry)
        for entry in vocabulary
        if not (len(entry) > 2 and entry[0] + entry[-1] in ("[]", "<>"))
    )
