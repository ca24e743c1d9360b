"""Shards by a plan: what each says of itself, its file out of batch files, and the splits they make."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from megabert.common import names
from megabert.common.files import sha256_of
from megabert.data.prepare.batch_files import load_batch
from megabert.data.prepare.plan import ShardPlan
from megabert.data.shards.manifest import InputInfo, ShardInfo, SplitInfo, TokenizerInfo
from megabert.data.shards.writer import ShardHeader, ShardWriter


def header_of(
    plan: ShardPlan,
    language: str,
    tokenizer: TokenizerInfo,
    seed: int,
    inputs: Sequence[InputInfo],
) -> ShardHeader:
    """What a shard says of itself; the source is all inputs together."""
    name, digest = _source(inputs)
    return ShardHeader(language, tokenizer, plan.split, plan.index, plan.count, seed, name, digest)


def write_planned(
    output: Path, plan: ShardPlan, header: ShardHeader, batches: Sequence[Path]
) -> ShardInfo:
    """Write one shard into the folder ``output``; ``batches``: the file of each of ``plan.parts``."""
    path = output / names.shard_file(plan.split, plan.index, plan.count)
    with ShardWriter(
        path,
        header,
        documents=plan.documents,
        sentences=plan.sentences,
        tokens=plan.tokens,
    ) as writer:
        for batch, (_, documents) in zip(batches, plan.parts, strict=True):
            writer.append(load_batch(batch).piece(documents))
        return writer.finish()


def as_splits(shards: Iterable[tuple[str, ShardInfo]]) -> dict[str, SplitInfo]:
    """The splits of (split, shard), which may come in any order."""
    infos: dict[str, list[ShardInfo]] = {split: [] for split in names.SPLITS}
    for split, info in shards:
        infos[split].append(info)
    return {
        split: SplitInfo(tuple(sorted(found, key=lambda info: info.file)))
        for split, found in infos.items()
    }


def _source(inputs: Sequence[InputInfo]) -> tuple[str, str]:
    """Name and digest of all inputs together."""
    if len(inputs) == 1:
        return inputs[0].name, inputs[0].sha256
    listing = "".join(f"{i.sha256}  {i.name}\n" for i in inputs)
    digest = sha256_of(listing)
    return f"{inputs[0].name} and {len(inputs) - 1} more", digest
