"""Whether foreign shards were made with a tokenizer: found out from some samples, before the model is built.

Shards of other projects hold ids and no vocabulary. With a wrong one, ids may lie outside it, [CLS]
and [SEP] may not be where samples begin and end, or special tokens are within the text. The
vocabularies of BERT share all of that, and then the words decide: a tokenizer encodes each word to
the pieces of which it was put together, while pieces of another vocabulary make words like
``[unused112]`` or ``##er`` after a full stop, which it would encode otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from megabert.data.foreign.source import check_sample, check_text
from megabert.data.foreign.static import ForeignFile, ForeignShardError, StaticSample
from megabert.data.shards.manifest import TokenizerInfo
from megabert.data.shards.spans import Ints
from megabert.data.tokenizers.base import Tokenizer
from megabert.data.tokenizers.sentencepiece import SPACE
from megabert.data.tokenizers.wordpiece import PREFIX

FILES, ROWS, SLOW_ROWS = 32, 64, 8
"""At most this many files are examined, and samples of each; the last for files that unpack a lot."""
_SLOW_BYTES = 2**18  # unpacked per sample
_MOST_OTHER = 0.03  # of the words of several pieces; with the right tokenizer it is 0, with another
# one 12 % or more in English text, 6 % in Chinese
_LEAST_WORDS, _LEAST_OTHER = 20, 5
_LEAST_PREDICTED = 100


def check_fit(files: Sequence[ForeignFile], tokenizer: Tokenizer) -> None:
    """Check some samples, at even distances, of some of the files.

    Raises:
        ForeignShardError: they were not made with this tokenizer, or are damaged.
    """
    info = tokenizer.info()
    predicted = masked = 0
    parts: list[Ints] = []
    for file, row, sample in _some(files):
        check_sample(file, row, sample, info)
        check_text(file, row, sample.input_ids, info)
        predicted += len(sample.positions)
        masked += int((sample.input_ids[sample.positions] == info.special.mask).sum())
        parts += _segments(sample, info)
    place = files[0].path.parent
    if predicted >= _LEAST_PREDICTED and not masked:
        raise ForeignShardError(
            f"{place}: none of {predicted} predicted tokens is [MASK], which has id "
            f"{info.special.mask} in the tokenizer; give --tokenizer the one that made the shards"
        )
    other, words, examples = _words_encoded_otherwise(parts, tokenizer)
    if words >= _LEAST_WORDS and other >= max(_LEAST_OTHER, _MOST_OTHER * words):
        shown = ", ".join(repr(word) for word in examples)
        raise ForeignShardError(
            f"{place}: the tokenizer would encode {other} of {words} words of several pieces to other "
            f"ids ({shown}), so these shards were made with another vocabulary; give --tokenizer the "
            "one that made them"
        )


def _some(files: Sequence[ForeignFile]) -> Iterator[tuple[ForeignFile, int, StaticSample]]:
    for number in _spread(len(files), FILES):
        file = files[number]
        slow = getattr(file, "bytes_per_sample", 0) > _SLOW_BYTES
        for row in _spread(file.samples, SLOW_ROWS if slow else ROWS):
            yield file, row, file.read(row)
        file.close()


def _spread(count: int, most: int) -> list[int]:
    """Up to ``most`` numbers below ``count`` at even distances, the first and the last included."""
    return sorted({round(n) for n in np.linspace(0, count - 1, min(count, most)).tolist()})


def _segments(sample: StaticSample, info: TokenizerInfo) -> list[Ints]:
    """The text between special tokens, unmasked."""
    ids = sample.unmasked()
    ends = np.flatnonzero((ids == info.special.cls) | (ids == info.special.sep))
    parts = np.split(ids, ends)
    return [part[1:] for part in parts if len(part) > 1]


def _words_encoded_otherwise(
    segments: Sequence[Ints], tokenizer: Tokenizer
) -> tuple[int, int, list[str]]:
    """Words that encode to other ids; words that could; examples.

    The first and last word of a segment may be cut, and a word with an unknown token may be any.
    Words of one piece that encode to it count neither way: most words of any vocabulary do.
    """
    words = [word for ids in segments for word in _words(ids, tokenizer)[1:-1]]
    words = [(ids, text) for ids, text in words if tokenizer.special.unk not in ids]
    encoded = tokenizer.encode_batch([text for _, text in words]).split()
    same = [again.ids.tolist() == ids for again, (ids, _) in zip(encoded, words)]
    judged = sum(len(ids) > 1 or not equal for (ids, _), equal in zip(words, same))
    other = [text for (_, text), equal in zip(words, same) if not equal]
    return len(other), judged, list(dict.fromkeys(other))[:3]


def _words(ids: Ints, tokenizer: Tokenizer) -> list[tuple[list[int], str]]:
    """Ids and text of the words that the pieces' marks show; none for a vocabulary without marks."""
    pieces = tokenizer.tokens(ids)
    found: list[tuple[list[int], str]] = []
    if tokenizer.kind != "wordpiece" and not any(piece.startswith(SPACE) for piece in pieces):
        return []
    for number, piece in zip(ids.tolist(), pieces):
        if tokenizer.kind == "wordpiece":
            continues, text = piece.startswith(PREFIX), piece.removeprefix(PREFIX)
        else:
            continues, text = not piece.startswith(SPACE), piece.removeprefix(SPACE)
        if continues and found:
            found[-1][0].append(number)
            found[-1] = found[-1][0], found[-1][1] + text
        else:
            found.append(([number], piece if continues else text))
    return found
