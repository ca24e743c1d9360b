"""What all tokenizers share: the interface, special tokens, character classes.

The implementations are WordPiece vocabularies (``wordpiece``), SentencePiece models
(``sentencepiece``) and ``tokenizer.json`` (``json_file``); ``load`` chooses among them. Text never becomes a special token here: ``[MASK]`` written in an article is five characters and
two brackets, as with transformers' ``split_special_tokens=True``.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from megabert.common.errors import UserError
from megabert.data.shards.manifest import SpecialIds, TokenizerInfo, write_atomically

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
"""How vocabularies write each special token; the first one present counts."""


@dataclass(frozen=True)
class Encoded:
    """One encoded sentence, no special tokens added.

    ``ids`` int32 [n]; ``word_starts`` bool [n], True where a token begins a word; ``offsets``
    int32 [n, 2], each token's first character in the input and the first behind it (Python
    string indices), or [0, 2] when they were not asked for.
    """

    ids: npt.NDArray[np.int32]
    word_starts: npt.NDArray[np.bool_]
    offsets: npt.NDArray[np.int32]


NO_OFFSETS: npt.NDArray[np.int32] = np.zeros((0, 2), np.int32)


@dataclass(frozen=True)
class EncodedBatch:
    """Encoded sentences, one behind the other.

    ``ids`` int32 [T]; ``word_starts`` bool [T], as in :class:`Encoded`; ``lengths`` int64 [S],
    each sentence's number of ids, 0 for one without any.
    """

    ids: npt.NDArray[np.int32]
    word_starts: npt.NDArray[np.bool_]
    lengths: npt.NDArray[np.int64]

    def split(self) -> list[Encoded]:
        """Views of the sentences, without offsets."""
        cuts = np.cumsum(self.lengths)[:-1]
        pairs = zip(np.split(self.ids, cuts), np.split(self.word_starts, cuts))
        return [Encoded(ids, starts, NO_OFFSETS) for ids, starts in pairs][: len(self.lengths)]


class Words(Protocol):
    """Knows words that the tokenizer does not: ``chinese_words.ChineseWords``."""

    def continues(self, text: str) -> npt.NDArray[np.bool_]:
        """bool [len(text)]: True at each character at which no word begins."""


class Tokenizer(ABC):
    """What the rest of the project needs of a tokenizer."""

    kind: str
    """``wordpiece``, ``unigram`` or ``bpe``."""
    lower_case: bool
    vocab_size: int
    special: SpecialIds
    special_tokens: Mapping[str, str]
    """The five special tokens as the vocabulary writes them, by role (``pad``, ...)."""
    sha256: str
    """Identity: the same for the same vocabulary and rules, whatever file they came from."""

    @abstractmethod
    def encode_sentences(
        self, sentences: Sequence[str], *, with_offsets: bool = True
    ) -> list[Encoded]:
        """Encode each sentence by itself; the empty list for no sentences.

        A lone surrogate, which no UTF-8 file can hold, is encoded as U+FFFD.
        """

    def encode_batch(self, sentences: Sequence[str], words: Words | None = None) -> EncodedBatch:
        """The same ids in three arrays, the fast way to encode much text.

        words: tokens that begin inside one of its words begin no word.
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
        """Readable text of ids; special tokens are shown as they are written."""

    @abstractmethod
    def tokens(self, ids: Sequence[int] | npt.NDArray[Any]) -> list[str]:
        """The vocabulary's entries for ids."""

    @abstractmethod
    def files(self) -> dict[str, bytes]:
        """File names and contents that ``load_tokenizer`` and transformers read back."""

    def save(self, folder: Path) -> dict[str, str]:
        """Write :meth:`files` into ``folder``; return each file's SHA-256."""
        folder.mkdir(parents=True, exist_ok=True)
        digests = {}
        for name, content in sorted(self.files().items()):
            write_atomically(folder / name, content)
            digests[name] = hashlib.sha256(content).hexdigest()
        return digests

    def info(self) -> TokenizerInfo:
        """What shards and checkpoints record of this tokenizer."""
        digests = {n: hashlib.sha256(c).hexdigest() for n, c in sorted(self.files().items())}
        return TokenizerInfo(
            self.kind, self.sha256, self.vocab_size, self.lower_case, self.special, digests
        )


def find_special(place: Path, ids: Mapping[str, int]) -> tuple[dict[str, str], SpecialIds]:
    """Names and ids of the five special tokens in a vocabulary (token -> id).

    Raises ``UserError`` that lists the missing ones.
    """
    names = {
        role: next((name for name in candidates if name in ids), "")
        for role, candidates in SPECIAL_NAMES.items()
    }
    missing = [SPECIAL_NAMES[role][0] for role, name in names.items() if not name]
    if missing:
        raise UserError(
            f"{place}: not a BERT vocabulary: {', '.join(missing)} missing among "
            f"{len(ids)} entries; make one with data_tools/train_tokenizer.py"
        )
    special = SpecialIds(**{role: ids[name] for role, name in names.items()})
    if len(set(special.values())) != len(special.values()):
        raise UserError(f"{place}: two special tokens share one id: {special.as_dict()}")
    return names, special


def tokenizer_config(tokenizer: Tokenizer, tokenizer_class: str, **more: Any) -> bytes:
    """Content of ``tokenizer_config.json`` for transformers."""
    names = {f"{role}_token": name for role, name in tokenizer.special_tokens.items()}
    body = {"tokenizer_class": tokenizer_class, "model_max_length": 512, **names, **more}
    return (json.dumps(body, indent=2, ensure_ascii=False, sort_keys=True) + "\n").encode()


def continuing_tokens(
    words: Words,
    sentences: Sequence[str],
    spans: npt.NDArray[np.int32],
    lengths: npt.NDArray[np.int64],
) -> npt.NDArray[np.bool_]:
    """bool [T]: tokens whose first character continues a word.

    spans: int32 [T, 2], characters of each token in its sentence; lengths: int64 [S], tokens of
    each sentence.
    """
    if not sentences:
        return np.zeros(0, np.bool_)
    sizes = np.fromiter(map(len, sentences), np.int64, len(sentences)) + 1
    first = np.repeat(np.cumsum(sizes) - sizes, lengths) + spans[:, 0]
    continues = np.append(words.continues("\n".join(sentences)), False)
    return continues[first] & (spans[:, 0] < spans[:, 1])


def without_surrogates(sentences: Sequence[str]) -> Sequence[str]:
    """The sentences with U+FFFD for each lone surrogate; positions stay."""
    try:
        "".join(sentences).encode()
    except UnicodeEncodeError:
        return [_SURROGATE.sub("\ufffd", sentence) for sentence in sentences]
    return sentences


_SURROGATE = re.compile("[\ud800-\udfff]")


def starts_word_alone(character: str) -> bool:
    """True for a character that is a word by itself: ideographs and punctuation."""
    return is_ideograph(ord(character)) or is_punctuation(character)


def is_ideograph(code: int) -> bool:
    """The CJK ideograph blocks, as BERT's basic tokenizer has them."""
    return any(low <= code <= high for low, high in IDEOGRAPHS)


def are_ideographs(codes: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
    """:func:`is_ideograph` of each code."""
    result = np.zeros(len(codes), np.bool_)
    for low, high in IDEOGRAPHS:
        result |= (codes >= low) & (codes <= high)
    return result


def is_punctuation(character: str) -> bool:
    """Unicode punctuation, and all ASCII that is neither letter, digit, space nor control."""
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
