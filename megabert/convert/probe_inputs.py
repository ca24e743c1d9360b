"""The inputs on which both sides of a conversion are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from megabert.common.packed_batch import PackedBatch
from megabert.data.tokenizers.base import Tokenizer

PAIRS = (
    ("The river rises in the hills and flows east.", "It reaches the sea after 240 kilometres."),
    ("A small bridge of stone was built there in 1652.", "The bird lays two or three eggs."),
    ("She studied law, then taught at the old university.", "Her first book sold slowly."),
    ("这座城市位于河的北岸。", "夏天多雨，冬天少雪。"),
)
"""Neutral sentence pairs of different lengths, so that padding and segments are covered."""

TEXTS = (
    "Café NAÏVE Ångström, Straße; ΟΔΟΣ İstanbul e\u0301.",
    "  two  spaces\tand\u00a0more, U.S. 3.14 (x+1)/2 a_b #1 “quoted”…",
    "北京abc大学、中華 かな カナ 한국어 привет नमस्ते 🙂",
)
"""Text by which normalisations differ: accents, case, spaces, signs, scripts."""
FORMS = ("{}", "{} a", "a {} b", "a{}b", "the {}.", "{0}{0}")
"""Places of an added token in a text."""

RAGGED = (9, 5, 1)
"""Lengths of the sequences of :func:`ragged_batch`."""

MASKED_PAIR = 0
MASKED_FRACTION = 0.4
"""Position of the masked word of the first pair, as a fraction of its first sentence."""


@dataclass(frozen=True)
class ProbeInputs:
    """Inputs of one forward pass: int64 [B, S]; ``attention_mask`` is 1 for real tokens."""

    input_ids: Tensor
    token_type_ids: Tensor
    attention_mask: Tensor

    def padded(self) -> PackedBatch[Tensor]:
        """The batch for our models."""
        return PackedBatch.from_padded(
            self.input_ids.numpy(), self.token_type_ids.numpy(), self.attention_mask.numpy()
        ).map(torch.from_numpy)

    def as_dict(self) -> dict[str, Tensor]:
        """Keyword arguments of transformers' models."""
        return {
            "input_ids": self.input_ids,
            "token_type_ids": self.token_type_ids,
            "attention_mask": self.attention_mask,
        }


def text_batch(tokenizer: Tokenizer, max_length: int, token_types: int) -> tuple[ProbeInputs, int]:
    """The sample pairs as one padded batch, with one token of the first pair masked.

    Args:
        tokenizer: the checkpoint's.
        max_length: number of its positions; longer pairs are truncated.
        token_types: number of its token types; with one, both sentences have it.

    Returns:
        the batch, and the position of the masked token in its first row.
    """
    special = tokenizer.special
    rows: list[tuple[list[int], list[int]]] = []
    masked = 0
    for first, second in PAIRS:
        a, b = (encoded.ids.tolist() for encoded in tokenizer.encode_sentences([first, second]))
        ids = [special.cls, *a, special.sep, *b, special.sep]
        types = [0] * (len(a) + 2) + [min(1, token_types - 1)] * (len(b) + 1)
        if len(rows) == MASKED_PAIR:
            masked = 1 + int(MASKED_FRACTION * min(len(a), max_length - 2))
        rows.append((ids[:max_length], types[:max_length]))
    masked = min(masked, len(rows[MASKED_PAIR][0]) - 1)
    rows[MASKED_PAIR][0][masked] = special.mask
    return _pad(rows, special.pad), masked


def id_batch(vocab_size: int, positions: int, token_types: int) -> ProbeInputs:
    """One sequence of fixed pseudo-random ids, from the whole vocabulary and over all positions.

    It covers rows of the embedding tables that the sample text does not.
    """
    generator = torch.Generator().manual_seed(20_240)
    ids = torch.randint(vocab_size, (1, positions), generator=generator)  # [1, S]
    types = torch.arange(positions)[None] * token_types // positions  # [1, S]
    return ProbeInputs(ids, types, torch.ones_like(ids))


def ragged_batch(vocab_size: int, positions: int, token_types: int) -> ProbeInputs:
    """Three short sequences of fixed ids with padding: another number of sequences, another length."""
    lengths = [min(length, positions) for length in RAGGED]
    whole = id_batch(vocab_size, max(lengths), token_types)
    rows = [
        (whole.input_ids[0, :n].tolist(), whole.token_type_ids[0, :n].tolist()) for n in lengths
    ]
    return _pad(rows, 0)


def _pad(rows: list[tuple[list[int], list[int]]], pad: int) -> ProbeInputs:
    length = max(len(ids) for ids, _ in rows)
    ids = [r + [pad] * (length - len(r)) for r, _ in rows]
    types = [t + [0] * (length - len(t)) for _, t in rows]
    mask = [[1] * len(r) + [0] * (length - len(r)) for r, _ in rows]
    return ProbeInputs(torch.tensor(ids), torch.tensor(types), torch.tensor(mask))


def same_ids(tokenizer: Tokenizer, theirs: Any) -> str | None:
    """Compare megabert's tokenizer with one of transformers.

    They must give the same ids for the sample text, for text with accents and signs, and for each
    added token, alone and within words; and the same ids to the special tokens.

    Returns:
        None if they agree, else the first text or token for which they do not.
    """
    texts = [text for pair in PAIRS for text in pair] + list(TEXTS)
    in_text = [t for t, i in tokenizer.added_tokens.items() if _is_found(tokenizer, t, i)]
    texts += [form.format(token) for token in in_text for form in FORMS]
    for text in texts:
        (encoded,) = tokenizer.encode_sentences([text])
        if encoded.ids.tolist() != theirs(text, add_special_tokens=False)["input_ids"]:
            return repr(text)
    named = {name: tokenizer.special[role] for role, name in tokenizer.special_tokens.items()}
    for token, number in (named | dict(tokenizer.added_tokens)).items():
        if theirs.convert_tokens_to_ids(token) != number:
            return f"the token {token!r}"
    for role, name in tokenizer.special_tokens.items():
        if getattr(theirs, f"{role}_token") not in (name, None):  # None: files that name no roles
            return f"the {role} token ({name!r})"
    return None


def _is_found(tokenizer: Tokenizer, token: str, number: int) -> bool:
    """Whether an added token is found in text: special ones are not."""
    return any(number in e.ids for e in tokenizer.encode_sentences([token, f"a {token} b"]))
