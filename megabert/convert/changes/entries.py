"""The entries of a vocabulary as text, and the pieces into which its tokenizer splits other text.

Vocabularies mark the place of an entry in a word in four ways:

    inner    ``##x`` continues a word (WordPiece)
    space    ``▁x`` begins a word (SentencePiece)
    bytes    ``Ġx`` begins a word, and the characters of all entries stand for bytes (GPT-2's BPE)
    none     no entry says it
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import tokenizers

from megabert.common.json_text import parse_json
from megabert.data.tokenizers.base import JSON_FILE, Tokenizer, starts_word_alone

_BYTE_PIECE = re.compile("<0x([0-9A-F]{2})>")


@dataclass(frozen=True)
class WordPart:
    """An entry as text: UTF-8 bytes, maybe a part of a character, and whether they begin a word."""

    begins: bool
    text: bytes

    @property
    def is_mark(self) -> bool:
        """Whether it begins with an ideograph or a punctuation mark, which are words by themselves."""
        try:
            return bool(self.text) and starts_word_alone(self.text.decode()[0])
        except UnicodeDecodeError:
            return False


class Entries:
    """The entries of one tokenizer.

    Attributes:
        names: of the ids, in order; "" for an id without an entry.
        ids: name -> id.
        marking: ``inner``, ``space``, ``bytes`` or ``none``; see above.
        special: names that no text becomes.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        text = tokenizer.files()[JSON_FILE].decode()
        self._backend = tokenizers.Tokenizer.from_str(text)
        body = parse_json(text)
        self.marking, self._mark = _marking(body)
        self._has_byte_pieces = bool(body["model"].get("byte_fallback"))
        known = self._backend.get_vocab(with_added_tokens=True)
        names = tokenizer.tokens(range(tokenizer.vocab_size))
        self.names = ["" if name == "None" and name not in known else name for name in names]
        self.ids = {name: number for number, name in enumerate(self.names) if name}
        added = body.get("added_tokens") or ()
        self.special = {t["content"] for t in added if t["special"]}
        self.special |= set(tokenizer.special_tokens.values())
        self._added = {t["content"] for t in added}
        self._unknown = tokenizer.special.unk

    def piece(self, name: str) -> WordPart:
        """An entry as text."""
        mark = self._mark
        if name in self._added:
            return WordPart(True, name.encode())
        if self.marking == "bytes":
            raw = b"".join(_BYTE_OF[c] if c in _BYTE_OF else c.encode() for c in name)
            return WordPart(raw[:1] == b" ", raw.removeprefix(b" "))
        if self.marking == "space":
            byte = _BYTE_PIECE.fullmatch(name) if self._has_byte_pieces else None
            if byte is not None:
                return WordPart(False, bytes.fromhex(byte[1]))
            text = name.removeprefix(mark)
            return WordPart(text != name, text.replace(mark, " ").encode())
        text = name.removeprefix(mark)
        if self.marking == "none" or text in (name, ""):
            return WordPart(True, name.encode())
        return WordPart(False, text.encode())

    def find(self, piece: WordPart) -> int | None:
        """Id of the entry that is this text in this place, if there is one."""
        if self.marking == "none":
            piece = WordPart(True, piece.text)
        return self._id_of_piece.get(piece)

    @cached_property
    def _id_of_piece(self) -> Mapping[WordPart, int]:
        return {self.piece(n): i for n, i in self.ids.items() if n not in self.special}

    def normalised(self, piece: WordPart) -> WordPart:
        """A text in its place after this tokenizer's normalisation."""
        normalizer = self._backend.normalizer
        try:
            text = piece.text.decode()
        except UnicodeDecodeError:
            return piece
        if normalizer is None or not text:
            return piece
        return WordPart(
            piece.begins, normalizer.normalize_str(text).strip(f" {self._mark}").encode()
        )

    def segment(self, piece: WordPart) -> list[int]:
        """The known pieces that this tokenizer makes of a text in its place, after its normalisation.

        The text is not searched for added tokens. Pieces for unknown text are left out, and so is a
        piece that is a space alone.
        """
        try:
            text = piece.text.decode()
        except UnicodeDecodeError:
            if self.marking != "bytes":
                return []
            return self._known("".join(_CHARACTER_OF[byte] for byte in piece.text))
        return [number for word in self._words(text, piece.begins) for number in self._known(word)]

    def _words(self, text: str, begins: bool) -> Iterator[str]:
        """What the model is given: the first word is spelled as its place in the text requires."""
        spaced = self.marking in ("space", "bytes")
        normalizer, splitter = self._backend.normalizer, self._backend.pre_tokenizer
        lead = " " if spaced and begins else ""
        normal = normalizer.normalize_str(lead + text) if normalizer else lead + text
        words = [w for w, _ in splitter.pre_tokenize_str(normal)] if splitter else [normal]
        for number, word in enumerate(filter(None, words)):
            if number == 0 and spaced:
                word = (self._mark if begins else "") + word.removeprefix(self._mark)
            elif number == 0 and self.marking == "inner" and not begins:
                word = word if starts_word_alone(word[0]) else self._mark + word
            if word:
                yield word

    def _known(self, word: str) -> list[int]:
        """Ids of a word's pieces; WordPiece reads ``##x`` at a word's beginning as its entry."""
        found = self._backend.model.tokenize(word)
        inner = self.marking == "inner" and word.startswith(self._mark)
        if inner and found and len(found[0].value) <= len(self._mark):
            return []  # the mark was read as text
        return [t.id for t in found if t.id != self._unknown and t.value != self._mark]


def _marking(body: Mapping[str, Any]) -> tuple[str, str]:
    """How a tokenizer.json marks the place of its entries, and the mark."""
    steps = {step["type"]: step for step in _steps(body.get("pre_tokenizer"))}
    model = body["model"]
    if "ByteLevel" in steps:
        return "bytes", _CHARACTER_OF[ord(" ")]
    if "Metaspace" in steps:
        return "space", str(steps["Metaspace"]["replacement"])
    if prefix := model.get("continuing_subword_prefix"):
        return "inner", str(prefix)
    for step in _steps(body.get("normalizer")):
        if step["type"] == "Prepend":  # of SentencePiece models that transformers converted
            return "space", str(step["prepend"])
    return "none", ""


def _steps(part: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The steps of a normaliser or pre-tokenizer, those of sequences one by one."""
    if part is not None:
        inner = part.get("pretokenizers") or part.get("normalizers")
        for step in inner or ():
            yield from _steps(step)
        if not inner:
            yield part


def _characters_of_bytes() -> dict[int, str]:
    """GPT-2's characters for bytes: printable ones for themselves, others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


_CHARACTER_OF = _characters_of_bytes()
_BYTE_OF = {character: bytes([byte]) for byte, character in _CHARACTER_OF.items()}
