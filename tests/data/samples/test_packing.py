"""Packing: the samples of each micro batch, and its arrays."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megabert.common.errors import UserError
from megabert.common.packed_batch import PackedBatch
from megabert.data.samples.course import Course
from megabert.data.samples.index import SampleSettings
from megabert.data.samples.loader import LoaderOptions, MicroBatches, evaluation_batches
from megabert.data.samples.masking import MaskSettings
from megabert.data.samples.micro_steps import MicroSteps
from megabert.data.samples.packing import (
    IGNORED_LABEL,
    NO_SAMPLE,
    WINDOW_SAMPLES,
    Window,
    choose_window,
    distribute,
    pack_samples,
    pad_samples,
    window_batches,
)
from megabert.data.samples.skip import GlobalBatches
from megabert.data.samples.source import SampleSource
from megabert.data.shards.corpus import Corpus
from tests.helpers.batch_rows import as_rows
from tests.helpers.memory_corpus import MemoryCorpus, wiki_like

Batch = PackedBatch[Any]


# ---- distributing: lengths only


@st.composite
def things(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """Sizes, and bins that their number is a multiple of."""
    bins, rounds = draw(st.integers(1, 7)), draw(st.integers(1, 9))
    largest = draw(st.sampled_from([1, 3, 40]))
    number = bins * rounds
    sizes = draw(st.lists(st.integers(1, largest), min_size=number, max_size=number))
    return np.array(sizes, dtype=np.int64), bins


@given(things())
def test_each_bin_gets_equally_many_things_of_nearly_equal_sum(case: Any) -> None:
    sizes, bins = case
    groups = distribute(sizes, bins)
    assert groups.shape == (len(sizes) // bins, bins)
    assert sorted(groups.ravel().tolist()) == list(range(len(sizes)))
    by_round = sizes[groups]
    assert (by_round[:-1].min(axis=1) >= by_round[1:].max(axis=1)).all()
    sums = by_round.sum(axis=0)
    widest = (by_round.max(axis=1) - by_round.min(axis=1)).max()
    assert sums.max() - sums.min() <= widest <= sizes.max() - sizes.min()


def test_a_small_case_by_hand() -> None:
    # rounds of sizes 9 9 9 | 9 9 7 | 6 4 1: the last is distributed first, then the one with the 7
    sizes = np.array([1, 9, 9, 4, 9, 7, 9, 6, 9])
    assert distribute(sizes, 3).tolist() == [[1, 2, 4], [5, 8, 6], [7, 3, 0]]
    assert sizes[distribute(sizes, 3)].sum(axis=0).tolist() == [22, 22, 19]


def test_later_rounds_even_out_what_earlier_ones_left() -> None:
    sizes = np.random.default_rng(0).integers(1, 513, 2048)
    sums = sizes[distribute(sizes, 32)].sum(axis=0)
    assert sums.max() - sums.min() <= 4


@pytest.mark.parametrize(
    ("micro", "accumulation", "ranks", "expected"),
    [
        (64, 128, 8, Window(4, 8)),
        (64, 16, 64, Window(4, 8)),
        (16, 32, 64, Window(16, 8)),
        (16, 1, 64, Window(1, 64)),
        (64, 1, 64, Window(1, 32)),
        (8, 32, 1, Window(32, 1)),
        (64, 3, 1, Window(3, 1)),
        (64, 100, 1, Window(50, 1)),
        (64, 32, 6, Window(8, 6)),
        (64, 32, 12, Window(4, 12)),
        (64, 32, 134, Window(16, 2)),
        (4096, 2, 8, Window(1, 8)),
    ],
)
def test_windows(micro: int, accumulation: int, ranks: int, expected: Window) -> None:
    window = choose_window(micro, accumulation, ranks)
    assert window == expected
    assert accumulation % window.micro_steps == ranks % window.ranks == 0


# ---- packed batches


def source_of(task: str = "nsp", masking: str = "whole-word", length: int = 64) -> SampleSource:
    sample = SampleSettings(length, task, short_sequence_fraction=0.8, seed=5)  # type: ignore[arg-type]
    return SampleSource(wiki_like(40), sample, MaskSettings(masking))  # type: ignore[arg-type]


def padded_samples(made: Batch) -> list[tuple]:
    """Number, ids, types, masked positions and labels, and sentence label of each padded sample."""
    batch = as_rows(made)
    width = batch["input_ids"].shape[1]
    found = []
    for row, mask in enumerate(batch["attention_mask"]):
        length = int(mask.sum())
        masked = batch["masked_positions"] // width == row
        found.append(
            (
                int(batch["sample_numbers"][row]),
                tuple(batch["input_ids"][row, :length].tolist()),
                tuple(batch["token_type_ids"][row, :length].tolist()),
                tuple((batch["masked_positions"][masked] % width).tolist()),
                tuple(batch["masked_labels"][masked].tolist()),
                int(batch["next_sentence_labels"][row])
                if "next_sentence_labels" in batch
                else None,
            )
        )
    return found


def samples_of(source: SampleSource, numbers: np.ndarray) -> list[tuple]:
    return padded_samples(pad_samples(source.samples(numbers)))


def packed_samples(batch: Batch, filled: bool = False) -> list[tuple]:
    """The same of a packed batch, whose form is checked, without the sequence that fills it up."""
    ends = batch.cu_seqlens.tolist()
    lengths = np.diff(ends)
    assert ends[0] == 0
    assert (lengths > 0).all()
    assert batch.max_length >= lengths.max()
    tokens = batch.real_tokens if filled else ends[-1]
    assert batch.real_tokens == tokens
    for name in ("input_ids", "token_type_ids", "position_ids"):
        assert getattr(batch, name).shape == (ends[-1],)
    assert batch.position_ids.tolist() == [p for n in lengths.tolist() for p in range(n)]
    numbers, masked = batch.sample_numbers.tolist(), batch.labels["masked_positions"]
    assert len(numbers) == len(lengths)
    assert (masked[1:] > masked[:-1]).all()
    assert len(masked) == len(batch.labels["masked_labels"])
    found, masked_seen = [], 0
    for place, (number, start, stop) in enumerate(zip(numbers, ends, ends[1:])):
        inside = (masked >= start) & (masked < stop)
        masked_seen += int(inside.sum())
        label = (
            int(batch.labels["next_sentence_labels"][place])
            if "next_sentence_labels" in batch.labels
            else None
        )
        found.append(
            (
                number,
                tuple(batch.input_ids[start:stop].tolist()),
                tuple(batch.token_type_ids[start:stop].tolist()),
                tuple((masked[inside] - start).tolist()),
                tuple(batch.labels["masked_labels"][inside].tolist()),
                label,
            )
        )
    assert masked_seen == len(masked)
    if ends[-1] > tokens:
        size = ends[-1] - tokens
        label = IGNORED_LABEL if "next_sentence_labels" in batch.labels else None
        assert found.pop() == (NO_SAMPLE, (0,) * size, (0,) * size, (), (), label)
    real = [len(sample[1]) for sample in found]
    assert sum(real) == tokens
    assert real == sorted(real, reverse=True)
    return found


@pytest.mark.parametrize("task", ["nsp", "none"])
@pytest.mark.parametrize(
    ("micro_steps", "ranks", "micro", "multiple"),
    [(4, 1, 5, 1), (2, 3, 8, 1), (1, 4, 1, 1), (5, 2, 1, 16), (4, 2, 6, 2), (3, 1, 4, 64)],
)
def test_a_window_holds_its_samples_unchanged(
    task: str, micro_steps: int, ranks: int, micro: int, multiple: int
) -> None:
    source = source_of(task)
    first = 5 * source.samples_per_epoch - 7  # over the end of an epoch
    numbers = np.arange(first, first + micro_steps * ranks * micro)
    window = Window(micro_steps, ranks)
    by_rank = [window_batches(source, numbers, window, rank, multiple) for rank in range(ranks)]
    assert [len(mine) for mine in by_rank] == [micro_steps] * ranks
    batches = list(itertools.chain(*by_rank))
    for batch in batches:
        assert all(
            value.dtype == (np.int32 if name == "cu_seqlens" else np.int64)
            for name, value in [*vars(batch).items(), *batch.labels.items()]
            if isinstance(value, np.ndarray) and name != "lengths"
        )
        assert isinstance(batch.real_tokens, int)
        assert batch.max_length == 64
        assert len(batch.input_ids) == -(-batch.real_tokens // multiple) * multiple
        assert batch.real_samples == micro
    packed = [packed_samples(batch, filled=multiple > 1) for batch in batches]
    assert {len(samples) for samples in packed} == {micro}
    assert sorted(itertools.chain(*packed)) == samples_of(source, numbers)
    tokens = np.array([batch.real_tokens for batch in batches]).reshape(ranks, micro_steps)
    assert tokens.max() - tokens.min() <= 64
    assert np.ptp(tokens.sum(axis=1)) <= np.ptp(tokens, axis=0).max()


def test_micro_steps_are_alike_on_all_ranks() -> None:
    """One sample a micro batch: what a micro step holds differs little from rank to rank."""
    source = source_of()
    numbers = np.arange(64)
    tokens = np.array(
        [
            [batch.real_tokens for batch in window_batches(source, numbers, Window(16, 4), rank)]
            for rank in range(4)
        ]
    )
    longest_first = np.sort(source.lengths(numbers))[::-1].reshape(16, 4)
    assert np.sort(tokens, axis=0)[::-1].T.tolist() == longest_first.tolist()


def test_lengths_say_what_masks_say() -> None:
    """One rank alone takes lengths from its samples, several ask for them: the result is the same."""
    source = source_of()
    numbers = np.arange(40)
    alone = window_batches(source, numbers, Window(4, 1), 0)
    groups = distribute(source.lengths(numbers), 4)
    expected = samples_of(source, numbers)
    assert sorted(map(packed_samples, alone)) == sorted(
        [expected[n] for n in column] for column in groups.T.tolist()
    )


class _Liar(SampleSource):
    def lengths(self, numbers: np.ndarray) -> np.ndarray:
        return super().lengths(numbers) - 1


def test_wrong_lengths_are_found() -> None:
    source = _Liar(wiki_like(40), SampleSettings(64))
    with pytest.raises(ValueError, match="lengths are not those"):
        window_batches(source, np.arange(8), Window(1, 2), 0)


@pytest.mark.parametrize("multiple", [1, 8])
def test_a_batch_without_samples(multiple: int) -> None:
    samples = source_of().samples(np.arange(3))
    nothing = np.zeros((2, 0), dtype=np.int64)
    batches = pack_samples(samples, nothing, multiple)
    assert len(batches) == 2
    for batch in batches:
        assert packed_samples(batch, filled=True) == []
        assert batch.cu_seqlens.tolist() == [0, multiple]
        assert batch.real_samples == 0


# ---- the loader


def gathered(
    source: SampleSource,
    micro: int,
    ranks: int,
    steps: int,
    *,
    consumed_samples: int = 0,
    stop: int | None = None,
    **options: Any,
) -> list[Batch]:
    """Micro batches of all ranks, by first sample."""
    found = []
    for rank in range(ranks):
        where = MicroSteps(micro, rank, ranks, consumed_samples)
        batches = MicroBatches(source, where, LoaderOptions(**options), stop)
        found += list(itertools.islice(batches, steps))
        batches.close()
    return sorted(found, key=lambda batch: batch.first_sample)


def test_an_update_reads_the_same_samples() -> None:
    """Packed or not, on any layout, in this process or in workers."""
    source = source_of()
    micro, ranks, accumulation, start = 4, 4, 6, 96
    more = {"consumed_samples": start}
    padded = gathered(source, micro, ranks, 2 * accumulation, **more)
    for update in range(2):
        here = slice(update * accumulation * ranks, (update + 1) * accumulation * ranks)
        expected = sorted(itertools.chain(*map(padded_samples, padded[here])))
        for window in (Window(6, 1), Window(3, 2), Window(2, 4), Window(1, 1)):
            packed = gathered(source, micro, ranks, 2 * accumulation, window=window, **more)
            assert [b.first_sample for b in packed] == [b.first_sample for b in padded]
            assert sorted(itertools.chain(*map(packed_samples, packed[here]))) == expected
            counts = [sum(batch.real_tokens for batch in part[here]) for part in (padded, packed)]
            assert counts[0] == counts[1]
            assert {b.real_samples for b in [*packed[here], *padded[here]]} == {micro}


def test_samples_that_are_left_out() -> None:
    source = source_of()

    def open_at(consumed_samples: int, stop: int | None) -> MicroBatches:
        steps = MicroSteps(4, 0, 1, consumed_samples)
        return MicroBatches(source, steps, LoaderOptions(window=Window(2, 1)), stop)

    batches = GlobalBatches(open_at, Course.constant_of(16, 64), lambda stage: 4)
    batches.move(16, [(32, 64)])
    for first in (16, 64, 80):
        packed = batches.next()
        assert [batch.first_sample for batch in packed] == list(range(first, first + 16, 4))
        found = sorted(itertools.chain(*map(packed_samples, packed)))
        assert found == samples_of(source, np.arange(first, first + 16))
    batches.close()


@pytest.mark.parametrize(("workers", "method"), [(1, None), (2, "fork")])
def test_workers_change_nothing(workers: int, method: str | None) -> None:
    more = {"window": Window(2, 2), "stop": 4 * 16}
    alone = gathered(source_of(), 4, 2, 99, **more)
    assert len(alone) == 2 * 8
    shared = gathered(source_of(), 4, 2, 99, num_workers=workers, start_method=method, **more)
    for one, other in zip(alone, shared, strict=True):
        assert packed_samples(one) == packed_samples(other)
        assert one.first_sample == other.first_sample


def test_whole_windows_only() -> None:
    with pytest.raises(ValueError, match="3 ranks are not a multiple of the window's 2"):
        MicroBatches(source_of(), MicroSteps(4, 0, 3), LoaderOptions(window=Window(1, 2)))
    assert (
        len(
            list(
                MicroBatches(
                    source_of(), MicroSteps(4, 0, 1), LoaderOptions(window=Window(2, 1)), 23
                )
            )
        )
        == 4
    )


def test_an_id_outside_the_vocabulary_is_named() -> None:
    corpus = MemoryCorpus([[9] * 10, [9] * 10], ids="random")
    corpus.all[130] = corpus.manifest.tokenizer.vocab_size
    batches = MicroBatches(
        SampleSource(corpus, SampleSettings(64)),
        MicroSteps(4, 0, 1),
        LoaderOptions(window=Window(1, 1)),
    )
    with pytest.raises(UserError, match="outside the vocabulary"):
        next(batches)


@pytest.fixture(scope="module")
def real_shards(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 articles of English Wikipedia."""
    from megabert.data.prepare.job import ShardingOptions, shard

    folder = tmp_path_factory.mktemp("real") / "shards"
    shard(
        ShardingOptions(
            inputs=(shared_data / "wiki_extracted" / "enwiki-part.tar.xz",),
            tokenizer=shared_data / "vocab" / "bert-base-uncased-vocab.txt",
            output=folder,
            eval_fraction=0.0,
            max_pages=60,
            workers=2,
        )
    )
    return folder


@pytest.mark.parametrize(("length", "most"), [(128, 0.002), (512, 0.01)])
def test_micro_batches_of_real_text_are_balanced(
    length: int, most: float, real_shards: Path
) -> None:
    source = SampleSource(Corpus.open(real_shards, "train"), SampleSettings(length))
    lengths = source.lengths(np.arange(WINDOW_SAMPLES))
    tokens = lengths[distribute(lengths, WINDOW_SAMPLES * length // 8192)].sum(axis=0)
    assert tokens.max() <= (1 + most) * tokens.mean()


# ---- evaluation


@pytest.mark.parametrize("task", ["nsp", "none"])
@pytest.mark.parametrize(
    ("ranks", "micro", "most", "multiple"),
    [(1, 3, None, 1), (3, 2, 19, 1), (4, 5, 21, 16), (8, 4, 7, 2)],
)
def test_an_evaluation_is_packed_batch_by_batch(
    task: str, ranks: int, micro: int, most: int | None, multiple: int
) -> None:
    source = source_of(task)
    total = most or source.samples_per_epoch
    found, lengths = [], []
    for rank in range(ranks):
        steps = MicroSteps(micro, rank, ranks)
        padded = list(evaluation_batches(source, steps, most))
        packed = evaluation_batches(source, steps, most, packed=True, token_multiple=multiple)
        lengths.append(len(padded))
        for flat, plain in zip(packed, padded, strict=True):
            for name in ("first_sample", "real_samples", "real_tokens"):
                assert getattr(flat, name) == getattr(plain, name)
            assert len(flat.input_ids) % multiple == 0
            assert len(flat.input_ids) - flat.real_tokens <= multiple
            samples = packed_samples(flat, filled=True)
            assert sorted(samples) == padded_samples(plain)[: plain.real_samples]
            assert int((flat.sample_numbers >= 0).sum()) == flat.real_samples == len(samples)
            found += samples
    assert len(set(lengths)) == 1
    assert sorted(found) == samples_of(source, np.arange(total))


# ---- what is refused, and what is passed on


@pytest.mark.parametrize(
    ("window", "multiple"), [(Window(1, 1), 0), (Window(1, 1), 65), (None, 2), (None, 0)]
)
def test_wrong_token_multiples(window: Window | None, multiple: int) -> None:
    steps, packed = MicroSteps(4, 0, 1), window is not None
    options = LoaderOptions(window=window, token_multiple=multiple)
    with pytest.raises(ValueError, match=f"token multiple {multiple} is not within 1"):
        MicroBatches(source_of(), steps, options)
    with pytest.raises(ValueError, match=f"token multiple {multiple} is not within 1"):
        next(evaluation_batches(source_of(), steps, packed=packed, token_multiple=multiple))


def test_every_tensor_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self) or self)
    options = LoaderOptions(window=Window(1, 1), pin_memory=True)
    batch = next(MicroBatches(source_of(), MicroSteps(4, 0, 1), options))
    values = [*vars(batch).values(), *batch.labels.values()]
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    assert len(pinned) == len(tensors) == 8
    assert batch.cu_seqlens.dtype == torch.int32
