"""Which document goes into which shard, and writing a shard by that plan.

Duplicates are left out, the splits are separated, and the shards of a split hold nearly equal
numbers of tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megabert.common import names
from megabert.common.errors import UserError
from megabert.common.files import sha256_of
from megabert.common.log import get_logger
from megabert.data.prepare.batch_files import load_batch
from megabert.data.prepare.encode import DUPLICATE, NEAR_COPY, SAME_TEXT
from megabert.data.prepare.filters.choices import NEAR, NO_FILTERS, NONE, FilterOptions
from megabert.data.prepare.filters.copies import (
    band_keys,
    bands_and_rows,
    first_equal,
    near_copies,
)
from megabert.data.shards.manifest import InputInfo, ShardInfo, SplitInfo, TokenizerInfo
from megabert.data.shards.writer import ShardHeader, ShardWriter

SHARD_TOKENS = 2**25
"""Tokens per shard (64 MiB), about, where the number of shards is not given."""


@dataclass(frozen=True)
class ShardPlan:
    """One shard: its place in the split, its counts, and ``parts``: (batch number, documents in
    that batch)."""

    split: str
    index: int
    count: int
    documents: int
    sentences: int
    tokens: int
    parts: tuple[tuple[int, npt.NDArray[np.int64]], ...]


@dataclass(frozen=True)
class Copies:
    """Documents that are left out for one reason, and the first document of each.

    ``batches``: the batch of the first document and the own one [n, 2]; ``rows``: their places in
    these batches [n, 2]; ``similarity`` [n].
    """

    reason: str
    batches: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int32]
    similarity: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.batches)


@dataclass(frozen=True)
class CorpusPlan:
    """All shards of both splits, and the job's counts over all batches.

    ``copies``: the documents that are left out as copies, by reason; ``languages``: documents by
    the language that was detected.
    """

    shards: tuple[ShardPlan, ...]
    pages: int
    dropped: Mapping[str, int]
    counts: Mapping[str, int]
    repeated_sentence_share: float
    copies: tuple[Copies, ...] = ()
    languages: Mapping[str, int] = field(default_factory=dict)

    @property
    def documents(self) -> int:
        """Documents in all shards."""
        return sum(shard.documents for shard in self.shards)

    @property
    def sentences(self) -> int:
        """Sentences in all shards."""
        return sum(shard.sentences for shard in self.shards)


@dataclass(frozen=True)
class _Table:
    """One row per document, in input order; it takes 45 bytes of memory per document.

    With ``--deduplicate exact`` it takes 16 bytes more, and with ``near`` 4 more per band.
    """

    batch: npt.NDArray[np.int32]
    row: npt.NDArray[np.int32]
    tokens: npt.NDArray[np.int64]
    sentences: npt.NDArray[np.int64]
    evaluation: npt.NDArray[np.bool_]
    digest: npt.NDArray[np.uint64]
    text_digest: npt.NDArray[np.uint64]
    bands: npt.NDArray[np.uint32]


def make_plan(
    batches: Sequence[Path], shards: int | None, filters: FilterOptions = NO_FILTERS
) -> CorpusPlan:
    """Plan the shards of all batch files, in order.

    The evaluation split gets shards of the same size as the training split, and at least one if it
    has documents.

    Args:
        batches: the batch files, in the order of the input.
        shards: number of training shards; None for about ``SHARD_TOKENS`` tokens each.
        filters: which copies are left out.

    Raises:
        UserError: more shards than documents.
    """
    table, totals = _read(batches, filters)
    dropped = totals.dropped
    duplicate = np.zeros(len(table.batch), np.bool_)
    copies = []
    for reason, own, first, similarity in _find_copies(table, batches, filters):
        duplicate[own] = True
        dropped[reason] += len(own)
        pairs = np.stack([first, own], axis=1)
        copies.append(Copies(reason, table.batch[pairs], table.row[pairs], similarity))
    plans: list[ShardPlan] = []
    train = np.flatnonzero(~duplicate & ~table.evaluation)
    evaluation = np.flatnonzero(~duplicate & table.evaluation)
    train_tokens = int(table.tokens[train].sum())
    count = shards or max(1, -(-train_tokens // SHARD_TOKENS))
    if shards is not None and 0 < len(train) < shards:
        raise UserError(f"--shards {shards}: there are only {len(train)} training documents")
    plans += _cut(table, names.TRAIN, train, min(count, len(train)))
    if len(evaluation):
        ratio = int(table.tokens[evaluation].sum()) / max(1, train_tokens)
        wanted = max(1, min(round(count * ratio), len(evaluation)))
        plans += _cut(table, names.EVAL, evaluation, wanted)
    return CorpusPlan(
        tuple(plans),
        totals.pages,
        dict(sorted(dropped.items())),
        dict(sorted(totals.counts.items())),
        totals.repeated,
        tuple(copies),
        dict(sorted(totals.languages.items())),
    )


_Found = tuple[str, npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]


def _find_copies(
    table: _Table, batches: Sequence[Path], filters: FilterOptions
) -> Iterator[_Found]:
    """Reason, documents that are left out, the first document of each, and their similarity."""
    if filters.deduplicate == NONE:
        return
    left = np.arange(len(table.batch))  # what is not yet found to be a copy
    for reason, digest in ((DUPLICATE, table.digest), (SAME_TEXT, table.text_digest)):
        if digest.shape[1]:
            first = left[first_equal(digest[left])]
            copy = first != left
            if copy.any():
                yield reason, left[copy], first[copy], np.ones(int(copy.sum()))
            left = left[~copy]
    if filters.deduplicate != NEAR:
        return

    def signatures(documents: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
        found = np.empty((len(documents), filters.permutations), np.uint32)
        owner = table.batch[documents]
        runs = np.flatnonzero(np.diff(owner)) + 1  # documents of a file are neighbours
        for mine in np.split(np.arange(len(documents)), runs):
            if len(mine):
                rows = table.row[documents[mine]]
                found[mine] = load_batch(batches[owner[mine[0]]]).signatures[rows]
        return found

    near = near_copies(table.bands, left, signatures, filters.similarity)
    bands, rows = bands_and_rows(filters.similarity, filters.permutations)
    get_logger().info(
        f"near copies: {near.candidates} of {len(left)} documents share one of {bands} bands of "
        f"{rows} smallest hashes with another one; {len(near.own)} are left out"
    )
    if len(near.own):
        yield NEAR_COPY, near.own, near.first, near.similarity


@dataclass
class _Totals:
    """Sums over all batches; ``repeated`` is the share of repeated sentences in the sample."""

    pages: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    repeated: float = 0.0


def _read(batches: Sequence[Path], filters: FilterOptions) -> tuple[_Table, _Totals]:
    columns: list[list[npt.NDArray]] = [[] for _ in range(8)]
    cut = bands_and_rows(filters.similarity, filters.permutations)
    samples: list[npt.NDArray[np.uint64]] = []
    totals = _Totals()
    for number, path in enumerate(batches):
        batch = load_batch(path)
        size = len(batch.document_ids)
        values: tuple[npt.NDArray, ...] = (
            np.full(size, number, np.int32),
            np.arange(size, dtype=np.int32),
            batch.document_tokens.astype(np.int64),
            batch.document_sentences.astype(np.int64),
            batch.document_eval.astype(np.bool_),
            np.array(batch.document_digest),
            np.array(batch.text_digest),
            band_keys(batch.signatures, *cut) if batch.signatures.shape[1] else batch.signatures,
        )
        for column, value in zip(columns, values):
            column.append(value)
        samples.append(np.array(batch.sentence_sample))
        totals.dropped.update(batch.dropped)
        totals.counts.update(batch.counts)
        totals.languages.update(batch.languages)
        totals.pages += batch.pages
    sample = np.concatenate(samples)
    if len(sample):
        totals.repeated = round(1 - len(np.unique(sample)) / len(sample), 6)
    table = _Table(*(np.concatenate(columns.pop(0)) for _ in range(8)))  # one at a time
    return table, totals


def _cut(
    table: _Table, split: str, documents: npt.NDArray[np.int64], count: int
) -> list[ShardPlan]:
    """Cut documents, in order, into ``count`` shards of nearly equal tokens, none of them empty."""
    if not len(documents):
        return []
    ends = np.cumsum(table.tokens[documents])
    targets = ends[-1] * np.arange(1, count) / count
    middles = ends - table.tokens[documents] / 2
    bounds = [0, *np.searchsorted(middles, targets).tolist(), len(documents)]
    for i in range(1, count):
        bounds[i] = max(bounds[i], bounds[i - 1] + 1)
    for i in range(count - 1, 0, -1):
        bounds[i] = min(bounds[i], bounds[i + 1] - 1)
    plans = []
    for index, (first, last) in enumerate(pairwise(bounds)):
        chosen = documents[first:last]
        batch = table.batch[chosen]
        cuts = np.flatnonzero(np.diff(batch)) + 1
        parts = tuple(
            (int(table.batch[group[0]]), table.row[group].astype(np.int64))
            for group in np.split(chosen, cuts)
        )
        plans.append(
            ShardPlan(
                split,
                index,
                count,
                len(chosen),
                int(table.sentences[chosen].sum()),
                int(table.tokens[chosen].sum()),
                parts,
            )
        )
    return plans


# --- writing by the plan -----------------------------------------------------------------------


def header_of(
    plan: ShardPlan,
    language: str,
    tokenizer: TokenizerInfo,
    seed: int,
    inputs: Sequence[InputInfo],
) -> ShardHeader:
    """The header of a planned shard; its source is all inputs together."""
    name, digest = _source(inputs)
    return ShardHeader(language, tokenizer, plan.split, plan.index, plan.count, seed, name, digest)


def write_planned(
    output: Path, plan: ShardPlan, header: ShardHeader, batches: Sequence[Path]
) -> ShardInfo:
    """Write one shard into ``output``; ``batches`` are the files of ``plan.parts``."""
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
    """The splits made of pairs (split, shard), which may come in any order."""
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
    return f"{inputs[0].name} and {len(inputs) - 1} more", sha256_of(listing)
