"""BERT's WordPiece (Devlin et al. 2019): text is split at spaces, punctuation and ideographs, then
matched longest piece first; ``##`` marks a piece that continues a word."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

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
    is_punctuation,
    tokenizer_config,
    without_surrogates,
)
from megabert.data.tokenizers.vocab_file import vocabulary_ids
from megabert.data.tokenizers.wordpiece_batch import WordPieceBatchEncoder, WordPieceRules

PREFIX = "##"
MAX_WORD_CHARACTERS = 100
_BATCH = 1024


@dataclass(frozen=True)
class BertRules:
    """BERT's normalisation: ``strip_accents`` None means as ``lower_case``."""

    lower_case: bool
    strip_accents: bool | None = None
    split_ideographs: bool = True


class WordPieceTokenizer(Tokenizer):
    """A WordPiece vocabulary with BERT's normalisation; ids equal ``BertTokenizer``'s.

    Args:
        place: its file, for messages.
        vocabulary: entries in the order of their ids; of equal ones the last gives the id.
        rules: the normalisation.
        names: spellings of special tokens by role, if files state them.
        extra_special: entries that are special too.

    Special tokens must be such that no word is spelled like one (:func:`is_never_a_word`).
    """

    kind = "wordpiece"

    def __init__(
        self,
        place: Path,
        vocabulary: Sequence[str],
        rules: BertRules,
        *,
        names: Mapping[str, str] | None = None,
        extra_special: Sequence[str] = (),
    ) -> None:
        self._vocabulary = list(vocabulary)
        ids = vocabulary_ids(self._vocabulary)
        self.vocab_size = len(self._vocabulary)
        self.rules = rules
        self.lower_case = rules.lower_case
        self.special_tokens, self.special = find_special(place, ids, names)
        self.added_tokens = {token: ids[token] for token in extra_special}
        self._begins = np.array([not t.startswith(PREFIX) for t in self._vocabulary], np.bool_)
        self._ids = ids
        self._backend = bert_backend(ids, self.special_tokens["unk"], rules)
        identity: list[Any] = [self.kind, *astuple(rules), self._vocabulary]
        if self.special_tokens != find_special(place, ids)[0]:
            identity.append(self.special_tokens)
        self.sha256 = sha256_of(json.dumps(identity))

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
                split_ideographs=self.rules.split_ideographs,
            ),
        )

    def tokens(self, ids: Sequence[int] | npt.NDArray[Any]) -> list[str]:
        return [self._vocabulary[int(i)] for i in ids]

    def decode(self, ids: Sequence[int] | npt.NDArray[Any]) -> str:
        return str(self._backend.decode([int(i) for i in ids], skip_special_tokens=False))

    def files(self) -> dict[str, bytes]:
        whole = bert_backend(self._model_ids(), self.special_tokens["unk"], self.rules)
        added = sorted(self.added_tokens, key=self.added_tokens.__getitem__)
        whole.add_special_tokens([*self.special_tokens.values(), *added])
        cls, sep = self.special_tokens["cls"], self.special_tokens["sep"]
        whole.post_processor = processors.TemplateProcessing(
            single=[f"{cls}:0", "$A:0", f"{sep}:0"],
            pair=[f"{cls}:0", "$A:0", f"{sep}:0", "$B:1", f"{sep}:1"],
            special_tokens=[(cls, self.special.cls), (sep, self.special.sep)],
        )
        return {
            VOCAB_FILE: ("\n".join(self._vocabulary) + "\n").encode(),
            JSON_FILE: whole.to_str(pretty=True).encode() + b"\n",
            CONFIG_FILE: tokenizer_config(
                self,
                "BertTokenizer",
                do_lower_case=self.lower_case,
                strip_accents=self.rules.strip_accents,
                tokenize_chinese_chars=self.rules.split_ideographs,
            ),
        }

    def _model_ids(self) -> dict[str, int]:
        """The entries without the added tokens after them, which the library numbers itself."""
        size = self.vocab_size
        while size and self._vocabulary[size - 1] in self.added_tokens:
            size -= 1
        before = {token: number for token, number in self._ids.items() if number < size}
        return before if len(before) == size else dict(self._ids)


def bert_backend(ids: Mapping[str, int], unk: str, rules: BertRules) -> tokenizers.Tokenizer:
    """BERT's normaliser, splitter and WordPiece of the library; no added tokens."""
    backend = tokenizers.Tokenizer(
        models.WordPiece(
            dict(ids),
            unk_token=unk,
            max_input_chars_per_word=MAX_WORD_CHARACTERS,
            continuing_subword_prefix=PREFIX,
        )
    )
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=rules.split_ideographs,
        strip_accents=rules.strip_accents,
        lowercase=rules.lower_case,
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix=PREFIX)
    return backend


def stated_rules(
    vocabulary: Sequence[str], config: Mapping[str, Any], lower_case: bool | None
) -> BertRules:
    """The normalisation of a ``vocab.txt``.

    Casing: ``lower_case``, else ``do_lower_case`` of ``tokenizer_config.json`` (``config``), else
    detected: cased if an entry other than a ``[...]`` name has an ASCII capital letter.
    """
    if lower_case is None:
        stated = config.get("do_lower_case")
        lower_case = bool(stated) if stated is not None else not has_capitals(vocabulary)
    split = config.get("tokenize_chinese_chars", True)
    return BertRules(lower_case, config.get("strip_accents"), split)


def is_never_a_word(token: str) -> bool:
    """Whether no text has this word after BERT's splitting, as ``[MASK]`` or ``<s>``."""
    return len(token) > 1 and any(c.isascii() and is_punctuation(c) for c in token)


def has_capitals(vocabulary: Sequence[str]) -> bool:
    """Whether an entry other than a ``[...]`` or ``<...>`` name has an ASCII capital letter."""
    return any(
        any("A" <= c <= "Z" for c in entry)
        for entry in vocabulary
        if not (len(entry) > 2 and entry[0] + entry[-1] in ("[]", "<>"))
    )
