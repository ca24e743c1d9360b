"""Language conversion markup ``-{...}-``.

The rules are those of MediaWiki's ``ConverterRule`` and of
https://www.mediawiki.org/wiki/Writing_systems/Syntax: plain text, a list of ``variant: text;``
pairs, one-way rules ``text => variant: text;``, and flags before a ``|``.
"""

import re
from functools import cache
from typing import NamedTuple

from megabert.data.text.wikitext.tidy import GAP, gap

# variants of each language and, for each, those whose text is shown instead, as in MediaWiki
_FALLBACKS = {
    "zh": {
        "zh": "zh-hans zh-hant zh-cn zh-tw zh-hk zh-sg zh-mo zh-my",
        "zh-hans": "zh-cn zh-sg zh-my", "zh-hant": "zh-tw zh-hk zh-mo",
        "zh-cn": "zh-hans zh-sg zh-my", "zh-sg": "zh-my zh-hans zh-cn",
        "zh-my": "zh-sg zh-hans zh-cn", "zh-tw": "zh-hant zh-hk zh-mo",
        "zh-hk": "zh-mo zh-hant zh-tw", "zh-mo": "zh-hk zh-hant zh-tw",
    },
    "gan": {"gan": "gan-hans gan-hant", "gan-hans": "gan", "gan-hant": "gan"},
    "wuu": {"wuu": "wuu-hans wuu-hant", "wuu-hans": "wuu", "wuu-hant": "wuu"},
    "sr": {"sr": "sr-ec", "sr-ec": "sr", "sr-el": "sr"},
    "sh": {"sh": "sh-latn sh-cyrl", "sh-latn": "sh", "sh-cyrl": "sh"},
    "kk": {
        "kk": "kk-cyrl", "kk-cyrl": "kk", "kk-latn": "kk", "kk-arab": "kk", "kk-kz": "kk-cyrl",
        "kk-tr": "kk-latn", "kk-cn": "kk-arab",
    },
    "ku": {"ku": "ku-latn", "ku-arab": "ku-latn", "ku-latn": "ku-arab"},
    "uz": {"uz": "uz-latn", "uz-cyrl": "uz", "uz-latn": "uz"},
    "tg": {"tg": "", "tg-latn": "tg"},
    "iu": {"iu": "ike-cans", "ike-cans": "iu", "ike-latn": "iu"},
    "shi": {"shi": "shi-latn shi-tfng", "shi-tfng": "shi", "shi-latn": "shi"},
    "crh": {"crh": "crh-latn", "crh-cyrl": "crh-latn", "crh-latn": "crh-cyrl"},
    "tly": {"tly": "", "tly-cyrl": "tly"},
    "ban": {"ban": "", "ban-bali": "ban", "ban-x-dharma": "ban", "ban-x-palmleaf": "ban",
            "ban-x-pku": "ban"},
}  # fmt: skip
# other spellings of these codes (BCP 47), and languages that are written in a variant
_OTHER_SPELLINGS = {
    "zh-hans-cn": "zh-cn", "zh-hans-sg": "zh-sg", "zh-hans-my": "zh-my", "zh-hant-tw": "zh-tw",
    "zh-hant-hk": "zh-hk", "zh-hant-mo": "zh-mo", "yue": "zh-hant", "zh-yue": "zh-hant",
    "lzh": "zh-hant", "zh-classical": "zh-hant", "sr-cyrl": "sr-ec", "sr-latn": "sr-el",
}  # fmt: skip
_OTHER_LANGUAGES = frozenset(("zh-min-nan", "nan"))  # not variants of zh
_WITH_CHINESE = ("gan", "wuu")  # their pages have rules with codes of zh too
# the names of variants that the flag D writes, as in MediaWiki
_NAMES = {
    "zh": "原文", "zh-hans": "简体", "zh-hant": "繁體", "zh-cn": "大陆", "zh-tw": "臺灣", "zh-hk": "香港",
    "zh-mo": "澳門", "zh-sg": "新加坡", "zh-my": "大马", "sr-ec": "ћирилица", "sr-el": "latinica",
}  # fmt: skip
_INNERMOST = re.compile(r"-\{((?:(?!-\{|\}-).)*)\}-", re.DOTALL)
_FLAGS = frozenset("ATRD-HN")
_HIDING = frozenset("HT-DN")
_STRONGER = frozenset("ATN-")  # what hides the description that D would show
_MAX_FLAGS = 100  # characters
_MAX_NESTING = 5


def has_variants(language: str) -> bool:
    """Whether wikis of this language use ``-{...}-``."""
    code = _code(language)
    if code in _OTHER_LANGUAGES:
        return False
    return code.partition("-")[0] in _FALLBACKS or code in _main_codes()


def resolve_conversion(text: str, language: str) -> str:
    """Replace each ``-{...}-`` by the text that a reader of one variant sees.

    That is the text for the variant of ``language``; if there is none, for the first variant in
    MediaWiki's order of fallbacks (a traditional one for ``zh-tw``), then for the language itself.
    A rule without any of these, which MediaWiki reports as an error, gives its first text. Rules
    that show nothing (flags H, T, -) are removed; D shows
    the rules with the names of their variants, N such a name.
    """
    wanted = _code(language)
    main = _main_codes().get(wanted) or wanted.partition("-")[0]
    order = _order(main, wanted)

    def shown(match: re.Match[str]) -> str:
        chosen = _choose(match.group(1), order)
        if chosen:
            return chosen
        start, end = match.span()
        if match.string[start - 1 : start].isdigit() and match.string.startswith("-{", end):
            return GAP
        return gap(match.string[max(0, start - 2) : start], match.string[end : end + 3])

    for _ in range(_MAX_NESTING):
        text, count = _INNERMOST.subn(shown, text)
        if not count:
            break
    return text.replace("-{", "").replace("}-", "") if "-{" in text else text


def _code(language: str) -> str:
    code = language.strip().lower().replace("_", "-")
    return _OTHER_SPELLINGS.get(code, code)


@cache
def _main_codes() -> dict[str, str]:
    return {variant: main for main, variants in _FALLBACKS.items() for variant in variants}


@cache
def _order(main: str, wanted: str) -> tuple[str, ...]:
    """The variant wanted and its fallbacks; then, for rules without any of them, the main code."""
    variants = _FALLBACKS[main]
    wanted = wanted if wanted in variants else main
    return tuple(dict.fromkeys((wanted, *variants[wanted].split(), main)))


@cache
def _variants(main: str) -> frozenset[str]:
    """The codes that rules of a language may have."""
    return frozenset((*_FALLBACKS[main], *(_FALLBACKS["zh"] if main in _WITH_CHINESE else ())))


@cache
def _separator(main: str) -> re.Pattern[str]:
    """A semicolon that ends a rule: before the name of a variant, a one-way rule or the end."""
    names = [*_variants(main), *_OTHER_SPELLINGS]
    codes = "|".join(sorted(names, key=len, reverse=True))
    return re.compile(rf";\s*+(?=(?:{codes})\s*:|[^;]*?=>\s*(?:{codes})\s*:|\s*$)", re.IGNORECASE)


def _choose(body: str, order: tuple[str, ...]) -> str:
    """The text shown of one rule; ``body`` is the text between the braces."""
    main = _main_codes()[order[0]]
    flags, bar, rest = body.partition("|")
    if bar and len(flags) <= _MAX_FLAGS and "[[" not in flags and "{" not in flags:
        given = {flag.strip() for flag in flags.split(";")}
        if "R" in given:
            return rest
        if "D" in given and not given & _STRONGER:
            return _description(rest, main)
        if given & _HIDING:
            return _NAMES.get(_code(rest), "") if "N" in given else ""
        body = rest
        if not given & _FLAGS and any(_code(flag) in _FALLBACKS[main] for flag in given):
            return body  # "-{zh-hans;zh-hant|text}-"
    return _rule_text(body, main, order)


def _description(body: str, main: str) -> str:
    """What the flag D shows: each rule with the name of its variant; ``body`` if it has no rules."""
    found = _rules(body, main)
    if found is None or not (found.both or found.one_way):
        return body
    colon, end = "：；" if main == "zh" else ":;"
    shown = [(code, "", text) for code, text in found.both.items()]
    shown += [(code, f"{found.sources[code]}⇒", text) for code, text in found.one_way.items()]
    return "".join(
        f"{source}{_NAMES.get(code, code)}{colon}{text}{end}" for code, source, text in shown
    )


def _rule_text(body: str, main: str, order: tuple[str, ...]) -> str:
    """The text for the first variant of ``order``; ``body`` itself if it is not a list of rules."""
    found = _rules(body, main)
    if found is None:
        return body
    for table in (found.both, found.one_way):
        for code in order:
            if table.get(code):
                return table[code]
    return next(iter((found.both or found.one_way).values()), body)


class _Rules(NamedTuple):
    """The texts of a list of rules by variant: for both ways, and of one-way rules with their sources."""

    both: dict[str, str]
    one_way: dict[str, str]
    sources: dict[str, str]


def _rules(body: str, main: str) -> _Rules | None:
    """The rules of a list; None for another text."""
    sources: dict[str, str] = {}
    both: dict[str, str] = {}
    one_way: dict[str, str] = {}
    for part in _separator(main).split(body):
        name, colon, text = part.partition(":")
        if not colon:
            continue
        source, arrow, name = name.rpartition("=>")
        code = _code(name)
        if code not in _variants(main):
            return None
        if arrow and source.strip():
            one_way.setdefault(code, text.strip())
            sources.setdefault(code, source.strip())
        elif text.strip():
            both[code] = text.strip()
    return _Rules(both, one_way, sources)
