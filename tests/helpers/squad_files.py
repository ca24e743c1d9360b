"""A SQuAD file and a tokenizer small enough to check by hand."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class FakeEncoded:
    """What the tokenizer gives for one text."""

    ids: np.ndarray
    word_starts: np.ndarray
    offsets: np.ndarray


@dataclass(frozen=True)
class FakeSpecial:
    """Ids of the special tokens."""

    pad: int = 0
    unk: int = 1
    cls: int = 2
    sep: int = 3
    mask: int = 4


class FakeTokenizer:
    """Words, each cut into pieces of at most three characters; white space gives no token."""

    special = FakeSpecial()
    vocab_size = 100

    def encode_sentences(self, texts: list[str]) -> list[FakeEncoded]:
        """Ids from 5 to 99, offsets in characters."""
        encoded = []
        for text in texts:
            spans = [match.span() for match in re.finditer(r"\w{1,3}|[^\w\s]", text)]
            ids = [5 + sum(map(ord, text[a:b])) % 95 for a, b in spans]
            encoded.append(
                FakeEncoded(
                    np.asarray(ids, np.int32),
                    np.ones(len(ids), bool),
                    np.asarray(spans, np.int32).reshape(-1, 2),
                )
            )
        return encoded


def qa(identity: Any, question: Any, *answers: tuple[str, int]) -> dict[str, Any]:
    """One entry of ``qas``."""
    listed = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": identity, "question": question, "answers": listed}


def impossible(identity: str, question: str) -> dict[str, Any]:
    """One entry of ``qas`` that SQuAD v2.0 marks as impossible."""
    return {
        "id": identity,
        "question": question,
        "answers": [],
        "is_impossible": True,
        "plausible_answers": [{"text": "Ann", "answer_start": 0}],
    }


def document(*paragraphs: tuple[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """A SQuAD document of one article."""
    entries = [{"context": context, "qas": qas} for context, qas in paragraphs]
    return {"version": "1.1", "data": [{"title": "t", "paragraphs": entries}]}


def write_squad(path: Path, *paragraphs: tuple[str, list[dict[str, Any]]]) -> Path:
    """Write such a document."""
    path.write_text(json.dumps(document(*paragraphs)), encoding="utf-8")
    return path
