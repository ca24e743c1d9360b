"""Habits of language that the project's texts avoid, and where they occur.

    python -m tests.structure.language [PATH...]     # default: every checked file of the checkout

Checked are Markdown files, and in Python files docstrings, comments and strings with a space.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

CHECKED = ("megabert", "launch", "data_tools", "benchmarks", "docs", "README.md", "Makefile")
"""Files and folders that the test checks."""
WORD_LISTS = (
    "megabert/data/demo_wiki",
    "megabert/data/text/pages.py",
)
"""Strings of these files are data, in the words of encyclopedias."""

_UNITS = (
    "rank|slice|tensor|token|core|worker|sequence|sample|step|update|micro|layer|row|parameter|second|"
    "line|batch|word|document|file|shard|process|host|GPU|device|format|task|feature|label|setting|"
    "flag|field|segment|group|window|split|article|page|class|family|text|piece|kind|block|question|"
    "item|head|bin|phase|run|machine|epoch|column|stage|masked|side|sentence|query|module|day|hour"
)
_COUNTED = (
    "bytes|tokens|samples|sequences|updates|seconds|rows|numbers|products|collectives|examples|"
    "positions|pairs|names|files|ranks|labels|flags|lines|parts|words|questions|answers|launches|"
    "operations|copies|masks|entries|documents|entry|one|two|three|four|memory|Memory|ratio|ratios|"
    "rate|MB/s|GB/s|MiB|GiB|KiB|MB|GB|KB|kB|ms|object|all-reduce|all-reduces|micro-steps|processes|"
    "scores|figures|sums|units|vectors|elements|columns|values|bits|times|once|twice|table|class|most|"
    "megabytes|gigabytes|FLOPs|flops|FLOP/s|steps|runs|workers|threads|factor|factors|norm|norms"
)
HABITS: dict[str, str] = {
    rf"\b(?:{_COUNTED}) an? (?:{_UNITS})s?\b(?!')": '"a" for "per"',
    r"\b[Bb]eside\b": '"beside": write next to, compared with, or along with',
    r"\b(?:go|goes|going|went|gone) on\b": '"go on": write continue or resume',
    r"(?<!here )\b(?:is|are|was|were) no (?!longer\b|more\b|less\b|larger\b|smaller\b|slower\b|faster\b"
    r"|worse\b|better\b|later\b|earlier\b|higher\b|lower\b|shorter\b|such\b|different\b)\w+": '"is no X": write "is not a X"',
    r"\b(?:told|tells)\b": '"told", "tells": write is reported, is detected, or says',
    r"\bbut for\b": '"but for": write except',
    r"\b[Pp]ass(?:ed|es|ing)? over\b|\bparted\b|\b[Mm]end(?:s|ed|ing)?\b|\b[Ii]n silence\b|\bha[ds] back\b":
        "write skipped, split, fixed, silently, recovered",
    r"\b[Ss]o (?:many|much|few|large a|long a|small a|short a)\b": '"so many" as a pronoun: write N, or this many',
    r"\b[Tt]he (?:road|house|deal)\b|\bdealt\b|\bdeals? (?:them|to|it)\b|\bby eye\b|\bspeaks?\b|\btalks?\b":
        "a metaphor as a term: write pipeline, package layout, distribute, communicate",
    r"\bstands?\b(?! for\b| alone\b)|\bstood\b": '"stand": write is, lies or is stored',
    r"\b[Aa]new\b": '"anew": write again',
    r"\bdear(?:er|est)?\b|\bhardly\b|\bthousand million\b|\bin turns\b|\bon the way\b": "archaic or unidiomatic",
    r"\bthat is none\b|(?<![Tt]here )\bis none\b(?! of\b)": '"is none": write is not one, or is invalid',
    r"\bmade definite\b|\bfor want of\b|\bof its own accord\b|\bby hand of\b": "unidiomatic",
}  # fmt: skip
_RULES = [(re.compile(pattern), advice) for pattern, advice in HABITS.items()]


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """(first line number, text) of every piece of prose in a file."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from enumerate(source.splitlines(), 1)
        return
    data = any(part in path.as_posix() for part in WORD_LISTS)
    tree = ast.parse(source)
    docstrings = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            if data and id(node) not in docstrings:
                continue
            for offset, line in enumerate(node.value.splitlines()):
                yield node.lineno + offset, line
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def findings(path: Path) -> Iterator[str]:
    """One line for each habit found: place, the words, and what to write."""
    for number, text in texts(path):
        for pattern, advice in _RULES:
            for match in pattern.finditer(text):
                yield f"{path}:{number}: {match[0]!r}: {advice}"


def files(places: list[Path]) -> Iterator[Path]:
    """Python and Markdown files at these places."""
    for place in places:
        found = sorted(place.rglob("*")) if place.is_dir() else [place]
        yield from (path for path in found if path.suffix in (".py", ".md") or path == place)


def main() -> None:
    """Print all findings, and how many there are."""
    places = [Path(name) for name in sys.argv[1:] or CHECKED]
    found = [line for path in files(places) if path.is_file() for line in findings(path)]
    print(*found, f"{len(found)} findings", sep="\n")


if __name__ == "__main__":
    main()
