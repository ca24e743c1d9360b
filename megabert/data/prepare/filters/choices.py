"""The options of the filters, and the flags that set them."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.config.numbers import PositiveInt, Probability, Share
from megabert.config.values import ValueReader

TOKENS, NONE, EXACT, NEAR = "tokens", "none", "exact", "near"
DEDUPLICATION = (TOKENS, NONE, EXACT, NEAR)
_MOST_PERMUTATIONS = 4096
_MOST_WORDS = 100
_NEEDS_NEAR, _NEEDS_LANGUAGES = "--deduplicate near", "--keep-languages"
_PARTS = {
    "similarity": ("--near-similarity", _NEEDS_NEAR),
    "shingle_words": ("--near-shingle-words", _NEEDS_NEAR),
    "permutations": ("--near-permutations", _NEEDS_NEAR),
    "language_probability": ("--language-probability", _NEEDS_LANGUAGES),
}


@dataclass(frozen=True)
class FilterOptions:
    """What is left out of the documents.

    Attributes:
        deduplicate: copies to leave out: "none"; "tokens", documents with the same ids as an earlier
            one; "exact", also those with the same letters and digits; "near", also those that share
            ``similarity`` of their shingles of ``shingle_words`` words with an earlier one that is
            kept, as estimated from the smallest hashes under ``permutations`` permutations.
        keep_languages: codes of the languages to keep; empty for all.
        language_probability: least probability of the languages to keep, all of them together.
    """

    deduplicate: str = TOKENS
    similarity: float = 0.8
    shingle_words: int = 5
    permutations: int = 128
    keep_languages: tuple[str, ...] = ()
    language_probability: float = 0.5

    @property
    def compares_text(self) -> bool:
        """Whether the letters of documents are compared."""
        return self.deduplicate in (EXACT, NEAR)

    def _changed(self) -> dict[str, Any]:
        values = {field: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            field.name: list(value) if isinstance(value, tuple) else value
            for field, value in values.items()
            if value != field.default
        }

    def _idle(self) -> list[str]:
        """Options without effect."""
        near = self.deduplicate == NEAR
        return [
            name
            for name, (_, needed) in _PARTS.items()
            if not (near if needed == _NEEDS_NEAR else self.keep_languages)
        ]

    def record(self) -> dict[str, Any]:
        """The options that differ from the defaults; those without effect are left out."""
        idle = self._idle()
        return {name: value for name, value in self._changed().items() if name not in idle}

    def warn_idle(self) -> None:
        """Log a warning for each option that was set and has no effect."""
        for name in self._idle():
            if name in self._changed():
                get_logger().warning("%s has no effect without %s", *_PARTS[name])

    def check(self) -> None:
        """Raise ``UserError`` for an invalid value, or a package that is missing."""
        if self.deduplicate not in DEDUPLICATION:
            raise UserError(
                f"--deduplicate {self.deduplicate!r} is unknown; use {', '.join(DEDUPLICATION)}"
            )
        for flag, value, most in (
            ("--near-permutations", self.permutations, _MOST_PERMUTATIONS),
            ("--near-shingle-words", self.shingle_words, _MOST_WORDS),
        ):
            if not 1 <= value <= most:
                raise UserError(f"{flag} {value}: expected 1 to {most}")
        if not 0.0 < self.similarity <= 1.0:
            raise UserError(f"--near-similarity {self.similarity}: expected 0 < share <= 1")
        if not 0.0 <= self.language_probability < 1.0:
            raise UserError(
                f"--language-probability {self.language_probability}: expected 0 <= probability < 1"
            )
        if self.deduplicate == NEAR:
            _require("datasketch", "--deduplicate near")
        if self.keep_languages:
            _require("py3langid", "--keep-languages")
            from megabert.data.prepare.filters.spoken import known_languages

            known = known_languages()
            for code in self.keep_languages:
                if code not in known:
                    raise UserError(
                        f"--keep-languages {code}: unknown; known are {' '.join(sorted(known))}"
                    )


NO_FILTERS = FilterOptions()
"""Only documents with the same tokens as an earlier one are left out."""


def _require(package: str, flag: str) -> None:
    if find_spec(package) is None:
        raise UserError(f"{flag} needs the package {package}: pip install 'megabert[text]'")


def add_filter_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of :class:`FilterOptions`."""
    group = parser.add_argument_group("documents that are left out")
    group.add_argument(
        "--deduplicate", choices=DEDUPLICATION, default=TOKENS,
        help="copies of earlier documents to leave out: tokens, those with the same tokens; exact, "
        "also those with the same letters and digits; near, also those that are nearly the same "
        "(needs megabert[text]); none (default: tokens)",
    )  # fmt: skip
    group.add_argument(
        "--near-similarity", type=ValueReader(Share), default=0.8, metavar="S",
        help="near: share of common shingles (Jaccard similarity) from which a document is a copy "
        "(default: 0.8)",
    )  # fmt: skip
    group.add_argument(
        "--near-shingle-words", type=ValueReader(PositiveInt), default=5, metavar="N",
        help="near: words of a shingle; of scripts without spaces, characters (default: 5)",
    )  # fmt: skip
    group.add_argument(
        "--near-permutations", type=ValueReader(PositiveInt), default=128, metavar="N",
        help="near: permutations of MinHash, which need 4 bytes each per document on the disk "
        "(default: 128)",
    )  # fmt: skip
    group.add_argument(
        "--keep-languages", nargs="+", default=[], metavar="CODE",
        help="keep only documents in these languages, as detected in each document (needs "
        "megabert[text]; default: all)",
    )  # fmt: skip
    group.add_argument(
        "--language-probability", type=ValueReader(Probability), default=0.5, metavar="P",
        help="least probability, as detected, that a document is in one of the languages to keep "
        "(default: 0.5)",
    )  # fmt: skip


def filters_of(args: argparse.Namespace) -> FilterOptions:
    """The options given by the flags."""
    return FilterOptions(
        args.deduplicate,
        args.near_similarity,
        args.near_shingle_words,
        args.near_permutations,
        tuple(dict.fromkeys(args.keep_languages)),
        args.language_probability,
    )
