"""How inputs are read: the options that shard_wiki.py and train_tokenizer.py share."""

import argparse
from dataclasses import dataclass

from megabert.common.errors import UserError

AUTO = "auto"
FORMATS = ("mediawiki", "wikiextractor", "jsonl", "json", "csv", "tsv", "text", "parquet", "arrow")
"""Input formats; "json" is an array or a series of values over several lines."""
RECORDS = ("jsonl", "json", "csv", "tsv", "parquet", "arrow")
"""The formats with a document in a field of each record."""
DOCUMENTS = ("file", "blank-line", "line", "heading")
LINE_BREAKS = ("keep", "join")
LINE_MARKS = ("keep", "remove")
BAD_LINES = ("error", "skip")
BAD_LINE = "bad line"
"""Drop reason of a line or record that cannot be read, and the content model of its page."""
TOO_LONG = "too long"
"""Drop reason of a page that no wiki can hold, and its content model if its text was not kept."""


@dataclass(frozen=True)
class ReadingRules:
    """How inputs are read; "auto" is decided by what they hold.

    Attributes:
        input_format: one of FORMATS.
        documents: what a document of plain text is: a file, the lines between two blank lines, a
            line, or the lines below a ``= Title =`` line.
        line_breaks: whether a line's end in a document ends a sentence ("keep"), or is a space as
            in hard-wrapped text ("join").
        line_marks: whether marks before lines ("> " of quoted mail, comment marks, line numbers) are
            text ("keep") or are removed from lines in a row.
        text_field: field or column that holds the text, in the formats of RECORDS.
        bad_lines: whether a line or record that cannot be read is an error or is left out.
        split: the split to read of a folder of the datasets library; "auto" is "train", or else the
            only one.
    """

    input_format: str = AUTO
    documents: str = AUTO
    line_breaks: str = AUTO
    text_field: str = "text"
    bad_lines: str = "error"
    line_marks: str = AUTO
    split: str = AUTO

    @property
    def skip(self) -> bool:
        """Whether lines that cannot be read are left out."""
        return self.bad_lines == "skip"

    def check(self) -> None:
        """Raise ``UserError`` for an invalid value."""
        if self.input_format not in (AUTO, *FORMATS):
            raise UserError(
                f"--input-format {self.input_format!r} is unknown; use auto, {', '.join(FORMATS)}"
            )
        for flag, value, known in (
            ("--documents", self.documents, (AUTO, *DOCUMENTS)),
            ("--line-breaks", self.line_breaks, (AUTO, *LINE_BREAKS)),
            ("--line-marks", self.line_marks, (AUTO, *LINE_MARKS)),
            ("--bad-lines", self.bad_lines, BAD_LINES),
        ):
            if value not in known:
                raise UserError(f"{flag} {value!r} is unknown; use {', '.join(known)}")
        if not self.text_field:
            raise UserError("--text-field: give the name of a field")
        if not self.split:
            raise UserError("--split: give the name of a split")
        if self.documents == "line" and self.line_breaks == "join":
            raise UserError(
                "--documents line and --line-breaks join exclude each other: a line is either a "
                "document or a part of one"
            )


AUTOMATIC = ReadingRules()
"""Everything is decided by what the input holds."""


def add_reading_flags(parser: argparse.ArgumentParser, *, documents: bool) -> None:
    """Add the flags of :class:`ReadingRules`, with or without ``--documents``."""
    group = parser.add_argument_group("how inputs other than wikis are read")
    group.add_argument(
        "--input-format", choices=(AUTO, *FORMATS), default=AUTO,
        help="format of all inputs (default: auto, detected from the content of each file)",
    )  # fmt: skip
    group.add_argument(
        "--text-field", default="text", metavar="NAME",
        help="field or column that holds the text in JSON, CSV, TSV, Parquet and Arrow; in a CSV or TSV "
        "without a row of names, the number of the column (default: text)",
    )  # fmt: skip
    group.add_argument(
        "--split", default=AUTO, metavar="NAME",
        help="split to read of a folder of the datasets library with several (default: auto, which is "
        "train, or the only one; logged)",
    )  # fmt: skip
    if documents:
        group.add_argument(
            "--documents", choices=(AUTO, *DOCUMENTS), default=AUTO,
            help="what a document of plain text is: a file, the lines between blank lines, a line, "
            "or the lines below a heading '= Title =' (default: auto, by the content; logged)",
        )  # fmt: skip
    group.add_argument(
        "--line-breaks", choices=(AUTO, *LINE_BREAKS), default=AUTO,
        help="line ends inside a document: keep ends a sentence at each, join makes them spaces, "
        "as in hard-wrapped text (default: auto, by the widths of the lines; logged)",
    )  # fmt: skip
    group.add_argument(
        "--line-marks", choices=(AUTO, *LINE_MARKS), default=AUTO,
        help="marks before the lines of plain text, such as '> ' of quoted mail, '# ' of comments "
        "and line numbers: keep them as text, or remove them from lines in a row (default: auto, "
        "removed from prose that is cut at line ends; logged)",
    )  # fmt: skip
    group.add_argument(
        "--bad-lines", choices=BAD_LINES, default="error",
        help="lines or records that are not UTF-8, not complete, or without the text field: stop, "
        "or leave them out and count them (default: error)",
    )  # fmt: skip


def rules_of(args: argparse.Namespace) -> ReadingRules:
    """The rules given by the flags.

    Raises:
        UserError: they contradict each other.
    """
    rules = ReadingRules(
        args.input_format,
        getattr(args, "documents", AUTO),
        args.line_breaks,
        args.text_field,
        args.bad_lines,
        args.line_marks,
        args.split,
    )
    rules.check()
    return rules
