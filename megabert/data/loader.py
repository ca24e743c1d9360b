"""Batches for training and evaluation: which samples each rank gets at each micro step.

    SampleSource         global sample number -> padded, masked arrays (numpy; pure)
    MicroBatches         the samples of this rank, micro step by micro step, padded or packed (torch
                         tensors, workers)
    evaluation_batches   every sample of a split once, the same each time

A run's data position is the count of samples consumed, and it means the same for any data-parallel
size, micro batch size and worker count.
"""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from megabert.data.counter_rng import Ints
from megabert.data.masking import MaskSettings
from megabert.data.packing import PackableSource, Window, packed_batches
from megabert.data.pairs import SampleSettings
from megabert.data.sample_source import Arrays, SampleSource, evaluation_settings
from megabert.log import UserError

__all__ = [
    "IGNORED_LABEL",
    "MaskSettings",
    "MicroBatches",
    "MicroSteps",
    "SampleSettings",
    "SampleSource",
    "Samples",
    "count_samples",
    "evaluation_batches",
    "evaluation_settings",
]

IGNORED_LABEL = -100
"""Sentence label of a row that only fills up a batch; the loss and the counts leave it out."""


class Samples(PackableSource, Protocol):
    """Samples by their number in the run, as `SampleSource` gives them."""

    settings: SampleSettings

    @property
    def samples_per_epoch(self) -> int:
        """Samples in one epoch."""

    def batch(self, first: int, count: int) -> Arrays:
        """Padded arrays of the run's samples first .. first+count-1."""


@dataclass(frozen=True)
class MicroSteps:
    """Which samples a rank gets at each micro step: pure arithmetic.

    Micro step k of the run gives data-parallel rank r the `micro_batch_size` samples from
    `consumed_samples + (k * data_parallel_size + r) * micro_batch_size` on. Ranks of one
    tensor-parallel group have the same data-parallel rank, and so the same samples.

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
                f"data-parallel rank {self.data_parallel_rank} is not within "
                f"0 .. {self.data_parallel_size - 1}"
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

    def of_window(self, window: Window, number: int) -> Ints:
        """Numbers of all samples of a window: window n begins at micro step n * window.micro_steps.

        int64 [window.micro_batches * micro_batch_size]: by micro step, then rank, then number.
        """
        micro_steps = number * window.micro_steps + np.arange(window.micro_steps)
        first_rank = self.data_parallel_rank - self.data_parallel_rank % window.ranks
        firsts = self.consumed_samples + micro_steps * self.stride
        firsts += first_rank * self.micro_batch_size
        return (firsts[:, None] + np.arange(window.ranks * self.micro_batch_size)).ravel()


class MicroBatches:
    """This rank's micro batches, in order and without epoch boundaries.

    Iterating gives dictionaries of the tensors of `SampleSource.batch`, or of `packed_batches`, and
    "first_sample": the number of the batch's first sample in the run, were it not packed. Every
    rank gets equally many, and as many with packing as without.

    Args:
        source: the samples.
        micro_batch_size: sequences of a batch.
        data_parallel_rank: this rank's place among the data-parallel ranks.
        data_parallel_size: data-parallel ranks.
        consumed_samples: where to start; a global batch's first sample.
        num_workers: processes that prepare batches ahead; 0 prepares them when asked.
        stop: sample number at which to end: no micro step goes beyond it. None = never.
        start_method: "fork", "spawn" or "forkserver" for the processes; None = the default.
        pin_memory: put tensors in page-locked memory, for quicker copies to a GPU.
        prefetch: batches that each worker prepares ahead; whole windows of them, with packing.
        window: the micro steps and ranks whose samples are packed together; None = no packing.
        packing_budget: tokens of a packed row, at least the source's `seq_length`; None = that.

    Attributes:
        seconds_waited: time spent waiting for batches, since the beginning.

    Raises:
        UserError: as `MicroSteps`, a negative number of workers; later, as `SampleSource.batch`.
        ValueError: the data-parallel ranks don't divide into windows.
    """

    def __init__(
        self,
        source: Samples,
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
        window: Window | None = None,
        packing_budget: int | None = None,
    ) -> None:
        self.steps = MicroSteps(
            micro_batch_size, data_parallel_rank, data_parallel_size, consumed_samples
        )
        if num_workers < 0:
            raise UserError(f"number of data workers {num_workers} is negative: 0 or more")
        if window is not None and data_parallel_size % window.ranks:
            raise ValueError(f"{data_parallel_size} ranks are not whole windows of {window.ranks}")
        self.seconds_waited = 0.0
        self._pin_memory = pin_memory
        micro_steps = 1 if window is None else window.micro_steps
        loader: DataLoader[Any] = DataLoader(
            _Steps(source, self.steps, window, packing_budget or source.settings.seq_length),
            batch_size=None,
            sampler=_Counting(None if stop is None else self.steps.until(stop) // micro_steps),
            num_workers=num_workers,
            collate_fn=_unchanged,
            multiprocessing_context=start_method if num_workers else None,
            prefetch_factor=max(1, prefetch // micro_steps) if num_workers else None,
            generator=torch.Generator(),  # so that no draw is taken from the global one
        )
        self._items: Iterator[Any] | None = iter(loader)
        self._ready: deque[Arrays] = deque()
        self._micro_step = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        if self._items is None:
            raise StopIteration
        started = time.perf_counter()
        if not self._ready:
            item = next(self._items)
            if isinstance(item, _Failure):
                self.close()
                raise UserError(item.message)
            self._ready.extend(item)
        tensors = as_tensors(self._ready.popleft(), self._pin_memory)
        self.seconds_waited += time.perf_counter() - started
        first = self.steps.first_sample(self._micro_step)
        self._micro_step += 1
        return {**tensors, "first_sample": first}

    def close(self) -> None:
        """Ends the worker processes; no batch comes after it."""
        self._items = None
        self._ready.clear()


def evaluation_batches(
    source: Samples,
    micro_batch_size: int,
    data_parallel_rank: int = 0,
    data_parallel_size: int = 1,
    max_samples: int | None = None,
) -> Iterator[dict[str, Any]]:
    """The first `max_samples` samples (None: all) of epoch 0, once each, the same every time.

    Every rank gets equally many batches of `micro_batch_size` rows, as collectives need. Rows that
    only fill up the last ones repeat a sample, have no masked position, and carry the sentence
    label `IGNORED_LABEL`; so sums over all ranks do not depend on their number. Batches are as
    those of `MicroBatches`, and carry "real_samples" beside.

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


def count_samples(batch: Mapping[str, Any]) -> int:
    """Samples of a micro batch, padded or packed."""
    return len(batch["sequence_starts"] if "sequence_starts" in batch else batch["input_ids"])


def as_tensors(arrays: Arrays, pin_memory: bool = False) -> dict[str, torch.Tensor]:
    """The arrays as tensors, without a copy unless memory is to be pinned."""
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if pin_memory:
        return {name: tensor.pin_memory() for name, tensor in tensors.items()}
    return tensors


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


class _Steps(Dataset[Any]):
    """Number -> the arrays of micro steps that are made together, in order."""

    def __init__(
        self, source: Samples, steps: MicroSteps, window: Window | None, packing_budget: int
    ) -> None:
        self._source, self._steps, self._window = source, steps, window
        self._budget = packing_budget

    def __getitem__(self, number: int) -> list[Arrays] | _Failure:
        try:
            return self._padded(number) if self._window is None else self._packed(number)
        except UserError as error:
            return _Failure(str(error))

    def _padded(self, micro_step: int) -> list[Arrays]:
        first = self._steps.first_sample(micro_step)
        return [self._source.batch(first, self._steps.micro_batch_size)]

    def _packed(self, number: int) -> list[Arrays]:
        assert self._window is not None
        return packed_batches(
            self._source,
            self._steps.of_window(self._window, number),
            self._budget,
            self._window,
            self._steps.data_parallel_rank % self._window.ranks,
        )


class _Counting:
    """0, 1, 2, ...; for ever if `stop` is None."""

    def __init__(self, stop: int | None) -> None:
        self._stop = stop

    def __iter__(self) -> Iterator[int]:
        number = 0
        while self._stop is None or number < self._stop:
            yield number
            number += 1


def _unchanged(arrays: Any) -> Any:
    return arrays
