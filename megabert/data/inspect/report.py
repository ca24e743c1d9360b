"""Totals and statistics of a folder of shards as text and JSON; at most 80 columns wide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megabert.data.inspect.statistics import (
    QUANTILES,
    SEQUENCE_LENGTHS,
    TOKEN_FRACTIONS,
    EpochStatistics,
    LengthCounts,
    Statistics,
    Vocabulary,
)
from megabert.data.shards.manifest import InputInfo, Manifest
from megabert.data.text.counts import language_lines, markup_lines

WIDTH = 80


def totals_as_json(manifest: Manifest) -> dict[str, Any]:
    """Totals, splits, dropped documents by reason, inputs and the tokenizer as JSON values."""
    splits = manifest.splits
    content = manifest.content()
    return {
        "documents": manifest.articles_kept,
        "sentences": sum(split.sentences for split in splits.values()),
        "tokens": sum(split.tokens for split in splits.values()),
        "shards": sum(len(split.shards) for split in splits.values()),
        "splits": {
            name: {
                "documents": split.documents,
                "sentences": split.sentences,
                "tokens": split.tokens,
                "shards": len(split.shards),
            }
            for name, split in splits.items()
        },
        "dropped": dict(manifest.dropped),
        "markup": dict(manifest.markup),
        "unknown_templates": dict(manifest.unknown_templates),
        "languages": dict(manifest.languages),
        "tokenizer": content["tokenizer"],
        "documents_read": manifest.articles_read,
        "articles_read": manifest.articles_read,  # the name before there were other inputs
        "repeated_sentence_share": manifest.repeated_sentence_share,
        "language": manifest.language,
        "seed": manifest.seed,
        "inputs": content["inputs"],
        "options": content["options"],
        "fingerprint": manifest.fingerprint,
    }


def total_lines(folder: Path, manifest: Manifest) -> list[str]:
    """The totals as text."""
    tokenizer = manifest.tokenizer
    dropped = ", ".join(f"{count} {reason}" for reason, count in manifest.dropped.items())
    lines = [
        f"{folder}: {manifest.kept_of_read}, language {manifest.language}",
        f"dropped: {dropped or 'none'}",
        f"repeated sentences: {100 * manifest.repeated_sentence_share:.1f} %",
        f"tokenizer: {tokenizer.kind}, {tokenizer.vocab_size} entries, "
        f"{'lower case' if tokenizer.lower_case else 'cased'}, {tokenizer.sha256[:16]}",
    ]
    lines += language_lines(manifest.languages)
    lines += markup_lines(manifest.markup, manifest.unknown_templates)
    lines += [_input_line(info) for info in manifest.inputs]
    for name, split in manifest.splits.items():
        lines.append(
            f"{name}: {split.documents} documents, {split.sentences} sentences, "
            f"{split.tokens} tokens in {len(split.shards)} shard{'s' * (len(split.shards) != 1)}"
        )
        if len(split.shards) > 1:
            sizes = [info.tokens for info in split.shards]
            lines.append(f"  tokens per shard: {min(sizes)} to {max(sizes)}")
    return lines


def _input_line(info: InputInfo) -> str:
    parts = [info.name, f"{info.bytes} bytes", info.sha256[:16]]
    parts.append(f"read as {info.read_as}" if info.read_as else "")
    parts.append(f"language {info.language}" if info.language else "")
    parts.append(f"{info.repeated} files read once, with an earlier one" if info.repeated else "")
    return "input: " + ", ".join(part for part in parts if part)


def statistics_lines(statistics: Statistics) -> list[str]:
    """Everything in ``statistics`` as text."""
    lines = [f"statistics of the split {statistics.split}"]
    lines += _length_lines("document", statistics.documents)
    lines += _length_lines("sentence", statistics.sentences)
    lines += _vocabulary_lines(statistics.vocabulary)
    lines += ["", "one epoch"]
    lines += [_epoch_line(epoch) for epoch in statistics.epochs]
    return lines


def histogram_lines(counts: LengthCounts) -> list[str]:
    """One line per bin: its lengths, count, percentage, and a bar."""
    bins = counts.histogram()
    if not bins:
        return []
    total, most = counts.total, max(count for _, _, count in bins)
    heads = [
        f"  {first:>9,} - {beyond - 1:>9,}  {count:>13,}  {100 * count / total:5.1f} %  "
        for first, beyond, count in bins
    ]
    room = WIDTH - max(map(len, heads))
    return [
        (head + "#" * -(-count * room // most)).rstrip() for head, (_, _, count) in zip(heads, bins)
    ]


def _length_lines(what: str, counts: LengthCounts) -> list[str]:
    least, most = counts.extremes
    quantiles = ", ".join(f"{100 * q:g} %: {counts.quantile(q):,}" for q in QUANTILES)
    shorter = ", ".join(
        f"{100 * counts.fraction_below(n):.1f} % are shorter than {n}" for n in SEQUENCE_LENGTHS
    )
    return [
        "",
        f"tokens per {what}: {least:,} to {most:,}, mean {counts.mean:,.1f}",
        f"  quantiles  {quantiles}",
        f"  {shorter}",
        *histogram_lines(counts),
    ]


def _vocabulary_lines(vocabulary: Vocabulary) -> list[str]:
    entries, seen = vocabulary.entries, vocabulary.seen
    covering = ", ".join(f"{100 * f:g} %: {vocabulary.entries_for(f):,}" for f in TOKEN_FRACTIONS)
    lines = [
        "",
        f"vocabulary: {seen:,} of {entries:,} entries occur ({100 * seen / entries:.1f} %), "
        f"{entries - seen:,} do not",
        f"  unknown: {100 * vocabulary.unknown_fraction:.4f} % of {vocabulary.tokens:,} tokens",
        f"  words: {vocabulary.words:,}, {vocabulary.tokens_per_word:.3f} tokens per word",
        f"  entries that cover  {covering} (of all tokens)",
        "  most frequent (% of all tokens):",
    ]
    cells = [
        f"{token} {100 * count / vocabulary.tokens:.2f}" for token, count in vocabulary.frequent
    ]
    return lines + _in_columns(cells)


def _in_columns(cells: list[str]) -> list[str]:
    width = max(map(len, cells), default=0) + 2
    columns = max(1, (WIDTH - 4) // width)
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    return ["    " + "".join(cell.ljust(width) for cell in row).rstrip() for row in rows]


def _epoch_line(epoch: EpochStatistics) -> str:
    head = f"  length {epoch.seq_length}, task {epoch.sentence_task}: "
    if epoch.samples is None:
        return f"{head}no samples ({epoch.reason})"
    return (
        f"{head}{epoch.samples:,} samples, {100 * epoch.padding:.1f} % padding "
        f"(measured on {epoch.measured_on:,})"
    )
