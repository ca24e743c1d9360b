"""Files of tagged texts: JSON objects with tokens and tags, or a text and its entities, and columns as CoNLL has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from megabert.data.tokenizers.base import without_surrogates
from megabert.tasks.files.faults import BadLines
from megabert.tasks.files.json_lines import has_objects
from megabert.tasks.files.names import NamedColumns, example_ids
from megabert.tasks.own_labels.columns import ChosenColumns, ColumnSearch, UsualNames
from megabert.tasks.own_labels.records import Records, read_records
from megabert.tasks.own_labels.source import TEXTS
from megabert.tasks.own_labels.spans import entities_in
from megabert.tasks.own_labels.values import UnusableValue
from megabert.tasks.tagging.conll import NO_TAG, NumberedLines, read_tag_lines, tagged_sentences
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

    def read(
        self, path: Path, scheme: str | None, training: bool, bad_lines: BadLines
    ) -> tuple[TaggedTexts, str]:
        """The texts of a file, and how it was read, in words.

        Args:
            path: the file.
            scheme: of its tags; None: the one that has all of their prefixes.
            training: it must have labels, and its columns are looked for in later files too.
            bad_lines: what happens to rows of objects that cannot be used.

        Raises:
            UserError: unreadable, of another form, no usable row, or one that cannot be used.
        """
        if not has_objects(path):
            return _columns(path, scheme)
        records = read_records(path, lambda names: self._chosen(path, names, training), bad_lines)
        if training:
            self.before = records.columns.named()
        name = records.columns.texts[0]
        kinds = {type(row.get(name)): number for number, row in reversed(records.rows)}
        first = {kind: number for kind, number in kinds.items() if kind in (str, list)}
        if not first:
            number = records.rows[0][0]
            raise UserError(
                f"{path} {records.faults.unit} {number}: {name!r} is neither a text nor a list of tokens"
            )
        kind = min(first, key=lambda one: first[one])
        rows = [*_rows_of(records, kind, first[kind])]
        corpus = _spans(records, rows) if kind is str else _token_rows(records, rows, scheme)
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


def _rows_of(records: Records, kind: type, first: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows whose text is of this kind, as that of row ``first``."""
    name = records.columns.texts[0]
    for number, row in records.rows:
        if type(row.get(name)) is kind:
            yield number, row
        else:
            what = "a text" if kind is str else "a list of tokens"
            detail = f"{name!r} is not {what}, as in {records.faults.unit} {first}"
            records.faults.add(number, "unusable text", detail)


def _made(
    records: Records, rows: list[tuple[int, dict[str, Any]]], corpus: TaggedTexts
) -> TaggedTexts:
    """A corpus with the ids of its rows, and with what was left out."""
    if not rows:
        raise UserError(f"{corpus.path} has no usable example ({records.faults.problems})")
    identity = records.columns.identity
    given = [None if identity is None else row.get(identity) for _, row in rows]
    ids = example_ids(given, [number for number, _ in rows], records.faults.problems)
    return replace(corpus, ids=ids, problems=corpus.problems.with_more(records.faults.problems))


def _spans(records: Records, rows: list[tuple[int, dict[str, Any]]]) -> TaggedTexts:
    """Texts, and their entities in characters."""
    text, label = records.columns.texts[0], records.columns.label
    kept: list[tuple[int, dict[str, Any]]] = []
    texts: list[str] = []
    entities: list[list[Entity]] = []
    contents = without_surrogates([row[text] for _, row in rows])
    for (number, row), content in zip(rows, contents):
        try:
            if not content.strip():
                raise UnusableValue("empty text", f"{text!r} is empty")
            if label is not None:
                entities.append(entities_in(content, row.get(label)))
        except UnusableValue as wrong:
            records.faults.add(number, wrong.kind, str(wrong))
        else:
            kept.append((number, row))
            texts.append(content)
    corpus = TaggedTexts(
        records.faults.path,
        texts,
        None if label is None else entities,
        [number for number, _ in kept],
        unit=records.faults.unit,
    )
    return _made(records, kept, corpus)


def _token_rows(
    records: Records, rows: list[tuple[int, dict[str, Any]]], scheme: str | None
) -> TaggedTexts:
    """Lists of tokens, and of tags of the same length."""
    path, unit = records.faults.path, records.faults.unit
    text, label = records.columns.texts[0], records.columns.label
    kept: list[tuple[int, dict[str, Any]]] = []
    found: list[tuple[list[str], list[str]]] = []
    given = [row.get(label) for _, row in rows] if label is not None else []
    numbers = [type(tag) is int for tags in given if isinstance(tags, list) for tag in tags]
    names = read_label_map(path) if 2 * sum(numbers) > len(numbers) else None
    for number, row in rows:
        try:
            tokens = _tokens(text, row[text])
            tags = [] if label is None else _tags(records, row, len(tokens))
            found.append((tokens, [_tag_name(tag, names) for tag in tags]))
        except UnusableValue as wrong:
            records.faults.add(number, wrong.kind, str(wrong))
        else:
            kept.append((number, row))
    if label is not None:
        plain = _plain(tag for _, tags in found for tag in tags)
        invalid: set[int] = set()
        for place, ((number, _), (_, tags)) in enumerate(zip(kept, found)):
            tags[:] = [_prefixed(tag, plain) for tag in tags]
            wrong_tag = next((tag for tag in tags if parse_tag(tag) is None), None)
            if wrong_tag is not None:
                invalid.add(place)
                records.faults.add(number, "invalid tag", f"{wrong_tag!r} {NO_TAG}")
        kept = [row for place, row in enumerate(kept) if place not in invalid]
        found = [row for place, row in enumerate(found) if place not in invalid]
    if label is None or not kept:
        lines = [number for number, _ in kept]
        corpus = TaggedTexts(path, [tokens for tokens, _ in found], None, lines, unit=unit)
    else:
        sentences = [
            [(number, [*both]) for both in zip(*row)] for (number, _), row in zip(kept, found)
        ]
        corpus = tagged_sentences(path, sentences, scheme or _io(sentences), unit=unit)
    return replace(_made(records, kept, corpus), token_lines=False)


def _tokens(name: str, tokens: list[Any]) -> list[str]:
    wrong = next((t for t in tokens if not isinstance(t, str) or not t.strip()), None)
    if wrong is not None or not tokens:
        what = "no token" if not tokens else f"{wrong!r} among the tokens"
        raise UnusableValue("unusable tokens", f"{name!r} has {what}")
    return [*without_surrogates(tokens)]


def _tags(records: Records, row: dict[str, Any], tokens: int) -> list[Any]:
    """The tags of a row, as the file has them, one per token."""
    text, label = records.columns.texts[0], records.columns.label
    assert label is not None
    tags = row.get(label)
    if not isinstance(tags, list) or len(tags) != tokens:
        count = f"{len(tags)} tags" if isinstance(tags, list) else "no list of tags"
        raise UnusableValue("unusable tags", f"{tokens} tokens, but {count} ({text!r}, {label!r})")
    return tags


def _tag_name(tag: Any, names: LabelMap | None) -> str:
    """A tag by its name or its number."""
    if names is not None:
        found = names.tags.get(tag) if type(tag) is int else None
        if found is None:
            raise UnusableValue(
                "unusable tags", f"{tag!r} is not the number of a tag in {names.path}"
            )
        return str(found)
    if not isinstance(tag, str):
        raise UnusableValue("unusable tags", f"{tag!r} is not a tag")
    return without_surrogates([tag])[0].strip()
