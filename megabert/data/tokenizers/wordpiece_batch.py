"""WordPiece ids of many sentences at once, with a table of characters and a cache of words.

BERT's normaliser and splitter work character by character, except for combining marks, and a word
ends at every space, punctuation mark and (if they are split) ideograph. So a text is cut there, and
each piece in between is encoded once and then looked up: a few hundred thousand words make up
nearly all of a text. Nearly all of them are short and are looked up by their bytes, all at once
(:class:`_ShortWords`). The ``tokenizers`` library is asked for each character whether it cuts. New
pieces are encoded by the library or, if they consist of ASCII letters and digits, by longest match
here. Nothing is assumed about characters that do not cut, so the ids equal the library's.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import tokenizers

from megabert.data.tokenizers.base import are_ideographs

_SPACE = ord(" ")
MAX_CACHE_BYTES = 2**27
_ENTRY_BYTES = 200  # of a cached word in addition to its characters: key, number, ids
_BATCH_CHARACTERS = 2**18
_TABLE_BITS = 18  # of the table of short words
_KEY_BYTES = 8
_LATIN_1 = 0xFF
_MASKS = np.array([(1 << 8 * length) - 1 for length in range(_KEY_BYTES + 1)], np.uint64)
_FACTOR, _OTHER_FACTOR = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)

_Ints = npt.NDArray[np.int64]
_Bools = npt.NDArray[np.bool_]
_Keys = tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]


@dataclass(frozen=True)
class WordPieceRules:
    """The settings of a WordPiece tokenizer.

    Attributes:
        unk: id of the unknown token.
        prefix: marks a piece that continues a word.
        max_word: maximum number of characters of a word; longer words are unknown.
        lower_case: whether the normaliser lower-cases.
        split_ideographs: whether the normaliser separates ideographs.
    """

    unk: int
    prefix: str
    max_word: int
    lower_case: bool
    split_ideographs: bool


class WordPieceBatchEncoder:
    """Encodes batches of sentences; its cache of words takes at most about ``MAX_CACHE_BYTES``.

    Args:
        backend: BERT's normaliser, pre-tokenizer and WordPiece model.
        ids: token -> id.
        rules: the settings that the backend was made with.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        ids: Mapping[str, int],
        rules: WordPieceRules,
    ) -> None:
        self._backend = backend
        self._rules = rules
        prefix = rules.prefix
        self._first = {t: i for t, i in ids.items() if not t.startswith(prefix)}
        self._next = {t[len(prefix) :]: i for t, i in ids.items() if t.startswith(prefix)}
        table = _CharacterTable.of(backend, rules)
        self._alone, self._shown = table.alone, table.shown
        self._forget()

    def _forget(self) -> None:
        self._words = _Entries()  # word -> entry
        self._short = _ShortWords()
        self._alone_entry = np.full(len(self._alone), -1, np.int64)  # character -> entry
        self._ids = np.zeros(0, np.int32)  # of all entries, concatenated
        self._begin = np.zeros(0, np.int64)  # [entries], into _ids
        self._length = np.zeros(0, np.int64)  # [entries]
        self._bytes = 0

    def encode(
        self, sentences: Sequence[str], continues: _Bools | None = None
    ) -> tuple[npt.NDArray[np.int32], _Ints, _Ints]:
        """Encode sentences that hold no lone surrogates.

        Args:
            sentences: the text, [S].
            continues: bool [C] over the sentences joined by a line feed: characters that do not
                begin a word.

        Returns:
            ids int32 [T]; number of ids per sentence int64 [S]; and the tokens of characters that
            are a word by themselves and that ``continues`` marks, int64 [at most T].
        """
        ids, lengths, continuing = [], [], []
        tokens = characters = 0
        for batch in _batches(sentences):
            text = "\n".join(batch)
            if self._bytes > MAX_CACHE_BYTES:
                self._forget()
            found, counts, places, first = self._encode(text, batch)
            if continues is not None:
                marked = continues[characters + places]
                continuing.append(tokens + first[marked])
            ids.append(found)
            lengths.append(counts)
            tokens += len(found)
            characters += len(text) + 1
        return (
            np.concatenate([np.zeros(0, np.int32), *ids]),
            np.concatenate([np.zeros(0, np.int64), *lengths]),
            np.concatenate([np.zeros(0, np.int64), *continuing]),
        )

    def _encode(
        self, text: str, sentences: Sequence[str]
    ) -> tuple[npt.NDArray[np.int32], _Ints, _Ints, _Ints]:
        """Ids, ids per sentence; places of characters that are alone, and the token of each."""
        codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
        shown = self._shown[codes]  # [C], _SPACE outside words
        in_word = np.zeros(len(codes) + 1, np.bool_)
        np.not_equal(shown, _SPACE, out=in_word[1:])
        begins = np.flatnonzero(in_word[1:] & ~in_word[:-1])
        stops = np.flatnonzero(in_word & ~np.append(in_word[1:], False))
        alone_places = np.flatnonzero(self._alone[codes])
        entry = np.full(len(codes), -1, np.int64)
        entry[begins] = self._entries(shown, begins, stops)
        entry[alone_places] = self._alone_entries(codes[alone_places])
        places = np.flatnonzero(entry >= 0)  # [E]
        entry = entry[places]
        length = self._length[entry]
        after = np.concatenate(([0], np.cumsum(length)))  # [E + 1] tokens before each entry
        total = int(after[-1])
        source = np.repeat(self._begin[entry] - after[:-1], length) + np.arange(total)
        ends = np.cumsum(np.fromiter(map(len, sentences), np.int64, len(sentences)) + 1)
        counts = np.diff(after[np.searchsorted(places, ends)], prepend=0)
        is_alone = self._alone[codes[places]] & (length > 0)
        return self._ids[source], counts, places[is_alone], after[:-1][is_alone]

    def _entries(self, shown: npt.NDArray[np.uint32], begins: _Ints, stops: _Ints) -> _Ints:
        """The entries of the words from ``begins`` to ``stops`` (int64 [W]) in ``shown``."""
        keys = short_keys(shown, begins, stops)
        found = self._short.find(keys)
        missing = np.flatnonzero(found < 0)
        if len(missing):
            text = shown.tobytes().decode("utf-32-le")
            spans = zip(begins[missing].tolist(), stops[missing].tolist())
            found[missing] = self._word_entries([text[begin:stop] for begin, stop in spans])
            self._short.add((keys[0][missing], keys[1][missing]), found[missing])
        return found

    def _word_entries(self, words: list[str]) -> _Ints:
        found = np.fromiter(map(self._words.__getitem__, words), np.int64, len(words))
        places = np.flatnonzero(found < 0).tolist()
        if places:
            missing = list(dict.fromkeys([words[place] for place in places]))
            self._words.update(zip(missing, self._add(missing)))
            found[places] = [self._words[words[place]] for place in places]
        return found

    def _alone_entries(self, codes: npt.NDArray[np.uint32]) -> _Ints:
        missing = np.unique(codes[self._alone_entry[codes] < 0])
        if len(missing):
            self._alone_entry[missing] = self._add([chr(code) for code in missing])
        return self._alone_entry[codes]

    def _add(self, words: Sequence[str]) -> range:
        """Encode new words and return their entries.

        Normalisation does not change ASCII letters and digits, as capitals are lower-cased already.
        """
        plain = [word.isascii() and word.isalnum() for word in words]
        others = iter(self._encode_words([w for w, is_plain in zip(words, plain) if not is_plain]))
        ids = [
            self._longest_match(word) if is_plain else next(others)
            for word, is_plain in zip(words, plain)
        ]
        length = np.fromiter(map(len, ids), np.int64, len(ids))
        begin = len(self._ids) + np.cumsum(length) - length
        first = len(self._length)
        self._ids = np.concatenate((self._ids, np.array(list(chain(*ids)), np.int32)))
        self._begin = np.concatenate((self._begin, begin))
        self._length = np.concatenate((self._length, length))
        self._bytes += sum(map(len, words)) + _ENTRY_BYTES * len(words)
        return range(first, len(self._length))

    def _encode_words(self, words: Sequence[str]) -> list[list[int]]:
        """Normalise and split with the library, in one call for all words, then match."""
        text = self._backend.normalizer.normalize_str(" ".join(words))
        parts = text.split(" ")
        if len(parts) != len(words):  # the normaliser separates ideographs of the upper planes
            if len(words) > 1:
                return [ids for word in words for ids in self._encode_words([word])]
            parts = [text]
        ends = np.cumsum([len(part) + 1 for part in parts])
        pieces = self._backend.pre_tokenizer.pre_tokenize_str(text)
        owners = np.searchsorted(ends, [begin for _, (begin, _) in pieces], side="right")
        ids: list[list[int]] = [[] for _ in words]
        for owner, (piece, _) in zip(owners.tolist(), pieces):
            ids[owner] += self._longest_match(piece)
        return ids

    def _longest_match(self, word: str) -> list[int]:
        """Ids of a normalised word."""
        if len(word) > self._rules.max_word:
            return [self._rules.unk]
        pieces: list[int] = []
        begin, stop, vocabulary = 0, len(word), self._first
        while begin < stop:
            end = stop
            while (piece := vocabulary.get(word[begin:end])) is None:
                end -= 1
                if end == begin:
                    return [self._rules.unk]
            pieces.append(piece)
            begin, vocabulary = end, self._next
        return pieces


class _Entries(dict[str, int]):
    """Entries of words; -1 for an unknown word."""

    def __missing__(self, word: str) -> int:
        return -1


class _ShortWords:
    """Entries of words by their keys, found for many words at once.

    One place of the table serves all words with the same hash, and the last one that was added
    holds it: a word that is not found may be known all the same.
    """

    def __init__(self) -> None:
        self._first = np.zeros(1 << _TABLE_BITS, np.uint64)
        self._second = np.zeros(1 << _TABLE_BITS, np.uint64)
        self._entry = np.full(1 << _TABLE_BITS, -1, np.int64)

    @staticmethod
    def _places(keys: _Keys) -> _Ints:
        """The upper bits of a product (Knuth, The Art of Computer Programming 3, 6.4)."""
        mixed = keys[0] * _FACTOR ^ keys[1] * _OTHER_FACTOR
        return (mixed >> np.uint64(64 - _TABLE_BITS)).astype(np.int64)

    def find(self, keys: _Keys) -> _Ints:
        """The entry of each word, int64 [W]; -1 if it is not found."""
        places = self._places(keys)
        equal = (self._first[places] == keys[0]) & (self._second[places] == keys[1])
        return np.where(equal, self._entry[places], -1)

    def add(self, keys: _Keys, entries: _Ints) -> None:
        """Add words that were not found, except those without a key."""
        places = self._places(keys)
        places[keys[0] == 0] = 0  # the place of the key of no word
        self._entry[places] = np.arange(len(places))
        holder = self._entry[places]
        self._first[places], self._second[places] = keys[0][holder], keys[1][holder]
        self._entry[places] = entries[holder]
        self._entry[0] = -1


def short_keys(shown: npt.NDArray[np.uint32], begins: _Ints, stops: _Ints) -> _Keys:
    """The characters of each word of at most 16 characters of Latin-1 as two numbers, uint64 [W].

    Both numbers are 0 for any other word, and for one with the character U+0000.
    """
    text = np.zeros(len(shown) + 2 * _KEY_BYTES, np.uint8)
    text[: len(shown)] = shown
    eight = np.ndarray(len(shown) + _KEY_BYTES + 1, "<u8", text, strides=(1,))
    lengths = stops - begins
    first = eight[begins] & _MASKS[np.minimum(lengths, _KEY_BYTES)]
    second = eight[begins + _KEY_BYTES] & _MASKS[np.clip(lengths - _KEY_BYTES, 0, _KEY_BYTES)]
    without = lengths > 2 * _KEY_BYTES
    others = np.flatnonzero((shown > _LATIN_1) | (shown == 0))
    if len(others):
        without |= np.searchsorted(others, begins) < np.searchsorted(others, stops)
    first[without] = second[without] = 0
    return first, second


class _CharacterTable:
    """What each character does to the word that it is in, according to the library.

    ``alone`` bool [0x110000]: a word by itself, whatever its neighbours. ``shown`` uint32
    [0x110000]: the character that represents it within a word, or a space if it ends one.

    Characters outside the basic plane are left to the library, together with the word around them.
    """

    _known: ClassVar[dict[object, _CharacterTable]] = {}

    @classmethod
    def of(cls, backend: tokenizers.Tokenizer, rules: WordPieceRules) -> _CharacterTable:
        """The table of these settings; it does not depend on the vocabulary, and is made once."""
        settings = (backend.normalizer.__getstate__(), backend.pre_tokenizer.__getstate__())
        key = (settings, rules.lower_case, rules.split_ideographs)
        if key not in cls._known:
            cls._known[key] = cls(
                backend, lower_case=rules.lower_case, split_ideographs=rules.split_ideographs
            )
        return cls._known[key]

    def __init__(
        self, backend: tokenizers.Tokenizer, *, lower_case: bool, split_ideographs: bool
    ) -> None:
        self._backend = backend
        self.alone = np.zeros(0x110000, np.bool_)
        self.shown = np.arange(0x110000, dtype="<u4")
        for code in _candidates():
            before, *inside = self._pieces(f"a{chr(code)}a")
            if before == "a" and inside[-1:] == ["a"]:
                self.shown[code] = _SPACE
                self.alone[code] = len(inside) > 1
            elif chr(code).isspace():
                # The normaliser removes it, but str.split would cut here.
                self.shown[code] = 0
        if split_ideographs:
            ideographs = np.flatnonzero(are_ideographs(np.arange(0x10000, dtype="<u4")))
            separate = ideographs[self._is_separated(ideographs)]
            self.alone[separate], self.shown[separate] = True, _SPACE
        if lower_case:
            for code in range(ord("A"), ord("Z") + 1):
                self.shown[code] = ord(chr(code).lower())

    def _pieces(self, text: str) -> list[str]:
        normalised = self._backend.normalizer.normalize_str(text)
        return [piece for piece, _ in self._backend.pre_tokenizer.pre_tokenize_str(normalised)]

    def _is_separated(self, codes: _Ints) -> _Bools:
        """Whether the normaliser keeps the character and adds a space on each side."""
        text = "a".join(["", *map(chr, codes), ""])
        answers = self._backend.normalizer.normalize_str(text).split("a")[1:-1]
        return np.array([len(a) == 3 and a[0] == a[2] == " " != a[1] for a in answers], np.bool_)


def _candidates() -> Iterable[int]:
    """Spaces, punctuation and ASCII symbols of the basic plane."""
    for code in range(0x10000):
        character = chr(code)
        if (
            character.isspace()
            or unicodedata.category(character).startswith("P")
            or (code < 128 and not character.isalnum())
        ):
            yield code


def _batches(sentences: Sequence[str]) -> Iterable[Sequence[str]]:
    """Runs of sentences of about ``_BATCH_CHARACTERS`` each, at least one sentence per run."""
    sizes = np.cumsum(np.fromiter(map(len, sentences), np.int64, len(sentences)))
    first = before = 0
    while first < len(sentences):
        last = int(np.searchsorted(sizes, before + _BATCH_CHARACTERS)) + 1
        yield sentences[first:last]
        before, first = int(sizes[min(last, len(sizes)) - 1]), last
