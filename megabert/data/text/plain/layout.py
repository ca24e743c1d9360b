"""What a document of plain text is, and whether its lines are joined: by option, or by its sample.

The sample is the first 4 MiB of a file. Without an option, by the first rule that fits:

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
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from megabert.data.text.plain.wrapping import common_width, wrap_width
from megabert.data.text.reading import AUTO, ReadingRules

SAMPLE = 1 << 22
"""Bytes of a file by which its layout is judged."""
RECORD = "record"
HEADING = re.compile(r"\s*=\s+([^=\s](?:.*\S)?)\s+=\s*$")
"""A line such as "" = Title = "", as in WikiText."""
_TITLE_LINE = re.compile(r"^[^\S\n]*=[^\S\n]+[^=\s][^\n]*?[^\S\n]=[^\S\n]*$", re.MULTILINE)
_LINE = re.compile(r"^.*\S", re.MULTILINE)
_BLANK = re.compile(r"\n(?:[^\S\n]*\n)+")
_WRAP_SAMPLE = 1 << 18  # characters
_LONG_LINE = 300  # characters: more than a sentence
_LINES_PER_BLANK = 200
_LARGE_FILE = 1 << 20  # bytes


@dataclass(frozen=True)
class TextLayout:
    """How a text file is read.

    Attributes:
        documents: one of ``reading.DOCUMENTS``.
        width: of hard-wrapped lines, which are joined; 0 if line ends are kept.
    """

    documents: str
    width: int = 0


def text_sample(data: bytes) -> str:
    """The sample as text: up to SAMPLE bytes, without a line that they cut."""
    text = data.decode("utf-8-sig", errors="replace")
    if len(data) >= SAMPLE and "\n" in text:
        text = text[: text.rindex("\n")]
    return text.replace("\r\n", "\n")


def text_layout(sample: str, rules: ReadingRules) -> TextLayout:
    """The layout of a file, from its sample (:func:`text_sample`)."""
    lines = sample[:_WRAP_SAMPLE].split("\n")
    width = 0
    if rules.line_breaks == "join":
        width = common_width(lines) or 1
    elif rules.line_breaks == AUTO:
        width = wrap_width(lines)
    documents = rules.documents
    if documents == AUTO:
        documents = _documents(sample, width)
    return TextLayout(documents, 0 if documents == "line" else width)


def _documents(sample: str, width: int) -> str:
    text = sample.strip()
    titles = len(_TITLE_LINE.findall(text))
    if titles > 1 or (titles and text.startswith("=")):
        return "heading"
    blank = len(_BLANK.findall(text))
    lines = text.count("\n") + 1
    long_lines = len(text) >= _LONG_LINE * lines and lines > _LINES_PER_BLANK * blank
    if blank and not long_lines:
        return "blank-line"
    return "file" if width else "line"


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
    """

    formats: Mapping[str, int] = field(default_factory=dict)
    layouts: Mapping[tuple[str, bool], int] = field(default_factory=dict)
    large: int = 0
    characters: int = 0
    documents: int = 0
    complete: bool = True

    @property
    def files(self) -> int:
        """Number of plain text files."""
        return self.formats.get("text", 0)


def sample_of(data: bytes, rules: ReadingRules) -> TextSample:
    """What the sample of one file holds (``data``: its first SAMPLE bytes)."""
    sample = text_sample(data)
    layout = text_layout(sample, rules)
    return TextSample(
        {"text": 1},
        {(layout.documents, layout.width > 0): 1},
        int(len(data) >= _LARGE_FILE),
        len(sample),
        _count(sample.strip(), layout.documents),
        len(data) < SAMPLE,
    )


def _count(text: str, documents: str) -> int:
    if documents == "heading":
        return len(_TITLE_LINE.findall(text))
    if documents == "blank-line":
        return len(_BLANK.findall(text)) + 1
    return len(_LINE.findall(text)) if documents == "line" else 1


def joined_samples(samples: Iterable[TextSample]) -> TextSample:
    """The samples of several files together."""
    formats: Counter[str] = Counter()
    layouts: Counter[tuple[str, bool]] = Counter()
    large = characters = documents = 0
    complete = True
    for sample in samples:
        formats.update(sample.formats)
        layouts.update(sample.layouts)
        large += sample.large
        characters += sample.characters
        documents += sample.documents
        complete = complete and sample.complete
    return TextSample(
        dict(sorted(formats.items())),
        dict(sorted(layouts.items())),
        large,
        characters,
        documents,
        complete,
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
