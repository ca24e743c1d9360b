"""Mixtures of corpora: shares, positions that are pure functions of the number, one corpus unchanged."""

from __future__ import annotations

import pickle
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megabert.common.errors import UserError
from megabert.data.samples.index import SampleSettings
from megabert.data.samples.loader import LoaderOptions, MicroBatches
from megabert.data.samples.masking import MaskSettings
from megabert.data.samples.micro_steps import MicroSteps
from megabert.data.samples.mixture import (
    WEIGHT_SUM,
    JoinedSource,
    MixedSamples,
    MixturePlan,
    Stage,
    corpus_seed,
    mix,
    whole_weights,
)
from megabert.data.samples.packing import Window
from megabert.data.samples.source import SampleSource
from megabert.data.shards.corpus import Corpus
from megabert.data.shards.manifest import ShardError, SpecialIds, TokenizerInfo
from megabert.data.shards.writer import Document, write_corpus
from tests.helpers.batch_rows import named_arrays
from tests.helpers.memory_corpus import wiki_like

LONG = 100_000


def plan_of(*weights: int) -> MixturePlan:
    return MixturePlan([Stage(weights, None)])


def shares_of(weights: tuple[int, ...]) -> list[Fraction]:
    return [Fraction(weight, sum(weights)) for weight in weights]


weight_lists = st.lists(st.integers(0, 2**40), min_size=1, max_size=6).filter(any)


@given(weight_lists, st.integers(0, 2**50))
def test_shares_are_exact_in_every_part_of_a_run(given_weights: list[int], first: int) -> None:
    """In any part of a run each corpus has its share, to within less than the number of corpora."""
    weights = whole_weights([Fraction(weight) for weight in given_weights])
    plan, count = plan_of(*weights), 500
    corpora, places = plan.assign(np.arange(first, first + count))
    before = plan.counts(first)
    for corpus, share in enumerate(shares_of(weights)):
        own = corpora == corpus
        assert places[own].tolist() == list(range(before[corpus], before[corpus] + own.sum()))
        assert abs(before[corpus] - share * first) < max(1, len(weights) - 1)
        drawn = own.cumsum()
        expected = float(share) * np.arange(1, count + 1)
        assert np.abs(drawn - expected).max() < 2 * len(weights)
    assert sum(plan.counts(first + count)) == first + count


def test_shares_of_a_hundred_thousand_samples() -> None:
    rng = np.random.default_rng(0)
    for size in (2, 3, 8):
        given_weights = [Fraction(str(round(x, 6))) for x in rng.random(size)]
        plan = plan_of(*whole_weights(given_weights))
        corpora, _ = plan.assign(np.arange(LONG))
        drawn = np.bincount(corpora, minlength=size) / LONG
        wanted = np.array([float(w / sum(given_weights)) for w in given_weights])
        assert np.abs(drawn - wanted).max() <= size / LONG  # 1/1000 is asked for


def test_stages_follow_each_other() -> None:
    plan = MixturePlan([Stage((1, 0, 0), 101), Stage((7, 2, 1), 1000), Stage((1, 1, 1), None)])
    corpora, places = plan.assign(np.arange(3000))
    counts = [0, 0, 0]
    for number, (corpus, place) in enumerate(zip(corpora.tolist(), places.tolist())):
        assert plan.counts(number) == counts
        assert place == counts[corpus]
        counts[corpus] += 1
    assert (corpora[:101] == 0).all()
    assert plan.counts(1101) == [801, 200, 100]
    assert [plan.number(c, p, 3000) for c, p in zip(corpora, places)] == list(range(3000))
    shuffled = np.random.default_rng(1).permutation(3000)
    assert (plan.assign(shuffled)[1] == places[shuffled]).all()


def test_weights_become_whole_numbers() -> None:
    assert whole_weights([Fraction("0.7"), Fraction("0.2"), Fraction("0.1")]) == (7, 2, 1)
    assert whole_weights([Fraction(1, 3), Fraction(0), Fraction(1, 6)]) == (2, 0, 1)
    large = whole_weights([Fraction(3 * 10**12 + 1), Fraction(10**12), Fraction(1)])
    assert sum(large) <= WEIGHT_SUM
    assert large[2] == 1
    assert whole_weights([Fraction(weight) for weight in large]) == large
    with pytest.raises(UserError, match="all 0"):
        whole_weights([Fraction(0), Fraction(0)])


@pytest.fixture(scope="module")
def sources() -> list[SampleSource]:
    return [
        SampleSource(
            wiki_like(20 + 10 * number, seed=number),
            SampleSettings(48, seed=corpus_seed(42, number)),
            MaskSettings("whole-word"),
        )
        for number in range(3)
    ]


def test_each_corpus_keeps_its_own_samples(sources: list[SampleSource]) -> None:
    """In its own order, over all its epochs; numbers are those of the run."""
    plan = plan_of(7, 2, 1)
    numbers = np.random.default_rng(0).permutation(2000)[:300]
    mixed = MixedSamples(sources, plan)
    found = mixed.samples(numbers)
    assert (found.numbers == numbers).all()
    corpora, places = plan.assign(numbers)
    labels = dict(zip(found.masked_positions.tolist(), found.masked_labels.tolist()))
    assert (np.diff(found.masked_positions) > 0).all()
    assert len(labels) == len(found.masked_labels)
    for corpus, source in enumerate(sources):
        rows = (corpora == corpus).nonzero()[0]
        own = source.samples(places[rows])
        assert (found.input_ids[rows] == own.input_ids).all()
        assert (found.token_type_ids[rows] == own.token_type_ids).all()
        assert (found.attention_mask[rows] == own.attention_mask).all()
        assert found.next_sentence_labels is not None
        assert (found.next_sentence_labels[rows] == own.next_sentence_labels).all()
        moved = rows[own.masked_positions // 48] * 48 + own.masked_positions % 48
        assert [labels.pop(place) for place in moved.tolist()] == own.masked_labels.tolist()
    assert not labels
    assert (mixed.lengths(numbers) == found.lengths).all()


def test_one_corpus_alone_is_unchanged(sources: list[SampleSource]) -> None:
    numbers = np.arange(3 * sources[0].samples_per_epoch)
    alone = named_arrays(sources[0].samples(numbers))
    mixed = named_arrays(MixedSamples(sources[:1], plan_of(5)).samples(numbers))
    assert alone.keys() == mixed.keys()
    for name, values in alone.items():
        assert (mixed[name] == values).all()
    assert corpus_seed(42, 0) == 42


def test_corpora_are_not_correlated() -> None:
    """The same text twice: other masks and another order in each."""
    seeds = [corpus_seed(42, number) for number in range(4)]
    assert len(set(seeds)) == 4
    made = [
        SampleSource(wiki_like(40), SampleSettings(48, seed=seed)).addresses(np.arange(100))[1]
        for seed in seeds
    ]
    for number, order in enumerate(made):
        assert all((order == other).mean() < 0.1 for other in made[:number])


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_global_batch_holds_the_same_samples_on_any_ranks(
    ranks: int, workers: int, sources: list[SampleSource]
) -> None:
    mixed = pickle.loads(pickle.dumps(MixedSamples(sources, plan_of(7, 2, 1))))

    def batches(size: int, rank: int, start: int) -> list[dict[int, bytes]]:
        """Of each global batch of 16 samples: number of a sample -> its tokens."""
        window = Window(8 // size, size)
        options = LoaderOptions(num_workers=workers if size == ranks else 0, window=window)
        loader = MicroBatches(mixed, MicroSteps(2, rank, size, start), options, 96)
        found: list[dict[int, bytes]] = []
        for number, batch in enumerate(loader):
            if number % window.micro_steps == 0:
                found.append({})
            for n, low, high in zip(
                batch.sample_numbers.tolist(), batch.cu_seqlens[:-1], batch.cu_seqlens[1:]
            ):
                found[-1][n] = batch.input_ids[low:high].numpy().tobytes()
        loader.close()
        return found

    whole = batches(1, 0, 0)
    assert [sorted(batch) for batch in whole] == [list(range(n, n + 16)) for n in range(0, 96, 16)]
    parts = [batches(ranks, rank, 48) for rank in range(ranks)]  # resumed in the middle
    joined = [{k: v for part in step for k, v in part.items()} for step in zip(*parts)]
    assert joined == whole[3:]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three folders of shards, of 1 to 3 shards each."""
    rng = np.random.default_rng(3)
    info = TokenizerInfo("wordpiece", "0" * 64, 400, True, SpecialIds(0, 1, 2, 3, 4))

    def document(number: int) -> Document:
        sizes = rng.integers(1, 40, rng.integers(1, 12)).tolist()
        return Document(
            number,
            [(rng.integers(5, 400, n).tolist(), (rng.random(n) < 0.7).tolist()) for n in sizes],
        )

    made = []
    for count in (1, 2, 3):
        made.append(tmp_path_factory.mktemp("corpus"))
        shards = [[document(100 * k + i) for i in range(7 * count + k)] for k in range(count)]
        write_corpus(made[-1], {"train": shards, "eval": [[document(900)]]}, info)
    return made


@pytest.mark.parametrize("task", ["nsp", "sop", "none"])
@pytest.mark.parametrize("masking", ["token", "whole-word", "ngram"])
def test_samples_made_together_are_those_of_each_corpus(
    task: str, masking: str, folders: list[Path]
) -> None:
    plan = MixturePlan([Stage((2, 1, 0), 90), Stage((1, 2, 4), 5000), Stage((5, 0, 1), None)])
    sources = [
        SampleSource(
            Corpus.open(folder, "train"),
            SampleSettings(48, task, seed=corpus_seed(42, number)),  # type: ignore[arg-type]
            MaskSettings(masking),  # type: ignore[arg-type]
        )
        for number, folder in enumerate(folders)
    ]
    together, apart = mix(sources, plan), MixedSamples(sources, plan)
    assert isinstance(together, JoinedSource)
    assert together.samples_per_epoch == apart.samples_per_epoch
    shuffled = np.random.default_rng(0).permutation(6000)[:200]
    for numbers in (np.arange(64), np.array([2**35]), shuffled):
        expected = named_arrays(apart.samples(numbers))
        for name, values in named_arrays(
            pickle.loads(pickle.dumps(together)).samples(numbers)
        ).items():
            assert (values == expected[name]).all(), name
        assert (together.lengths(numbers) == apart.lengths(numbers)).all()


def test_damage_of_a_mixed_corpus_names_its_file(folders: list[Path]) -> None:
    sources = [SampleSource(Corpus.open(folder, "train"), SampleSettings(48)) for folder in folders]
    together = mix(sources, plan_of(1, 1, 1))
    last = folders[2] / Corpus.open(folders[2], "train").manifest.splits["train"].shards[2].file
    content = bytearray(last.read_bytes())
    content[-200:] = bytes(200)
    last.write_bytes(content)
    with pytest.raises(ShardError, match=str(last)):
        together.samples(np.arange(400))
