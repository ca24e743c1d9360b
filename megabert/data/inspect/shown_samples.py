"""Training samples in readable form: segments of text with the predicted tokens marked.

[MASK→river]   the model sees [MASK] and predicts "river"
[stone→river]  the model sees the random token "stone" and predicts "river"
[=river]       the model sees "river" unchanged and predicts it
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from megabert.data.samples.source import SampleSource
from megabert.data.shards.corpus import Corpus
from megabert.data.tokenizers.base import Tokenizer

TokenKind = Literal["text", "mask", "random", "kept"]
LABELS = {
    ("nsp", 0): "B follows A",
    ("nsp", 1): "B is from another document",
    ("sop", 0): "A and B are in order",
    ("sop", 1): "A and B are swapped",
}
_WORDPIECE_INSIDE = "##"
_SENTENCEPIECE_BEGIN = "▁"

Paint = Callable[[str, TokenKind], str]
"""Colours a marked token for a terminal."""


def _plain(text: str, kind: TokenKind) -> str:
    return text


@dataclass(frozen=True)
class ShownToken:
    """One token: what the model sees, what it must predict ("" for nothing), and how they relate.

    A random replacement that happens to be the token itself has the kind ``kept``.
    """

    position: int
    seen: str
    label: str
    kind: TokenKind


@dataclass(frozen=True)
class ShownSample:
    """One training sample: segment A, and B if the task has one; ``page_ids`` of each."""

    number: int
    seq_length: int
    length: int
    sentence_task: str
    label: int | None
    page_ids: tuple[int, ...]
    segments: tuple[tuple[ShownToken, ...], ...]
    tokenizer_kind: str

    @property
    def predicted(self) -> list[ShownToken]:
        """The predicted tokens."""
        return [token for segment in self.segments for token in segment if token.kind != "text"]

    @property
    def label_text(self) -> str:
        """The meaning of the label; "" without a sentence task."""
        return "" if self.label is None else LABELS[self.sentence_task, self.label]

    def texts(self, paint: Paint = _plain) -> list[str]:
        """The segments as text, pieces of a word joined; the module docstring explains the marks."""
        return [_render(segment, self.tokenizer_kind, paint) for segment in self.segments]

    def as_json(self) -> dict[str, Any]:
        """The sample as JSON values."""
        return {
            "number": self.number,
            "seq_length": self.seq_length,
            "length": self.length,
            "sentence_task": self.sentence_task,
            "label": self.label,
            "label_meaning": self.label_text or None,
            "segments": [
                {"page_id": page, "text": text} for page, text in zip(self.page_ids, self.texts())
            ],
            "predicted": [dataclasses.asdict(token) for token in self.predicted],
        }


def show_samples(
    source: SampleSource, corpus: Corpus, tokenizer: Tokenizer, count: int
) -> list[ShownSample]:
    """The first ``count`` samples of a run over ``source``, which must read ``corpus``."""
    count = min(count, source.samples_per_epoch)
    numbers = np.arange(count, dtype=np.int64)
    samples = source.samples(numbers)
    labels = dict(zip(samples.masked_positions.tolist(), samples.masked_labels.tolist()))
    mask = tokenizer.special.mask
    plan = source.plan(numbers)
    parts = [plan.first, plan.second] if source.settings.paired else [plan.first]
    shown = []
    for row in range(count):
        ids = samples.input_ids[row]
        length = int(samples.lengths[row])
        types = samples.token_type_ids[row, :length]
        offset = row * source.settings.seq_length
        own = {at - offset: label for at, label in labels.items() if 0 <= at - offset < length}
        segments = tuple(
            tuple(_token(at, ids, own, mask, tokenizer) for at in _text_of(types, segment))
            for segment in range(len(parts))
        )
        sentences = samples.next_sentence_labels
        label = None if sentences is None else int(sentences[row])
        shown.append(
            ShownSample(
                row,
                source.settings.seq_length,
                length,
                source.settings.sentence_task,
                label,
                tuple(corpus.document_id(int(part.documents[row])) for part in parts),
                segments,
                tokenizer.kind,
            )
        )
    return shown


def _render(tokens: tuple[ShownToken, ...], tokenizer_kind: str, paint: Paint) -> str:
    parts: list[str] = []
    for token in tokens:
        piece, joined = _piece(token.label or token.seen, tokenizer_kind)
        text = piece if token.kind == "text" else paint(_mark(token), token.kind)
        parts += [text] if joined or not parts else [" ", text]
    return "".join(parts)


def _text_of(types: npt.NDArray[np.int64], segment: int) -> range:
    """Positions of a segment's text, without [CLS] at its start and [SEP] at its end."""
    found = np.flatnonzero(types == segment)
    return range(int(found[0]) + (segment == 0), int(found[-1]))


def _token(
    position: int,
    ids: npt.NDArray[np.int64],
    labels: dict[int, int],
    mask: int,
    tokenizer: Tokenizer,
) -> ShownToken:
    seen = int(ids[position])
    label = labels.get(position)
    if label is None:
        return ShownToken(position, tokenizer.tokens([seen])[0], "", "text")
    kind: TokenKind = "mask" if seen == mask else "kept" if seen == label else "random"
    shown, predicted = tokenizer.tokens([seen, label])
    return ShownToken(position, shown, predicted, kind)


def _mark(token: ShownToken) -> str:
    if token.kind == "kept":
        return f"[={token.label}]"
    seen = "MASK" if token.kind == "mask" else token.seen
    return f"[{seen}→{token.label}]"


def _piece(token: str, tokenizer_kind: str) -> tuple[str, bool]:
    """A vocabulary entry without its position mark, and whether it joins the preceding one."""
    if tokenizer_kind == "wordpiece":
        return token.removeprefix(_WORDPIECE_INSIDE), token.startswith(_WORDPIECE_INSIDE)
    return token.removeprefix(_SENTENCEPIECE_BEGIN), not token.startswith(_SENTENCEPIECE_BEGIN)
