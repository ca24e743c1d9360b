"""``tokenizer.json`` of the ``tokenizers`` library.

A file that describes BERT's own WordPiece becomes a :class:`WordPieceTokenizer`, so that its
identity does not depend on the file it came from. Everything else runs as the library reads it,
except that no text becomes a special token (:mod:`.hidden_tokens`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

from megabert.common.downloads import check_downloaded
from megabert.common.errors import UserError
from megabert.common.files import sha256_of
from megabert.common.json_text import parse_json, read_json_text
from megabert.common.processes.held_errors import without_panic_lines
from megabert.data.tokenizers.base import (
    CONFIG_FILE,
    JSON_FILE,
    NO_OFFSETS,
    VOCAB_FILE,
    Encoded,
    Tokenizer,
    are_ideographs,
    find_special,
    tokenizer_config,
    without_surrogates,
)
from megabert.data.tokenizers.hidden_tokens import without_special_text
from megabert.data.tokenizers.side_files import SideFiles, add_tokens
from megabert.data.tokenizers.split_patterns import (
    LONGEST_PIECE,
    expressions,
    has_nested_repeats,
    pieces,
    probe_texts,
)
from megabert.data.tokenizers.vocab_file import matched_entries, same_entry
from megabert.data.tokenizers.wordpiece import (
    MAX_WORD_CHARACTERS,
    PREFIX,
    BertRules,
    WordPieceTokenizer,
    is_never_a_word,
)

_KINDS = {"WordPiece": "wordpiece", "Unigram": "unigram", "BPE": "bpe"}
_BATCH = 1024
_MOST_IDS = 1 << 24


class JsonTokenizer(Tokenizer):
    """Any ``tokenizer.json``; words are the pieces of its pre-tokenizer, and single ideographs.

    Args:
        place: the file, for messages.
        text: its content.
        names: spellings of special tokens by role, if files state them.
    """

    def __init__(self, place: Path, text: str, names: Mapping[str, str] | None = None) -> None:
        body = parse_json(text)
        self._text, self._place = text, place
        self._has_patterns = any(expressions(body))
        self._backend = _parsed(text)
        self.kind = _KINDS[body["model"]["type"]]
        ids = self._backend.get_vocab(with_added_tokens=True)
        self.vocab_size = max(ids.values(), default=0) + 1
        if self.vocab_size > _MOST_IDS:
            raise UserError(f"{place}: id {self.vocab_size - 1} is larger than any vocabulary's")
        self.special_tokens, self.special = find_special(place, ids, names)
        added = body.get("added_tokens") or ()
        roles = set(self.special_tokens.values())
        self.added_tokens = {t["content"]: t["id"] for t in added if t["content"] not in roles}
        hidden = roles | {t["content"] for t in added if t["special"]}
        hidden.discard(self.special_tokens["unk"])
        self._encoder = _parsed(without_special_text(body, hidden))
        self._encoder.no_truncation()
        self._encoder.no_padding()
        self._encoder.encode_special_tokens = True
        normalizer = self._backend.normalizer
        probe = normalizer.normalize_str("A") if normalizer else "A"
        self.lower_case = "A" not in probe
        rules = [body.get(k) for k in ("added_tokens", "normalizer", "pre_tokenizer", "model")]
        self.sha256 = sha256_of(json.dumps(rules, sort_keys=True))

    def encode_sentences(
        self, sentences: Sequence[str], *, with_offsets: bool = True
    ) -> list[Encoded]:
        result = []
        sentences = without_surrogates(sentences)
        for first in range(0, len(sentences), _BATCH):
            batch = list(sentences[first : first + _BATCH])
            for sentence, encoding in zip(batch, self._encode(batch)):
                if encoding is None:
                    result.append(self._encode_long(sentence, with_offsets))
                    continue
                ids = np.array(encoding.ids, np.int32)
                offsets = np.array(encoding.offsets, np.int32).reshape(-1, 2)
                starts = _word_starts(sentence, encoding.word_ids, offsets)
                result.append(Encoded(ids, starts, offsets if with_offsets else NO_OFFSETS))
        return result

    def _encode(self, batch: list[str]) -> list[tokenizers.Encoding | None]:
        """The library's encodings; None of a sentence that is too long for a pattern of the file."""
        long = self._has_patterns and any(len(text) > LONGEST_PIECE for text in batch)
        if long:
            whole = iter(self._encode([text for text in batch if len(text) <= LONGEST_PIECE]))
            return [next(whole) if len(text) <= LONGEST_PIECE else None for text in batch]
        try:
            return list(self._encoder.encode_batch(batch, add_special_tokens=False))
        except BaseException as error:  # the engine of patterns panics when it gives up
            raise UserError(
                f"{self._place}: the tokenizers library fails with this tokenizer.json on a text of the "
                f"data ({_reason(error)}); use another tokenizer"
            ) from None

    def probe(self) -> None:
        """Encode some texts, among them long repetitions of each character of the file's patterns.

        Raises:
            ValueError: the library fails on one of them.
        """
        try:
            for text in probe_texts(parse_json(self._text)):
                self._encoder.encode(text, add_special_tokens=False)
        except BaseException as error:
            raise ValueError(f"the tokenizers library fails with it ({_reason(error)})") from None

    def _encode_long(self, sentence: str, with_offsets: bool) -> Encoded:
        """A sentence whose pieces are encoded one by one; a word that a cut divides becomes two."""
        parts = pieces(sentence)
        found = self.encode_sentences(parts)
        places = np.cumsum([0, *map(len, parts)])
        offsets = [part.offsets + place for part, place in zip(found, places)]
        return Encoded(
            np.concatenate([part.ids for part in found]),
            np.concatenate([part.word_starts for part in found]),
            np.concatenate(offsets).astype(np.int32) if with_offsets else NO_OFFSETS,
        )

    def tokens(self, ids: Sequence[int] | npt.NDArray[Any]) -> list[str]:
        return [str(self._backend.id_to_token(int(i))) for i in ids]

    def decode(self, ids: Sequence[int] | npt.NDArray[Any]) -> str:
        return str(self._backend.decode([int(i) for i in ids], skip_special_tokens=False))

    def files(self) -> dict[str, bytes]:
        return {
            JSON_FILE: self._text.encode(),
            CONFIG_FILE: tokenizer_config(self, "PreTrainedTokenizerFast"),
        }


def _word_starts(
    sentence: str, word_ids: Sequence[int | None], offsets: npt.NDArray[np.int32]
) -> npt.NDArray[np.bool_]:
    """bool [n]: True where the pre-tokenizer's word changes and at an ideograph's first token."""
    words = np.array([-1 if word is None else word for word in word_ids], np.int64)
    starts = np.diff(words, prepend=-2) != 0
    if not sentence.isascii():
        codes = np.append(np.frombuffer(sentence.encode("utf-32-le"), "<u4"), 0)
        begins, ends = offsets.T
        first = (begins < ends) & (np.diff(begins, prepend=-1) != 0)
        starts |= first & are_ideographs(codes[begins])
    return starts


def load_json(
    path: Path, side: SideFiles | None = None, entries: Sequence[str] | None = None
) -> Tokenizer:
    """Read a ``tokenizer.json``.

    Args:
        path: the file.
        side: what other files in its folder add to it.
        entries: of the ``vocab.txt`` in its folder, which must hold the same words.

    Raises:
        UserError: the file is not a tokenizer.json, or its model is of an unknown type; the files
            in the folder contradict each other.
    """
    check_downloaded(path)
    text = read_json_text(path)
    try:
        with without_panic_lines():
            tokenizer = from_json(path, text, side, entries)
            if isinstance(tokenizer, JsonTokenizer):
                tokenizer.probe()
            return tokenizer
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise UserError(f"{path}: not a tokenizer.json that can be used: {error}") from None
    except BaseException as error:
        if not _is_panic(error):
            raise
        raise UserError(
            f"{path}: not a tokenizer.json that can be used: {_reason(error)}"
        ) from None


def from_json(
    path: Path, text: str, side: SideFiles | None, entries: Sequence[str] | None
) -> Tokenizer:
    """The tokenizer that the content of a ``tokenizer.json`` describes, as :func:`load_json`."""
    body = parse_json(text)
    for pattern in expressions(body):
        if has_nested_repeats(pattern):
            raise UserError(
                f"{path}: the regular expression {pattern[:80]!r} repeats a repetition, which can take "
                "for ever; use another tokenizer"
            )
    kind = body["model"]["type"]
    if kind not in _KINDS:
        raise UserError(f"{path}: tokenizer model {kind!r} is not one of {', '.join(_KINDS)}")
    backend = _backend(path, body, text)
    side = side or SideFiles(path.parent)
    if add_tokens(backend, side):
        text = backend.to_str()
        body = parse_json(text)
    if entries is not None and kind == "WordPiece":
        _check_entries(path, backend, body["model"]["vocab"], entries)
    names = {**side.names, **_unknown(body["model"])}
    roles, _ = find_special(path, backend.get_vocab(with_added_tokens=True), names)
    special = {t["content"] for t in body.get("added_tokens") or () if t["special"]}
    special |= set(roles.values())
    vocabulary = _bert_vocabulary(body, special)
    if vocabulary is None or not all(map(is_never_a_word, special)):
        return JsonTokenizer(path, text, names)
    if entries is not None:
        vocabulary[: len(entries)] = entries
    rules = body["normalizer"]
    return WordPieceTokenizer(
        path,
        vocabulary,
        BertRules(rules["lowercase"], rules["strip_accents"], rules["handle_chinese_chars"]),
        names=names,
        extra_special=sorted(special - set(roles.values())),
    )


def _backend(path: Path, body: dict[str, Any], text: str) -> tokenizers.Tokenizer:
    """The library's tokenizer.

    Raises:
        UserError: an added token gets another id than the file states.
    """
    backend = _parsed(text)
    for token in body.get("added_tokens") or ():
        found = backend.token_to_id(token["content"])
        if found != token["id"]:
            raise UserError(
                f"{path}: the added token {token['content']!r} has id {token['id']} there, but its "
                f"place after the vocabulary gives {found}, and so does transformers; save the "
                "tokenizer again with transformers"
            )
    return backend


def _unknown(model: Mapping[str, Any]) -> dict[str, str]:
    """The unknown token that the model itself uses, whatever other files call so; {} for BPE without one.

    Raises:
        ValueError: a model that needs one has none.
    """
    if model["type"] == "Unigram":
        number = model.get("unk_id")
        if not isinstance(number, int) or not 0 <= number < len(model["vocab"]):
            raise ValueError("its unigram model has no unknown token")
        return {"unk": model["vocab"][number][0]}
    token = model.get("unk_token")
    if token is None and model["type"] == "BPE":
        return {}
    if token not in model["vocab"]:
        raise ValueError(f"its model's unknown token {token!r} is not in its vocabulary")
    return {"unk": str(token)}


def _parsed(text: str) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(text)
    except BaseException as error:  # the library raises nothing more exact, and panics
        raise ValueError(_reason(error)) from None


def _is_panic(error: BaseException) -> bool:
    return type(error).__name__ == "PanicException"


def _reason(error: BaseException) -> str:
    """The message of an error of the library in one line; any other error is raised again."""
    if type(error) is not Exception and not _is_panic(error):
        raise error
    return " ".join(str(error).split())[:160]


def _check_entries(
    path: Path, backend: tokenizers.Tokenizer, vocab: Mapping[str, int], entries: Sequence[str]
) -> None:
    """Compare vocab.txt, which Google's code reads, with tokenizer.json, which others read.

    transformers leaves spaces at the end of entries out of tokenizer.json, U+2028 among them, and
    of equal entries all but the last.

    Raises:
        UserError: they hold different words.
    """
    by_id = {number: token for token, number in vocab.items()}
    matched = matched_entries(entries)
    for number, entry in enumerate(entries):
        token = by_id.get(number, backend.id_to_token(number))
        if number in matched if token is None else not same_entry(token, entry):
            break
    else:
        if max(vocab.values(), default=-1) < len(entries):
            return
        number, token = len(entries), by_id.get(len(entries))
        entry = "(no line)"
    raise UserError(
        f"{path.parent / VOCAB_FILE} and tokenizer.json next to it hold different words; the first "
        f"is that of id {number}, {entry!r} and {token!r}; remove the wrong file"
    )


def _bert_vocabulary(body: dict[str, Any], special: set[str]) -> list[str] | None:
    """Entries in the order of their ids if the file is exactly BERT's WordPiece, else None.

    ``special`` tokens may be added to it, others not. An id without an entry, as of a repeated
    line of vocab.txt, gets an empty one.
    """
    model = body["model"]
    is_bert = (
        model["type"] == "WordPiece"
        and (body.get("normalizer") or {}).get("type") == "BertNormalizer"
        and body["normalizer"].get("clean_text") is True
        and (body.get("pre_tokenizer") or {}).get("type") == "BertPreTokenizer"
        and model["continuing_subword_prefix"] == PREFIX
        and model["max_input_chars_per_word"] == MAX_WORD_CHARACTERS
        and all(token["content"] in special for token in body.get("added_tokens") or ())
    )
    if not is_bert:
        return None
    vocabulary = dict(model["vocab"])
    for token in body.get("added_tokens") or ():
        vocabulary.setdefault(token["content"], token["id"])
    size = max(vocabulary.values()) + 1
    if size > 2 * len(vocabulary) or len(set(vocabulary.values())) < len(vocabulary):
        return None
    entries = [""] * size
    for token, number in vocabulary.items():
        entries[number] = token
    return entries
