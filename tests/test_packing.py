"""Packing: which samples stand where, what is in a packed batch, and the model over packed rows."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from megabert.data.loader import MicroBatches, SampleSource, count_samples
from megabert.data.masking import MaskSettings
from megabert.data.packing import (
    WINDOW_SAMPLES,
    Window,
    assign_rows,
    choose_window,
    packed_batches,
    plan_window,
)
from megabert.data.pairs import SampleSettings
from megabert.data.shards import Corpus
from megabert.data.skipping import GlobalBatches
from megabert.log import UserError
from megabert.model.bert import same_sequence_mask
from megabert.model.heads import BertForPreTraining
from megabert.model.init import initialize_weights
from megabert.model.split import merge, split_dim
from megabert.parallel.layers import TensorParallel
from megabert.parallel.rng import DropoutStreams
from megabert.parallel.topology import ProcessGroups, Topology
from tests.distributed import run_ranks
from tests.memory_corpus import MemoryCorpus, wiki_like
from tests.model_cases import tiny_config

Arrays = dict[str, Any]


# ---- the plan: lengths only


@st.composite
def windows(draw: st.DrawFn) -> tuple[np.ndarray, int, int]:
    """Lengths of a window's samples, the budget of a row, and the micro batches."""
    budget = draw(st.integers(1, 40))
    micro_batches, size = draw(st.integers(1, 7)), draw(st.integers(1, 9))
    number = micro_batches * size
    lengths = draw(st.lists(st.integers(1, budget), min_size=number, max_size=number))
    return np.array(lengths, dtype=np.int64), budget, micro_batches


@given(windows())
def test_rows_hold_whole_samples_and_no_two_would_fit_into_one(case: Any) -> None:
    lengths, budget, _ = case
    rows = assign_rows(lengths, budget)
    fills = np.bincount(rows, lengths)
    assert (fills > 0).all()
    assert (fills <= budget).all()
    assert sum(sorted(fills)[:2]) > budget or len(fills) == 1


@given(windows())
def test_a_plan_places_each_sample_once(case: Any) -> None:
    lengths, budget, micro_batches = case
    plan = plan_window(lengths, budget, micro_batches)
    taken = np.zeros((micro_batches, plan.rows.max(), budget), dtype=int)
    order = np.lexsort((plan.start, plan.row, plan.batch))
    before, place = (-1, -1), 0
    for sample in order.tolist():
        start, here = plan.start[sample], (plan.batch[sample], plan.row[sample])
        place = 1 if here != before else place + 1
        assert plan.place[sample] == place
        taken[(*here, slice(start, start + lengths[sample]))] += 1
        assert start + lengths[sample] <= budget
        before = here
    assert taken.max() == 1
    assert taken.sum() == lengths.sum()
    assert (np.diff(taken, axis=2) <= 0).all(), "a row has a gap"
    assert ((taken.sum(axis=2) > 0).sum(axis=1) == plan.rows).all()
    assert plan.rows.min() >= 1
    assert plan.rows.max() - plan.rows.min() <= 1
    assert plan.rows.max() <= len(lengths) // micro_batches
    tokens = taken.sum(axis=(1, 2))
    assert tokens.max() - tokens.min() <= budget


def test_best_fit_decreasing_by_hand() -> None:
    lengths = np.array([4, 10, 6, 3, 7, 2, 3])
    # 10 | 7 3 | 6 4 | 3 2: the last 3 finds no room
    assert assign_rows(lengths, 10).tolist() == [2, 0, 2, 1, 1, 3, 3]


def test_tokens_are_balanced() -> None:
    lengths = np.array([7, 10, 8, 9])
    plan = plan_window(lengths, 10, 2)
    assert plan.batch.tolist() == [0, 0, 1, 1]
    assert plan.rows.tolist() == [2, 2]


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


def padded_samples(batch: Arrays) -> list[tuple]:
    """Ids, types, masked positions and labels, and sentence label of each sample of a padded batch."""
    width = batch["input_ids"].shape[1]
    found = []
    for row, mask in enumerate(batch["attention_mask"]):
        length = int(mask.sum())
        masked = batch["masked_positions"] // width == row
        found.append(
            (
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


def packed_samples(batch: Arrays) -> list[tuple]:
    """The same of a packed batch, by rows; its form is checked."""
    rows, width = batch["input_ids"].shape
    ids, positions = batch["sequence_ids"].reshape(-1), batch["position_ids"].reshape(-1)
    assert ((batch["attention_mask"] > 0) == (batch["sequence_ids"] > 0)).all()
    assert (batch["input_ids"].reshape(-1)[ids == 0] == 0).all()
    assert (batch["masked_positions"][1:] > batch["masked_positions"][:-1]).all()
    starts = batch["sequence_starts"].tolist()
    found, covered, masked_seen = [], 0, 0
    for number, start in enumerate(starts):
        place = int(ids[start])
        assert place == (1 if start % width == 0 else int(ids[start - 1]) + 1)
        stop = start
        while stop < (start // width + 1) * width and ids[stop] == place:
            assert positions[stop] == stop - start
            stop += 1
        covered += stop - start
        inside = (batch["masked_positions"] >= start) & (batch["masked_positions"] < stop)
        masked_seen += int(inside.sum())
        found.append(
            (
                tuple(batch["input_ids"].reshape(-1)[start:stop].tolist()),
                tuple(batch["token_type_ids"].reshape(-1)[start:stop].tolist()),
                tuple((batch["masked_positions"][inside] - start).tolist()),
                tuple(batch["masked_labels"][inside].tolist()),
                int(batch["next_sentence_labels"][number])
                if "next_sentence_labels" in batch
                else None,
            )
        )
    assert covered == int((ids > 0).sum())
    assert masked_seen == len(batch["masked_positions"])
    assert {start // width for start in starts} == set(range(rows))
    return found


@pytest.mark.parametrize("task", ["nsp", "none"])
@pytest.mark.parametrize(
    ("micro_steps", "ranks", "micro", "budget"),
    [(4, 1, 5, 64), (2, 3, 8, 64), (1, 4, 1, 64), (4, 2, 6, 150)],
)
def test_a_window_holds_its_samples_unchanged(
    task: str, micro_steps: int, ranks: int, micro: int, budget: int
) -> None:
    source = source_of(task)
    first = 5 * source.samples_per_epoch - 7  # over the end of an epoch
    count = micro_steps * ranks * micro
    numbers = np.arange(first, first + count)
    window = Window(micro_steps, ranks)
    by_rank = [packed_batches(source, numbers, budget, window, rank) for rank in range(ranks)]
    batches = list(itertools.chain(*by_rank))
    assert [len(mine) for mine in by_rank] == [micro_steps] * ranks
    assert all(array.dtype == np.int64 for batch in batches for array in batch.values())
    assert all(batch["input_ids"].shape[1] == budget for batch in batches)
    packed = [sample for batch in batches for sample in packed_samples(batch)]
    assert sorted(packed) == sorted(padded_samples(source.samples(numbers)))
    heights = [len(batch["input_ids"]) for batch in batches]
    assert max(heights) - min(heights) <= 1
    assert 1 <= min(heights) <= max(heights) <= micro
    if micro > 1:
        assert sum(heights) < count


def test_lengths_say_what_masks_say() -> None:
    """One rank alone takes lengths from its samples, several ask for them: the plan is the same."""
    source = source_of()
    numbers = np.arange(40)
    (mine,) = packed_batches(source, numbers, 64, Window(1, 1), 0)
    plan = plan_window(source.lengths(numbers), 64, 1)
    order = np.lexsort((plan.start, plan.row))
    assert packed_samples(mine) == [padded_samples(source.samples(numbers))[n] for n in order]


class _Liar(SampleSource):
    def lengths(self, numbers: np.ndarray) -> np.ndarray:
        return super().lengths(numbers) - 1


def test_wrong_lengths_are_found() -> None:
    source = _Liar(wiki_like(40), SampleSettings(64))
    with pytest.raises(ValueError, match="lengths are not those"):
        packed_batches(source, np.arange(8), 64, Window(1, 2), 0)


# ---- the loader


def gathered(source: SampleSource, micro: int, ranks: int, steps: int, **more: Any) -> list[Arrays]:
    """Micro batches of all ranks, by first sample."""
    found = []
    for rank in range(ranks):
        batches = MicroBatches(source, micro, rank, ranks, **more)
        found += list(itertools.islice(batches, steps))
        batches.close()
    return sorted(found, key=lambda batch: batch["first_sample"])


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
            assert [b["first_sample"] for b in packed] == [b["first_sample"] for b in padded]
            assert sorted(itertools.chain(*map(packed_samples, packed[here]))) == expected
            assert sum(map(count_samples, packed[here])) == micro * ranks * accumulation


def test_samples_that_are_left_out() -> None:
    source = source_of()
    open_loader = partial(MicroBatches, source, 4, 0, 1, window=Window(2, 1))
    batches = GlobalBatches(open_loader, 16, 4)
    batches.move(16, [(32, 64)])
    for first in (16, 64, 80):
        packed = batches.next()
        assert [batch["first_sample"] for batch in packed] == list(range(first, first + 16, 4))
        found = sorted(itertools.chain(*map(packed_samples, packed)))
        assert found == sorted(padded_samples(source.batch(first, 16)))
    batches.close()


@pytest.mark.parametrize(("workers", "method"), [(1, None), (2, "fork")])
def test_workers_change_nothing(workers: int, method: str | None) -> None:
    more = {"window": Window(2, 2), "stop": 4 * 16}
    alone = gathered(source_of(), 4, 2, 99, **more)
    assert len(alone) == 2 * 8
    shared = gathered(source_of(), 4, 2, 99, num_workers=workers, start_method=method, **more)
    for one, other in zip(alone, shared, strict=True):
        assert one.keys() == other.keys()
        assert all(
            torch.equal(torch.as_tensor(v), torch.as_tensor(other[k])) for k, v in one.items()
        )


def test_whole_windows_only() -> None:
    with pytest.raises(ValueError, match="3 ranks are not whole windows of 2"):
        MicroBatches(source_of(), 4, 0, 3, window=Window(1, 2))
    assert len(list(MicroBatches(source_of(), 4, 0, 1, stop=23, window=Window(2, 1)))) == 4


def test_an_id_outside_the_vocabulary_is_named() -> None:
    corpus = MemoryCorpus([[9] * 10, [9] * 10], ids="random")
    corpus.all[130] = corpus.manifest.tokenizer.vocab_size
    batches = MicroBatches(SampleSource(corpus, SampleSettings(64)), 4, 0, 1, window=Window(1, 1))
    with pytest.raises(UserError, match="outside the vocabulary"):
        next(batches)


@pytest.fixture(scope="module")
def real_shards(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 articles of English Wikipedia."""
    from megabert.data.sharding import ShardingOptions, shard

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


@pytest.mark.parametrize("length", [128, 512])
def test_one_token_in_a_hundred_is_padding(length: int, real_shards: Path) -> None:
    source = SampleSource(Corpus.open(real_shards, "train"), SampleSettings(length))
    lengths = source.lengths(np.arange(WINDOW_SAMPLES))
    plan = plan_window(lengths, length, 32)
    assert lengths.sum() >= 0.99 * plan.rows.sum() * length


# ---- the model


def packed_and_padded(task: str = "nsp") -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The same 12 samples of up to 24 tokens, all ids below 101."""
    documents = [[3, 4], [2, 7], [5], [4, 4], [2, 2], [6], [9, 3], [3], [4], [5, 5], [2, 3], [8]]
    source = SampleSource(MemoryCorpus(documents), SampleSettings(24, task))  # type: ignore[arg-type]
    numbers = np.arange(12)
    padded = source.samples(numbers)
    (packed,) = packed_batches(source, numbers, 24, Window(1, 1), 0)
    assert len(packed["input_ids"]) <= 9
    return tuple({k: torch.from_numpy(v) for k, v in a.items()} for a in (packed, padded))  # type: ignore[return-value]


def step(
    batch: dict[str, Tensor], tp: TensorParallel, recompute: bool = False, **changes: Any
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Loss sums and counts, and gradients."""
    config = tiny_config(**changes)
    streams = DropoutStreams(3, tp)
    streams.start(7)
    sentence = "next_sentence_labels" in batch
    model = BertForPreTraining(config, tp, streams, sentence, recompute)
    initialize_weights(model, config, seed=2)
    output = model(**batch)
    (output.mlm_loss_sum / output.mlm_count + output.nsp_loss_sum / 12).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return [value.detach() for value in output], gradients


def assert_same(one: Any, other: Any) -> None:
    torch.testing.assert_close(one[0], other[0], rtol=1e-5, atol=1e-5)
    assert one[1].keys() == other[1].keys()
    for name, gradient in other[1].items():
        torch.testing.assert_close(one[1][name], gradient, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("task", ["nsp", "none"])
def test_packed_rows_train_as_padded_ones(norm: str, task: str) -> None:
    packed, padded = packed_and_padded(task)
    expected = step(padded, TensorParallel(), norm=norm)
    assert_same(step(packed, TensorParallel(), norm=norm), expected)
    assert_same(step(packed, TensorParallel(), recompute=True, norm=norm), expected)


def _split_step(rank: int, world_size: int, batch: dict[str, Tensor], changes: Any) -> Any:
    tp = ProcessGroups.create(Topology(world_size, rank, world_size)).tensor_parallel
    return [step(batch, tp, recompute, **changes) for recompute in (False, True)]


def test_packed_rows_with_split_layers() -> None:
    packed, padded = packed_and_padded()
    whole = step(padded, TensorParallel())
    for parts in zip(*run_ranks(_split_step, 2, packed, {})):
        gradients = {
            name: merge([part[1][name] for part in parts], split_dim(name)) for name in whole[1]
        }
        assert_same((parts[0][0], gradients), whole)


def test_dropout_over_packed_rows_is_repeated() -> None:
    packed, _ = packed_and_padded()
    dropping = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}
    plain = step(packed, TensorParallel(), **dropping)
    again = step(packed, TensorParallel(), recompute=True, **dropping)
    assert all(torch.equal(a, b) for a, b in zip(plain[0], again[0]))
    assert all(torch.equal(gradient, again[1][name]) for name, gradient in plain[1].items())
    assert plain[0][0] != step(packed, TensorParallel())[0][0]


def test_no_attention_between_samples() -> None:
    packed, _ = packed_and_padded()
    config = tiny_config()
    model = BertForPreTraining(config)
    initialize_weights(model, config, seed=2)
    names = ("input_ids", "token_type_ids", "attention_mask", "position_ids", "sequence_ids")
    batch = {name: packed[name] for name in names}
    row, place = (batch["sequence_ids"] == 2).nonzero()[0].tolist()[0], 2
    changed = (batch["sequence_ids"] == place) & (torch.arange(len(batch["input_ids"])) == row)[
        :, None
    ]
    other_ids = torch.where(changed, (batch["input_ids"] + 1) % 101, batch["input_ids"])
    padding = batch["sequence_ids"] == 0
    assert padding.any()
    other_ids = torch.where(padding, 7, other_ids)
    with torch.no_grad():
        before = model.bert(**batch)
        after = model.bert(**{**batch, "input_ids": other_ids})
    moved = (before - after).abs().amax(dim=2)
    assert torch.isfinite(before).all()
    assert (moved[changed] > 1e-3).all()
    assert not moved[~changed & ~padding].any()


@settings(max_examples=20)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_the_mask(ids: list[int]) -> None:
    mask = same_sequence_mask(torch.tensor([ids]))
    assert mask.shape == (1, 1, len(ids), len(ids))
    assert mask[0, 0].tolist() == [[one == other for other in ids] for one in ids]
