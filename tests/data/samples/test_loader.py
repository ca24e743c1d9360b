"""Batches: which samples, in which order, on which rank; and what is in them."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import pickle
import shutil
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from megabert.common.errors import UserError
from megabert.common.packed_batch import PackedBatch
from megabert.data.samples.index import SampleSettings
from megabert.data.samples.loader import LoaderOptions, MicroBatches, evaluation_batches
from megabert.data.samples.masking import MaskSettings
from megabert.data.samples.micro_steps import MicroSteps
from megabert.data.samples.packing import IGNORED_LABEL, Window
from megabert.data.samples.source import SampleArrays, SampleSource, evaluation_settings
from megabert.data.shards.corpus import Corpus
from megabert.data.shards.manifest import SpecialIds, TokenizerInfo
from megabert.data.shards.writer import Document, write_corpus
from tests.helpers.batch_rows import as_rows, named_arrays, samples_from
from tests.helpers.memory_corpus import MemoryCorpus, pairs_of, wiki_like

NSP = SampleSettings(64, "nsp", seed=5)


def small(task: str = "nsp", masking: str = "token", seed: int = 5) -> SampleSource:
    corpus = MemoryCorpus([[9, 14, 30, 8] * 6, [7], [5, 80, 3], [12] * 31], ids="random")
    return SampleSource(corpus, SampleSettings(64, task, seed=seed), MaskSettings(masking))


def run_of(
    source: SampleSource, size: int, micro: int, steps: int, consumed: int = 0
) -> dict[int, PackedBatch]:
    """Batches of all ranks of a run, by their first sample."""
    found = {}
    for rank in range(size):
        batches = MicroBatches(source, MicroSteps(micro, rank, size, consumed))
        for batch in itertools.islice(batches, steps):
            assert batch.first_sample not in found
            found[batch.first_sample] = batch
        batches.close()
    return found


def rows(batches: dict[int, PackedBatch]) -> list[tuple]:
    """Each sample of a run in order: ids, types, label, and its masked positions and labels."""
    result = []
    for _, made in sorted(batches.items()):
        batch = as_rows(made)
        width = batch["input_ids"].shape[1]
        for row in range(len(batch["input_ids"])):
            mine = batch["masked_positions"] // width == row
            result.append(
                (
                    tuple(batch["input_ids"][row].tolist()),
                    tuple(batch["token_type_ids"][row].tolist()),
                    int(batch["next_sentence_labels"][row]),
                    tuple((batch["masked_positions"][mine] % width).tolist()),
                    tuple(batch["masked_labels"][mine].tolist()),
                )
            )
    return result


# ---- content


@pytest.mark.parametrize("masking", ["token", "whole-word", "ngram"])
@pytest.mark.parametrize("task", ["nsp", "sop", "none"])
def test_a_batch_is_well_formed(task, masking):
    source = small(task, masking)
    count = source.samples_per_epoch
    batch = samples_from(source, 0, count)
    ids, types, mask = batch.input_ids, batch.token_type_ids, batch.attention_mask
    assert ids.shape == types.shape == mask.shape == (count, 64)
    assert all(array.dtype == np.int64 for array in named_arrays(batch).values())
    assert (batch.next_sentence_labels is None) == (task == "none")
    lengths = mask.sum(axis=1)
    assert (mask == (np.arange(64) < lengths[:, None])).all()
    assert (ids[:, 0] == 2).all()
    assert (ids[mask == 0] == 0).all()
    assert (ids[np.arange(count), lengths - 1] == 3).all()
    assert ((ids == 3).sum(axis=1) == (1 if task == "none" else 2)).all()
    assert (np.diff(types * mask - (1 - mask), axis=1) >= 0).sum() > 0
    for row, pair in enumerate(pairs_of(source.corpus, source.plan(np.arange(count)))):
        a, b = len(pair.a_ids), len(pair.b_ids)
        assert types[row].tolist() == [0] * (a + 2) + ([1] * (b + 1) if b else []) + [0] * (
            64 - a - 2 - (b + 1 if b else 0)
        )
        plain = ids[row].copy()
        here = batch.masked_positions // 64 == row
        plain[batch.masked_positions[here] % 64] = batch.masked_labels[here]
        assert (plain[1 : a + 1] == pair.a_ids).all()
        assert (plain[a + 2 : a + 2 + b] == pair.b_ids).all()
        assert here.sum() >= 1
        if b:
            assert batch.next_sentence_labels[row] == pair.label


def test_an_id_outside_the_vocabulary_is_named():
    corpus = MemoryCorpus([[9] * 10, [9] * 10], ids="random")
    corpus.all[130] = corpus.manifest.tokenizer.vocab_size
    source = SampleSource(corpus, NSP)
    expected = r"token id 1000 in document 1 of memory.h5 .*vocabulary of 1000"
    with pytest.raises(UserError, match=expected):
        samples_from(source, 0, source.samples_per_epoch)


@pytest.mark.parametrize(
    ("task", "masking", "digest"),
    [
        ("nsp", "token", "80e122d3d435ca59"),
        ("sop", "whole-word", "99f203cfc6caa61c"),
        ("none", "ngram", "b719c13f38f95443"),
    ],
)
def test_samples_are_those_of_earlier_versions(task, masking, digest):
    """A resumed run reads on where it stopped, so no version may change a draw unknowingly."""
    corpus = MemoryCorpus([[5 + i * j % 37 for j in range(1, 3 + 7 * i)] for i in range(1, 9)])
    corpus.words = np.arange(len(corpus.all)) % 5 != 3
    source = SampleSource(corpus, SampleSettings(32, task, seed=11), MaskSettings(masking))
    content = hashlib.sha256()
    for name, array in sorted(named_arrays(samples_from(source, 2**33, 200)).items()):
        content.update(name.encode() + array.astype("<i8").tobytes())
    assert content.hexdigest()[:16] == digest


@pytest.mark.parametrize("task", ["nsp", "sop", "none"])
def test_lengths_are_those_of_the_samples_and_read_no_token(task, monkeypatch):
    source = SampleSource(wiki_like(60), SampleSettings(48, task, seed=2))
    numbers = np.array([7, 3, 10**8, 7, 2**40])
    expected = source.samples(numbers).lengths
    monkeypatch.setattr(MemoryCorpus, "read_tokens", None)
    assert source.lengths(numbers).tolist() == expected.tolist()


class _Plain:
    """A source with nothing but the protocol: 10 samples, sample n of n + 3 tokens, one masked."""

    settings = SampleSettings(16)
    samples_per_epoch = 10

    def lengths(self, numbers: np.ndarray) -> np.ndarray:
        return 3 + numbers % 10

    def samples(self, numbers: np.ndarray) -> SampleArrays:
        real = (np.arange(16) < self.lengths(numbers)[:, None]).astype(np.int64)
        rows = np.arange(len(numbers))
        return SampleArrays(numbers, real * 7, real * 0, real, rows * 16 + 1, rows, rows % 2)


@pytest.mark.parametrize("window", [None, Window(1, 1), Window(1, 2)])
def test_any_source_with_the_protocol_will_do(window):
    numbers = []
    for rank in range(2):
        steps = MicroSteps(2, rank, 2)
        batches = list(MicroBatches(_Plain(), steps, LoaderOptions(window=window), stop=12))
        evaluated = list(evaluation_batches(_Plain(), steps, packed=window is not None))
        assert [batch.real_samples for batch in batches] == [2, 2, 2]
        assert sum(batch.real_samples for batch in evaluated) == (6, 4)[rank]
        numbers += [n for batch in batches for n in batch.sample_numbers.tolist()]
    assert sorted(numbers) == list(range(12))


# ---- order


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("micro", [1, 2, 5])
def test_each_sample_once_an_epoch_on_any_number_of_ranks(size, micro):
    source = small()
    epoch = source.samples_per_epoch
    steps = -(-3 * epoch // (size * micro))
    numbers = []
    for rank in range(size):
        share = MicroSteps(micro, rank, size)
        for k in range(steps):
            numbers += range(share.first_sample(k), share.first_sample(k) + micro)
    assert sorted(numbers) == list(range(steps * size * micro))
    _, samples = source.addresses(np.arange(3 * epoch))
    for e in range(3):
        assert sorted(samples[e * epoch : (e + 1) * epoch].tolist()) == list(range(epoch))
    taken = [
        tuple(samples_from(source, n, 1).input_ids[0].tolist()) for n in range(steps * size * micro)
    ]
    assert [r[0] for r in rows(run_of(source, size, micro, steps))] == taken


def test_a_batch_names_its_samples_and_counts_its_tokens():
    for first, batch in run_of(small(), size=2, micro=3, steps=4, consumed=30).items():
        assert batch.sample_numbers.tolist() == list(range(first, first + 3))
        assert batch.real_tokens == int(batch.attention_mask.sum())
        assert isinstance(batch.real_tokens, int)
        assert batch.real_samples == 3


def test_resumed_run_gives_the_same_samples_on_other_ranks():
    whole = rows(run_of(small(), size=2, micro=3, steps=16))
    first = rows(run_of(small(), size=2, micro=3, steps=4))
    second = rows(run_of(small(), size=4, micro=3, steps=3, consumed=24))
    third = rows(run_of(small(), size=1, micro=6, steps=6, consumed=60))
    assert first + second + third == whole
    assert rows(run_of(small(seed=6), size=2, micro=3, steps=16)) != whole


def test_micro_steps_of_a_tensor_parallel_group_are_equal_and_wrong_sizes_refused():
    assert MicroSteps(4, 1, 3, 100).first_sample(2) == 100 + (2 * 3 + 1) * 4
    assert MicroSteps(4, 1, 3, 100).until(124) == 2
    assert MicroSteps(4, 1, 3, 100).until(123) == 1
    assert MicroSteps(4, 1, 3, 100).until(0) == 0
    for wrong in ((0, 0, 1, 0), (1, 0, 0, 0), (1, 2, 2, 0), (1, -1, 2, 0), (1, 0, 1, -1)):
        with pytest.raises(UserError):
            MicroSteps(*wrong)


def test_the_ten_billionth_sample_comes_at_once():
    source = small()
    started = time.perf_counter()
    batch = next(MicroBatches(source, MicroSteps(2, 1, 8, 10**10)))
    assert batch.first_sample == 10**10 + 2
    assert time.perf_counter() - started < 1


def test_batches_take_no_draw_from_the_global_generator():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    next(MicroBatches(small(), MicroSteps(2, 0, 1)))
    assert torch.equal(torch.get_rng_state(), before)


def test_stop_ends_all_ranks_after_the_same_step():
    source = small()
    for rank in range(3):
        assert len(list(MicroBatches(source, MicroSteps(4, rank, 3, 24), stop=24 + 47))) == 3


# ---- worker processes


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_worker_processes_change_nothing(start_method, shards):
    source = SampleSource(Corpus.open(shards, "train"), NSP)
    plain = run_of(source, 1, 4, 9)  # files are open before the processes begin
    batches = MicroBatches(source, MicroSteps(4, 0, 1), LoaderOptions(2, start_method))
    assert rows({b.first_sample: b for b in itertools.islice(batches, 9)}) == rows(plain)
    assert batches.seconds_waited > 0
    batches.close()
    assert list(batches) == []


@pytest.mark.parametrize("workers", [0, 1])
def test_damage_is_one_line_in_the_main_process_too(workers):
    corpus = MemoryCorpus([[9] * 10, [9] * 10], ids="random")
    corpus.all[:] = 5000
    batches = MicroBatches(SampleSource(corpus, NSP), MicroSteps(2, 0, 1), LoaderOptions(workers))
    with pytest.raises(UserError, match="token id 5000") as caught:
        next(batches)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_a_damaged_shard_stops_worker_processes_in_one_line(start_method, shards, tmp_path):
    for path in shards.iterdir():
        shutil.copy(path, tmp_path)
    source = SampleSource(Corpus.open(tmp_path, "train"), NSP)
    name = "train-00001-of-00004.h5"
    with (tmp_path / name).open("r+b") as file:  # by far the largest: tokens at its beginning
        file.seek(8000)
        file.write(b"\xff" * 2000)
    batches = MicroBatches(source, MicroSteps(8, 0, 1), LoaderOptions(1, start_method))
    with pytest.raises(UserError, match=rf"{name}: damaged: .*bytes \d+ to \d+") as caught:
        list(itertools.islice(batches, 20))
    assert "\n" not in str(caught.value)


# ---- real shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 3, 120, 1 and 27 documents, and an evaluation split of 5."""
    rng = np.random.default_rng(0)

    def documents(count: int, first: int) -> list[Document]:
        made = []
        for i in range(count):
            sentences = []
            for size in rng.integers(3, 40, rng.integers(1, 12)).tolist():
                tokens = rng.integers(5, 300, size)
                tokens[0] = 300 + (first + i) % 100
                sentences.append((tokens.tolist(), [True, *(rng.random(size - 1) < 0.7).tolist()]))
            made.append(Document(first + i, sentences))
        return made

    folder = tmp_path_factory.mktemp("shards")
    counts = (3, 120, 1, 27)
    train = [documents(n, 1000 * k) for k, n in enumerate(counts)]
    info = TokenizerInfo("wordpiece", "0" * 64, 400, True, SpecialIds(0, 1, 2, 3, 4))
    write_corpus(folder, {"train": train, "eval": [documents(5, 9000)]}, info)
    return folder


def test_shards_of_any_size_make_every_sample_once(shards):
    source = SampleSource(Corpus.open(shards, "train"), NSP)
    source = pickle.loads(pickle.dumps(source))
    epoch = source.samples_per_epoch
    assert set(source.plan(np.arange(epoch)).first.documents.tolist()) == set(range(151))
    batches = run_of(source, 4, 2, 50)  # beyond the end of an epoch: no boundary
    assert len(rows(batches)) == 400 > epoch
    assert rows(batches)[:10] == rows(run_of(source, 5, 1, 2))


def test_evaluation_is_the_same_each_time_and_covers_its_split_only(shards):
    settings = evaluation_settings(NSP)
    assert settings == evaluation_settings(SampleSettings(64, "nsp", seed=77))
    source = SampleSource(Corpus.open(shards, "eval"), settings)
    steps = MicroSteps(4, 0, 1)
    once = list(evaluation_batches(source, steps))
    for first, again in zip(once, evaluation_batches(source, steps), strict=True):
        first, again = as_rows(first), as_rows(again)
        assert all(torch.equal(first[k], again[k]) for k in first)
    total = source.samples_per_epoch
    assert sum(batch.real_samples for batch in once) == total
    assert set(source.plan(np.arange(total)).first.documents.tolist()) == set(range(5))


@pytest.mark.parametrize("task", ["nsp", "none"])
@pytest.mark.parametrize(
    ("size", "micro", "most"), [(1, 3, None), (3, 2, None), (4, 5, None), (8, 64, 7)]
)
def test_evaluation_counts_do_not_depend_on_the_ranks(shards, task, size, micro, most):
    source = SampleSource(Corpus.open(shards, "eval"), SampleSettings(64, task))
    total = most or source.samples_per_epoch
    plain = samples_from(source, 0, total)
    labels, masked, lengths, real, tokens = [], 0, [], 0, 0
    for rank in range(size):
        batches = list(evaluation_batches(source, MicroSteps(micro, rank, size), most))
        lengths.append(len(batches))
        for batch in batches:
            assert batch.attention_mask.shape == (micro, 64)
            lengths_here = batch.attention_mask.sum(dim=1)
            assert (lengths_here > 2).all()
            assert batch.real_tokens == lengths_here[: batch.real_samples].sum()
            named = batch.sample_numbers[: batch.real_samples]
            assert named.tolist() == [batch.first_sample + i for i in range(len(named))]
            tokens += batch.real_tokens
            masked += len(batch.labels["masked_labels"])
            real += batch.real_samples
            if task == "nsp":
                labels += [
                    x for x in batch.labels["next_sentence_labels"].tolist() if x != IGNORED_LABEL
                ]
    assert len(set(lengths)) == 1
    assert real == total
    assert masked == len(plain.masked_labels)
    assert tokens == plain.lengths.sum()
    if task == "nsp":
        assert sorted(labels) == sorted(plain.next_sentence_labels.tolist())


def test_an_evaluation_of_nothing_is_refused(shards):
    source = SampleSource(Corpus.open(shards, "eval"), NSP)
    with pytest.raises(UserError, match="at least 1"):
        next(evaluation_batches(source, MicroSteps(4, 0, 1), max_samples=0))


def test_a_process_makes_a_thousand_samples_a_second():
    source = SampleSource(wiki_like(500), SampleSettings(128))
    samples_from(source, 0, 64)
    started = time.process_time()
    for first in range(0, 1024, 64):
        samples_from(source, first, 64)
    assert 1024 / (time.process_time() - started) > 1000


def test_reading_writes_nothing_and_takes_no_lock(shards, tmp_path, monkeypatch):
    folder = tmp_path / "shards"
    shutil.copytree(shards, folder)
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    before = {path.name: path.stat().st_mtime_ns for path in [folder, *folder.iterdir()]}
    flags = []
    opened = os.open
    monkeypatch.setattr(os, "open", lambda path, flag: flags.append(flag) or opened(path, flag))
    monkeypatch.setattr(fcntl, "flock", None)
    monkeypatch.setattr(fcntl, "lockf", None)
    source = SampleSource(Corpus.open(folder, "train"), NSP, MaskSettings("ngram"))
    for first in range(0, source.samples_per_epoch, 32):
        samples_from(source, first, 32)
    assert len(flags) == 4  # to read; documents are counted in the index
    assert not any(flag & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) for flag in flags)
    assert before == {path.name: path.stat().st_mtime_ns for path in [folder, *folder.iterdir()]}


def test_memory_does_not_grow_from_epoch_to_epoch(shards):
    source = SampleSource(Corpus.open(shards, "train"), NSP, MaskSettings("whole-word"))
    epoch = source.samples_per_epoch

    def read(number: int) -> int:
        for first in range(number * epoch, (number + 1) * epoch, 32):
            samples_from(source, first, 32)
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        sizes = [read(number) for number in range(4)]
    finally:
        tracemalloc.stop()
    assert abs(sizes[3] - sizes[1]) < 20_000
