"""``--task tag``: spans of a text, or tags of tokens, by the types found in the training file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from megabert.common.errors import UserError
from megabert.common.files import new_text_file
from megabert.common.log import get_logger
from megabert.data.tokenizers.base import without_surrogates
from megabert.tasks.base import Features
from megabert.tasks.files.feature_records import is_features_file
from megabert.tasks.files.names import NamedColumns
from megabert.tasks.own_labels.source import PREDICTIONS, TEXTS
from megabert.tasks.own_labels.tag_files import TOKENS, TagFiles
from megabert.tasks.tagging.conll import Conll
from megabert.tasks.tagging.data import Pieces, TaggedTexts, character_pieces
from megabert.tasks.tagging.entity_spans import Entity, tags_of
from megabert.tasks.tagging.features import TaggingFeatures
from megabert.tasks.tagging.label_checks import with_known_types
from megabert.tasks.tagging.prediction_columns import write_columns
from megabert.tasks.tagging.settings import TaggingSettings

if TYPE_CHECKING:
    from megabert.data.tokenizers.base import Tokenizer

log = get_logger()


class OwnTags(Conll):
    """The task ``tag``: see :class:`megabert.tasks.base.Task` for what each method does."""

    name = "tag"
    held_out = 0.1
    names_columns, skips_lines = True, True

    def __init__(self, settings: TaggingSettings, max_length: int | None = None) -> None:
        super().__init__(settings, max_length)
        self.files = TagFiles()
        self.spans = False
        """Whether the entities of the training file are counted in characters of texts."""

    @property
    def columns(self) -> NamedColumns:  # type: ignore[override]
        """Columns that flags name."""
        return self.files.given

    @columns.setter
    def columns(self, named: NamedColumns) -> None:
        self.files.given = named

    @classmethod
    def implied_by(cls, labels: tuple[str, ...], outputs: int) -> str | None:
        """Foreign heads tag words, as ``conll`` does."""
        return None

    def load_labels(self, labels: tuple[str, ...], record: dict[str, Any]) -> None:
        """As of all tagging, and what the training file looked like."""
        super().load_labels(labels, record)
        self.spans = record.get("spans") is True
        columns = record.get("columns")
        if isinstance(columns, list) and len(columns) == 2:
            text, label = (one if isinstance(one, str) else None for one in columns)
            self.files.before = NamedColumns(text, None, label)
        self._name_fields()

    def _name_fields(self) -> None:
        """Inputs have the training file's name of the text, or a usual one."""
        own = self.files.given.text or self.files.before.text
        self.input_fields = (tuple(dict.fromkeys([own, *TEXTS] if own and self.spans else TEXTS)),)

    def record(self) -> dict[str, Any]:
        """As of all tagging, and what the training file looked like."""
        before = self.files.before
        columns = [before.text, before.label]
        return {**super().record(), "spans": self.spans, "columns": columns}

    def _read(
        self, path: Path, tokenizer: Tokenizer, training: bool
    ) -> tuple[TaggedTexts, list[Pieces]]:
        if is_features_file(path):
            return super()._read(path, tokenizer, training)
        corpus, layout = self.files.read(path, self.scheme, training, self.bad_lines)
        if self.bad_lines == "skip" and self.labels:
            corpus = with_known_types(corpus, self.labels)
        scheme = f", scheme {corpus.scheme}" if corpus.scheme else ""
        log.info("%s is read as %s%s", path, layout, scheme)
        if training:
            self.spans = isinstance(corpus.texts[0], str)
            self._name_fields()
        return corpus, self.pieces(corpus, tokenizer)

    def pieces(self, corpus: TaggedTexts, tokenizer: Tokenizer) -> list[Pieces]:
        """Texts in characters where entities are counted so; else in tokens."""
        whole = [text for text in corpus.texts if isinstance(text, str)]
        if len(whole) == len(corpus.texts) and (self.spans or corpus.entities is not None):
            return character_pieces(whole, tokenizer)
        return super().pieces(corpus, tokenizer)

    def items(self, items: Sequence[Mapping[str, Any]]) -> TaggedTexts:
        """A text, or a list of tokens, each under one of its names."""
        own = self.files.given.text or self.files.before.text
        names = tuple(dict.fromkeys([*([own] if own else []), *TOKENS, *TEXTS]))
        texts: list[str | list[str]] = []
        for number, item in enumerate(items, start=1):
            name = next((name for name in names if name in item), None)
            if name is None:
                known = ", ".join(map(str, item)) or "nothing"
                raise UserError(f"item {number} has no text ({', '.join(names)}): {known}")
            value = item[name]
            if isinstance(value, str):
                texts.append(without_surrogates([value])[0])
            elif isinstance(value, list) and all(isinstance(token, str) for token in value):
                texts.append([*without_surrogates(value)])
            else:
                raise UserError(f"item {number}: {name!r} is neither a text nor a list of texts")
        return TaggedTexts(Path("input"), self._alike(texts), None, [*range(1, len(texts) + 1)])

    def _alike(self, texts: list[str | list[str]]) -> list[str | list[str]]:
        kinds = {type(text) for text in texts}
        if self.spans and len(kinds) > 1:
            other = next(n for n, text in enumerate(texts, 1) if type(text) is not type(texts[0]))
            raise UserError(f"item {other}: texts and lists of tokens in one file; keep one form")
        return texts

    def write(
        self, features: TaggingFeatures, found: list[list[Entity]], folder: Path
    ) -> dict[str, float]:
        """Columns for conlleval where the file has such columns."""
        if features.corpus.token_lines and not isinstance(features.corpus.texts[0], str):
            write_columns(features, found, folder)
        return {}

    def score(
        self, features: Features, outputs: dict[str, np.ndarray], folder: Path
    ) -> dict[str, float]:
        """As of all tagging; the predictions are written as JSON lines too."""
        scores = super().score(features, outputs, folder)
        assert isinstance(features, TaggingFeatures)
        corpus = features.corpus
        gold = features.truths() if features.labelled else None
        with new_text_file(folder / PREDICTIONS) as file:
            for row, answer in enumerate(self.answers(features, outputs)):
                line = {"id": corpus.ids[features.texts[row]], **answer}
                if gold is not None:
                    line["gold"] = [entity._asdict() for entity in gold[row]]
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        return scores

    def answers(self, features: Features, outputs: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        """As of all tagging; of tokens also ``tags``, one for each."""
        found = super().answers(features, outputs)
        assert isinstance(features, TaggingFeatures)
        for row, answer in enumerate(found):
            tokens = features.corpus.texts[features.texts[row]]
            if not isinstance(tokens, str):
                entities = [Entity(e["type"], e["start"], e["end"]) for e in answer["entities"]]
                tags = tags_of(entities, len(tokens), self.scheme or "bio")
                answer["tags"] = [str(tag) for tag in tags]
        return found
