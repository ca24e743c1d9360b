"""Whether two tokenizers do the same, and where they first differ.

A ``vocab.txt`` and a ``tokenizer.json`` of one vocabulary are the same tokenizer. What is compared is
what a model sees of it: the entry of each id, the ids of the special tokens, and the ids of text, which
casing, accents, ideographs and added tokens change.
"""

from __future__ import annotations

from collections.abc import Iterator

from megabert.data.tokenizers.base import Tokenizer

_PROBES = (
    "The Quick Brown FOX jumps over the lazy dog's 12,345.67 bones (again)!",
    "Ångström, naïve café, coöperation, Straße, İstanbul, ÉCOLE, señor",
    "北京大学的学生们今天上午去了图书馆。東京タワー 한국어 위키백과",
    "Привет, МИР; Ελλάδα, ΑΘΉΝΑ; مرحبا بالعالم; नमस्ते दुनिया; שלום עולם; สวัสดี",
    "e\u0301cole A\u030angstro\u0308m ﬁne ½ ² ™ … – — “quotes” ‘x’",
    "tabs\tand  double  spaces\u00a0no-break\u200bzero-width\u00adsoft\x07bell\ufffd",
    "[MASK] [CLS] <s> @user #tag http://example.org/a_b?c=d&e=f a+b=c 😀👍🏽",
    "x" * 120,
)
"""Text whose ids depend on every rule of normalisation that published tokenizers have."""
_BATCH = 4096


def tokenizer_difference(source: Tokenizer, other: Tokenizer) -> str | None:
    """What differs first, in words: "it ..., the other ..."; None if they do the same.

    ``source`` is "it".
    """
    if source.sha256 == other.sha256:
        return None
    if source.lower_case != other.lower_case:
        does = {True: "lower-cases", False: "keeps capitals"}
        return f"it {does[source.lower_case]}, the other {does[other.lower_case]}"
    theirs, ours = (one.tokens(range(one.vocab_size)) for one in (source, other))
    apart = [i for i, (left, right) in enumerate(zip(theirs, ours)) if left != right]
    sizes = f"it has {len(theirs):,} entries, the other {len(ours):,}"
    if apart:
        shown = ", ".join(f"id {i} is {theirs[i]!r} and {ours[i]!r}" for i in apart[:3])
        what = f"{len(apart):,} ids have other entries: {shown}{', ...' if apart[3:] else ''}"
        return what if len(theirs) == len(ours) else f"{sizes}, and {what}"
    if len(theirs) != len(ours):
        return sizes
    for role in ("pad", "unk", "cls", "sep", "mask"):
        left, right = source.special[role], other.special[role]
        if left != right:
            return f"its {role} token is id {left} ({theirs[left]!r}), the other's {right} ({ours[right]!r})"
    return _first_text(source, other, theirs)


def _first_text(source: Tokenizer, other: Tokenizer, entries: list[str]) -> str | None:
    """The first text with other ids, among the probes and the entries themselves."""
    for texts in (list(_PROBES), *_batches([entry.removeprefix("##") for entry in entries])):
        pairs = zip(
            texts, *(one.encode_sentences(texts, with_offsets=False) for one in (source, other))
        )
        for text, left, right in pairs:
            if left.ids.tolist() != right.ids.tolist():
                return (
                    f"it splits {_shown(text)} into {_pieces(source, left.ids.tolist())}, the other into "
                    f"{_pieces(other, right.ids.tolist())}"
                )
    return None


def _batches(texts: list[str]) -> Iterator[list[str]]:
    for first in range(0, len(texts), _BATCH):
        yield texts[first : first + _BATCH]


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _pieces(tokenizer: Tokenizer, ids: list[int]) -> str:
    shown = " ".join(tokenizer.tokens(ids[:12]))
    return f"{shown!r}" + (f" ... ({len(ids)} pieces)" if ids[12:] else "")
