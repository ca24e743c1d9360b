"""Order of samples, cells of documents, and the text of pairs."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megabert.common.errors import UserError
from megabert.data.samples.counter_rng import CounterRng, Purpose, below, philox
from megabert.data.samples.index import Cells, SampleIndex, SampleSettings, permute
from megabert.data.samples.pairs import PairMaker, PairPlan
from megabert.data.shards.spans import SentenceStarts
from tests.helpers.memory_corpus import MemoryCorpus, Pair, pairs_of, wiki_like

TASKS = ("nsp", "sop", "none")


def integers(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def whole_plan(maker: PairMaker, epoch: int = 0) -> PairPlan:
    samples = np.arange(maker.index.num_samples)
    return maker.plan(np.full_like(samples, epoch), samples)


def all_pairs(maker: PairMaker, epoch: int = 0) -> list[Pair]:
    return pairs_of(maker.corpus, whole_plan(maker, epoch))


# ---- random numbers


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_its_published_known_answers(counter, key, expected):
    words = philox(tuple(np.array([c], dtype=np.uint64) for c in counter), np.array(key, np.uint32))
    assert tuple(words[:, 0].tolist()) == expected


def test_draws_depend_on_their_address_only():
    rng = CounterRng(7, Purpose.PAIR)
    items = integers(5, 2**40, 9)
    together = rng.rows(integers(0, 3, 1), items, 11)
    for row, (epoch, item) in enumerate(zip((0, 3, 1), items.tolist())):
        assert (rng.rows(integers(epoch), integers(item), 7)[0] == together[row, :7]).all()
    assert len({tuple(r) for r in together.tolist()}) == 3
    assert (
        rng.rows(integers(0), items[:1], 4)
        != CounterRng(8, Purpose.PAIR).rows(integers(0), items[:1], 4)
    ).all()
    assert (
        rng.rows(integers(0), items[:1], 4)
        != CounterRng(7, Purpose.GRID).rows(integers(0), items[:1], 4)
    ).all()


def test_below_is_even():
    words = CounterRng(1, Purpose.PAIR).rows(integers(0), integers(0), 60_000)[0]
    counts = np.bincount(below(words, 6), minlength=6)
    assert len(counts) == 6
    assert abs(counts - 10_000).max() < 400


# ---- order


@given(size=st.integers(1, 3000), key=st.integers(0, 2**70))
@settings(max_examples=60, deadline=None)
def test_an_order_holds_every_sample_once(size, key):
    places = np.arange(size)
    assert sorted(permute(places, size, [key]).tolist()) == places.tolist()


def test_order_is_place_by_place_and_new_each_epoch():
    index = SampleIndex(np.arange(100, 100_001, 100), SampleSettings(128))
    places = np.arange(1000)
    alone = np.zeros_like(places)
    first, second = index.order(alone, alone, places), index.order(alone, alone + 1, places)
    some = integers(17, 3)
    assert (index.order(alone[:2], integers(1, 0), some) == [second[17], first[3]]).all()
    assert (first == second).sum() < 10
    assert abs(np.corrcoef(first, places)[0, 1]) < 0.1
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1


@pytest.mark.parametrize("size", [3, 10, 97])
def test_each_sample_is_as_likely_at_each_place(size):
    trials = 1000
    seen = np.zeros((size, size))
    for key in range(trials):
        seen[np.arange(size), permute(np.arange(size), size, [key])] += 1
    chi_squared = ((seen - trials / size) ** 2 / (trials / size)).sum()
    freedom = (size - 1) ** 2
    assert abs(chi_squared - freedom) < 5 * (2 * freedom) ** 0.5


def test_a_billion_samples_cost_no_memory_and_no_time():
    started = time.perf_counter()
    got = permute(10**9 - 1 - np.arange(1000), 10**9, [0, 10**6])
    assert time.perf_counter() - started < 1
    assert len(set(got.tolist())) == 1000
    assert got.min() >= 0
    assert got.max() < 10**9


# ---- cells


sentence_lists = st.lists(st.integers(1, 90), min_size=1, max_size=60)


@given(
    sentences=sentence_lists,
    seq_length=st.sampled_from([8, 9, 16, 37, 128]),
    task=st.sampled_from(TASKS),
    epoch=st.integers(0, 2**31),
    seed=st.integers(0, 2**64),
)
@settings(max_examples=200, deadline=None)
def test_cells_cover_a_document_exactly(sentences, seq_length, task, epoch, seed):
    corpus = MemoryCorpus([sentences])
    chosen = SampleSettings(seq_length, task, seed=seed)
    index = SampleIndex(corpus.document_ends, chosen)
    length, starts = sum(sentences), corpus.starts[0]
    if index.num_samples == 0:
        assert length < chosen.smallest
        return
    count = index.num_samples
    rows = np.arange(count + 1)
    cells = index.cells(np.full(count + 1, epoch), np.zeros_like(rows))
    assert (cells.counts == count).all()
    sizes = cells.cell_sizes(rows)[:count].tolist()
    assert sum(sizes) == length
    assert sum(size != chosen.room for size in sizes) <= 1
    grid = cells.boundaries(rows).tolist()
    assert np.diff(grid).tolist() == sizes
    sentences = corpus.sentences(np.zeros_like(rows))
    moved = cells.boundaries_at_sentences(rows, sentences, chosen.smallest).tolist()
    assert (moved[0], moved[-1]) == (0, length)
    assert all(b - a >= chosen.smallest for a, b in itertools.pairwise(moved))
    for plain, place in zip(grid, moved):
        assert place == plain or place in starts
        assert abs(place - plain) <= chosen.room // 4


def test_boundaries_go_to_the_nearest_sentence_or_split_a_long_one():
    documents = [
        integers(0, 90, 105, 130, 300),
        integers(0, 90, 105, 130, 300),
        integers(0, 60, 300),
        integers(0, 95, 105, 300),
    ]
    sentences = SentenceStarts(np.concatenate(documents), integers(5, 5, 3, 4))
    cells = Cells(lengths=np.full(4, 300), counts=np.full(4, 3), remainder=np.full(4, 1), size=100)
    found = cells.boundaries_at_sentences(integers(1, 2, 1, 1), sentences, 2)
    assert found.tolist() == [105, 200, 100, 95]


def test_number_of_samples_depends_on_length_only_and_the_grid_moves():
    lengths = np.random.default_rng(0).integers(0, 3000, 500)
    chosen = SampleSettings(128)
    index = SampleIndex(np.cumsum(lengths), chosen)
    assert index.num_samples == SampleIndex(np.cumsum(lengths[::-1]), chosen).num_samples
    documents, cells = index.locate(np.arange(index.num_samples))
    counts = np.bincount(documents, minlength=500)
    assert counts[lengths < 2].sum() == 0
    assert (counts[lengths >= 2] >= 1).all()
    assert (cells == np.concatenate([np.arange(c) for c in counts])).all()
    long = integers(int(lengths.argmax()))
    places = {int(index.cells(integers(epoch), long).remainder[0]) for epoch in range(60)}
    assert len(places) > 10
    with pytest.raises(IndexError):
        index.locate(integers(index.num_samples))


# ---- pairs


@given(
    documents=st.lists(sentence_lists, min_size=2, max_size=5),
    seq_length=st.sampled_from([8, 11, 32, 128]),
    task=st.sampled_from(TASKS),
    short=st.sampled_from([0.0, 0.1, 1.0]),
    epoch=st.integers(0, 1000),
    seed=st.integers(0, 2**40),
)
@settings(max_examples=150, deadline=None)
def test_every_pair_is_whole_and_its_label_true(documents, seq_length, task, short, epoch, seed):
    corpus = MemoryCorpus(documents)
    chosen = SampleSettings(seq_length, task, short, seed)
    if SampleIndex(corpus.document_ends, chosen).num_samples == 0:
        return
    for pair in all_pairs(PairMaker(corpus, chosen), epoch):
        a, b = pair.a_ids, pair.b_ids
        assert len(a) >= 1
        assert len(a) + len(b) <= chosen.room
        assert (np.diff(a) == 1).all()
        assert (np.diff(b) == 1).all()
        assert (len(pair.a_words), len(pair.b_words)) == (len(a), len(b))
        assert (pair.a_words == corpus.words[a - 10]).all()
        in_a = corpus.document_of(int(a[0]))
        assert in_a == corpus.document_of(int(a[-1])) == pair.a_place[0]
        if task == "none":
            assert (len(b), pair.label, pair.b_place) == (0, -1, None)
            continue
        assert len(b) >= 1
        in_b = corpus.document_of(int(b[0]))
        assert in_b == corpus.document_of(int(b[-1]))
        if task == "sop":
            assert in_a == in_b
            assert pair.label == int(b[0] < a[0])
        else:
            assert pair.label == int(in_a != in_b)
            if not pair.label:
                assert a[-1] < b[0]


def test_next_sentence_pairs_follow_and_random_ones_start_a_sentence():
    corpus = wiki_like(300, ids="place")
    starts = {10 + base + int(s) for base, d in zip(corpus.base, corpus.starts) for s in d}
    pairs = all_pairs(PairMaker(corpus, SampleSettings(512, "nsp", 0.0)))
    assert abs(np.mean([p.label for p in pairs]) - 0.5) < 0.05
    untruncated = [p for p in pairs if len(p.a_ids) + len(p.b_ids) < 509]
    assert len(untruncated) > 50
    for pair in untruncated:
        if pair.label == 0:
            assert pair.b_ids[0] == pair.a_ids[-1] + 1
        if len(corpus.starts[pair.a_place[0]]) > 2 and len(pair.a_ids) > 1:
            assert pair.b_ids[0] in starts


def test_length_does_not_tell_random_from_next():
    corpus = wiki_like(3000)
    for seq_length in (128, 512):
        maker = PairMaker(corpus, SampleSettings(seq_length, "nsp"))
        plan = whole_plan(maker)
        labels = plan.labels
        for measured in (plan.lengths, plan.second.lengths):
            # The best guess of the label from the length alone, by tenths of the range.
            best = 0
            for group in np.array_split(np.argsort(measured, kind="stable"), 10):
                best += max(labels[group].sum(), (1 - labels[group]).sum())
            assert best / len(labels) < 0.56


def test_random_sentences_come_from_the_whole_corpus_by_length():
    corpus = MemoryCorpus([[10] * 100, [10] * 50, [10] * 50], ids="place")
    maker = PairMaker(corpus, SampleSettings(32, "nsp", 0.0))
    taken = np.zeros((3, 3))
    for epoch in range(40):
        for pair in all_pairs(maker, epoch):
            if pair.label:
                taken[pair.a_place[0], pair.b_place[0]] += 1
    assert (np.diag(taken) == 0).all()
    shares = taken / taken.sum(axis=1, keepdims=True)
    assert abs(shares[0, 1] - 0.5) < 0.06
    assert abs(shares[1, 0] - 2 / 3) < 0.07
    assert abs(shares[2, 0] - 2 / 3) < 0.07


def test_one_sample_in_ten_is_short():
    corpus = MemoryCorpus([[10] * 1000, [10] * 1000], ids="place")
    for task in TASKS:
        full = SampleSettings(128, task).room
        totals = whole_plan(PairMaker(corpus, SampleSettings(128, task, 0.0))).lengths
        assert (totals == full).mean() > 0.98
        maker = PairMaker(corpus, SampleSettings(128, task))
        lengths = np.concatenate([whole_plan(maker, epoch).lengths for epoch in range(20)])
        # a short length within ten tokens of the room is filled by its last sentence
        assert abs(np.mean(lengths < full) - 0.1 * 115 / 125) < 0.02
        short = lengths[lengths < full]
        assert abs(short.mean() - 65) < 8


def test_what_is_cut_off_goes_at_both_ends_of_the_longer_segment():
    corpus = MemoryCorpus([[12] * 500, [12] * 500], ids="place")
    maker = PairMaker(corpus, SampleSettings(64, "sop", 0.0))
    pairs = [p for epoch in range(5) for p in all_pairs(maker, epoch)]
    whole = [
        p for p in pairs if len(p.a_ids) + len(p.b_ids) == 61
    ]  # of 72 tokens, or 61 of a long cell
    assert len(whole) > 0.95 * len(pairs)
    lengths = {tuple(sorted((len(p.a_ids), len(p.b_ids)))) for p in whole}
    assert {(12, 49), (24, 37), (30, 31)} <= lengths
    longer = [max((p.a_ids, p.b_ids), key=len) for p in whole]
    front = np.array([(-(int(ids[0]) - 10)) % 12 for ids in longer if len(ids) == 49])
    cut = (12 - front) % 12  # tokens gone at the front, of 11
    assert abs(cut.mean() - 5.5) < 0.5
    assert abs(cut.std() - (11 / 4) ** 0.5) < 0.3


def test_a_sample_is_the_same_in_any_company_and_other_in_another_epoch():
    corpus = wiki_like(200)
    maker = PairMaker(corpus, SampleSettings(128, seed=3))
    pairs = all_pairs(maker, 2)
    again = PairMaker(corpus, SampleSettings(128, seed=3))
    for sample in (0, 17, len(pairs) - 1):
        (alone,) = pairs_of(corpus, again.plan(integers(2), integers(sample)))
        assert (alone.a_ids == pairs[sample].a_ids).all()
        assert (alone.b_ids == pairs[sample].b_ids).all()
        assert alone.label == pairs[sample].label
    other = all_pairs(maker, 3)
    changed = sum(
        p.a_place != q.a_place or len(p.a_ids) != len(q.a_ids)
        for p, q in zip(pairs, other, strict=True)
    )
    assert changed > 0.8 * len(pairs)
    labels = [
        [p.label for p in all_pairs(PairMaker(corpus, SampleSettings(128, seed=s)))] for s in (0, 1)
    ]
    assert 0.4 < np.mean(np.array(labels[0]) == np.array(labels[1])) < 0.6


def test_every_token_of_the_corpus_is_read_over_some_epochs():
    corpus = MemoryCorpus([[7, 90, 3, 200, 12, 11, 40], [5], [60] * 9])
    for task in TASKS:
        maker = PairMaker(corpus, SampleSettings(64, task))
        seen = set()
        for epoch in range(300):
            plan = whole_plan(maker, epoch)
            for spans in (plan.first, plan.second):
                seen |= set(corpus.read_tokens(spans).tolist())
        assert len(seen) == len(corpus.all)


def test_what_cannot_be_paired_is_refused_in_one_line():
    one = MemoryCorpus([[10, 10]])
    with pytest.raises(UserError, match="one document only"):
        PairMaker(one, SampleSettings(32, "nsp"))
    PairMaker(one, SampleSettings(32, "sop"))
    with pytest.raises(UserError, match="no text"):
        PairMaker(MemoryCorpus([]), SampleSettings(32))
    for wrong in (
        {"seq_length": 4},
        {"seq_length": 32, "sentence_task": "nps"},
        {"seq_length": 32, "short_sequence_fraction": 2.0},
        {"seq_length": 32, "seed": -1},
    ):
        with pytest.raises(UserError):
            SampleSettings(**wrong)
