"""What a document of plain text is, and whether its lines are joined: by option, or by its sample.

The sample is the first 2 MiB of a file. Without an option, by the first rule that fits:

| the sample has | a document is |
|---|---|
| ``= Title =`` lines, as in WikiText | the lines below one of them |
| blank lines (long lines: one in 200 at least) | the lines between them, as in BERT's own input |
| lines that are hard-wrapped | the file |
| other lines | a line |

In a folder or a tar archive with several text files, a document is a file, if the files have no
``= Title =`` lines and most of them are smaller than 1 MiB.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

from megabert.data.text.pages import Page
from megabert.data.text.plain.line_numbers import (
    LineNumbers,
    find_line_numbers,
    find_verse_numbers,
    without_line_numbers,
)
from megabert.data.text.plain.looks import other_kinds
from megabert.data.text.plain.margins import (
    Margins,
    find_margins,
    without_margins,
)
from megabert.data.text.plain.page_breaks import (
    PageBreaks,
    count_page_lines,
    find_page_breaks,
    split_at_form_feeds,
    without_page_breaks,
)
from megabert.data.text.plain.spacing import blank_lines_between, spaced_wrapping, without_spacing
from megabert.data.text.plain.wrapping import JOIN_ALL, Wrapping, join_lines, wrapping_of
from megabert.data.text.reading import AUTO, ReadingRules

SAMPLE = 1 << 21
"""Bytes of a file by which its layout is judged."""
RECORD = "record"
HEADING = re.compile(r"\s*=\s+([^=\s](?:.*\S)?)\s+=\s*$")
"""A line such as " = Title = ", as in WikiText."""
# each pattern begins with a line feed, which the engine finds fast
_TITLE_LINE = re.compile(rb"\n[ \t]*=[ \t]+[^=\s][^\n]*?[ \t]=[ \t\r]*(?=\n)")
_BLANK = re.compile(rb"\n(?:[ \t\r\f\v]*\n)+")
_MARKDOWN_TITLE = re.compile(rb"\n#{1,6} [^\s#]")
_MARKDOWN = re.compile(rb"\]\([^\s)\]]+\)|\n```|\*\*\w[^*\n]*\*\*")
_MARKDOWN_TABLE = re.compile(rb"\n\|(?: ?:?-{2,}:? ?\|){2,}\r?\n")
_CONTINUATION = bytes(range(0x80, 0xC0))  # bytes of a character after the first one
_WRAP_SAMPLE = 1 << 18  # bytes
_LONG_LINE = 300  # characters: more than a sentence
_LINES_PER_BLANK = 200
_LARGE_FILE = 1 << 20  # bytes
_REMEMBERED = 256  # files whose layout is judged once


@dataclass(frozen=True)
class TextLayout:
    """How a text file is read.

    Attributes:
        documents: one of ``reading.DOCUMENTS``.
        wrapping: of hard-wrapped lines, which are joined; None if line ends are kept.
        margins: marks that are removed from the beginnings of lines.
        spacing: blank lines after each line of a paragraph, which are left out.
        pages: form feeds, page numbers and the like, which are left out.
        numbers: of lines or verses, which are removed.
    """

    documents: str
    wrapping: Wrapping | None = None
    margins: Margins | None = None
    spacing: int = 0
    pages: PageBreaks | None = None
    numbers: LineNumbers | None = None

    def lines(self, lines: Iterator[tuple[int, str | Page]]) -> Iterator[tuple[int, str | Page]]:
        """The lines of a file without what is between pages, and without their numbers."""
        verses = self.numbers is not None and self.numbers.side == "verse"
        if self.numbers is not None and not verses:
            lines = without_line_numbers(lines, self.numbers)
        if self.pages is not None:
            lines = without_page_breaks(lines, self.pages)
        if self.numbers is not None and verses:
            lines = without_line_numbers(lines, self.numbers)
        return lines

    def text(self, lines: Sequence[str | None]) -> str:
        """The text of a document; a paragraph with a None, a line that cannot be read, is left out
        where lines are joined."""
        if self.margins is not None:
            lines = without_margins(lines, self.margins)
        if self.wrapping is not None:
            return "\n".join(join_lines(lines, self.wrapping))
        return "\n".join(line for line in lines if line is not None)


@dataclass(frozen=True)
class _Judged:
    """What was found in a sample.

    Attributes:
        layout: by which the text is read.
        places: ends of documents.
        marked, kept: lines by the name of the mark that is removed, or that stays.
        lines: that are not blank.
        page_lines: page numbers and the like.
        looks: keys of ``looks.WARNINGS``.
        doubtful_spacing: whether the text may be double-spaced.
    """

    layout: TextLayout
    places: _Places
    marked: dict[str, int]
    kept: dict[str, int]
    lines: int
    page_lines: int
    looks: tuple[str, ...]
    doubtful_spacing: bool


@dataclass(frozen=True)
class _Places:
    """Ends of documents in a sample: lines, title lines, and runs of blank lines within it."""

    lines: int
    titles: int
    title_first: bool
    blank: int

    @staticmethod
    def of(sample: bytes) -> _Places:
        text = b"\n%b\n" % sample.removeprefix(BOM_UTF8).strip()
        return _Places(
            text.count(b"\n") - 1,
            len(_TITLE_LINE.findall(text)),
            _TITLE_LINE.match(text) is not None,
            len(_BLANK.findall(text)),
        )

    def documents(self, kind: str) -> int:
        """Number of documents of a kind."""
        if kind == "heading":
            return self.titles
        if kind == "blank-line":
            return self.blank + 1
        return self.lines - self.blank if kind == "line" else 1


_JUDGED: OrderedDict[tuple[bytes, str, str, str], _Judged] = OrderedDict()


def text_layout(sample: bytes, rules: ReadingRules) -> TextLayout:
    """The layout of a file, from its first SAMPLE bytes."""
    return _judged(sample, rules).layout


def _judged(sample: bytes, rules: ReadingRules) -> _Judged:
    """What a sample holds; the last ones are remembered, because a file is read more than once."""
    digest = blake2b(sample, digest_size=16).digest()
    # a document by "file" is what AUTO may find too; all else in a text is the same
    documents = AUTO if rules.documents == "file" else rules.documents
    key = (digest, documents, rules.line_breaks, rules.line_marks)
    judged = _JUDGED.get(key)
    if judged is None:
        judged = _JUDGED[key] = _judge(sample, replace(rules, documents=documents))
        if len(_JUDGED) > _REMEMBERED:
            _JUDGED.popitem(last=False)
    if rules.documents == "file":
        return replace(judged, layout=replace(judged.layout, documents="file"))
    return judged


def _judge(sample: bytes, rules: ReadingRules) -> _Judged:
    lines = _sample_lines(sample)
    found = find_margins(lines, rules.line_marks)
    marked, page_lines = dict(found.removed), 0
    layout = TextLayout(rules.documents, margins=found.margins)
    if found.margins is not None:
        lines = [line or "" for line in without_margins(lines, found.margins)]
    elif rules.line_marks != "keep":
        lines, layout = _unnumbered(lines, layout, find_line_numbers(lines), marked)
    wrapping, spacing, doubtful = _wrapping(lines, rules)
    if found.margins is None and _may_join(rules) and (wrapping or b"\f" in sample):
        lines, layout, page_lines = _unpaged(lines, layout, rules)
        if layout.pages is not None:
            wrapping, spacing, doubtful = _wrapping(lines, rules)
    layout = replace(layout, wrapping=wrapping, spacing=spacing)
    numbered = found.margins is not None or layout.numbers is not None
    if wrapping and not numbered and _may_join(rules) and rules.line_marks != "keep":
        lines, layout = _unnumbered(lines, layout, find_verse_numbers(lines), marked)
    places = _Places.of(_unmarked_sample(sample, layout))
    documents = rules.documents
    if documents == AUTO:
        documents = _documents(len(sample), places, wrapping is not None)
    if documents == "line":
        wrapping = None
    layout = replace(layout, documents=documents, wrapping=wrapping)
    kept = found.kept if wrapping is None else found.kept | found.of_items
    looks = other_kinds(lines, wrapping)
    return _Judged(layout, places, marked, kept, found.lines, page_lines, looks, doubtful)


def _sample_lines(sample: bytes) -> list[str]:
    head = sample[:_WRAP_SAMPLE].decode("utf-8-sig", errors="replace").replace("\r\n", "\n")
    lines = head.split("\n")
    if len(sample) > _WRAP_SAMPLE:
        lines.pop()  # it may be cut
    return lines


def _may_join(rules: ReadingRules) -> bool:
    return rules.line_breaks != "keep" and rules.documents != "line"


def _unnumbered(
    lines: list[str], layout: TextLayout, numbers: LineNumbers | None, marked: dict[str, int]
) -> tuple[list[str], TextLayout]:
    """The lines without line numbers, and the layout with them; ``marked`` counts them."""
    if numbers is None:
        return lines, layout
    texts = _texts(without_line_numbers(enumerate(lines), numbers))
    marked[numbers.name] = sum(a != b for a, b in zip(lines, texts))
    return texts, replace(layout, numbers=numbers)


def _unpaged(
    lines: list[str], layout: TextLayout, rules: ReadingRules
) -> tuple[list[str], TextLayout, int]:
    """The lines without page numbers and the like, the layout with them, and their number.

    Only lines that are joined have any.
    """
    split = [part for line in lines for part in split_at_form_feeds(line)]
    pages = find_page_breaks(split)
    if pages is None:
        return lines, layout, 0
    texts = _texts(without_page_breaks(enumerate(lines), pages))
    joined = rules.line_breaks == "join" or blank_lines_between(texts) or wrapping_of(texts)
    if not joined:
        return lines, layout, 0
    return texts, replace(layout, pages=pages), count_page_lines(split, pages)


def _texts(lines: Iterable[tuple[int, str | Page]]) -> list[str]:
    return [line for _, line in lines if isinstance(line, str)]


def _wrapping(lines: Sequence[str], rules: ReadingRules) -> tuple[Wrapping | None, int, bool]:
    """How lines are cut, blank lines between those of a paragraph, and whether that is doubtful."""
    wrapping = JOIN_ALL if rules.line_breaks == "join" else None
    spacing, doubtful = 0, False
    if rules.documents in (AUTO, "heading") and rules.line_breaks != "keep":
        spacing = blank_lines_between(lines)
        if spacing:
            spaced, doubtful = spaced_wrapping(lines, spacing)
            spacing = spacing if spaced else 0
            wrapping = wrapping or spaced
    if rules.line_breaks == AUTO and not spacing:
        wrapping = wrapping_of(lines)
    return wrapping, spacing, doubtful


def _unmarked_sample(sample: bytes, layout: TextLayout) -> bytes:
    """The sample as documents are found in it."""
    margins = layout.margins
    whole = margins is not None and margins.whole
    if not whole and not layout.spacing and layout.pages is None:
        return sample
    lines = sample.decode("utf-8-sig", errors="replace").split("\n")
    if margins is not None and whole:
        lines = ["" if margins.is_blank(line) else line for line in lines]
    if layout.pages is not None:
        lines = _texts(without_page_breaks(enumerate(lines), layout.pages))
    return "\n".join(without_spacing(lines, layout.spacing) if layout.spacing else lines).encode()


def _documents(size: int, marks: _Places, wrapped: bool) -> str:
    if marks.titles > 1 or marks.title_first:
        return "heading"
    long_lines = size >= _LONG_LINE * marks.lines and marks.lines > _LINES_PER_BLANK * marks.blank
    if marks.blank and not long_lines:
        return "blank-line"
    return "file" if wrapped else "line"


@dataclass(frozen=True)
class TextSample:
    """What the samples of one or more files hold.

    Attributes:
        formats: number of files by format.
        layouts: number of files by (``TextLayout.documents``, whether lines are joined), as each file
            by itself is read; ``documents`` is RECORD if the file holds records.
        large: number of text files of 1 MiB or more.
        characters, documents: of the text in the samples.
        complete: whether the samples are all of the text.
        more_files: whether an archive has further files, which were not sampled.
        markdown: number of text files with the marks of Markdown.
        marked: number of lines by the name of the mark that is removed from their beginning.
        kept_marks: the same of marks that are kept although most lines of a file have one.
        marked_of: lines of the files of ``marked`` and ``kept_marks``.
        looks: number of text files by what else they look like (``looks.WARNINGS``).
        spaced, doubtful: number of text files with blank lines between the lines of a paragraph, that
            are left out, and that may be such and are kept.
    """

    formats: Mapping[str, int] = field(default_factory=dict)
    layouts: Mapping[tuple[str, bool], int] = field(default_factory=dict)
    large: int = 0
    characters: int = 0
    documents: int = 0
    complete: bool = True
    more_files: bool = False
    markdown: int = 0
    marked: Mapping[str, int] = field(default_factory=dict)
    kept_marks: Mapping[str, int] = field(default_factory=dict)
    marked_of: int = 0
    looks: Mapping[str, int] = field(default_factory=dict)
    spaced: int = 0
    doubtful: int = 0
    page_lines: int = 0

    @property
    def files(self) -> int:
        """Number of plain text files."""
        return self.formats.get("text", 0)


def sample_of(sample: bytes, rules: ReadingRules) -> TextSample:
    """What the sample of one file holds (its first SAMPLE bytes)."""
    judged = _judged(sample, rules)
    layout = judged.layout
    return TextSample(
        {"text": 1},
        {(layout.documents, layout.wrapping is not None): 1},
        int(len(sample) >= _LARGE_FILE),
        len(sample.translate(None, _CONTINUATION)),
        judged.places.documents(layout.documents),
        len(sample) < SAMPLE,
        markdown=int(_is_markdown(sample)),
        marked=judged.marked,
        kept_marks=judged.kept,
        marked_of=judged.lines if judged.marked or judged.kept else 0,
        looks=dict.fromkeys(judged.looks, 1),
        spaced=int(layout.spacing > 0),
        doubtful=int(judged.doubtful_spacing),
        page_lines=judged.page_lines,
    )


def _is_markdown(sample: bytes) -> bool:
    titles = len(_MARKDOWN_TITLE.findall(sample)) > 2 and _MARKDOWN.search(sample) is not None
    return titles or _MARKDOWN_TABLE.search(sample) is not None


def joined_samples(samples: Iterable[TextSample]) -> TextSample:
    """The samples of several files together."""
    samples = list(samples)

    def total(name: str) -> int:
        return sum(getattr(sample, name) for sample in samples)

    def counts(name: str) -> dict[Any, int]:
        found: Counter[Any] = Counter()
        for sample in samples:
            found.update(getattr(sample, name))
        return dict(sorted(found.items()))

    return TextSample(
        formats=counts("formats"),
        layouts=counts("layouts"),
        large=total("large"),
        characters=total("characters"),
        documents=total("documents"),
        complete=all(sample.complete for sample in samples),
        more_files=any(sample.more_files for sample in samples),
        markdown=total("markdown"),
        marked=counts("marked"),
        kept_marks=counts("kept_marks"),
        marked_of=total("marked_of"),
        looks=counts("looks"),
        spaced=total("spaced"),
        doubtful=total("doubtful"),
        page_lines=total("page_lines"),
    )


def resolved_rules(rules: ReadingRules, sample: TextSample) -> ReadingRules:
    """The rules by which all text files of a folder or archive are read.

    ``documents`` becomes "file" if each file is a document; else each file has its own layout.
    """
    headings = sum(n for (documents, _), n in sample.layouts.items() if documents == "heading")
    if (
        rules.documents == AUTO
        and sample.files > 1
        and not headings
        and 2 * sample.large <= sample.files
    ):
        return replace(rules, documents="file")
    return rules
