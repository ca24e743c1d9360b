"""The language that each input is read by: the flag, or what a dump names, or the default.

Everything that is not certain is said in the log: which language is used and why, a flag or a
database name that contradicts the dump, and text that is not written as the language is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from megabert.common.log import get_logger
from megabert.data.text.input.mediawiki import DumpHead
from megabert.data.text.input.segments import FileForm
from megabert.data.text.input.sources import iter_file
from megabert.data.text.languages import (
    AUTO,
    database_language,
    joint_language,
    normal_code,
    page_language,
    same_language,
)
from megabert.data.text.pages import Page
from megabert.data.text.plain.records import Numbering
from megabert.data.text.reading import ReadingRules
from megabert.data.text.scripts import count_scripts, other_script

SAMPLED_FILES = 16
"""Files per input whose letters are counted."""
_SAMPLED_CHARACTERS = 20_000
_SAMPLED_WIKITEXT = 40_000  # characters of one page
_SAMPLED_PAGES = 2000
_SHOWN = 3  # files named in one message


@dataclass(frozen=True)
class LanguageFacts:
    """What a file shows of its language.

    Attributes:
        head: the head of a dump; None for other files.
        letters: letters of each script in a sample of its text; empty if none was taken.
        unread: the file is empty or repeats an earlier one, so that nothing is said of it.
    """

    path: Path
    head: DumpHead | None = None
    letters: Mapping[str, int] = field(default_factory=dict)
    unread: bool = False

    def read_unless(self, repeated: bool) -> LanguageFacts:
        """The facts of a file that is not read if an earlier one is the same."""
        return replace(self, unread=self.unread or repeated)

    def language(self, choice: str) -> str:
        """The language that the file is read by; ``choice`` is "auto" or a code."""
        return page_language(choice, "" if self.head is None else self.head.site.language)


def count_letters(pages: Iterable[Page], choice: str) -> Counter[str]:
    """Letters of each script in the first articles of a file."""
    from megabert.data.text.document import page_to_sentences

    letters: Counter[str] = Counter()
    size = 0
    for number, page in enumerate(pages):
        if size >= _SAMPLED_CHARACTERS or number >= _SAMPLED_PAGES:
            break
        if page.markup == "plain":
            text = page.text[:_SAMPLED_CHARACTERS]
        elif page.namespace or page.redirect:
            continue
        else:
            page = replace(page, text=page.text[:_SAMPLED_WIKITEXT])
            cleaned = page_to_sentences(page, page_language(choice, page.site.language))
            text = " ".join(chain.from_iterable(cleaned.paragraphs))
        letters += count_scripts(text)
        size += len(text)
    return letters


def language_facts(
    form: FileForm, rules: ReadingRules, choice: str, counted: bool
) -> LanguageFacts:
    """What a file shows of its language; its letters are counted if ``counted`` is set.

    Raises:
        UserError: the beginning of the file is damaged.
    """
    letters: Mapping[str, int] = {}
    if counted and form.kind != "empty":
        pages = form.head.pages if form.head is not None else ()
        letters = count_letters(pages or iter_file(form.path, rules, Numbering()), choice)
    head = None if form.head is None else form.head.without_pages()
    return LanguageFacts(form.path, head, letters, unread=form.kind == "empty")


def is_sampled(place: int, count: int) -> bool:
    """Whether to count the letters of file ``place`` of an input of ``count`` files."""
    step = max(1, -(-count // SAMPLED_FILES))
    return place % step == 0


def decide_languages(
    choice: str, inputs: Sequence[tuple[Path, Sequence[LanguageFacts]]]
) -> tuple[str, ...]:
    """The language of each input, "mul" for one with files of several; logs how it was decided.

    Args:
        choice: "auto" or a code.
        inputs: each input and its files.
    """
    log = get_logger()
    read = [(path, [facts for facts in files if not facts.unread]) for path, files in inputs]
    for line in _decisions(choice, read):
        log.info(line)
    for path, files in read:
        for line in _history(path, files):
            log.info(line)
        lines = list(_contradictions(choice, files))
        for line in lines or _scripts(choice, path, files):
            log.warning(line)
    return tuple(joint_language(facts.language(choice) for facts in files) for _, files in inputs)


def _decisions(
    choice: str, inputs: Sequence[tuple[Path, Sequence[LanguageFacts]]]
) -> Iterator[str]:
    """Lines that say which language is used for which input, and why."""
    found: dict[tuple[str, str], list[str]] = {}
    for path, files in inputs:
        kinds = Counter((facts.language(choice), _reason(choice, facts)) for facts in files)
        for kind, count in kinds.items():
            part = "" if len(kinds) == 1 else f" ({count} file{'s' * (count != 1)})"
            found.setdefault(kind, []).append(f"{path}{part}")
    languages = {language for language, _ in found}
    if len(languages) > 1:
        yield f"inputs in {len(languages)} languages, each read by the rules of its own"
    for (language, reason), places in found.items():
        yield f"{_some(places)}: language {language}, {reason}"


def _reason(choice: str, facts: LanguageFacts) -> str:
    if choice != AUTO:
        return "as --language says"
    if facts.head is None:
        return "the default; set --language for another"
    if normal_code(facts.head.declared):
        return "as the dump says"
    if facts.head.site.language:
        return f"by the name of its database ({facts.head.database})"
    return "the default, because the dump names no known language; set --language for another"


def _some(places: Sequence[str]) -> str:
    shown = ", ".join(places[:_SHOWN])
    return shown if len(places) <= _SHOWN else f"{shown} and {len(places) - _SHOWN} more"


def _history(path: Path, files: Sequence[LanguageFacts]) -> Iterator[str]:
    found = [str(facts.path) for facts in files if facts.head is not None and facts.head.history]
    if found:
        yield (
            f"{_some(found)}: a dump with the history of its pages; the newest revision of each "
            "is read"
        )


def _contradictions(choice: str, files: Sequence[LanguageFacts]) -> Iterator[str]:
    """Warnings about dumps that say something else than is used, each once for all files."""
    found: dict[str, list[str]] = {}
    for facts in files:
        what = None if facts.head is None else _contradiction(choice, facts.head)
        if what is not None:
            found.setdefault(what, []).append(str(facts.path))
    for what, places in found.items():
        yield f"{_some(places)}: {what}"


def _contradiction(choice: str, head: DumpHead) -> str | None:
    named, declared = head.site.language, head.declared
    if choice != AUTO:
        if not named or same_language(choice, named):
            return None
        return (
            f"read as {choice}, as --language says, but the dump says {named}; leave the flag out "
            "to follow the dump"
        )
    used = page_language(choice, named)
    if declared and normal_code(declared) is None:
        return f"its xml:lang {declared!r} is not a known language; read as {used}: set --language"
    database = database_language(head.database)
    if named and database and not same_language(named, database):
        return (
            f"its xml:lang says {named}, but its database is {head.database}; read as {named}: "
            f"give --language {database} if that is right"
        )
    return None


def _scripts(choice: str, path: Path, files: Sequence[LanguageFacts]) -> Iterator[str]:
    """Warnings about text that is not written as its language is."""
    letters: dict[str, Counter[str]] = {}
    for facts in files:
        if facts.letters:
            letters.setdefault(facts.language(choice), Counter()).update(facts.letters)
    for language, counts in letters.items():
        what = other_script(counts, language)
        if what is not None:
            yield f"{path}: read as {language}, but {what}"
