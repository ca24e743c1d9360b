"""Time against size: every pattern of the text package, and the cleaning of hostile pages.

Each text is measured at a size and at 8 times that size, in between too if the time seems to grow faster. The
short forms are part of ``make test``; the slow ones have longer texts, all marks and all languages.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable
from itertools import count, product
from pathlib import Path
from typing import Any

import pytest

from megabert.data.text.document import page_to_sentences
from megabert.data.text.extracted import read_docs
from megabert.data.text.input.sources import iter_pages
from megabert.data.text.pages import Page
from megabert.data.text.plain import layout
from megabert.data.text.plain.documents import read_text
from megabert.data.text.plain.json_values import read_json_values
from megabert.data.text.plain.layout import sample_of
from megabert.data.text.plain.records import Numbering
from megabert.data.text.plain.tables import Dialect, read_rows
from megabert.data.text.reading import ReadingRules
from megabert.data.text.sentence_rules.words import words_of
from megabert.data.text.sentences import _wide_ends, split_sentences
from megabert.data.text.wikitext.conversion import _separator
from megabert.data.text.wikitext.extension_tags import _closing
from megabert.data.text.wikitext.wiki_words import switch_pattern, tag_pattern
from megabert.data.tokenizers.base import Tokenizer
from megabert.data.tokenizers.load import load_tokenizer
from tests.faults.fuzz.plain_readers import _sentencepiece
from tests.helpers.growth import Work, too_fast_growth
from tests.helpers.hostile_pages import KINDS, WORDS, Text, enclosed, mixed, repeated, shapes
from tests.helpers.hostile_patterns import (
    anchored_names,
    attacks,
    made_in_functions,
    module_patterns,
)

# patterns that only ever see this many characters
_BOUNDED = {
    "sentences:_CHAIN": 40,
    "wikitext.items:_LINKS_AND_TITLES": 900,
    "wikitext.items:_SHORT_SENTENCE": 300,
    "wikitext.items:_WEB_LINK": 900,
    "input.other_forms:_SQL": 4096,
    "input.other_forms:_SQL_COMMENT": 4096,
    "input.other_forms:_INDEX": 4096,
    "input.segments:_ENCODING": 512,
}
# patterns in tables, which are used with match (or search in at most 200 characters)
_MATCHED = {
    "input.formats:_OTHER_TEXT",
    "input.other_forms:_MARKUP",
    "plain.line_numbers:_PATTERNS",
    "plain.margins:_PATTERNS",
}
_MADE: dict[str, list[re.Pattern[str]]] = {
    "sentences:_wide_ends": [_wide_ends(""), _wide_ends("·;")],
    "sentence_rules.words:words_of": [
        pattern for code in ("zh", "ja") if (pattern := words_of(code).continuation)
    ],
    "wikitext.conversion:_separator": [_separator("zh"), _separator("sr")],
    "wikitext.extension_tags:_closing": [_closing("ref"), _closing("math")],
    "wikitext.wiki_words:switch_pattern": [switch_pattern("en"), switch_pattern("zh")],
    "wikitext.wiki_words:tag_pattern": [tag_pattern("sub sup")],
}


def _finds(name: str, pattern: re.Pattern[Any], text: str) -> Callable[[], object]:
    data = text.encode() if isinstance(pattern.pattern, bytes) else text
    names, matched = name.partition("[")[0], anchored_names()
    if names in _MATCHED or names.partition(":")[2] in matched:
        return lambda: (pattern.match(data), pattern.fullmatch(data))
    return lambda: sum(1 for _ in pattern.finditer(data))


def _growth_of_patterns(endings: tuple[str, ...], largest: int) -> list[str]:
    made = {f"{name}[{n}]": p for name, some in _MADE.items() for n, p in enumerate(some)}
    found = []
    for name, pattern in {**module_patterns(), **made}.items():
        if name.partition("[")[0] in _BOUNDED:
            continue
        for attack, ending in product(attacks(pattern), endings):
            growth = too_fast_growth(
                lambda size, a=attack, e=ending, p=pattern, n=name: _finds(n, p, a.text(size) + e),
                largest,
            )
            if growth:
                found.append(f"{name}: {growth}: {attack}, {ending!r}")
                break
    return found


def test_functions_that_compile_patterns_are_known() -> None:
    assert made_in_functions() == set(_MADE)


def test_time_of_patterns_grows_with_the_text() -> None:
    assert _growth_of_patterns(("", "a"), 8000) == []


@pytest.mark.slow
def test_time_of_patterns_grows_with_long_texts() -> None:
    assert _growth_of_patterns(("", "a", "1", "(", "\n"), 64_000) == []


def _cleaning(text: Text, language: str, markup: str) -> Work:
    def work(size: int) -> Callable[[], object]:
        page = Page(1, "Title", 0, False, "wikitext", text(size), markup)  # type: ignore[arg-type]
        return lambda: page_to_sentences(page, language)

    return work


def _growth_of_pages(
    texts: Iterable[tuple[str, Text]], language: str, markup: str, largest: int
) -> list[str]:
    return [
        f"{language}, {markup}, {name}: {growth}"
        for name, text in texts
        if (growth := too_fast_growth(_cleaning(text, language, markup), largest))
    ]


@pytest.mark.parametrize(
    ("language", "markup"),
    [("en", "wikitext"), ("zh", "wikitext"), ("en", "extracted"), ("ja", "plain")],
)
def test_time_of_hostile_pages_grows_with_the_page(language: str, markup: str) -> None:
    word = WORDS[language]
    texts = (found for some in KINDS.values() for unit in some[:4] for found in shapes(unit, word))
    assert _growth_of_pages(texts, language, markup, 16_000) == []


@pytest.mark.parametrize(
    ("text", "markup"),
    [
        (repeated("", "<ref>Word <ref>\n"), "wikitext"),
        (repeated("", "<ref.>a\n"), "wikitext"),
        (repeated("", "http://Word "), "extracted"),
        (repeated("http://a", ")"), "wikitext"),
        (repeated("", "[[Category:a[b]c]]"), "wikitext"),
        (repeated("a (", "{{IPA|fr|a}}", ") b"), "wikitext"),
        (repeated("{{", "Template:", "a}}"), "wikitext"),
        (repeated("-", "1||", "a"), "extracted"),
    ],
    ids=[
        "notes that are never closed",
        "notes with a wrong name",
        "addresses alone",
        "an address and brackets",
        "links that show nothing",
        "pronunciations in brackets",
        "prefixes of a template",
        "bars and figures",
    ],
)
def test_time_of_long_pages_that_were_slow(text: Text, markup: str) -> None:
    assert too_fast_growth(_cleaning(text, "en", markup), 1 << 17) == ""


_EACH = [(language, markup) for language in WORDS for markup in ("wikitext", "extracted", "plain")]


@pytest.mark.slow
@pytest.mark.parametrize(("language", "markup"), _EACH)
def test_time_of_hostile_pages_grows_with_long_pages(language: str, markup: str) -> None:
    word = WORDS[language]
    texts = [found for some in KINDS.values() for unit in some for found in shapes(unit, word)]
    texts += mixed(word, 50, ord(word[0]))
    assert _growth_of_pages(texts, language, markup, 40_000) == []


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "zh"])
def test_time_of_marks_and_their_ends_grows_with_the_page(language: str) -> None:
    texts = [*enclosed(WORDS[language]), *mixed(WORDS[language], 1000, 1)]
    assert _growth_of_pages(texts, language, "wikitext", 64_000) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_time_of_very_long_pages_grows_with_the_page(kind: str) -> None:
    word = WORDS["en"]
    texts = [(unit, repeated("", unit + word)) for unit in KINDS[kind]]
    assert _growth_of_pages(texts, "en", "wikitext", 1 << 19) == []


def _growth_of_lines(language: str, units: Iterable[str], largest: int) -> list[str]:
    word = WORDS[language]
    found = []
    for name, text in (shape for unit in units for shape in shapes(unit, word)):

        def work(size: int, text: Text = text) -> Callable[[], object]:
            line = text(size).replace("\n", " ")
            return lambda: split_sentences(line, language)

        if growth := too_fast_growth(work, largest):
            found.append(f"{language}, {name}: {growth}")
    return found


_MARKS_OF_SENTENCES = KINDS["stops"] + KINDS["brackets and quotations"] + KINDS["spaces and signs"]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_time_of_sentences_grows_with_the_line(language: str) -> None:
    assert _growth_of_lines(language, _MARKS_OF_SENTENCES[::2], 16_000) == []


def test_time_of_words_without_spaces_grows_with_the_line() -> None:
    assert _growth_of_lines("ja", ['a"a. A'], 1 << 16) == []


@pytest.mark.slow
@pytest.mark.parametrize("language", WORDS)
def test_time_of_sentences_grows_with_a_long_line(language: str) -> None:
    assert _growth_of_lines(language, _MARKS_OF_SENTENCES, 1 << 17) == []


def _read_text(data: bytes) -> object:
    rules = ReadingRules()
    return sum(
        len(page_to_sentences(page, "en").paragraphs)
        for page in read_text(io.BufferedReader(io.BytesIO(data)), "a", Numbering(), rules)
    )


def _read_wrapped(data: bytes) -> object:
    rules = ReadingRules(line_breaks="join", documents="file")
    stream = io.BufferedReader(io.BytesIO(data))
    return sum(len(page.text) for page in read_text(stream, "a", Numbering(), rules))


def _guess(data: bytes) -> object:
    layout._JUDGED.clear()  # a sample is judged once
    return sample_of(data, ReadingRules())


def _read_pages(data: bytes) -> object:
    stream = io.BufferedReader(io.BytesIO(data))
    return sum(len(page.text) for page in read_docs(stream, "a", Numbering()))


def _read_json(data: bytes) -> object:
    rules = ReadingRules(bad_lines="skip")
    stream = io.BufferedReader(io.BytesIO(data))
    return sum(1 for _ in read_json_values(stream, "a", Numbering(), rules))


def _read_table(data: bytes) -> object:
    rules = ReadingRules(bad_lines="skip")
    stream = io.BufferedReader(io.BytesIO(data))
    return sum(1 for _ in read_rows(stream, "a", Numbering(), rules, Dialect(",", True)))


_READERS: list[tuple[str, Callable[[bytes], object], bytes, bytes]] = [
    ("a paragraph of many lines", _read_wrapped, b"", b"words of a line\n"),
    ("headings", _read_text, b"\n = A = \n text\n", b"= a \n"),
    ("a heading of spaces", _read_text, b"\n = A = \n text\n = ", b" "),
    ("marks", _read_text, b"> a\n> b\n> c\n> d\n", b"# "),
    ("tabs before a mark", _read_text, b"# a b c\n# d e f\n# g h i\n# j k l\n#", b"\t"),
    ("page breaks", _read_text, b"", b"a b\n\f1\n\n"),
    ("line numbers", _read_text, b"", b"1 a\n"),
    ("one line", _read_text, b"", b"a "),
    ("values", _read_json, b"", b"1\n"),
    ("values after a long one", _read_json, b'"' + b"x" * (1 << 21) + b'"\n', b"1\n"),
    ("objects", _read_json, b"", b'{"text":"a"}'),
    ("rows", _read_table, b"text\n", b"a\n"),
    ("an open quotation", _read_table, b'text\n"', b"a\n"),
    ("quotations", _read_table, b"text\n", b'"a""'),
    ("pages of an extractor", _read_pages, b"", b'<doc id="1" title="a">\na\n</doc>\n'),
    ("links of Markdown", _guess, b"# a\n# b\n# c\n# d\n", b"]("),
    ("signs before lines", _guess, b"", b"# a b\n"),
    ("blank lines", _guess, b"", b"a\n\n"),
]


@pytest.mark.parametrize(
    ("reader", "before", "unit"),
    [case[1:] for case in _READERS],
    ids=[case[0] for case in _READERS],
)
def test_time_of_readers_grows_with_the_file(
    reader: Callable[[bytes], object], before: bytes, unit: bytes
) -> None:
    def work(size: int) -> Callable[[], object]:
        data = before + unit * (size // len(unit))
        return lambda: reader(data)

    assert too_fast_growth(work, 1 << 19) == ""


_HEAD = '<mediawiki xml:lang="en"><siteinfo><dbname>enwiki</dbname></siteinfo>'
_TEXT = "<page><title>A</title><ns>0</ns><revision><text>", "</text></revision></page>"


@pytest.mark.parametrize(
    ("before", "unit", "after"),
    [
        (_HEAD, "a".join(_TEXT), "</mediawiki>"),
        (_HEAD + _TEXT[0], "&lt;", _TEXT[1] + "</mediawiki>"),
        (_HEAD + "<page>", "<revision><text>a</text></revision>", "</page></mediawiki>"),
        ('<mediawiki xml:lang="en', "-a", '">' + "a".join(_TEXT) + "</mediawiki>"),
    ],
    ids=["pages", "entities", "revisions", "a long code of a language"],
)
def test_time_of_dumps_grows_with_the_file(
    tmp_path: Path, before: str, unit: str, after: str
) -> None:
    def work(size: int) -> Callable[[], object]:
        path = tmp_path / f"{size}.xml"
        path.write_text(before + unit * (size // len(unit)) + after)
        return lambda: sum(len(page.text) for page in iter_pages(path))

    assert too_fast_growth(work, 1 << 18) == ""


_WRITTEN = [
    "a", "a ", "ab", ".", "1", "北", "é", "e\u0301", "\u0301", " ", "\u3000", "🙂", "👩\u200d", "A", "[MASK]",
    "[MASK] ", "▁", "\x00", "\udc80", "क्ष", "คำ", "한", "'s", "-", "##",
]  # fmt: skip


@pytest.fixture(scope="module")
def read_tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    folder = tmp_path_factory.mktemp("tokenizers")
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##a", "aa", "##aa", ".", "北"]
    (folder / "vocab.txt").write_text("\n".join(entries) + "\n", encoding="utf-8")
    found = {"wordpiece": load_tokenizer(folder / "vocab.txt")}
    for kind in ("unigram", "bpe"):
        own = folder / kind
        own.mkdir()
        found[kind] = load_tokenizer(_sentencepiece(kind)(own))
        (own / "tokenizer.json").write_bytes(found[kind].files()["tokenizer.json"])
        found[f"tokenizer.json, {kind}"] = load_tokenizer(own / "tokenizer.json")
    return found


def _growth_of_tokens(tokenizers: dict[str, Tokenizer], largest: int) -> list[str]:
    runs = count()  # each text has another end, as words are remembered
    found = []
    for (name, tokenizer), unit in product(tokenizers.items(), _WRITTEN):

        def work(size: int, tokenizer: Tokenizer = tokenizer, unit: str = unit) -> Any:
            text = unit * (size // len(unit))
            return lambda: tokenizer.encode_batch([f"{text}{next(runs)}"])

        work(100)()  # what the first use makes
        if growth := too_fast_growth(work, largest):
            found.append(f"{name}, {unit!r}: {growth}")
    return found


def test_time_of_tokenizers_grows_with_the_line(read_tokenizers: dict[str, Tokenizer]) -> None:
    assert _growth_of_tokens(read_tokenizers, 1 << 14) == []


@pytest.mark.slow
def test_time_of_tokenizers_grows_with_a_long_line(
    read_tokenizers: dict[str, Tokenizer],
) -> None:
    assert _growth_of_tokens(read_tokenizers, 1 << 18) == []
