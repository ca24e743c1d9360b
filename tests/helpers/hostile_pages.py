"""Pieces of markup and text that may make a page slow, by kind, and the texts made of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

WORDS = {
    "en": "Word ", "de": "Wörter ", "fr": "d’été ", "es": "¿año ", "it": "l'onda ", "ru": "Слово ", "ar": "كلمة ",
    "he": "מילה ", "hi": "शब्द ", "th": "คำไทย", "zh": "汉字", "ja": "日本かな", "ko": "한국어 ", "ka": "სიტყვა ",
}  # fmt: skip
"""A word of each language."""
KINDS: dict[str, list[str]] = {
    "footnotes": [
        "<ref>", "<ref name=x>text", "<ref.>a\n", "<ref ", "<ref/ >a\n", "<ref>a<", "<ref/>", "<ref name=a/>b",
        "<ref>a</ref>", "</ref>", "</a",
    ],
    "comments": ["<!--", "-->", "<!---", "<!- a", "<!-->", "<!-- a", "--"],
    "tags without text": [
        "<nowiki>", "<math>a", "<table>", "<td>", "<tabber>", "</nowiki>", "<nowiki/>", "<math ", "</table", "<td>a",
        "<th>a</td>", "<td", "<tabber>a=b|-|", "<gallery>\n", "<pre>a", "<poem>a", "<includeonly>",
    ],
    "other tags": [
        "'<b>", "<br ", "<span ", "<ruby><rt>", "<div>", "<", "<b<", "'<b></b>", "'<b><i>", "</b>'", "<br", "< br",
        "<  /  br", "<span>a", "</span>", "<rt>a<rp>",
    ],
    "raised and lowered": [
        "<sup>a", "<sub>1</sub>", "<sup>[[#a|", "5<sub>-1</sub>", "<sup><sub>", "<sup> [[ #a|[b]", "</i> <sup>",
        "1<sup>2</sup>/",
    ],
    "templates": [
        "{{", "}}", "{{a|", "{{Template:", "{", "}", "{{{", "}}}", "{{{a|", "{{a}}", "{{a|b}}", "{{a}", "{a}}", "{ {",
        "{{lang|en|", "{{convert|1|km}}", "{{#if:", "{{#ifexpr:", "{{IPA|fr|a}}", "{{IPA|a}} ", "{{frac|1|2}}",
        "{{a|b=c|d", "{{a|{{b|", "{{a|\n|", "{{cite web|", "{{clear}} ", ".{{xx}}The", "{{birth date|1|2|3}}",
        "{{Val|1", "{{a}}\n\n", "{{msg:a}}",
    ],
    "tables": [
        "{|", "|}", "\n|", "\n|-", "\n!", "{|\n", "|}}", "{|a\n|-\n|b\n", "\n{|\n|a", "\n| a || b", "\n! a !! b",
        "\n||", "\n!!", "||", "!!", "\n| =", "\n|a|", "\n|a| b",
    ],
    "links": [
        "[[", "]]", "[[a|", "[[Category:a[b]c]]", "[", "]", "[[a]]", "[[a|b]]", "[[[", "]]]", "[[a|b]", "[a|b]]",
        "[[File:a.png|", "[[File:a.png|thumb|", "[[File:a|[b]c]]", "[[Category:a]]", "[[a|[b]", "[[:", "[[#", "[[ ",
    ],
    "addresses": [
        "http://a ", "http://", "[http://a ", "//", "[http://a b]", "[http://", "[//a", "https://a'", ").", "http://a)",
    ],
    "bold and italic": [
        "''", "'''''", "'''a'''b", "'", "''a", "''''", "''''''", "l'''a'''", "\n'''a'''", "\n'''a",
    ],
    "headings and lists": [
        "\n==a==", "\n==", "\n* a", "\n;a", "=", "==", "\n=a=b", "\n= =", "*", "#", ":", "\n:", "\n;a:b", "\n*#:",
        "\n----", "\n ",
    ],
    "conversion": ["-{", "-{zh:a;", "}-", "-{a|", "=>", "-{a:b;c", "-{A|", "-{zh-hans:a;zh-hant:b"],
    "switches": ["__", "__TOC__", "_", "＿＿", "__N", "__NOTOC_"],
    "entities": ["&#", "&lt;", "&#0000000000", "&", "&amp;", "&#x", "&amp", "&nbsp;"],
    "brackets and quotations": [
        "(", "「", "“", '"', ")", "（", "）", "『", "《", "【", "”", "„", "«", "»", "‘", "“a” ", "‘a", "»", "((", "( ",
        "(,", "a\"a", '"a" ',
    ],
    "stops": [
        ". ", "A. ", "。", "「a。", "...", "!", "a. b. ", "1. ", "?", "！", "U.S. ", "z. B. ", "(A. ", '"A. ', "“A. ",
        "॥", "।", "۔ ", "։ ", "…", "a…", "? ", 'a?"', ". [1]", "[1]", 'a"a. A',
    ],
    "spaces and signs": [
        " ", "\t", "\n", "\n\n", "1", ",", "|", "-", "\ue001", "\u200b", "，", ";", ",, ", "—", "\u00a0", "\u3000",
        "1,", "1 000 ", "\ue000", "\ue002", "\ue003", "\ue010", "\ue011", "\ue012", "\ufffc", "\x00", "\x1f", "\u00ad",
        "e\u0301", "\u0e31", "\u202e", "formula_1", "1|| ", "\r",
    ],
}  # fmt: skip
"""Pieces; the first few of each kind are the likeliest."""
_ENDS = {
    "[[": "]]", "{{": "}}", "{|": "\n|}", "<!--": "-->", "<ref>": "</ref>", "<sup>": "</sup>", "-{": "}-", "(": ")",
    "“": "”", "「": "」", "<nowiki>": "</nowiki>", "<table>": "</table>", "<td>": "</td>", "[": "]", "''": "''",
    "http://a": " ", "{{a|": "}}", "[[File:a|": "]]", "<tabber>": "</tabber>", "{{lang|en|": "}}",
}  # fmt: skip
_INSIDE = (
    "a ",
    "\n",
    "\n\n",
    "a. ",
    "|",
    "=",
    "'",
    "{",
    "[",
    ")",
    "\n|a",
    "\n* a",
    " ",
    "{{IPA|fr|a}}",
)

Text = Callable[[int], str]
"""Makes a text of about N characters."""


def repeated(before: str, unit: str, after: str = "") -> Text:
    """One piece many times."""
    return lambda size: before + unit * max(1, size // len(unit)) + after


def shapes(unit: str, word: str) -> Iterator[tuple[str, Text]]:
    """Texts of a piece and a word, and their names."""
    for shape in dict.fromkeys((unit, unit + word, f"{unit}{word}{unit}\n", f"{word}{unit}\n\n")):
        yield repr(shape), repeated("", shape)


def enclosed(word: str) -> Iterator[tuple[str, Text]]:
    """Texts between an opening mark and its end: without the one or the other, and many inside others."""
    for begin, end in _ENDS.items():
        for inside in _INSIDE:
            for before, after in ((begin, ""), (begin, end), ("", end)):
                yield f"{before!r}, {inside!r}..., {after!r}", repeated(before, inside, after)
        for between in ("", word, word + "\n\n"):
            yield (
                f"{begin + between!r}..., {end + between!r}...",
                lambda size, a=begin + between, b=end + between: (
                    a * (size // 2 // len(a)) + b * (size // 2 // len(b))
                ),
            )


def mixed(word: str, count: int, seed: int) -> Iterator[tuple[str, Text]]:
    """Texts of two to four pieces drawn by chance: in turn, or one after the other."""
    drawn = random.Random(seed)
    units = [unit for some in KINDS.values() for unit in some] + [word, "a", "\n"]
    for _ in range(count):
        some = drawn.sample(units, drawn.choice((2, 2, 3, 4)))
        if drawn.random() < 0.5:
            yield f"{some}", repeated("", "".join(some))
        else:
            yield (
                f"one after the other: {some}",
                lambda size, some=some: "".join(u * (size // len(some) // len(u)) for u in some),
            )
