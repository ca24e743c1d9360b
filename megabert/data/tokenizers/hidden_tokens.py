"""A ``tokenizer.json`` whose special tokens no text can become.

The library matches special tokens in the text before the model runs, which can be switched off,
but the model may know them too: a unigram model has each of them as a piece, of a high score, and
WordPiece finds a word that is spelled like one. Here they get a spelling that no text has, in the
model and among the added tokens alike, so that all ids stay the same.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

_NO_TEXT = "\uffff" * 128  # a noncharacter; longer than the words that WordPiece looks up


def without_special_text(body: dict[str, Any], hidden: Collection[str]) -> str:
    """The text of a ``tokenizer.json`` like ``body``, in which ``hidden`` tokens cannot be found.

    Args:
        body: the file's content.
        hidden: spellings of special tokens. The unknown token must not be among them.
    """
    model = dict(body["model"])
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {_spelled(t, hidden): i for t, i in vocabulary.items()}
    else:
        model["vocab"] = [[_spelled(piece, hidden), score] for piece, score in vocabulary]
    if "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if not _makes(merge, hidden)]
    added = [
        {**token, "content": _spelled(token["content"], hidden)}
        for token in body.get("added_tokens") or ()
    ]
    changed = {**body, "model": model, "added_tokens": added, "post_processor": None}
    return json.dumps(changed, ensure_ascii=False)


def _spelled(token: str, hidden: Collection[str]) -> str:
    return _NO_TEXT + token if token in hidden else token


def _makes(merge: str | list[str], hidden: Collection[str]) -> bool:
    """Whether a merge of BPE needs or gives a hidden token."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left in hidden or right in hidden or left + right in hidden
