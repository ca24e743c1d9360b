"""Named entities in CoNLL's column form: a token and its tag per line, a blank line after a sentence.

The first column is the token (for Chinese, as in ChineseNER, a character), the last one the tag;
columns are separated by tabs or, in a file without any, by spaces. Lines ``-DOCSTART- ...`` separate
documents and are not tokens. A file of one column has no tags.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from megabert.common.errors import UserError
from megabert.data.tokenizers.base import without_surrogates
from megabert.tasks.files.json_lines import has_objects
from megabert.tasks.files.problems import Problems
from megabert.tasks.files.text_lines import read_lines
from megabert.tasks.tagging.data import Pieces, TaggedTexts, character_pieces, token_pieces
from megabert.tasks.tagging.entity_spans import (
    SCHEMES,
    Entity,
    Tag,
    entities_of,
    find_scheme,
    out_of_order,
    parse_tag,
)
from megabert.tasks.tagging.features import TaggingFeatures
from megabert.tasks.tagging.prediction_columns import write_columns
from megabert.tasks.tagging.task import Tagging

if TYPE_CHECKING:
    from megabert.data.tokenizers.base import Tokenizer

_DOCUMENT = "-DOCSTART-"
NO_TAG = "is not a tag; expected O, or B, I, M, E or S with '-' and a type, as B-LOC"
_EXPECTED = (
    "expected a token and its tag per line, as 'Berlin B-LOC', and a blank line after a sentence"
)
NumberedLines = list[tuple[int, list[str]]]


def read_conll(path: Path, scheme: str | None = None) -> TaggedTexts:
    """Read a file in columns.

    Args:
        path: the file.
        scheme: of its tags; None: the one that has all of the file's prefixes.

    Tags that do not follow their scheme's order are read by conlleval's rule (see
    :mod:`megabert.tasks.tagging.entity_spans`) and counted; a file of IOB1 follows its own order.

    Raises:
        UserError: unreadable, empty, a line with another number of columns than the first, a tag
            that is invalid or not of the scheme.
    """
    if has_objects(path):
        raise UserError(
            f"{path} holds JSON objects or Parquet; {_EXPECTED} (numbers of tags, as datasets has them, need "
            "their names)"
        )
    sentences, separator = read_tag_lines(path)
    if len(sentences[0][0][1]) > 1:
        return tagged_sentences(path, sentences, scheme, separator)
    texts = [[columns[0] for _, columns in rows] for rows in sentences]
    lines = [rows[0][0] for rows in sentences]
    return TaggedTexts(path, texts, None, lines, list(range(len(texts))), separator=separator)


def tagged_sentences(
    path: Path,
    sentences: list[NumberedLines],
    scheme: str | None = None,
    separator: str = " ",
    unit: str = "line",
) -> TaggedTexts:
    """Sentences and their entities.

    Args:
        path: their file.
        sentences: of each token the number of its place in the file, and its columns: the token first,
            its tag last.
        scheme: of the tags; None: the one that has all of their prefixes.
        separator: of the file's columns.
        unit: what the numbers of places count.

    Raises:
        UserError: a tag that is invalid or not of the scheme.
    """
    texts = [[columns[0] for _, columns in rows] for rows in sentences]
    lines = [rows[0][0] for rows in sentences]
    tags = [
        [_tag(path, unit, number, columns[-1]) for number, columns in rows] for rows in sentences
    ]
    scheme = _scheme(path, sentences, tags, scheme, unit)
    problems = Problems()
    if not _is_iob1(tags, scheme):
        for rows, sentence in zip(sentences, tags):
            for place in out_of_order(sentence, scheme):
                problems.add(f"tag out of the order of {scheme}", f"{unit} {rows[place][0]}")
    entities = [entities_of(sentence) for sentence in tags]
    ids = list(range(len(texts)))
    return TaggedTexts(path, texts, entities, lines, ids, problems, scheme, separator, unit=unit)


def read_tag_lines(path: Path) -> tuple[list[NumberedLines], str]:
    """The sentences of a file in columns, each line's number and columns; and the columns' separator.

    Raises:
        UserError: unreadable, empty, or a line with another number of columns than the first.
    """
    sentences: list[NumberedLines] = [[]]
    separator, columns = "", 0
    for number, line in read_lines(path):
        content = line.strip(" \t")
        if not content or content.startswith(_DOCUMENT):
            if sentences[-1]:
                sentences.append([])
            continue
        if not separator:
            separator = "\t" if "\t" in content else " "
        # Other white space, as U+3000, may be a token.
        parts = line.rstrip(" \t").split(separator)  # with tabs a token may be a space
        if separator == " ":
            parts = [part for part in parts if part]
        columns = columns or len(parts)
        if len(parts) != columns:
            raise UserError(
                f"{path} line {number} has {len(parts)} columns, the first line {columns}; {_EXPECTED}"
            )
        if not parts[0]:
            raise UserError(f"{path} line {number} begins with a tab; {_EXPECTED}")
        sentences[-1].append((number, parts))
    if not any(sentences):
        raise UserError(f"{path} has no token; {_EXPECTED}")
    return [rows for rows in sentences if rows], separator or " "


def _tag(path: Path, unit: str, number: int, text: str) -> Tag:
    tag = parse_tag(text)
    if tag is None:
        raise UserError(f"{path} {unit} {number}: {text!r} {NO_TAG}")
    return tag


def _scheme(
    path: Path,
    sentences: list[NumberedLines],
    tags: list[list[Tag]],
    wanted: str | None,
    unit: str,
) -> str:
    """The scheme of a file's tags, which must be ``wanted`` if that is given."""
    scheme = wanted or find_scheme({tag.prefix for sentence in tags for tag in sentence})
    known = set(SCHEMES[scheme]) if scheme else {"B", "I", "E", "S"}
    for rows, sentence in zip(sentences, tags):
        for (number, columns), tag in zip(rows, sentence):
            if tag.prefix not in known | {"O"}:
                among = f"the scheme {scheme}" if scheme else "a scheme with the tags before it"
                raise UserError(
                    f"{path} {unit} {number}: the tag {columns[-1]} is not a tag of {among}; correct it, "
                    "or name the scheme with --tag-scheme"
                )
    assert scheme is not None
    return scheme


def _is_iob1(tags: list[list[Tag]], scheme: str) -> bool:
    """Whether B occurs only between neighbours of one type, so that I begins entities (IOB1)."""
    stray = False
    for sentence in tags if scheme == "bio" else []:
        for before, tag in zip([None, *sentence], sentence):
            neighbour = before is not None and before.type == tag.type
            if tag.prefix == "B" and not neighbour:
                return False
            stray = stray or (tag.prefix == "I" and not neighbour)
    return stray


class Conll(Tagging):
    """The task ``conll``: see :class:`megabert.tasks.base.Task` for what each method does."""

    name = "conll"

    @classmethod
    def implied_by(cls, labels: tuple[str, ...], outputs: int) -> str | None:
        """Most published token heads tag words."""
        return cls.name

    def read(self, path: Path, scheme: str | None) -> TaggedTexts:
        """The file, of this scheme."""
        return read_conll(path, scheme)

    def pieces(self, corpus: TaggedTexts, tokenizer: Tokenizer) -> list[Pieces]:
        """Tokens, each tokenized by itself; for a text, with the characters that they cover."""
        spans = [
            self._split(text, tokenizer) if isinstance(text, str) else [] for text in corpus.texts
        ]
        tokens = [
            [text[start:end] for start, end in cuts] if isinstance(text, str) else text
            for text, cuts in zip(corpus.texts, spans)
        ]
        pieces = token_pieces(tokens, tokenizer)
        return [
            replace(piece, spans=np.array(cuts, np.int64).reshape(-1, 2))
            if isinstance(text, str)
            else piece
            for text, cuts, piece in zip(corpus.texts, spans, pieces)
        ]

    def _split(self, text: str, tokenizer: Tokenizer) -> list[tuple[int, int]]:
        """Characters of each token of a text.

        Each character but white space if the training file's tokens were characters, otherwise what
        begins where the tokenizer begins a word.
        """
        if self.characters:
            return [(i, i + 1) for i, character in enumerate(text) if not character.isspace()]
        encoded = tokenizer.encode_sentences([text])[0]
        (pieces,) = character_pieces([text], tokenizer)
        begins = np.flatnonzero(
            encoded.word_starts[pieces.scored] | (np.arange(len(pieces.scored)) == 0)
        )
        ends = [*(begins[1:] - 1), len(pieces.scored) - 1]
        return [(int(pieces.spans[a, 0]), int(pieces.spans[b, 1])) for a, b in zip(begins, ends)]

    def items(self, items: Sequence[Mapping[str, Any]]) -> TaggedTexts:
        """``{"tokens": [str, ...]}`` or ``{"text": str}`` each."""
        texts: list[str | list[str]] = []
        for number, item in enumerate(items, start=1):
            tokens = item.get("tokens")
            if tokens is None:
                texts.append(self.text_of(item, number))
            elif isinstance(tokens, list) and all(isinstance(token, str) for token in tokens):
                texts.append([*without_surrogates(tokens)])
            else:
                raise UserError(f"item {number}: 'tokens' is not a list of texts")
        return TaggedTexts(Path("input"), texts, None, list(range(1, len(texts) + 1)))

    def write(
        self, features: TaggingFeatures, found: list[list[Entity]], folder: Path
    ) -> dict[str, float]:
        """Token, tag of the file if it has any, and predicted tag per line."""
        write_columns(features, found, folder)
        return {}
