"""Which scripts a text is written in, and whether a language is written so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from megabert.common.patterns import lazy_pattern
from megabert.data.text.languages import same_language

MIN_LETTERS = 20
"""A text with fewer letters says nothing about its language."""
_CJK = ("Han", "Kana", "Hangul")
# letters of each script, by the blocks of Unicode
_RANGES = {
    "Latin": "A-Za-z\u00c0-\u024f\u1e00-\u1eff", "Greek": "\u0370-\u03ff\u1f00-\u1fff",
    "Cyrillic": "\u0400-\u052f", "Armenian": "\u0530-\u058f", "Hebrew": "\u05d0-\u05ff",
    "Arabic": "\u0620-\u064a\u066e-\u06d3\u06fa-\u06ff\u0750-\u077f\u08a0-\u08ff",
    "Syriac": "\u0700-\u074f", "Thaana": "\u0780-\u07bf", "N'Ko": "\u07c0-\u07ff",
    "Devanagari": "\u0900-\u097f", "Bengali": "\u0980-\u09ff", "Gurmukhi": "\u0a00-\u0a7f",
    "Gujarati": "\u0a80-\u0aff", "Odia": "\u0b00-\u0b7f", "Tamil": "\u0b80-\u0bff",
    "Telugu": "\u0c00-\u0c7f", "Kannada": "\u0c80-\u0cff", "Malayalam": "\u0d00-\u0d7f",
    "Sinhala": "\u0d80-\u0dff", "Thai": "\u0e00-\u0e7f", "Lao": "\u0e80-\u0eff",
    "Tibetan": "\u0f00-\u0fff", "Burmese": "\u1000-\u109f", "Georgian": "\u10a0-\u10ff\u1c90-\u1cbf",
    "Ethiopic": "\u1200-\u139f", "Cherokee": "\u13a0-\u13ff\uab70-\uabbf",
    "Canadian": "\u1400-\u167f", "Khmer": "\u1780-\u17ff", "Ol Chiki": "\u1c50-\u1c7f",
    "Tifinagh": "\u2d30-\u2d7f", "Kana": "\u3041-\u30ff\u31f0-\u31ff", "Yi": "\ua000-\ua4cf",
    "Hangul": "\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3", "Meitei": "\uaae0-\uaaff\uabc0-\uabff",
    "Han": "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff",
}  # fmt: skip
# languages of each script other than Latin; the first ones are named in messages
_WRITTEN = {
    "Greek": "el pnt grc", "Armenian": "hy hyw", "Hebrew": "he yi lad", "Thaana": "dv",
    "Cyrillic": "ru uk bg sr be mk kk ky mn tg tt ba cv ce os sah ab av ady alt bxr cu gld inh kbd koi "
    "kjh krc kum kv lbe lez mdf mhr mrj myv nog rue rut rsk sjd sty tyv udm xal sh uz crh ruq mo be-tarask",
    "Arabic": "ar fa ur ps sd ug ckb arz ary arq acm aeb apc azb bcc bgn bqi brh glk hno khw ks lki lrc luz "
    "mzn pnb sdh skr kk ku ms tly az ha",
    "Devanagari": "hi mr ne sa bho mai new awa anp dty gom mag bgc pi ks hif sd",
    "Bengali": "bn as bpy mni", "Gurmukhi": "pa", "Gujarati": "gu", "Odia": "or", "Tamil": "ta",
    "Telugu": "te nit", "Kannada": "kn tcy", "Malayalam": "ml", "Sinhala": "si pi", "Thai": "th",
    "Lao": "lo", "Tibetan": "bo dz", "Burmese": "my shn mnw blk ksw kjp rki", "Georgian": "ka xmf",
    "Ethiopic": "am ti", "Cherokee": "chr", "Canadian": "iu ike cr oj ojb", "Khmer": "km",
    "Ol Chiki": "sat", "Tifinagh": "zgh tzm shi shy rif", "Syriac": "arc aii tru", "N'Ko": "nqo",
    "Yi": "ii", "Meitei": "mni", "Han": "zh yue lzh wuu gan hsn cpx hak cdo nan ja ko ryu",
    "Kana": "ja ryu", "Hangul": "ko",
}  # fmt: skip
_ALSO_LATIN = (
    "sr sh uz crh ku kk tg tt ug shi shy zgh tzm rif az tly hif gom iu ike cr oj ojb lad ks ms hak cdo "
    "nan ruq mo chr ha pi tru"
)
_NOT_COUNTED = "ban bug ccp cop got mnc nod syl tdd"  # languages in scripts that are not counted
_LETTERS = lazy_pattern(
    "|".join(f"(?P<s{index}>[{ranges}]+)" for index, ranges in enumerate(_RANGES.values()))
)
_NO_LETTERS = lazy_pattern("[\0-@\\[-`{-\x7f]+")
_NAMES = tuple(_RANGES)


def count_scripts(text: str) -> Counter[str]:
    """Letters of each script in a text."""
    counts = [0] * (len(_NAMES) + 1)
    # without spaces and signs, whole sentences are one run of letters
    for match in _LETTERS.finditer(_NO_LETTERS.sub("", text)):
        counts[match.lastindex or 0] += match.end() - match.start()
    return Counter({name: count for name, count in zip(_NAMES, counts[1:]) if count})


def scripts_of(language: str) -> frozenset[str]:
    """The scripts in which a language is written; empty if that is not known."""
    if any(same_language(language, code) for code in _NOT_COUNTED.split()):
        return frozenset()
    found = {
        script
        for script, codes in _WRITTEN.items()
        if any(same_language(language, code) for code in codes.split())
    }
    if not found or any(same_language(language, code) for code in _ALSO_LATIN.split()):
        found.add("Latin")
    return frozenset(found)


def other_script(letters: Mapping[str, int], language: str) -> str | None:
    """What is odd about a text in this language, as part of a message; None if nothing is.

    Odd is a third or more of Chinese, Japanese or Korean letters in a language that is not written
    in them; more than half of any other script (where one of those letters counts as two); and
    Japanese read as Chinese, or Chinese as Japanese.

    Args:
        letters: :func:`count_scripts` of a sample.
        language: a known code.
    """
    total, own = sum(letters.values()), scripts_of(language)
    if total < MIN_LETTERS or not own:
        return None
    ideographs = {script: letters.get(script, 0) for script in _CJK}
    east = sum(ideographs.values())
    probable = _east_asian(ideographs)
    strange = sum(count for script, count in ideographs.items() if script not in own)
    if 3 * strange >= total and not own & {"Han", "Hangul"}:
        return _found("Chinese, Japanese or Korean", strange / total, [probable])
    if 3 * east >= total and not same_language(language, probable):
        swapped = {"ja", "ko"} & {probable, language.split("-")[0]}
        if swapped and east >= 5 * MIN_LETTERS:
            script = {"ja": "kana", "ko": "Hangul"}.get(probable, "Han without kana or Hangul")
            return _found(script, 1.0, [probable], how="mostly written in")
    weights = {s: n * (2 if s in _CJK else 1) for s, n in letters.items()}
    script, weight = max(weights.items(), key=lambda item: (item[1], item[0]))
    if script in own or 2 * weight <= sum(weights.values()):
        return None
    codes = [probable] if script in _CJK else _WRITTEN.get(script, "en").split()[:3]
    return _found(script, letters[script] / total, codes)


def _east_asian(letters: Mapping[str, int]) -> str:
    total = sum(letters.values())
    if 2 * letters["Hangul"] > total:
        return "ko"
    return "ja" if 10 * letters["Kana"] >= total else "zh"


def _found(script: str, share: float, codes: Iterable[str], how: str = "") -> str:
    amount = how or f"{share:.0%} of its letters are"
    first, *others = codes
    more = f" (or {', '.join(others)})" if others else ""
    return f"{amount} {script}: give --language {first}{more} if that is its language"
