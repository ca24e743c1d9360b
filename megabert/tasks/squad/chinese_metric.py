"""Exact match and F1 of CMRC 2018, for Chinese text.

Source: Cui et al. 2019, "A Span-Extraction Dataset for Chinese Machine Reading Comprehension", section
3.3, and its official evaluation script. Chinese has no white space between words, so each Chinese
character is a unit, and so is each word between such characters. F1 counts the units of the
longest run that both texts share; exact match compares the texts without punctuation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from megabert.tasks.squad.metric import ENGLISH, Metric, f1_from_counts

_PUNCTUATION = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_HAN = "\u4e00-\u9fa5"
_LETTER = re.compile(r"[^\W\d_]")
_RUNS = re.compile(rf"[{_HAN}]|[^{_HAN}]+")
_APART = re.escape(';@#$%&?![](){}<>"«»‘„–—')
_WORDS = re.compile(
    r"\.{2,}|''|,(?!\d)|\.(?=[\])}>\"'»\s]*$)"
    rf"|[{_APART}]"
    rf"|(?:[^\s{_APART}.,']|\.(?!\.|[\])}}>\"'»\s]*$)|,(?=\d)|'(?!')(?=\w))+"
    r"|\S"
)
_SHORT = re.compile(r"^(.+)(n't|'(?:s|m|d|ll|re|ve))$")


def without_punctuation(text: str) -> str:
    """Lower case, without the punctuation that CMRC 2018's script removes; white space is not removed."""
    return "".join(char for char in text.lower().strip() if char not in _PUNCTUATION)


def units(text: str) -> list[str]:
    """The units of a text: Chinese characters, and the words, numbers and signs between them.

    Between Chinese characters the rules are those of the Penn Treebank's tokenizer: signs are units of their own,
    except points and commas within words and numbers; "don't" and "it's" are two words each.
    """
    found: list[str] = []
    for run in _RUNS.findall(without_punctuation(text)):
        for word in _WORDS.findall(run):
            short = _SHORT.match(word)
            found += short.groups() if short else [word]
    return found


def longest_common_run(left: Sequence[str], right: Sequence[str]) -> int:
    """Units of the longest run that occurs in both sequences."""
    best = 0
    above = [0] * (len(right) + 1)
    for unit in left:
        row = [0] * (len(right) + 1)
        for place, other in enumerate(right, start=1):
            if unit == other:
                row[place] = above[place - 1] + 1
                best = max(best, row[place])
        above = row
    return best


def chinese_f1(prediction: str, truth: str) -> float:
    """F1 over units, the common ones being those of the longest common run."""
    predicted, true = units(prediction), units(truth)
    return f1_from_counts(longest_common_run(predicted, true), len(predicted), len(true))


CHINESE = Metric("CMRC 2018", without_punctuation, chinese_f1)


def metric_for(language: str, texts: Iterable[str]) -> Metric:
    """The metric of a language: ``en``, ``zh``, or ``auto``, which is decided by the letters of the texts.

    A Chinese character is a word of its own, so a third of all letters is enough to be Chinese text.
    """
    if language == "auto":
        letters = _LETTER.findall("".join(texts))
        chinese = sum(1 for letter in letters if "\u4e00" <= letter <= "\u9fa5")
        language = "zh" if 3 * chinese > len(letters) else "en"
    return CHINESE if language == "zh" else ENGLISH
