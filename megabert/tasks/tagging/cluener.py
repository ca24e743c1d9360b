"""CLUENER2020 (Xu et al. 2020): JSON lines of Chinese text with entities of ten types.

A line is ``{"text": str, "label": {TYPE: {ENTITY: [[FIRST, LAST], ...]}}}``, characters counted from 0,
LAST included; a test file has no ``label`` and may have an ``id``. Predictions are written in the same
form, as the benchmark takes them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megabert.common.errors import UserError
from megabert.common.files import new_text_file
from megabert.data.tokenizers.base import without_surrogates
from megabert.tasks.files.json_lines import read_json_lines
from megabert.tasks.files.names import example_ids, is_no_name
from megabert.tasks.files.problems import Problems
from megabert.tasks.tagging.data import Pieces, TaggedTexts, character_pieces
from megabert.tasks.tagging.entity_spans import Entity, precision_recall_f1
from megabert.tasks.tagging.features import TaggingFeatures
from megabert.tasks.tagging.task import Tagging

if TYPE_CHECKING:
    from megabert.data.tokenizers.base import Tokenizer

PREDICTIONS = "cluener_predict.json"
_FORM = '{"text": ..., "label": {TYPE: {ENTITY: [[FIRST, LAST], ...]}}}'
LabelPositions = Mapping[str, Mapping[str, Sequence[Sequence[int]]]]


def read_cluener(path: Path) -> TaggedTexts:
    """Read a file of CLUENER2020's form.

    Texts with an entity whose text is not at the stated place are ``unusable``; such entities are counted.

    Raises:
        UserError: unreadable, empty, a line of another form, or labels in some lines only.
    """
    texts: list[str] = []
    lines: list[int] = []
    ids: list[Any] = []
    entities: list[list[Entity]] = []
    problems = Problems()
    unusable: set[int] = set()
    labelled: bool | None = None
    for number, content in read_json_lines(path):
        place = f"{path} line {number}"
        if isinstance(content, str):
            raise UserError(f"{place}: {content}; expected {_FORM}")
        text = content.get("text")
        if not isinstance(text, str):
            raise UserError(f"{place}: 'text' is missing or not a text; expected {_FORM}")
        if labelled is None:
            labelled = "label" in content
        elif labelled != ("label" in content):
            raise UserError(
                f"{place}: {'no ' if labelled else 'a '}'label', unlike the lines before; label all "
                "lines or none"
            )
        texts.append(without_surrogates([text])[0])
        lines.append(number)
        ids.append(content.get("id"))
        if labelled:
            listed = list(_entities(content["label"], place))
            entities.append(_in_place(text, listed, f"line {number}", problems))
            if len(entities[-1]) < len(listed):
                unusable.add(len(entities) - 1)
    if not texts:
        raise UserError(f"{path} has no line; expected lines {_FORM}")
    labels = entities if labelled else None
    names = example_ids(ids, lines, problems)
    return TaggedTexts(path, texts, labels, lines, names, problems, unusable=frozenset(unusable))


def _entities(label: Any, place: str) -> Iterator[tuple[str, str, int, int]]:
    """(type, text, first, last) of each entity of a ``label``."""
    wrong = UserError(f"{place}: 'label' has another form; expected {_FORM}")
    if not isinstance(label, dict):
        raise wrong
    for kind, named in label.items():
        if not isinstance(named, dict) or is_no_name(kind) or kind != kind.strip():
            raise wrong
        for name, ranges in named.items():
            if not isinstance(ranges, list):
                raise wrong
            for pair in ranges:
                if not isinstance(pair, list) or [type(n) for n in pair] != [int, int]:
                    raise wrong
                yield kind, name, pair[0], pair[1]


def _in_place(
    text: str, listed: Sequence[tuple[str, str, int, int]], place: str, problems: Problems
) -> list[Entity]:
    """The entities whose text is at the stated place; others are counted."""
    found = []
    for kind, name, first, last in listed:
        if not 0 <= first <= last < len(text):
            problems.add("entity outside its text", f"{place}, {name}")
        elif text[first : last + 1] != name:
            problems.add("entity whose text is not at its place", f"{place}, {name}")
        else:
            found.append(Entity(kind, first, last + 1))
    return found


def as_label(text: str, entities: Sequence[Entity]) -> dict[str, dict[str, list[list[int]]]]:
    """Entities as a CLUENER line has them under ``label``."""
    label: dict[str, dict[str, list[list[int]]]] = {}
    for kind, start, end in entities:
        label.setdefault(kind, {}).setdefault(text[start:end], []).append([start, end - 1])
    return label


def clue_f1(gold: Sequence[LabelPositions], predicted: Sequence[LabelPositions]) -> float:
    """The score of the benchmark's own script, in per cent.

    For each type the F1 over the distinct texts of the entities of a line, wherever they are; then the
    mean over the types of ``gold``.
    """
    types = {kind for label in gold for kind in label}
    scores = []
    for kind in types:
        pairs = [(set(a.get(kind, ())), set(b.get(kind, ()))) for a, b in zip(gold, predicted)]
        right = sum(len(truth & found) for truth, found in pairs)
        scores.append(
            precision_recall_f1(
                right, sum(len(found) for _, found in pairs), sum(len(t) for t, _ in pairs)
            )[2]
        )
    return sum(scores) / len(scores) if scores else 0.0


class Cluener(Tagging):
    """The task ``cluener``: see :class:`megabert.tasks.base.Task` for what each method does."""

    name = "cluener"

    def read(self, path: Path, scheme: str | None) -> TaggedTexts:
        """The file; its labels have no scheme."""
        return read_cluener(path)

    def pieces(self, corpus: TaggedTexts, tokenizer: Tokenizer) -> list[Pieces]:
        """The texts, in characters."""
        return character_pieces([str(text) for text in corpus.texts], tokenizer)

    def items(self, items: Sequence[Mapping[str, Any]]) -> TaggedTexts:
        """``{"text": str}`` each."""
        texts = [self.text_of(item, number) for number, item in enumerate(items, start=1)]
        return TaggedTexts(Path("input"), texts, None, list(range(1, len(texts) + 1)))

    def write(
        self, features: TaggingFeatures, found: list[list[Entity]], folder: Path
    ) -> dict[str, float]:
        """Predictions as the benchmark takes them; the score of its script."""
        corpus = features.corpus
        texts = [str(corpus.texts[text]) for text in features.texts]
        labels = [as_label(text, entities) for text, entities in zip(texts, found)]
        with new_text_file(folder / PREDICTIONS) as file:
            for text, label in zip(features.texts, labels):
                line = {"id": corpus.ids[text], "label": label}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        if not features.labelled:
            return {}
        truths = [as_label(text, entities) for text, entities in zip(texts, features.truths())]
        scored = features.scored
        return {"clue_f1": clue_f1([truths[n] for n in scored], [labels[n] for n in scored])}
