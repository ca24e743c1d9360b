"""Language conversion markup ``-{...}-``.

The rules are those of https://www.mediawiki.org/wiki/Writing_systems/Syntax: plain text, a list of
``variant: text;`` pairs, and flags before a ``|``.
"""

import re

_LANGUAGES = {"zh", "gan", "wuu", "sr", "sh", "kk", "ku", "uz", "tg", "iu", "shi", "crh", "en-x"}
_INNERMOST = re.compile(r"-\{((?:(?!-\{|\}-).)*)\}-", re.DOTALL)
_VARIANT = re.compile(r"\s*([a-z]{2,3}(?:-[a-z]{2,8})*)\s*:(?!//)")
_HIDDEN = {"H", "T", "-", "D", "N"}
_PREFERRED = (
    "zh-cn", "zh-hans", "zh-sg", "zh-my", "zh", "zh-hant", "zh-tw", "zh-hk", "zh-mo",
    "sr-ec", "sr-cyrl", "sr", "kk-cyrl", "ku-latn", "uz-latn", "tg", "iu", "shi-latn", "crh-latn",
)  # fmt: skip
_MAX_NESTING = 5


def has_variants(language: str) -> bool:
    """Whether wikis of this language use ``-{...}-``."""
    return language.lower().split("-")[0].split("_")[0] in _LANGUAGES


def resolve_conversion(text: str, language: str) -> str:
    """Replace each ``-{...}-`` by the text that a reader of one variant sees.

    That is the variant of ``language`` if present, else the simplified one, else the first. Rules
    that show nothing (flags H, T, D, N, -) are removed.
    """
    wanted = language.lower().replace("_", "-")
    for _ in range(_MAX_NESTING):
        text, count = _INNERMOST.subn(lambda match: _choose(match.group(1), wanted), text)
        if not count:
            break
    return text.replace("-{", "").replace("}-", "") if "-{" in text else text


def _choose(body: str, wanted: str) -> str:
    flags, bar, rest = body.partition("|")
    if bar and len(flags) <= 40 and "[[" not in flags and "{" not in flags:
        if {flag.strip().upper() for flag in flags.split(";")} & _HIDDEN:
            return ""
        body = rest
    options: dict[str, str] = {}
    for part in re.split(r";(?=\s*(?:[a-z]{2,3}(?:-[a-z]{2,8})*\s*:|[^;]*=>|$))", body):
        part = part.partition("=>")[2] if "=>" in part else part
        match = _VARIANT.match(part)
        if match:
            options.setdefault(match.group(1), part[match.end() :].strip())
    if not options or not _VARIANT.match(body.partition("=>")[2] if "=>" in body else body):
        return body
    for code in (wanted, *_PREFERRED):
        if options.get(code):
            return options[code]
    return next(iter(options.values()))
