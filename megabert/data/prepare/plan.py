"""Which document goes into which shard: duplicates out, splits apart, shards even by tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megabert.common import names
from megabert.common.errors import UserError
from megabert.data.prepare.batch_files import load_batch
from megabert.data.prepare.encode import DUPLICATE

SHARD_TOKENS = 2**25
"""Where the number of shards is not given: about this many tokens a shard (64 MiB)."""


@dataclass(frozen=True)
class ShardPlan:
    """One shard: its place in the split, its counts, and ``parts``: (batch, documents in it)."""

    split: str
    index: int
    count: int
    documents: int
    sentences: int
    tokens: int
    parts: tuple[tuple[int, npt.NDArray[np.int64]], ...]


@dataclass(frozen=True)
class Plan:
    """All shards of both splits, and the job's counts over all batches."""

    shards: tuple[ShardPlan, ...]
    pages: int
    dropped: Mapping[str, int]
    repeated_sentence_share: float


@dataclass(frozen=True)
class _Table:
    """One row a document, in input order: 45 bytes a document are all that is held."""

    batch: npt.NDArray[np.int32]
    row: npt.NDArray[np.int32]
    tokens: npt.NDArray[np.int64]
    sentences: npt.NDArray[np.int64]
    evaluation: npt.NDArray[np.bool_]
    digest: npt.NDArray[np.uint64]


def make_plan(batches: Sequence[Path], shards: int | None) -> Plan:
    """Plan the shards of all batch files, in order.

    shards: number of training shards, or None for about ``SHARD_TOKENS`` tokens each. The
    evaluation split gets shards of the same size, at least one if it has documents.
    Raises ``UserError`` for more shards than documents.
    """
    table, pages, dropped, repeated = _read(batches)
    kept = ~_is_repeated(table.digest)
    if repeats := int((~kept).sum()):
        dropped[DUPLICATE] += repeats
    plans: list[ShardPlan] = []
    train = np.flatnonzero(kept & ~table.evaluation)
    evaluation = np.flatnonzero(kept & table.evaluation)
    train_tokens = int(table.tokens[train].sum())
    count = shards or max(1, -(-train_tokens // SHARD_TOKENS))
    if shards is not None and 0 < len(train) < shards:
        raise UserError(f"--shards {shards}: there are only {len(train)} training documents")
    plans += _cut(table, names.TRAIN, train, min(count, len(train)))
    if len(evaluation):
        share = int(table.tokens[evaluation].sum()) / max(1, train_tokens)
        wanted = max(1, min(round(count * share), len(evaluation)))
        plans += _cut(table, names.EVAL, evaluation, wanted)
    return Plan(tuple(plans), pages, dict(sorted(dropped.items())), repeated)


def _read(batches: Sequence[Path]) -> tuple[_Table, int, Counter[str], float]:
    columns: list[list[npt.NDArray]] = [[] for _ in range(6)]
    samples: list[npt.NDArray[np.uint64]] = []
    dropped: Counter[str] = Counter()
    pages = 0
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
        )
        for column, value in zip(columns, values):
            column.append(value)
        samples.append(np.array(batch.sentence_sample))
        dropped.update(batch.dropped)
        pages += batch.pages
    sample = np.concatenate(samples)
    repeated = 1 - len(np.unique(sample)) / len(sample) if len(sample) else 0.0
    table = _Table(*(np.concatenate(columns.pop(0)) for _ in range(6)))  # one at a time
    return table, pages, dropped, round(repeated, 6)


def _is_repeated(digest: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """True for each row that equals an earlier one."""
    order = np.lexsort((digest[:, 0], digest[:, 1]))  # stable: equal rows stay in input order
    ordered = digest[order]
    repeated = np.zeros(len(digest), np.bool_)
    repeated[order[1:]] = np.all(ordered[1:] == ordered[:-1], axis=1)
    return repeated


def _cut(
    table: _Table, split: str, documents: npt.NDArray[np.int64], count: int
) -> list[ShardPlan]:
    """Cut a row of documents into ``count`` shards of nearly equal tokens, none empty."""
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
