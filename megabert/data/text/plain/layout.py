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
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from megabert.data.text.plain.wrapping import JOIN_ALL, Wrapping, wrapping_of
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
_MARKDOWN = re.compile(rb"\]\(\S+\)|\n```|\*\*\w[^*\n]*\*\*")
_CONTINUATION = bytes(range(0x80, 0xC0))  # bytes of a character after the first one
_WRAP_SAMPLE = 1 << 18  # bytes
_LONG_LINE = 300  # characters: more than a sentence
_LINES_PER_BLANK = 200
_LARGE_FILE = 1 << 20  # bytes


@dataclass(frozen=True)
class TextLayout:
    """How a text file is read.

    Attributes:
        documents: one of ``reading.DOCUMENTS``.
        wrapping: of hard-wrapped lines, which are joined; None if line ends are kept.
    """

    documents: str
    wrapping: Wrapping | None = None


def text_layout(sample: bytes, rules: ReadingRules) -> TextLayout:
    """The layout of a file, from its first SAMPLE bytes."""
    return _layout(sample, _Marks.of(sample), rules)


@dataclass(frozen=True)
class _Marks:
    """Marks of documents in a sample: lines, title lines, and runs of blank lines within it."""

    lines: int
    titles: int
    title_first: bool
    blank: int

    @staticmethod
    def of(sample: bytes) -> _Marks:
        text = b"\n%b\n" % sample.removeprefix(BOM_UTF8).strip()
        return _Marks(
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


def _layout(sample: bytes, marks: _Marks, rules: ReadingRules) -> TextLayout:
    lines = sample[:_WRAP_SAMPLE].decode("utf-8-sig", errors="replace").split("\n")
    if len(sample) > _WRAP_SAMPLE:
        lines.pop()  # it may be cut
    wrapping = JOIN_ALL if rules.line_breaks == "join" else None
    if rules.line_breaks == AUTO:
        wrapping = wrapping_of(lines)
    documents = rules.documents
    if documents == AUTO:
        documents = _documents(len(sample), marks, wrapping is not None)
    return TextLayout(documents, None if documents == "line" else wrapping)


def _documents(size: int, marks: _Marks, wrapped: bool) -> str:
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
    """

    formats: Mapping[str, int] = field(default_factory=dict)
    layouts: Mapping[tuple[str, bool], int] = field(default_factory=dict)
    large: int = 0
    characters: int = 0
    documents: int = 0
    complete: bool = True
    more_files: bool = False
    markdown: int = 0

    @property
    def files(self) -> int:
        """Number of plain text files."""
        return self.formats.get("text", 0)


def sample_of(sample: bytes, rules: ReadingRules) -> TextSample:
    """What the sample of one file holds (its first SAMPLE bytes)."""
    marks = _Marks.of(sample)
    layout = _layout(sample, marks, rules)
    return TextSample(
        {"text": 1},
        {(layout.documents, layout.wrapping is not None): 1},
        int(len(sample) >= _LARGE_FILE),
        len(sample.translate(None, _CONTINUATION)),
        marks.documents(layout.documents),
        len(sample) < SAMPLE,
        markdown=int(_is_markdown(sample)),
    )


def _is_markdown(sample: bytes) -> bool:
    return len(_MARKDOWN_TITLE.findall(sample)) > 2 and _MARKDOWN.search(sample) is not None


def joined_samples(samples: Iterable[TextSample]) -> TextSample:
    """The samples of several files together."""
    formats: Counter[str] = Counter()
    layouts: Counter[tuple[str, bool]] = Counter()
    large = characters = documents = markdown = 0
    complete, more_files = True, False
    for sample in samples:
        formats.update(sample.formats)
        layouts.update(sample.layouts)
        large += sample.large
        characters += sample.characters
        documents += sample.documents
        complete = complete and sample.complete
        more_files = more_files or sample.more_files
        markdown += sample.markdown
    return TextSample(
        dict(sorted(formats.items())),
        dict(sorted(layouts.items())),
        large,
        characters,
        documents,
        complete,
        more_files,
        markdown,
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
