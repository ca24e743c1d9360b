"""Files of tagged texts: JSON objects with tokens and tags, or a text and its entities, and columns as CoNLL has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from megabert.data.tokenizers.base import without_surrogates
from megabert.tasks.files.json_lines import has_objects
from megabert.tasks.files.names import NamedColumns, example_ids
from megabert.tasks.own_labels.columns import ChosenColumns, ColumnSearch, UsualNames
from megabert.tasks.own_labels.records import Records, read_records
from megabert.tasks.own_labels.source import TEXTS
from megabert.tasks.own_labels.spans import entities_in
from megabert.tasks.own_labels.values import UnusableValue
from megabert.tasks.tagging.conll import NumberedLines, read_tag_lines, tagged_sentences
from megabert.tasks.tagging.data import TaggedTexts
from megabert.tasks.tagging.entity_spans import OUTSIDE, Entity, parse_tag
from megabert.tasks.tagging.label_map import LabelMap, read_label_map

TOKENS = ("tokens", "words")
LABELS = ("tags", "ner_tags", "entities", "spans", "labels", "label")


class TagFiles:
    """The files of a run.

    Attributes:
        given: columns that flags name.
        before: columns of the training file, or of that of the checkpoint.
    """

    def __init__(self) -> None:
        self.given, self.before = NamedColumns(), NamedColumns()

    def read(self, path: Path, scheme: str | None, training: bool) -> tuple[TaggedTexts, str]:
        """The texts of a file, and how it was read, in words.

        Args:
            path: the file.
            scheme: of its tags; None: the one that has all of their prefixes.
            training: it must have labels, and its columns are looked for in later files too.

        Raises:
            UserError: unreadable, of another form, or a row that cannot be used; the message names it.
        """
        if not has_objects(path):
            return _columns(path, scheme)
        records = read_records(path, lambda names: self._chosen(path, names, training), "error")
        if training:
            self.before = records.columns.named()
        name = records.columns.texts[0]
        kind = type(records.rows[0][1].get(name))
        if kind not in (str, list):
            number = records.rows[0][0]
            raise UserError(
                f"{path} {records.faults.unit} {number}: {name!r} is neither a text nor a list of tokens"
            )
        for number, row in records.rows:
            if type(row.get(name)) is not kind:
                what = "text" if kind is str else "list of tokens"
                raise UserError(
                    f"{path} {records.faults.unit} {number}: {name!r} is not a {what}, as in "
                    f"{records.faults.unit} {records.rows[0][0]}"
                )
        corpus = _spans(records) if kind is str else _token_rows(records, scheme)
        return corpus, records.layout

    def _chosen(self, path: Path, names: Sequence[str], training: bool) -> ChosenColumns:
        tokens = any(name.lower() in TOKENS for name in names)
        usual = UsualNames(TOKENS if tokens else TEXTS, (), LABELS)
        given = replace(self.given, pair=None)
        return ColumnSearch(path, usual, given, self.before, training)(names)


def _columns(path: Path, scheme: str | None) -> tuple[TaggedTexts, str]:
    """A file as CoNLL has it."""
    sentences, separator = read_tag_lines(path)
    lines = [line for rows in sentences for line in rows]
    if len(lines[0][1]) == 1:
        commas = sum("," in columns[0].strip(",") for _, columns in lines)
        if 2 * commas > len(lines):
            raise UserError(
                f"{path}: its lines are separated by commas; expected a token and its tag separated by a tab or "
                "spaces, or JSON lines"
            )
        texts = [[columns[0] for _, columns in rows] for rows in sentences]
        first = [rows[0][0] for rows in sentences]
        return TaggedTexts(
            path, texts, None, first, list(range(len(texts))), separator=separator
        ), "tokens in lines, no tags"
    plain = _plain(columns[-1] for _, columns in lines)
    made = [
        [(number, [columns[0], _prefixed(columns[-1], plain)]) for number, columns in rows]
        for rows in sentences
    ]
    corpus = tagged_sentences(path, made, scheme or _io(made), separator)
    return corpus, f"tokens and tags in lines{_told(plain)}"


def _plain(tags: Iterable[str]) -> bool:
    """Whether tags have no prefixes: no one but O is a tag of a scheme."""
    return all(parse_tag(tag) in (None, OUTSIDE) for tag in set(tags))


def _prefixed(tag: str, plain: bool) -> str:
    return f"I-{tag}" if plain and tag.strip() and parse_tag(tag) is None else tag


def _io(sentences: Sequence[NumberedLines]) -> str | None:
    """The scheme io if no tag begins an entity or ends one; None otherwise."""
    tags = {columns[-1] for rows in sentences for _, columns in rows}
    parsed = [parse_tag(tag) for tag in tags]
    return "io" if all(tag is not None and tag.prefix in "OI" for tag in parsed) else None


def _told(plain: bool) -> str:
    return " (without prefixes: TYPE is read as I-TYPE)" if plain else ""


def _ids(records: Records) -> list[Any]:
    identity = records.columns.identity
    given = [None if identity is None else row.get(identity) for _, row in records.rows]
    numbers = [number for number, _ in records.rows]
    return example_ids(given, numbers, records.faults.problems)


def _place(records: Records, number: int) -> str:
    return f"{records.faults.path} {records.faults.unit} {number}"


def _spans(records: Records) -> TaggedTexts:
    """Texts, and their entities in characters."""
    text, label = records.columns.texts[0], records.columns.label
    entities: list[list[Entity]] = []
    texts = [*without_surrogates([row[text] for _, row in records.rows])]
    for (number, row), content in zip(records.rows, texts):
        try:
            if not content.strip():
                raise UnusableValue("empty text", f"{text!r} is empty")
            if label is not None:
                entities.append(entities_in(content, row.get(label)))
        except UnusableValue as wrong:
            raise UserError(f"{_place(records, number)}: {wrong.kind}: {wrong}") from wrong
    return TaggedTexts(
        records.faults.path,
        texts,
        None if label is None else entities,
        [number for number, _ in records.rows],
        _ids(records),
        records.faults.problems,
        unit=records.faults.unit,
    )


def _token_rows(records: Records, scheme: str | None) -> TaggedTexts:
    """Lists of tokens, and of tags of the same length."""
    path, unit = records.faults.path, records.faults.unit
    text, label = records.columns.texts[0], records.columns.label
    names: LabelMap | None = None
    rows: list[tuple[int, list[str], list[str]]] = []
    for number, row in records.rows:
        place = _place(records, number)
        tokens = row[text]
        wrong = next((t for t in tokens if not isinstance(t, str) or not t.strip()), None)
        if wrong is not None or not tokens:
            what = "no token" if not tokens else f"{wrong!r} among the tokens"
            raise UserError(f"{place}: {text!r} has {what}")
        tags: list[Any] = []
        if label is not None:
            given = row.get(label)
            tags = given if isinstance(given, list) else []
            if len(tags) != len(tokens):
                count = f"{len(tags)} tags" if isinstance(given, list) else "no list of tags"
                raise UserError(f"{place}: {len(tokens)} tokens, but {count} ({text!r}, {label!r})")
            if any(type(tag) is int for tag in tags):
                names = names or read_label_map(path)
            tags = [_tag_name(tag, names, place) for tag in tags]
        rows.append((number, [*without_surrogates(tokens)], tags))
    if label is None:
        texts = [tokens for _, tokens, _ in rows]
        numbers = [number for number, _, _ in rows]
        corpus = TaggedTexts(path, texts, None, numbers, unit=unit)
    else:
        plain = _plain(tag for _, _, tags in rows for tag in tags)
        sentences = [
            [(number, [token, _prefixed(tag, plain)]) for token, tag in zip(tokens, tags)]
            for number, tokens, tags in rows
        ]
        corpus = tagged_sentences(path, sentences, scheme or _io(sentences), unit=unit)
    return replace(corpus, ids=_ids(records), token_lines=False)


def _tag_name(tag: Any, names: LabelMap | None, place: str) -> str:
    """A tag by its name or its number."""
    if names is not None:
        found = names.tags.get(tag) if type(tag) is int else None
        if found is None:
            raise UserError(f"{place}: {tag!r} is not the number of a tag in {names.path}")
        return str(found)
    if not isinstance(tag, str):
        raise UserError(f"{place}: {tag!r} is not a tag")
    return without_surrogates([tag])[0].strip()
