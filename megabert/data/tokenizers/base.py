"""What all tokenizers share: the interface, the special tokens, character classes.

The implementations are WordPiece vocabularies (``wordpiece``), SentencePiece models
(``sentencepiece``) and ``tokenizer.json`` (``json_file``); ``load`` chooses among them. Text never
becomes a special token: ``[MASK]`` in an article is four letters and two brackets, as with
transformers' ``split_special_tokens=True``.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from megabert.common.errors import UserError
from megabert.common.files import sha256_of, write_bytes
from megabert.common.log import get_logger
from megabert.data.shards.manifest import SpecialIds, TokenizerInfo

VOCAB_FILE = "vocab.txt"
JSON_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
SENTENCEPIECE_FILES = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model")

SPECIAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<cls>", "<s>"),
    "sep": ("[SEP]", "<sep>", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}
"""How vocabularies spell each special token; the first spelling found is used."""


@dataclass(frozen=True)
class Encoded:
    """One encoded sentence, without special tokens.

    ``ids`` int32 [n]; ``word_starts`` bool [n], True where a token begins a word; ``offsets``
    int32 [n, 2], each token's first character in the input and the first character after it
    (Python string indices), or [0, 2] if they were not requested.
    """

    ids: npt.NDArray[np.int32]
    word_starts: npt.NDArray[np.bool_]
    offsets: npt.NDArray[np.int32]


NO_OFFSETS: npt.NDArray[np.int32] = np.zeros((0, 2), np.int32)


@dataclass(frozen=True)
class EncodedBatch:
    """Encoded sentences, concatenated.

    ``ids`` int32 [T]; ``word_starts`` bool [T], as in :class:`Encoded`; ``lengths`` int64 [S],
    the number of ids of each sentence, which may be 0.
    """

    ids: npt.NDArray[np.int32]
    word_starts: npt.NDArray[np.bool_]
    lengths: npt.NDArray[np.int64]

    def split(self) -> list[Encoded]:
        """Views of the single sentences, without offsets."""
        cuts = np.cumsum(self.lengths)[:-1]
        pairs = zip(np.split(self.ids, cuts), np.split(self.word_starts, cuts))
        return [Encoded(ids, starts, NO_OFFSETS) for ids, starts in pairs][: len(self.lengths)]


class WordFinder(Protocol):
    """Finds words that the tokenizer itself cannot see: ``chinese_words.ChineseWords``."""

    def continues(self, text: str) -> npt.NDArray[np.bool_]:
        """bool [len(text)]: True at each character that does not begin a word."""


class Tokenizer(ABC):
    """The interface of all tokenizers."""

    kind: str
    """``wordpiece``, ``unigram`` or ``bpe``."""
    lower_case: bool
    vocab_size: int
    special: SpecialIds
    special_tokens: Mapping[str, str]
    """The five special tokens as the vocabulary spells them, by role (``pad``, ...)."""
    added_tokens: Mapping[str, int]
    """Ids of other tokens that are found in text before the model runs, or are special too."""
    sha256: str
    """Identity: equal for equal vocabulary and rules, whichever file they came from."""

    @abstractmethod
    def encode_sentences(
        self, sentences: Sequence[str], *, with_offsets: bool = True
    ) -> list[Encoded]:
        """Encode each sentence separately; an empty list if there are no sentences.

        A lone surrogate, which UTF-8 cannot represent, is encoded as U+FFFD.
        """

    def encode_batch(
        self, sentences: Sequence[str], words: WordFinder | None = None
    ) -> EncodedBatch:
        """The same ids in three arrays: the fast way to encode a lot of text.

        Args:
            sentences: the text.
            words: a token that begins inside one of these words does not begin a word.
        """
        sentences = without_surrogates(sentences)
        encoded = self.encode_sentences(sentences, with_offsets=words is not None)
        lengths = np.array([len(e.ids) for e in encoded], np.int64)
        ids = np.concatenate([np.zeros(0, np.int32), *(e.ids for e in encoded)])
        starts = np.concatenate([np.zeros(0, np.bool_), *(e.word_starts for e in encoded)])
        if words is not None:
            spans = np.concatenate([NO_OFFSETS, *(e.offsets for e in encoded)])
            starts &= ~continuing_tokens(words, sentences, spans, lengths)
        return EncodedBatch(ids, starts, lengths)

    @abstractmethod
    def decode(self, ids: Sequence[int] | npt.NDArray[Any]) -> str:
        """Readable text of ids; special tokens are shown as they are spelled."""

    @abstractmethod
    def tokens(self, ids: Sequence[int] | npt.NDArray[Any]) -> list[str]:
        """The vocabulary's entries for ids."""

    @abstractmethod
    def files(self) -> dict[str, bytes]:
        """Names and contents of the files that ``load_tokenizer`` and transformers read."""

    @cached_property
    def _contents(self) -> dict[str, bytes]:
        return self.files()

    def save(self, folder: Path) -> dict[str, str]:
        """Write :meth:`files` to ``folder`` and return the SHA-256 of each file."""
        folder.mkdir(parents=True, exist_ok=True)
        digests = {}
        for name, content in sorted(self._contents.items()):
            write_bytes(folder / name, content)
            digests[name] = sha256_of(content)
        return digests

    def info(self) -> TokenizerInfo:
        """What shards and checkpoints record about this tokenizer."""
        digests = {n: sha256_of(c) for n, c in sorted(self._contents.items())}
        return TokenizerInfo(
            self.kind, self.sha256, self.vocab_size, self.lower_case, self.special, digests
        )


def find_special(
    place: Path, ids: Mapping[str, int], stated: Mapping[str, str] | None = None
) -> tuple[dict[str, str], SpecialIds]:
    """Names and ids of the five special tokens in a vocabulary (token -> id).

    Args:
        place: the vocabulary, for messages.
        ids: its entries.
        stated: names by role that files next to it give; used if the vocabulary has them.

    Raises:
        UserError: special tokens are missing (the message lists them) or share one id, or [CLS] or
            [SEP] has a name that a template of the ``tokenizers`` library reads otherwise.
    """
    stated = stated or {}
    names = {
        role: next((n for n in (stated.get(role), *usual) if n is not None and n in ids), "")
        for role, usual in SPECIAL_NAMES.items()
    }
    missing = [SPECIAL_NAMES[role][0] for role, name in names.items() if not name]
    if missing:
        raise UserError(
            f"{place}: not a BERT vocabulary: {', '.join(missing)} missing among "
            f"{len(ids)} entries; data_tools/train_tokenizer.py makes a complete one"
        )
    special = SpecialIds(**{role: ids[name] for role, name in names.items()})
    if len(set(special.values())) != len(special.values()):
        raise UserError(f"{place}: two special tokens share one id: {special.as_dict()}")
    for role in ("cls", "sep"):
        if ":" in names[role] or names[role].startswith("$"):
            raise UserError(
                f"{place}: {role}_token {names[role]!r}: a tokenizer.json cannot hold this name; give "
                "it one without ':' and without '$' at its beginning"
            )
    return names, special


def tokenizer_config(tokenizer: Tokenizer, tokenizer_class: str, **more: Any) -> bytes:
    """Content of ``tokenizer_config.json`` for transformers."""
    names = {f"{role}_token": name for role, name in tokenizer.special_tokens.items()}
    body = {"tokenizer_class": tokenizer_class, "model_max_length": 512, **names, **more}
    return (json.dumps(body, indent=2, ensure_ascii=False, sort_keys=True) + "\n").encode()


def continuing_tokens(
    words: WordFinder,
    sentences: Sequence[str],
    spans: npt.NDArray[np.int32],
    lengths: npt.NDArray[np.int64],
) -> npt.NDArray[np.bool_]:
    """bool [T]: tokens whose first character continues a word.

    Args:
        words: finds the words.
        sentences: the text, [S].
        spans: int32 [T, 2], characters of each token in its sentence.
        lengths: int64 [S], number of tokens of each sentence.
    """
    if not sentences:
        return np.zeros(0, np.bool_)
    sizes = np.fromiter(map(len, sentences), np.int64, len(sentences)) + 1
    first = np.repeat(np.cumsum(sizes) - sizes, lengths) + spans[:, 0]
    continues = np.append(words.continues("\n".join(sentences)), False)
    return continues[first] & (spans[:, 0] < spans[:, 1])


def without_surrogates(sentences: Sequence[str]) -> Sequence[str]:
    """The sentences with U+FFFD in place of each lone surrogate; positions do not change."""
    try:
        "".join(sentences).encode()
    except UnicodeEncodeError:
        return [_SURROGATE.sub("\ufffd", sentence) for sentence in sentences]
    return sentences


_SURROGATE = re.compile("[\ud800-\udfff]")


@cache
def warn_once(message: str) -> None:
    """Log a warning about a tokenizer's files, which are often loaded several times; not in workers."""
    if multiprocessing.parent_process() is None:
        get_logger().warning("%s", message)


def starts_word_alone(character: str) -> bool:
    """Whether a character is a word by itself: ideographs and punctuation."""
    return is_ideograph(ord(character)) or is_punctuation(character)


def is_ideograph(code: int) -> bool:
    """Whether a code point is in the CJK ideograph blocks of BERT's basic tokenizer."""
    return any(first <= code <= last for first, last in IDEOGRAPHS)


def are_ideographs(codes: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
    """:func:`is_ideograph` of each code."""
    result = np.zeros(len(codes), np.bool_)
    for first, last in IDEOGRAPHS:
        result |= (codes >= first) & (codes <= last)
    return result


def is_punctuation(character: str) -> bool:
    """Unicode punctuation, and every ASCII character except letters, digits, space and controls."""
    if character.isascii():
        return character.isprintable() and not character.isalnum() and character != " "
    return unicodedata.category(character).startswith("P")


IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
