"""SentencePiece models, unigram and BPE (Kudo and Richardson 2018), with BERT's special tokens.

The ``sentencepiece`` library makes the ids. For transformers, a ``tokenizer.json`` with the same
pieces, scores and normalisation is written next to the model.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from megabert.common.downloads import check_downloaded
from megabert.common.errors import UserError
from megabert.common.files import read_limited, sha256_of
from megabert.data.tokenizers.base import (
    CONFIG_FILE,
    JSON_FILE,
    SENTENCEPIECE_FILES,
    Encoded,
    EncodedBatch,
    Tokenizer,
    WordFinder,
    continuing_tokens,
    find_special,
    starts_word_alone,
    tokenizer_config,
    without_surrogates,
)
from megabert.data.tokenizers.sentencepiece_model import ModelSpec, as_control_symbols, read_model
from megabert.data.tokenizers.vocab_file import LARGEST

SPACE = "▁"  # a space, in pieces
_BEFORE_MARK = r"(?<=[^\x01])(?=[\p{M}\x{200c}\x{200d}\x{1100}-\x{11ff}\x{ff9e}\x{ff9f}\x{1f3fb}-\x{1f3ff}])"  # all that Unicode counts as one character together with the one before it
_TEXT = (1, 4)  # types of pieces that are text: normal, user-defined


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model.

    A word begins at a piece that begins with ``▁``, at an ideograph or punctuation mark, and
    after one. A piece that consists of ``▁`` alone belongs to the word after it.
    """

    def __init__(self, place: Path, content: bytes, names: Mapping[str, str] | None = None) -> None:
        self._content = content
        try:
            spec = read_model(content)
            unk = spec.unknown
            ids = {text: number for number, (text, _, _) in enumerate(spec.pieces)}
            stated = {**(names or {}), "unk": unk}
            self.special_tokens, self.special = find_special(place, ids, stated)
            # text that is spelled like a special token must not become one, whatever its type is
            hidden = {n for role, n in self.special_tokens.items() if role != "unk"}
            content = as_control_symbols(content, hidden)
            self._model = sentencepiece.SentencePieceProcessor(model_proto=content)
            self._spec = read_model(content)
        except (
            RuntimeError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            struct.error,
        ):
            raise UserError(f"{place}: not a SentencePiece model") from None
        if self._spec.kind not in ("unigram", "bpe"):
            raise UserError(
                f"{place}: a SentencePiece model of an unsupported kind; expected unigram or bpe"
            )
        _check_rules(place, self._spec)
        self.kind = self._spec.kind
        self.vocab_size = self._model.vocab_size()
        self._pieces = [text for text, _, _ in self._spec.pieces]
        self.pieces = ids
        self.added_tokens = {text: ids[text] for text, _, kind in self._spec.pieces if kind == 4}
        self.lower_case = self._model.normalize("A") == self._model.normalize("a")
        self.sha256 = sha256_of(self._content)
        self._known = {p: i for i, (p, _, kind) in enumerate(self._spec.pieces) if kind in _TEXT}
        self._space = ids.get(SPACE, -1)
        self._begins = np.array([_begins(p) for p in self._pieces], np.bool_)
        self._ends = np.array([_ends(p) for p in self._pieces], np.bool_)

    def encode_sentences(
        self, sentences: Sequence[str], *, with_offsets: bool = True
    ) -> list[Encoded]:
        if not with_offsets:
            return self.encode_batch(sentences).split()
        sentences = without_surrogates(sentences)
        ids, spans, lengths = self._spans(sentences)
        parts = self._batch(ids, lengths).split()
        offsets = np.split(spans, np.cumsum(lengths)[:-1])
        return [Encoded(e.ids, e.word_starts, o) for e, o in zip(parts, offsets)]

    def encode_batch(
        self, sentences: Sequence[str], words: WordFinder | None = None
    ) -> EncodedBatch:
        sentences = without_surrogates(sentences)
        if words is None:
            found = self._model.encode(list(sentences), num_threads=1)
            return self._batch(_joined(found), _lengths(found))
        ids, spans, lengths = self._spans(sentences)
        batch = self._batch(ids, lengths)
        batch.word_starts[continuing_tokens(words, sentences, spans, lengths)] = False
        return batch

    def _batch(self, ids: npt.NDArray[np.int32], lengths: npt.NDArray[np.int64]) -> EncodedBatch:
        starts = self._begins[ids]
        starts[1:] |= self._ends[ids[:-1]]
        starts[1:] &= ids[:-1] != self._space
        first = np.cumsum(lengths) - lengths
        starts[first[lengths > 0]] = True
        return EncodedBatch(ids, starts, lengths)

    def _spans(
        self, sentences: Sequence[str]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Ids [T], the characters of each [T, 2], and the number of ids per sentence [S]."""
        if self._spec.byte_fallback:
            return self._spans_of_bytes(sentences)
        found = self._model.encode(list(sentences), out_type=str, num_threads=1)
        lengths = _lengths(found)
        pieces = list(chain.from_iterable(found))
        known = map(self._known.get, pieces, repeat(self.special.unk))
        ids = np.fromiter(known, np.int32, len(pieces))
        normalised = self._model.normalize(list(sentences), with_offsets=True)
        # The input character that each normalised character, and the end, comes from.
        origins = np.fromiter(chain.from_iterable(o for _, o in normalised), np.int32)
        sizes = _lengths(pieces)
        ends = np.cumsum(sizes) + np.repeat(np.arange(len(lengths)), lengths)
        return ids, np.stack((origins[ends - sizes], origins[ends]), axis=1), lengths

    def _spans_of_bytes(
        self, sentences: Sequence[str]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """The same for a model with byte pieces, whose text differs from their characters."""
        ids: list[int] = []
        lengths = []
        spans = [np.zeros((0, 2), np.int32)]
        for sentence in sentences:
            pieces = self._model.encode(sentence, return_type="proto").pieces
            ids += [piece.id for piece in pieces]
            lengths.append(len(pieces))
            bounds = np.array([(p.begin, p.end) for p in pieces], np.int64).reshape(-1, 2)
            spans.append(_as_characters(sentence, bounds))
        return np.array(ids, np.int32), np.concatenate(spans), np.array(lengths, np.int64)

    def tokens(self, ids: Sequence[int] | npt.NDArray[Any]) -> list[str]:
        return [self._pieces[int(i)] for i in ids]

    def decode(self, ids: Sequence[int] | npt.NDArray[Any]) -> str:
        parts: list[str] = []
        run: list[int] = []
        hidden = set(self.special.values())
        for number in [*map(int, ids), -1]:
            if number in hidden or number < 0:
                parts += [self._model.decode(run)] if run else []
                parts += [self._pieces[number]] if number >= 0 else []
                run = []
            else:
                run.append(number)
        return " ".join(parts)

    def files(self) -> dict[str, bytes]:
        names = list(self.special_tokens.values())
        cls, sep = self.special_tokens["cls"], self.special_tokens["sep"]
        composes = self._model.normalize("e\u0301\x01") == self._model.normalize("\u00e9")
        backend = _backend(self._spec, self.special.unk, composes=composes)
        backend.add_special_tokens(names)
        backend.post_processor = processors.TemplateProcessing(
            single=[f"{cls}:0", "$A:0", f"{sep}:0"],
            pair=[f"{cls}:0", "$A:0", f"{sep}:0", "$B:1", f"{sep}:1"],
            special_tokens=[(cls, self.special.cls), (sep, self.special.sep)],
        )
        return {
            SENTENCEPIECE_FILES[0]: self._content,
            JSON_FILE: backend.to_str(pretty=True).encode() + b"\n",
            CONFIG_FILE: tokenizer_config(self, "PreTrainedTokenizerFast"),
        }


def load_sentencepiece(
    path: Path, names: Mapping[str, str] | None = None
) -> SentencePieceTokenizer:
    """Read a ``.model`` file.

    Args:
        path: the file.
        names: spellings of special tokens by role, if files next to it state them.

    Raises:
        UserError: not a SentencePiece model, or one of an unsupported kind.
    """
    check_downloaded(path)
    return SentencePieceTokenizer(path, read_limited(path, LARGEST, "a SentencePiece model"), names)


def _check_rules(place: Path, spec: ModelSpec) -> None:
    """Raise ``UserError`` if the tokenizers library cannot read the table of a model's normalisation."""
    try:
        if spec.charsmap:
            normalizers.Precompiled(spec.charsmap)
    except Exception as error:  # the library raises nothing more exact
        raise UserError(
            f"{place}: its precompiled_charsmap is damaged: get the file again"
        ) from error


def _joined(parts: Sequence[Sequence[int]]) -> npt.NDArray[np.int32]:
    return np.fromiter(chain.from_iterable(parts), np.int32)


def _lengths(parts: Sequence[Any]) -> npt.NDArray[np.int64]:
    return np.fromiter(map(len, parts), np.int64, len(parts))


def _begins(piece: str) -> bool:
    return piece.startswith(SPACE) or (piece != "" and starts_word_alone(piece[0]))


def _ends(piece: str) -> bool:
    """Whether any piece that follows this one begins a new word."""
    return piece not in ("", SPACE) and starts_word_alone(piece[-1])


def _as_characters(sentence: str, bounds: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """UTF-8 byte offsets as string indices."""
    if sentence.isascii():
        return bounds.astype(np.int32)
    raw = np.frombuffer(sentence.encode(), np.uint8)
    characters = np.zeros(len(raw) + 1, np.int32)
    np.cumsum((raw & 0xC0) != 0x80, out=characters[1:])
    # At the byte offset of a character: the number of characters before it.
    return characters[bounds]


def _backend(spec: ModelSpec, unk: int, *, composes: bool) -> tokenizers.Tokenizer:
    """The same model for the ``tokenizers`` library.

    Args:
        spec: the model file's content.
        unk: id of the unknown token.
        composes: whether the normalisation composes a letter and its mark, and drops U+0001.
    """
    model: models.Model
    if spec.kind == "unigram":
        scored = [(text, score) for text, score, _ in spec.pieces]
        model = models.Unigram(scored, unk, spec.byte_fallback)
    else:
        vocabulary = {text: number for number, (text, _, _) in enumerate(spec.pieces)}
        model = models.BPE(
            vocabulary,
            _merges(spec),
            unk_token=spec.pieces[unk][0],
            fuse_unk=True,
            byte_fallback=spec.byte_fallback,
        )
    backend = tokenizers.Tokenizer(model)
    steps: list[Any] = []
    if composes:
        # The library looks up a letter and its marks as a unit, and loses marks that its table
        # lacks in that combination. Composed first and then split, each is looked up by itself.
        steps = [normalizers.NFC(), normalizers.Replace(tokenizers.Regex(_BEFORE_MARK), "\x01")]
    if spec.charsmap:
        steps.append(normalizers.Precompiled(spec.charsmap))
    if spec.extra_spaces_removed:
        for pattern, content in ((r"\A +| +\z", ""), (" {2,}", " ")):
            steps.append(normalizers.Replace(tokenizers.Regex(pattern), content))
    backend.normalizer = normalizers.Sequence(steps)
    scheme = "always" if spec.dummy_prefix else "never"
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme)
    backend.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme=scheme)
    return backend


def _merges(spec: ModelSpec) -> list[tuple[str, str]]:
    """Every split of a piece into two pieces, highest score first: the order of SentencePiece."""
    known = {text: score for text, score, kind in spec.pieces if kind == 1}
    found = []
    for text, score in known.items():
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in known and right in known:
                found.append((-score, -known[left], -known[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]
