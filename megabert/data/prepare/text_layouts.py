"""What the inputs of a job were taken for: decided from samples of all of them, logged, recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megabert.common.log import get_logger
from megabert.data.text.plain.layout import RECORD, TextSample, joined_samples, resolved_rules
from megabert.data.text.plain.looks import WARNINGS
from megabert.data.text.reading import AUTO, RECORDS, ReadingRules

_LISTED_FILES = 8
"""More text files than this, given by name, are read like the files of a folder."""
_SHORT = 4.0
"""Sentences per document below which a warning is logged."""
_WORDS = {
    "file": "one document per file",
    "blank-line": "blank lines between documents",
    "line": "one document per line",
    "heading": "a title line before each document",
}


@dataclass(frozen=True)
class InputLayout:
    """An input, the rules by which its files are read, and what their samples hold."""

    path: Path
    rules: ReadingRules
    sample: TextSample

    @property
    def is_wiki(self) -> bool:
        """Whether any file of it is a wiki."""
        return not {"mediawiki", "wikiextractor"}.isdisjoint(self.sample.formats)

    @property
    def read_as(self) -> str:
        """Formats and layouts, for the manifest: ``text (documents blank-line, lines joined)``."""
        return ", ".join(_with_layout(name, self) for name in self.sample.formats)


def input_layouts(
    inputs: Sequence[Path], samples: Sequence[TextSample], rules: ReadingRules
) -> list[InputLayout]:
    """How each input is read; ``samples`` are those of all files of an input together."""
    single = [
        path.is_file() and sample.files == 1 and len(sample.formats) == 1
        for path, sample in zip(inputs, samples)
    ]
    listed = rules
    if sum(single) > _LISTED_FILES:
        together = joined_samples(sample for sample, one in zip(samples, single) if one)
        listed = resolved_rules(rules, together)
    return [
        InputLayout(path, listed if one else resolved_rules(rules, sample), sample)
        for path, sample, one in zip(inputs, samples, single)
    ]


def _layouts(layout: InputLayout) -> dict[tuple[str, bool], int]:
    """Number of text files by (documents, whether lines are joined), as they are read."""
    found: dict[tuple[str, bool], int] = {}
    for (documents, joined), count in layout.sample.layouts.items():
        if documents != RECORD:
            given = layout.rules.documents
            key = (documents if given == AUTO else given, joined)
            found[key] = found.get(key, 0) + count
    return found


def _with_layout(name: str, layout: InputLayout) -> str:
    if name != "text":
        joined = (RECORD, True) in layout.sample.layouts
        return f"{name} (lines joined)" if joined else name
    found = _layouts(layout)
    parts = []
    for (documents, joined), count in found.items():
        part = f"documents {documents}" + (", lines joined" if joined else "")
        parts.append(part + (f": {count} files" if len(found) > 1 else ""))
    return f"text ({'; '.join(parts)})"


def log_layouts(layouts: Sequence[InputLayout]) -> None:
    """Log how text and records are read, one line per input (one for many files of text)."""
    texts = [layout for layout in layouts if layout.sample.files]
    if len(texts) > _LISTED_FILES:
        first = texts[0]
        together = joined_samples(layout.sample for layout in texts)
        name = f"{first.path} and {len(texts) - 1} more inputs"
        _log(name, InputLayout(first.path, first.rules, together))
    else:
        for layout in texts:
            _log(str(layout.path), layout)
    for layout in layouts[:_LISTED_FILES]:
        _log_records(layout)
    if layouts and not texts and layouts[0].rules.documents != AUTO:
        get_logger().warning("--documents has no effect: no input is plain text")


def _log(name: str, layout: InputLayout) -> None:
    sample = layout.sample
    found = _layouts(layout)
    ways = []
    for (documents, joined), count in found.items():
        way = _WORDS[documents] + (", hard-wrapped lines joined" if joined else "")
        ways.append(way + (f" ({count} files)" if len(found) > 1 else ""))
    by_file = layout.rules.documents == "file"
    number = sample.files if by_file else sample.documents
    mean = sample.characters / max(1, number)
    more = "" if sample.complete else " in what was sampled"
    get_logger().info(
        f"{name}: {sample.files} {'or more ' if sample.more_files else ''}"
        f"text file{'s' * (sample.files != 1)}, read as "
        f"{'; '.join(ways)}: {number} document{'s' * (number != 1)} of {mean:.0f} characters "
        f"on average{more}; --documents and --line-breaks change this"
    )
    for kind, count in sample.looks.items():
        get_logger().warning(f"{name}: {count} of the files {WARNINGS[kind]}")
    _log_marks(name, sample)
    _log_pages(name, sample)
    _log_spacing(name, sample)
    if sample.markdown:
        get_logger().warning(
            f"{name}: {sample.markdown} of the files look like Markdown; its marks are not removed"
        )


def _log_marks(name: str, sample: TextSample) -> None:
    """Log which marks and numbers are removed from lines, and warn of those that stay."""
    if sample.marked:
        get_logger().info(
            f"{name}: marks at the edges of lines are removed: {_listed(sample.marked)} of "
            f"{sample.marked_of:,} lines in what was sampled; --line-marks keep keeps them"
        )
    if sample.kept_marks:
        get_logger().warning(
            f"{name}: marks at the beginning of lines stay in the text: "
            f"{_listed(sample.kept_marks)} of {sample.marked_of:,} lines in what was sampled; if "
            "they do not belong to it, give --line-marks remove"
        )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _log_pages(name: str, sample: TextSample) -> None:
    if sample.page_lines:
        get_logger().info(
            f"{name}: page numbers, running heads and feet between the pages are removed: "
            f"{sample.page_lines:,} lines in what was sampled; --line-breaks keep keeps them"
        )


def _log_spacing(name: str, sample: TextSample) -> None:
    """Log that blank lines inside paragraphs are left out, and warn if they may be and are not."""
    if sample.spaced:
        files = f" in {sample.spaced} of the files" if sample.files > 1 else ""
        get_logger().info(
            f"{name}: blank lines between the lines of a paragraph (double spacing) are left "
            f"out{files}; --line-breaks keep keeps them"
        )
    if sample.doubtful:
        get_logger().warning(
            f"{name}: {sample.doubtful} text file{'s' * (sample.doubtful != 1)} may be "
            "double-spaced: blank lines follow lines that stop inside sentences, and each line is "
            "read as a paragraph; if these are not paragraphs, remove the blank lines: "
            "sed '/^[[:space:]]*$/d' OLD > NEW"
        )


def _log_records(layout: InputLayout) -> None:
    formats = {name: n for name, n in layout.sample.formats.items() if name in RECORDS}
    if formats:
        listed = ", ".join(
            f"{count} {name} file{'s' * (count != 1)}" for name, count in formats.items()
        )
        joined = (RECORD, True) in layout.sample.layouts
        get_logger().info(
            f"{layout.path}: {listed}, one document per record, text from the field "
            f"{layout.rules.text_field!r}{', hard-wrapped lines joined' if joined else ''}; "
            "--text-field and --line-breaks change this"
        )


def warn_of_short_documents(layouts: Sequence[InputLayout], documents: int, sentences: int) -> None:
    """Warn if the documents of text and records are very short on average."""
    if not documents or any(layout.is_wiki for layout in layouts):
        return
    mean = sentences / documents
    if mean < _SHORT:
        text = any(layout.sample.files for layout in layouts)
        advice = (
            "; if these are parts of documents, say what a document is with --documents"
            if text
            else "; check that each record is a whole document"
        )
        get_logger().warning(
            f"the documents are short: {mean:.1f} sentences on average, so most samples are pairs "
            f"of unrelated documents or padding{advice}"
        )
