"""SentencePiece models, unigram and BPE (Kudo and Richardson 2018), with BERT's special tokens.

The ``sentencepiece`` library makes the ids. For transformers a ``tokenizer.json`` with the same
pieces, scores and normalisation is written beside the model; the model's file is protocol
buffers, of which only four fields are needed and read here.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from megabert.data.tokenization import (
    CONFIG_FILE,
    JSON_FILE,
    NO_OFFSETS,
    SENTENCEPIECE_FILES,
    Encoded,
    Tokenizer,
    find_special,
    starts_word_alone,
    tokenizer_config,
)
from megabert.log import UserError

SPACE = "▁"  # stands for a space in pieces


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model.

    A word begins at a piece that begins with ``▁``, at an ideograph or punctuation mark, and
    behind one.
    """

    def __init__(self, place: Path, content: bytes) -> None:
        self._content = content
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=content)
            self._spec = read_model(content)
        except (RuntimeError, ValueError, IndexError, struct.error):
            raise UserError(f"{place}: not a SentencePiece model") from None
        if self._spec.kind not in ("unigram", "bpe"):
            raise UserError(f"{place}: a SentencePiece model of a kind that is not read")
        self.kind = self._spec.kind
        self.vocab_size = self._model.vocab_size()
        self._pieces = [self._model.id_to_piece(i) for i in range(self.vocab_size)]
        ids = {piece: number for number, piece in enumerate(self._pieces)}
        self.special_tokens, self.special = find_special(place, ids)
        self.lower_case = self._model.normalize("A") == self._model.normalize("a")
        self.sha256 = hashlib.sha256(content).hexdigest()
        self._begins = np.array([_begins(p) for p in self._pieces], np.bool_)
        self._ends = np.array([_ends(p) for p in self._pieces], np.bool_)

    def encode_sentences(
        self, sentences: Sequence[str], *, with_offsets: bool = True
    ) -> list[Encoded]:
        return [self._encode(sentence, with_offsets) for sentence in sentences]

    def _encode(self, sentence: str, with_offsets: bool) -> Encoded:
        offsets = NO_OFFSETS
        if with_offsets:
            pieces = self._model.encode(sentence, return_type="proto").pieces
            ids = np.array([piece.id for piece in pieces], np.int32)
            bounds = [(piece.begin, piece.end) for piece in pieces]
            offsets = _as_characters(sentence, np.array(bounds, np.int64).reshape(-1, 2))
        else:
            ids = np.array(self._model.encode(sentence), np.int32)
        starts = self._begins[ids]
        starts[1:] |= self._ends[ids[:-1]]
        starts[:1] = True
        return Encoded(ids, starts, offsets)

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
        backend = _backend(self._spec, self.special.unk)
        backend.add_special_tokens(names)
        backend.post_processor = processors.TemplateProcessing(
            single=f"{cls}:0 $A:0 {sep}:0",
            pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
            special_tokens=[(cls, self.special.cls), (sep, self.special.sep)],
        )
        return {
            SENTENCEPIECE_FILES[0]: self._content,
            JSON_FILE: backend.to_str(pretty=True).encode() + b"\n",
            CONFIG_FILE: tokenizer_config(self, "PreTrainedTokenizerFast"),
        }


def load(path: Path) -> SentencePieceTokenizer:
    """Read a ``.model`` file."""
    return SentencePieceTokenizer(path, path.read_bytes())


def _begins(piece: str) -> bool:
    return piece.startswith(SPACE) or (piece != "" and starts_word_alone(piece[0]))


def _ends(piece: str) -> bool:
    """True when whatever follows the piece begins a new word."""
    return piece not in ("", SPACE) and starts_word_alone(piece[-1])


def _as_characters(sentence: str, bounds: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """UTF-8 byte offsets as string indices."""
    if sentence.isascii():
        return bounds.astype(np.int32)
    raw = np.frombuffer(sentence.encode(), np.uint8)
    characters = np.zeros(len(raw) + 1, np.int32)
    np.cumsum((raw & 0xC0) != 0x80, out=characters[1:])
    # A byte offset in front of a character: characters that began before it.
    return characters[bounds]


@dataclass(frozen=True)
class ModelSpec:
    """What a SentencePiece model file holds, as far as it is needed."""

    kind: str
    pieces: list[tuple[str, float, int]]  # text, score, type (1 normal, 2 unknown, 3 control, ...)
    charsmap: bytes
    dummy_prefix: bool
    byte_fallback: bool


def read_model(content: bytes) -> ModelSpec:
    """Decode a SentencePiece model file (``sentencepiece_model.proto``).

    Fields: ModelProto.pieces 1 {piece 1, score 2, type 3}, trainer_spec 2 {model_type 3,
    byte_fallback 35}, normalizer_spec 3 {precompiled_charsmap 2, add_dummy_prefix 3}.
    """
    pieces = []
    trainer: dict[int, Any] = {}
    rules: dict[int, Any] = {}
    for number, value in _fields(content):
        if number == 1:
            entry = dict(_fields(value))
            score = struct.unpack("<f", entry.get(2, b"\0\0\0\0"))[0]
            pieces.append((entry[1].decode(), score, entry.get(3, 1)))
        elif number == 2:
            trainer = dict(_fields(value))
        elif number == 3:
            rules = dict(_fields(value))
    kind = {1: "unigram", 2: "bpe"}.get(trainer.get(3, 1), "other")
    return ModelSpec(
        kind, pieces, rules.get(2, b""), bool(rules.get(3, 1)), bool(trainer.get(35, 0))
    )


def _fields(content: bytes) -> Iterator[tuple[int, Any]]:
    """Field numbers and raw values of one protocol-buffer message."""
    position = 0
    while position < len(content):
        key, position = _varint(content, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _varint(content, position)
            yield number, value
            continue
        if wire == 2:
            size, position = _varint(content, position)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError("not a protocol-buffer message")
        if position + size > len(content):
            raise ValueError("a message is cut off")
        yield number, content[position : position + size]
        position += size


def _varint(content: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _backend(spec: ModelSpec, unk: int) -> tokenizers.Tokenizer:
    """The same model for the ``tokenizers`` library."""
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
    steps: list[Any] = [normalizers.Precompiled(spec.charsmap)] if spec.charsmap else []
    steps += [normalizers.Strip(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")]
    backend.normalizer = normalizers.Sequence(steps)
    scheme = "always" if spec.dummy_prefix else "never"
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme)
    backend.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme=scheme)
    return backend


def _merges(spec: ModelSpec) -> list[tuple[str, str]]:
    """Every split of a piece into two pieces, best-scored piece first, as SentencePiece merges."""
    known = {text: score for text, score, kind in spec.pieces if kind == 1}
    found = []
    for text, score in known.items():
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in known and right in known:
                found.append((-score, -known[left], -known[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]
