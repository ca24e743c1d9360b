"""Token features of other programs for tagging: Google-style NER scripts, CLUENER's, and MindSpore's.

A record (:mod:`megabert.tasks.files.feature_records`) has ``input_ids``, ``input_mask`` (or ``mask``),
``segment_ids`` and ``label_ids``, all of one length S. Labels of ``[CLS]`` and ``[SEP]`` are not read. The
tokens whose label is a tag are the positions that entities are counted in; a token whose label is that of a
further piece of a word (``X``) belongs to the one before it.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.tasks.files.feature_records import read_examples
from megabert.tasks.files.feature_rows import FeatureRows
from megabert.tasks.files.problems import Problems
from megabert.tasks.tagging.data import Pieces, TaggedTexts
from megabert.tasks.tagging.entity_spans import (
    Tag,
    entities_of,
    find_scheme,
    out_of_order,
)
from megabert.tasks.tagging.label_map import LabelMap, read_label_map

if TYPE_CHECKING:
    from megabert.data.tokenizers.base import Tokenizer


def read_tag_records(
    path: Path, tokenizer: Tokenizer, max_length: int
) -> tuple[TaggedTexts, list[Pieces]]:
    """The texts of a file of token features, in pieces, and their entities.

    Args:
        path: the file; its labels are next to it (:mod:`megabert.tasks.tagging.label_map`).
        tokenizer: whose ids the records must hold.
        max_length: tokens of a row at most.

    Raises:
        UserError: damaged, not of this form, or a record that does not fit the tokenizer or the labels; the
            message names the record from 0.
    """
    labels = read_label_map(path)
    rows = FeatureRows(path, tokenizer, max_length)
    pieces: list[Pieces] = []
    tags: list[list[Tag]] = []
    for number, example in read_examples(path):
        rows.number = number
        size = rows.add(example)
        if rows.last()[-1] != tokenizer.special.sep:
            raise rows.error(
                f"ends with token id {rows.last()[-1]}, not with [SEP] ({tokenizer.special.sep}): the "
                "features were made with another vocabulary"
            )
        given = rows.numbers(example, "label_ids")
        if len(given) < size:
            raise rows.error(f"{len(given)} numbers in label_ids, where one per token was expected")
        found = [_tag(rows, labels, int(label)) for label in given[1 : size - 1]]
        scored = np.array([place for place, tag in enumerate(found) if tag], np.int64)
        order = np.arange(len(scored), dtype=np.int64)
        pieces.append(Pieces(rows.last()[1:-1], scored, np.stack([order, order + 1], axis=1)))
        tags.append([tag for tag in found if tag])
    scheme = _scheme(labels)
    problems = Problems()
    for number, row in enumerate(tags):
        for _ in out_of_order(row, scheme):
            problems.add(f"tag out of the order of {scheme}", f"record {number}")
    _require_order(labels, tags, problems.total)
    get_logger().info(
        "%s is read as token features, labels of %s, scheme %s", path, labels.path, scheme
    )
    texts: list[str | list[str]] = [_tokens(piece, tokenizer) for piece in pieces]
    numbers = list(range(len(texts)))
    entities = [entities_of(row) for row in tags]
    corpus = TaggedTexts(path, texts, entities, numbers, numbers, problems, scheme, recorded=True)
    return corpus, pieces


def _tag(rows: FeatureRows, labels: LabelMap, number: int) -> Tag | None:
    if number not in labels.tags:
        raise rows.error(
            f"label id {number}, which {labels.path} does not have: it belongs to other features"
        )
    return labels.tags[number]


def _scheme(labels: LabelMap) -> str:
    prefixes = {tag.prefix for tag in labels.tags.values() if tag}
    scheme = find_scheme(prefixes)
    if scheme is None:
        listed = ", ".join(sorted(prefixes))
        raise UserError(f"{labels.path}: the prefixes {listed} are not of one scheme of tags")
    return scheme


def _require_order(labels: LabelMap, tags: list[list[Tag]], wrong: int) -> None:
    """Raise UserError if most tags cannot follow each other: the labels are those of other features."""
    inside = sum(tag.type != "" for row in tags for tag in row)
    if 2 * wrong > inside:
        raise UserError(
            f"{labels.path}: {wrong:,} of {inside:,} tags of entities are out of order, so these are not the "
            "labels of the features next to it"
        )


def _tokens(pieces: Pieces, tokenizer: Tokenizer) -> list[str]:
    """Each token with a tag, with the pieces that follow it."""
    words = tokenizer.tokens(pieces.ids.tolist())
    edges = [*pieces.scored.tolist(), len(words)]
    return [
        "".join(word.removeprefix("##") for word in words[first:end])
        for first, end in pairwise(edges)
    ]
