"""Words of Chinese text, for whole-word and n-gram masking (Cui et al. 2021).

Chinese is written without spaces, and vocabularies split it into single ideographs. jieba decides
which of them form a word: by the most probable path through its dictionary, and by a hidden Markov
model for names and words that the dictionary lacks. The implementation used is ``rjieba``, jieba in
Rust: it agrees with the ``jieba`` package except where two unlikely words tie (1 run of 91,171 of
Wikipedia), is 20 times as fast, and keeps no dictionary cache on disk.

jieba's dictionary is in simplified characters. Traditional characters are replaced one for one by
OpenCC's table before segmentation, so both scripts get the same words; token ids are made from the
unchanged text. Only runs of U+4E00 to U+9FD5, jieba's own range, are segmented; elsewhere the
tokenizer's rule applies. The result depends only on the run: not on its sentence, batch or process.
"""

from __future__ import annotations

from functools import cache
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from megabert.common.errors import UserError

WordBoundaries = Literal["auto", "tokens", "jieba"]
_FIRST, _LAST = 0x4E00, 0x9FD5
_PART = 2**18  # ideographs segmented at a time: about 100 bytes of memory each


class ChineseWords:
    """Finds the ideographs that continue a word.

    Raises:
        UserError: ``rjieba`` or ``opencc`` is not installed.
    """

    def __init__(self) -> None:
        try:
            import opencc
            import rjieba
        except ImportError as error:
            raise UserError(
                f"word boundaries by jieba: {error}; run pip install rjieba opencc, or set "
                "--word-boundaries tokens"
            ) from None
        self._cut = rjieba.cut
        characters = "\n".join(map(chr, range(_FIRST, _LAST + 1)))
        simplified = opencc.OpenCC("t2s").convert(characters)
        # One character per line, so that each is converted by itself.  [_LAST - _FIRST + 1]
        self._simplified = np.array([ord(line) for line in simplified.split("\n")], "<u4")

    def continues(self, text: str) -> npt.NDArray[np.bool_]:
        """bool [len(text)]: True at each ideograph that is not the first of its word."""
        codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
        places = np.flatnonzero((codes >= _FIRST) & (codes <= _LAST))  # [H]
        begins_run = np.diff(places, prepend=-2) != 1
        slots = np.arange(len(places)) + np.cumsum(begins_run)  # a line feed before each run
        lines = np.full(len(places) + int(begins_run.sum()), ord("\n"), "<u4")
        lines[slots] = self._simplified[codes[places] - _FIRST]
        line_feeds = slots[begins_run] - 1
        parts = np.split(lines, line_feeds[np.diff(line_feeds // _PART, prepend=0) > 0])
        begins_word = np.concatenate([self._begins(part) for part in parts])
        result = np.zeros(len(codes), np.bool_)
        result[places] = ~begins_word[slots]
        return result

    def _begins(self, lines: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
        """bool [len(lines)]: the first characters of words, in lines of simplified ideographs."""
        words = self._cut(lines.tobytes().decode("utf-32-le"), True)
        lengths = np.fromiter(map(len, words), np.int64, len(words))
        begins = np.zeros(len(lines), np.bool_)
        begins[np.cumsum(lengths) - lengths] = True
        return begins


def find_words(language: str, boundaries: str = "auto") -> ChineseWords | None:
    """The segmenter for a language; None where the tokenizer's own rule applies.

    Args:
        language: code of the text's language.
        boundaries: ``tokens`` (the tokenizer's rule), ``jieba``, or ``auto`` (jieba for ``zh`` and
            ``zh-...``, else the tokenizer's rule).

    Raises:
        UserError: ``boundaries`` is something else.
    """
    if boundaries not in get_args(WordBoundaries):
        known = ", ".join(get_args(WordBoundaries))
        raise UserError(f"--word-boundaries {boundaries}: expected one of {known}")
    chinese = language.lower().replace("_", "-").split("-")[0] == "zh"
    wanted = boundaries == "jieba" or (boundaries == "auto" and chinese)
    return _chinese_words() if wanted else None


@cache
def _chinese_words() -> ChineseWords:
    return ChineseWords()
