"""Batches for training and evaluation: arrays, and which samples each micro step gets.

    SampleSource   global sample number -> padded, masked arrays (numpy; pure)
    MicroBatches   the samples of this rank, micro step by micro step (torch tensors, worker processes)
    evaluation_batches   every sample of a split once, the same each time

A run's samples are numbered 0, 1, 2, ... without end. Number n is the sample at place n mod N of the order
of epoch n div N, N being the samples of an epoch. The run's data position is the count of samples consumed,
and it means the same for any data-parallel size, micro batch size and worker count.
"""

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from megabert.data.counter_rng import Ints
from megabert.data.masking import Masker, MaskSettings
from megabert.data.pairs import CorpusLike, Pair, PairMaker, SampleSettings
from megabert.log import UserError

Arrays = dict[str, npt.NDArray[np.int64]]
EVALUATION_SEED = 0
IGNORED_LABEL = -100
"""Sentence label of a row that only fills up a batch; the loss and the counts leave it out."""


def evaluation_settings(settings: SampleSettings) -> SampleSettings:
    """The same samples in every run: the settings with a seed that is not the run's."""
    return dataclasses.replace(settings, seed=EVALUATION_SEED)


class SampleSource:
    """Samples as padded, masked arrays, by their number in the run.

    Args:
        corpus: the split to read.
        sample_settings: what a sample is.
        mask_settings: how tokens are masked.

    Raises:
        UserError: the split is empty or too small (see `PairMaker`).

    Can be pickled if the corpus can.
    """

    def __init__(
        self,
        corpus: CorpusLike,
        sample_settings: SampleSettings,
        mask_settings: MaskSettings | None = None,
    ) -> None:
        masks = mask_settings or MaskSettings()
        info = corpus.manifest.tokenizer
        self.corpus, self.settings = corpus, sample_settings
        self._special, self._vocab_size = info.special, int(info.vocab_size)
        self._pairs = PairMaker(corpus, sample_settings, with_words=masks.by_word)
        special_ids = tuple(info.special.values())
        self._masker = Masker(
            masks, sample_settings.seed, info.special.mask, self._vocab_size, special_ids
        )

    @property
    def samples_per_epoch(self) -> int:
        """Samples in one epoch; each stands in each epoch exactly once."""
        return self._pairs.index.num_samples

    def addresses(self, first: int, count: int) -> tuple[Ints, Ints]:
        """Epoch and sample of the run's samples first .. first+count-1, both int64 [count]."""
        numbers = np.arange(first, first + count, dtype=np.int64)
        epochs, places = np.divmod(numbers, self.samples_per_epoch)
        samples = np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            samples[here] = self._pairs.index.order(epoch, places[here])
        return epochs, samples

    def pairs(self, first: int, count: int) -> list[Pair]:
        """The text of the run's samples first .. first+count-1, before masking."""
        return self._pairs.make(*self.addresses(first, count))

    def batch(self, first: int, count: int) -> Arrays:
        """The run's samples first .. first+count-1.

        Returns:
            input_ids, token_type_ids, attention_mask int64 [B, S] (mask: 1 = real, 0 = padding);
            masked_positions int64 [M] into the flat B * S, and masked_labels int64 [M];
            next_sentence_labels int64 [B], 0 = B follows A; without it for the task "none".

        Raises:
            UserError: the corpus holds an id outside its vocabulary, or is damaged.
        """
        epochs, samples = self.addresses(first, count)
        pairs = self._pairs.make(epochs, samples)
        shape = (count, self.settings.seq_length)
        input_ids = np.full(shape, self._special.pad, dtype=np.int64)
        token_types = np.zeros(shape, dtype=np.int64)
        attention = np.zeros(shape, dtype=np.int64)
        maskable = np.zeros(shape, dtype=bool)
        word_starts = np.zeros(shape, dtype=bool) if self._masker.settings.by_word else None
        for row, pair in enumerate(pairs):
            input_ids[row, 0] = self._special.cls
            end = 1
            for part, (ids, words) in enumerate(
                ((pair.a_ids, pair.a_words), (pair.b_ids, pair.b_words))
            ):
                if part and not len(ids):
                    break
                stop = end + len(ids)
                input_ids[row, end:stop] = ids
                input_ids[row, stop] = self._special.sep
                maskable[row, end:stop] = True
                token_types[row, end : stop + 1] = part
                if word_starts is not None:
                    word_starts[row, end:stop] = words
                end = stop + 1
            attention[row, :end] = 1
        self._check_ids(input_ids, pairs)
        positions, labels = self._masker.apply(input_ids, maskable, word_starts, epochs, samples)
        arrays = {
            "input_ids": input_ids,
            "token_type_ids": token_types,
            "attention_mask": attention,
            "masked_positions": positions,
            "masked_labels": labels,
        }
        if self.settings.paired:
            arrays["next_sentence_labels"] = np.array(
                [pair.label for pair in pairs], dtype=np.int64
            )
        return arrays

    def _check_ids(self, input_ids: Ints, pairs: list[Pair]) -> None:
        if input_ids.max() < self._vocab_size and input_ids.min() >= 0:
            return
        bad = (input_ids >= self._vocab_size) | (input_ids < 0)
        row = int(np.flatnonzero(bad.any(axis=1))[0])
        pair = pairs[row]
        in_a = (pair.a_ids >= self._vocab_size).any() or (pair.a_ids < 0).any()
        document = (pair.a_place if in_a or pair.b_place is None else pair.b_place)[0]
        shard_of = getattr(self.corpus, "shard_of", None)
        where = (
            f"document {shard_of(document)[1]} of {shard_of(document)[0]}"
            if shard_of
            else str(document)
        )
        raise UserError(
            f"token id {int(input_ids[bad][0])} in {where} is outside the vocabulary of {self._vocab_size}: "
            "the shards are damaged or were made with another tokenizer; make them again"
        )


@dataclass(frozen=True)
class MicroSteps:
    """Which samples a rank gets at each micro step: pure arithmetic.

    Micro step k of the run gives data-parallel rank r the `micro_batch_size` samples from
    `consumed_samples + (k * data_parallel_size + r) * micro_batch_size` on. Ranks of one tensor-parallel
    group have the same data-parallel rank, and so the same samples.

    Raises:
        UserError: a size below 1, a rank outside its group, or a negative count of samples.
    """

    micro_batch_size: int
    data_parallel_rank: int
    data_parallel_size: int
    consumed_samples: int = 0

    def __post_init__(self) -> None:
        if self.micro_batch_size < 1 or self.data_parallel_size < 1:
            raise UserError(
                f"micro batch size {self.micro_batch_size} and data-parallel size "
                f"{self.data_parallel_size} must be at least 1"
            )
        if not 0 <= self.data_parallel_rank < self.data_parallel_size:
            raise UserError(
                f"data-parallel rank {self.data_parallel_rank} is not within 0 .. {self.data_parallel_size - 1}"
            )
        if self.consumed_samples < 0:
            raise UserError(f"consumed samples {self.consumed_samples} is negative")

    @property
    def stride(self) -> int:
        """Samples that all ranks together take at one micro step."""
        return self.micro_batch_size * self.data_parallel_size

    def first_sample(self, micro_step: int) -> int:
        """Number of this rank's first sample at a micro step."""
        return (
            self.consumed_samples
            + micro_step * self.stride
            + self.data_parallel_rank * self.micro_batch_size
        )

    def until(self, stop: int) -> int:
        """Whole micro steps that take no sample of number `stop` or above."""
        return max(0, stop - self.consumed_samples) // self.stride


class MicroBatches:
    """This rank's micro batches, in order and without epoch boundaries.

    Iterating gives dictionaries of the tensors of `SampleSource.batch`, and "first_sample", the number of
    the batch's first sample in the run. Every rank gets equally many.

    Args:
        source: the samples.
        micro_batch_size: sequences of a batch.
        data_parallel_rank: this rank's place among the data-parallel ranks.
        data_parallel_size: data-parallel ranks.
        consumed_samples: where to start; a global batch's first sample.
        num_workers: processes that prepare batches ahead; 0 prepares them when asked.
        stop: sample number at which to end: no batch of a micro step that would go beyond. None = never.
        start_method: "fork", "spawn" or "forkserver" for the processes; None = the platform's default.
        pin_memory: put tensors in page-locked memory, for quicker copies to a GPU.
        prefetch: batches that each worker prepares ahead.

    Attributes:
        seconds_waited: time spent waiting for batches, since the beginning.
    """

    def __init__(
        self,
        source: SampleSource,
        micro_batch_size: int,
        data_parallel_rank: int,
        data_parallel_size: int,
        consumed_samples: int = 0,
        num_workers: int = 0,
        stop: int | None = None,
        *,
        start_method: str | None = None,
        pin_memory: bool = False,
        prefetch: int = 4,
    ) -> None:
        self.steps = MicroSteps(
            micro_batch_size, data_parallel_rank, data_parallel_size, consumed_samples
        )
        self.seconds_waited = 0.0
        self._pin_memory = pin_memory
        loader: DataLoader[Any] = DataLoader(
            _BatchDataset(source, self.steps),
            batch_size=None,
            sampler=_count(None if stop is None else self.steps.until(stop)),
            num_workers=num_workers,
            collate_fn=_unchanged,
            multiprocessing_context=start_method if num_workers else None,
            prefetch_factor=prefetch if num_workers else None,
        )
        self._batches: Iterator[Any] | None = iter(loader)
        self._micro_step = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        if self._batches is None:
            raise StopIteration
        started = time.perf_counter()
        arrays = next(self._batches)
        if isinstance(arrays, _Failure):
            self.close()
            raise UserError(arrays.message)
        tensors = as_tensors(arrays, self._pin_memory)
        self.seconds_waited += time.perf_counter() - started
        first = self.steps.first_sample(self._micro_step)
        self._micro_step += 1
        return {**tensors, "first_sample": first}

    def close(self) -> None:
        """Ends the worker processes; no batch comes after it."""
        self._batches = None


def evaluation_batches(
    source: SampleSource,
    micro_batch_size: int,
    data_parallel_rank: int = 0,
    data_parallel_size: int = 1,
    max_samples: int | None = None,
) -> Iterator[dict[str, Any]]:
    """The first `max_samples` samples (None: all) of epoch 0 of a split, once each, the same every time.

    Every rank gets equally many batches of `micro_batch_size` rows, as collectives need. Rows that only
    fill up the last ones repeat a sample, have no masked position, and carry the sentence label
    `IGNORED_LABEL`; so sums over all ranks do not depend on their number. Batches are as those of
    `MicroBatches`, and carry "real_samples" beside.

    Raises:
        UserError: as `MicroSteps`, or `max_samples` is below 1.
    """
    if max_samples is not None and max_samples < 1:
        raise UserError(f"evaluation of {max_samples} samples: at least 1")
    total = min(source.samples_per_epoch, max_samples or source.samples_per_epoch)
    steps = MicroSteps(micro_batch_size, data_parallel_rank, data_parallel_size)
    for micro_step in range(-(-total // steps.stride)):
        first = steps.first_sample(micro_step)
        real = min(micro_batch_size, max(0, total - first))
        arrays = source.batch(first if real else 0, real or 1)
        filled = _fill(arrays, real, micro_batch_size)
        yield {**as_tensors(filled), "first_sample": first, "real_samples": real}


def as_tensors(arrays: Arrays, pin_memory: bool = False) -> dict[str, torch.Tensor]:
    """The arrays as tensors, without a copy unless memory is to be pinned."""
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return (
        {name: tensor.pin_memory() for name, tensor in tensors.items()} if pin_memory else tensors
    )


def _fill(arrays: Arrays, real: int, rows: int) -> Arrays:
    """The first `real` rows, and the first row again and again without anything to predict."""
    pick = np.arange(rows)
    pick[real:] = 0
    width = arrays["input_ids"].shape[1]
    names = ("input_ids", "token_type_ids", "attention_mask", "next_sentence_labels")
    filled = {name: arrays[name][pick] for name in names if name in arrays}
    if "next_sentence_labels" in filled:
        filled["next_sentence_labels"][real:] = IGNORED_LABEL
    kept = arrays["masked_positions"] < real * width
    filled["masked_positions"] = arrays["masked_positions"][kept]
    filled["masked_labels"] = arrays["masked_labels"][kept]
    return filled


@dataclass(frozen=True)
class _Failure:
    """A wrong input met in a worker process, on its way to the main one in one line."""

    message: str


class _BatchDataset(Dataset[Any]):
    """Micro step -> arrays."""

    def __init__(self, source: SampleSource, steps: MicroSteps) -> None:
        self._source, self._steps = source, steps

    def __getitem__(self, micro_step: int) -> Arrays | _Failure:
        try:
            return self._source.batch(
                self._steps.first_sample(micro_step), self._steps.micro_batch_size
            )
        except UserError as error:
            return _Failure(str(error))


class _count:
    """The micro steps 0, 1, 2, ...; for ever if `stop` is None."""

    def __init__(self, stop: int | None) -> None:
        self._stop = stop

    def __iter__(self) -> Iterator[int]:
        micro_step = 0
        while self._stop is None or micro_step < self._stop:
            yield micro_step
            micro_step += 1


def _unchanged(arrays: Any) -> Any:
    return arrays
