"""The file of a SentencePiece model, a protocol buffer of which a few fields are read."""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from megabert.data.tokenizers.protobuf import fields, message_field, varint_field

_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3  # types of pieces


@dataclass(frozen=True)
class ModelSpec:
    """The parts of a SentencePiece model file that are needed."""

    kind: str
    pieces: list[tuple[str, float, int]]  # text, score, type (1 normal, 2 unknown, 3 control, ...)
    charsmap: bytes
    dummy_prefix: bool
    extra_spaces_removed: bool
    byte_fallback: bool

    @property
    def unknown(self) -> str:
        """The piece that stands for unknown text. Raises ``ValueError`` if there is none."""
        for text, _, kind in self.pieces:
            if kind == _UNKNOWN:
                return text
        raise ValueError("no piece for unknown text")


def read_model(content: bytes) -> ModelSpec:
    """Decode a SentencePiece model file (``sentencepiece_model.proto``).

    Fields: ModelProto.pieces 1 {piece 1, score 2, type 3}, trainer_spec 2 {model_type 3,
    byte_fallback 35}, normalizer_spec 3 {precompiled_charsmap 2, add_dummy_prefix 3,
    remove_extra_whitespaces 4}.
    """
    pieces = []
    trainer: dict[int, Any] = {}
    rules: dict[int, Any] = {}
    for number, value in fields(content):
        if number == 1:
            entry = _message(value)
            score = struct.unpack("<f", entry.get(2, b"\0\0\0\0"))[0]
            pieces.append((entry[1].decode(), score, entry.get(3, 1)))
        elif number == 2:
            trainer = _message(value)
        elif number == 3:
            rules = _message(value)
    kind = {1: "unigram", 2: "bpe"}.get(trainer.get(3, 1), "other")
    return ModelSpec(
        kind,
        pieces,
        charsmap=rules.get(2, b""),
        dummy_prefix=bool(rules.get(3, 1)),
        extra_spaces_removed=bool(rules.get(4, 1)),
        byte_fallback=bool(trainer.get(35, 0)),
    )


def as_control_symbols(content: bytes, hidden: Collection[str]) -> bytes:
    """A model file in which these pieces are control symbols, which no text becomes.

    Special tokens that were given as user-defined symbols, or that training found in the text, have
    other types.
    """
    found = bytearray()
    changed = False
    for number, value in fields(content):
        body = value
        if number == 1:
            entry = _message(value)
            if entry[1].decode() in hidden and entry.get(3, _NORMAL) != _CONTROL:
                kind = varint_field(3, _CONTROL)
                score = b"\x15" + entry.get(2, b"\0\0\0\0")  # field 2 of wire type 5
                body, changed = message_field(1, entry[1]) + score + kind, True
        found += (
            varint_field(number, body) if isinstance(body, int) else message_field(number, body)
        )
    return bytes(found) if changed else content


def _message(value: int | bytes) -> dict[int, Any]:
    """Fields of a nested message; the last value of a repeated field."""
    if isinstance(value, int):
        raise ValueError("a number where a message is expected")
    return dict(fields(value))
