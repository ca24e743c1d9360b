#!/usr/bin/env python
"""Whether the labels of next sentence prediction are true, and where its sentences come from.

python benchmarks/archive_2026_11/nsp_labels.py SHARDS [--pairs 100000] [--seq-length 128] [--json]

Draws pairs as training does and checks each: a pair labelled 0 is one piece of one document, one
labelled 1 comes from two documents. Then compares where the pairs come from with what they should
come from: each text as often as it has tokens, and a random B without regard to its A.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megabert.common.names import TRAIN
from megabert.data.samples.counter_rng import Ints
from megabert.data.samples.index import SampleSettings
from megabert.data.samples.pairs import CorpusLike, PairMaker
from megabert.data.shards.spans import Spans

BATCH = 4096
PARTS = 20
_LEAST_EXPECTED = 5.0


@dataclass(frozen=True)
class Labels:
    """What was found. Scores are standard deviations from what is expected, 0 being as expected.

    Args:
        pairs: how many were drawn.
        random_share: those labelled 1.
        random_from_same_document: pairs labelled 1 with both halves from one document.
        next_from_other_document: pairs labelled 0 with halves from two documents.
        next_with_a_gap: pairs labelled 0 whose B does not begin where A ends, though nothing was cut
            off, or not within what was cut off.
        random_document_score: chi-squared test over the documents of random Bs against their chances
            (tokens of the document over the tokens of all documents but A's).
        first_part_score, random_part_score: the same for A and for random B over `PARTS` equal parts
            of the corpus.
        independence_score: chi-squared test of A's part against its random B's part.
        first_distance, random_distance: Kolmogorov-Smirnov distance of the places in the corpus of A
            and of random B from an even distribution; `distance_limit` is exceeded by chance in 1 of
            100 cases, for as many random Bs.
    """

    pairs: int
    random_share: float
    random_from_same_document: int
    next_from_other_document: int
    next_with_a_gap: int
    random_document_score: float
    first_part_score: float
    random_part_score: float
    independence_score: float
    first_distance: float
    random_distance: float
    distance_limit: float


def measure(corpus: CorpusLike, settings: SampleSettings, pairs: int) -> Labels:
    """Draws the first `pairs` pairs of a run, epoch after epoch, and checks them."""
    maker = PairMaker(corpus, settings)
    numbers = np.arange(pairs)
    epochs, places = np.divmod(numbers, maker.index.num_samples)
    samples = maker.index.order(np.zeros_like(numbers), epochs, places)
    plans = [
        maker.plan(epochs[first : first + BATCH], samples[first : first + BATCH])
        for first in range(0, pairs, BATCH)
    ]
    a, b = _joined([p.first for p in plans]), _joined([p.second for p in plans])
    changed = np.concatenate([p.labels for p in plans]) > 0
    apart = a.documents != b.documents
    gaps = b.starts - a.stops
    # A text that fills the room may have lost tokens at the parting: at most what it had too many.
    most = np.where(a.lengths + b.lengths < settings.room, 0, settings.room // 2)
    ends = corpus.document_ends
    positions = [_positions(part, ends) for part in (a, b.take(changed.nonzero()[0]))]
    parts = [(p * PARTS).astype(np.int64) for p in positions]
    in_parts = [np.bincount(p, minlength=PARTS) for p in parts]
    table = np.bincount(parts[0][changed] * PARTS + parts[1], minlength=PARTS**2)
    table = table.reshape(PARTS, PARTS)
    return Labels(
        pairs=pairs,
        random_share=float(changed.mean()),
        random_from_same_document=int((changed & ~apart).sum()),
        next_from_other_document=int((~changed & apart).sum()),
        next_with_a_gap=int((~changed & ~apart & ((gaps < 0) | (gaps > most))).sum()),
        random_document_score=_document_score(a.documents[changed], b.documents[changed], ends),
        first_part_score=_score(in_parts[0], np.full(PARTS, pairs / PARTS), PARTS - 1),
        random_part_score=_score(in_parts[1], np.full(PARTS, in_parts[1].sum() / PARTS), PARTS - 1),
        independence_score=_score(
            table,
            table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum(),
            (PARTS - 1) ** 2,
        ),
        first_distance=_distance(positions[0]),
        random_distance=_distance(positions[1]),
        distance_limit=1.63 / math.sqrt(len(positions[1])),
    )


def _joined(spans: list[Spans]) -> Spans:
    return Spans(
        np.concatenate([s.documents for s in spans]),
        np.concatenate([s.starts for s in spans]),
        np.concatenate([s.stops for s in spans]),
    )


def _positions(spans: Spans, ends: Ints) -> npt.NDArray[np.float64]:
    """Middle of each span in the corpus as a share of all tokens, [N]."""
    bases = np.concatenate(([0], ends))[spans.documents]
    return (bases + (spans.starts + spans.stops) / 2) / ends[-1]


def _document_score(first: Ints, random: Ints, ends: Ints) -> float:
    """Score of the documents of random Bs, given those of their As; both [n]."""
    sizes = np.diff(ends, prepend=0)
    weights = 1 / (ends[-1] - sizes[first])
    own = np.bincount(first, weights, len(sizes))
    expected = sizes * (weights.sum() - own)
    found = np.bincount(random, minlength=len(sizes))
    # Documents of few expected Bs are taken together, in their order.
    groups = np.floor(np.cumsum(expected) / _LEAST_EXPECTED).astype(np.int64)
    groups = np.unique(groups, return_inverse=True)[1]
    expected, found = np.bincount(groups, expected), np.bincount(groups, found)
    return _score(found, expected, len(expected) - 1)


def _score(found: npt.NDArray[np.number], expected: npt.NDArray[np.float64], freedom: int) -> float:
    """Standard deviations by which a chi-squared statistic exceeds its expectation."""
    expected = np.maximum(expected, 1e-9)  # what has no chance at all
    statistic = float(((found - expected) ** 2 / expected).sum())
    return (statistic - freedom) / math.sqrt(2 * freedom)


def _distance(shares: npt.NDArray[np.float64]) -> float:
    """Largest distance between the distribution of shares and an even one over 0 to 1."""
    ordered = np.sort(shares)
    steps = np.arange(len(ordered) + 1) / len(ordered)
    return float(max((steps[1:] - ordered).max(), (ordered - steps[:-1]).max()))


def main() -> None:
    """Measure one corpus and print what was found."""
    from megabert.data.shards.corpus import Corpus

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--seq-length", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    corpus = Corpus.open(arguments.shards, TRAIN)
    settings = SampleSettings(arguments.seq_length, "nsp", seed=arguments.seed)
    found = asdict(measure(corpus, settings, arguments.pairs))
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        for name, value in found.items():
            print(f"{name:28} {value:.4f}" if isinstance(value, float) else f"{name:28} {value}")


if __name__ == "__main__":
    main()
