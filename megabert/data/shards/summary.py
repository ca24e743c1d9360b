"""What distinguishes one folder of shards from another, in words: for a run that finds other shards.

A fingerprint only says that something differs. Checkpoints store this summary next to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from megabert.common.files import sha256_of
from megabert.data.shards.manifest import InputInfo, Manifest, SplitInfo, TokenizerInfo

_LISTED = 4
"""Inputs, or files, that are listed one by one."""
_SUM_DIGITS = 12


def data_summary(manifest: Manifest) -> dict[str, Any]:
    """Topic -> plain value. Manifests with equal summaries may still hold other text."""
    summary: dict[str, Any] = {
        "seed": manifest.seed,
        "language": manifest.language,
        "tokenizer": _tokenizer(manifest.tokenizer),
        "source": _source(manifest.inputs),
    }
    for name, split in manifest.splits.items():
        summary[f"{name} split"] = _split(split)
    for name, value in manifest.options.items():
        summary.setdefault(name, _files(value) if name == "files" else value)
    return summary


def summary_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """``topic before -> now`` for each topic that differs, the most telling ones first."""
    topics = dict.fromkeys([*before, *now])
    return [
        f"{topic} {_shown(before, topic)} -> {_shown(now, topic)}"
        for topic in topics
        if before.get(topic) != now.get(topic)
    ]


def _shown(summary: Mapping[str, Any], topic: str) -> str:
    return str(summary[topic]) if topic in summary else "none"


def _tokenizer(info: TokenizerInfo) -> str:
    casing = "lower-cased" if info.lower_case else "cased"
    return f"{info.kind} of {info.vocab_size:,} entries, {casing} ({info.sha256[:_SUM_DIGITS]})"


def _source(inputs: Sequence[InputInfo]) -> str:
    listed = [f"{i.name} ({i.bytes:,} bytes, {i.sha256[:_SUM_DIGITS]})" for i in inputs]
    return _joined(listed, "inputs")


def _files(listing: Mapping[str, Sequence[Sequence[Any]]]) -> str:
    """Foreign shards: name, samples, bytes and digest of each file, by split."""
    listed = [
        f"{name} ({samples:,} samples, {size:,} bytes, {digest[:_SUM_DIGITS]})"
        for files in listing.values()
        for name, samples, size, digest in files
    ]
    return _joined(listed, "files")


def _joined(listed: Sequence[str], what: str) -> str:
    if len(listed) <= _LISTED:
        return ", ".join(listed) or "unknown"
    return f"{len(listed)} {what} ({sha256_of(' '.join(listed))[:_SUM_DIGITS]})"


def _split(split: SplitInfo) -> str:
    return f"{split.documents:,} documents, {split.tokens:,} tokens in {len(split.shards)} shards"
