"""A tokenizer, tasks and files small enough to check tags by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from megabert.data.tokenizers.base import Tokenizer
from megabert.data.tokenizers.load import load_tokenizer
from megabert.tasks.registry import make_task
from megabert.tasks.tagging.entity_spans import Entity
from megabert.tasks.tagging.features import TaggingFeatures
from megabert.tasks.tagging.settings import TaggingSettings
from megabert.tasks.tagging.task import Tagging
from tests.helpers.batch_rows import rows_of

CHARACTERS = "中国上海北京人民银行王李明在的去了，。"
PIECES = ["ip", "##hone", "##6", "vs", "2", "##0", "##1", "a", "b", "c", "##a", "##b", "##c", "-"]


def write_vocabulary(folder: Path) -> Path:
    """A folder with a ``vocab.txt`` of some characters and Latin pieces; lower-casing."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARACTERS, *PIECES]
    (folder / "vocab.txt").write_text("\n".join(entries) + "\n", encoding="utf-8")
    return folder


def tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of that vocabulary."""
    return load_tokenizer(write_vocabulary(folder / "vocabulary"))


def make(name: str, max_length: int = 32, **settings: Any) -> Tagging:
    """A task."""
    made = make_task(name, TaggingSettings(**settings), max_length)
    assert isinstance(made, Tagging)
    return made


def outputs_for(
    features: TaggingFeatures, labels: list[list[int]], score: float = 0.5
) -> dict[str, np.ndarray]:
    """What ``predict`` would give if these were the labels of each text's scored pieces."""
    rows = np.arange(len(features.lengths))
    counts = rows_of(features, rows)["tag_counts"]
    width = features.room
    found = np.zeros((len(rows), width), np.int32)
    stream = iter([label for text in labels for label in text])
    for row, count in enumerate(counts):
        found[row, :count] = [next(stream) for _ in range(count)]
    assert next(stream, None) is None
    return {"labels": found, "scores": np.full(found.shape, score, np.float32)}


def gold_labels(features: TaggingFeatures) -> list[list[int]]:
    """Labels of each text's scored pieces, put together from the rows' batches."""
    batch = rows_of(features, np.arange(len(features.lengths)))
    texts: list[list[int]] = []
    for labels, count, begins in zip(batch["tags"], batch["tag_counts"], batch["begins"]):
        if begins:
            texts.append([])
        texts[-1] += labels[:count].tolist()
    return texts


def entity(kind: str, start: int, end: int) -> Entity:
    """An entity with a half-open range."""
    return Entity(kind, start, end)
