"""Batches for training and evaluation: which samples each rank gets at each micro step.

    SampleSource         global sample number -> padded, masked arrays (numpy; pure)
    MicroBatches         the samples of this rank, micro step by micro step, padded or packed (torch
                         tensors, workers)
    evaluation_batches   every sample of a split once, the same each time, padded or packed

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

from megabert.common.errors import UserError
from megabert.data.samples.counter_rng import Ints
from megabert.data.samples.masking import MaskSettings
from megabert.data.samples.micro_steps import MicroSteps
from megabert.data.samples.packing import (
    IGNORED_LABEL,
    Batch,
    PackableSource,
    Window,
    flat_batches,
    packed_batches,
)
from megabert.data.samples.pairs import SampleSettings
from megabert.data.samples.source import Arrays, SampleSource, evaluation_settings

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


class Samples(PackableSource, Protocol):
    """Samples by their number in the run, as `SampleSource` gives them."""

    settings: SampleSettings

    @property
    def samples_per_epoch(self) -> int:
        """Samples in one epoch."""


class MicroBatches:
    """This rank's micro batches, in order and without epoch boundaries.

    Iterating gives dictionaries of tensors and integers. Padded ones hold the tensors of
    `SampleSource.samples`, "sample_numbers" int64 [B], the numbers of the samples in the run, and
    "real_tokens", the tokens without padding; packed ones what `flat_batches` says. Both hold
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
        token_multiple: packed batches are filled up to a multiple of so many tokens.

    Attributes:
        seconds_waited: time spent waiting for batches, since the beginning.

    Raises:
        UserError: as `MicroSteps`, a negative number of workers; later, as `SampleSource.samples`.
        ValueError: the data-parallel ranks don't divide into windows, or a `token_multiple` below 1,
            above the source's `seq_length`, or other than 1 without packing.
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
        token_multiple: int = 1,
    ) -> None:
        self.steps = MicroSteps(
            micro_batch_size, data_parallel_rank, data_parallel_size, consumed_samples
        )
        if num_workers < 0:
            raise UserError(f"number of data workers {num_workers} is negative: 0 or more")
        if window is not None and data_parallel_size % window.ranks:
            raise ValueError(f"{data_parallel_size} ranks are not whole windows of {window.ranks}")
        _check_multiple(token_multiple, source, window is not None)
        self.seconds_waited = 0.0
        self._pin_memory = pin_memory
        micro_steps = 1 if window is None else window.micro_steps
        loader: DataLoader[Any] = DataLoader(
            _Steps(source, self.steps, window, token_multiple),
            batch_size=None,
            sampler=_Counting(None if stop is None else self.steps.until(stop) // micro_steps),
            num_workers=num_workers,
            collate_fn=_unchanged,
            multiprocessing_context=start_method if num_workers else None,
            prefetch_factor=max(1, prefetch // micro_steps) if num_workers else None,
            generator=torch.Generator(),  # so that no draw is taken from the global one
        )
        self._items: Iterator[Any] | None = iter(loader)
        self._ready: deque[Batch] = deque()
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
    *,
    packed: bool = False,
    token_multiple: int = 1,
) -> Iterator[dict[str, Any]]:
    """The first `max_samples` samples (None: all) of epoch 0, once each, the same every time.

    Batches are as those of `MicroBatches`, and carry "real_samples" beside; batch for batch they
    hold the same samples packed as padded. Every rank gets equally many batches, as collectives
    need. Padded ones have `micro_batch_size` rows: rows that only fill up the last ones repeat a
    sample, have no masked position, and carry the sentence label `IGNORED_LABEL`. A packed batch is
    filled up only to a whole `token_multiple`, or where it has no sample at all, as `flat_batches`
    says. So sums over all ranks do not depend on their number.

    Raises:
        UserError: as `MicroSteps`, or `max_samples` is below 1.
        ValueError: `token_multiple` as in `MicroBatches`.
    """
    if max_samples is not None and max_samples < 1:
        raise UserError(f"evaluation of {max_samples} samples: at least 1")
    _check_multiple(token_multiple, source, packed)
    total = min(source.samples_per_epoch, max_samples or source.samples_per_epoch)
    steps = MicroSteps(micro_batch_size, data_parallel_rank, data_parallel_size)
    for micro_step in range(-(-total // steps.stride)):
        first = steps.first_sample(micro_step)
        real = min(micro_batch_size, max(0, total - first))
        numbers = np.arange(first, first + real) if real else np.zeros(1, dtype=np.int64)
        arrays = source.samples(numbers)
        if packed:
            longest_first = np.argsort(-arrays["attention_mask"].sum(axis=1), kind="stable")
            (batch,) = flat_batches(arrays, numbers, longest_first[None, :real], token_multiple)
        else:
            batch = _fill(arrays, numbers, real, micro_batch_size)
        yield {**as_tensors(batch), "first_sample": first, "real_samples": real}


def count_samples(batch: Mapping[str, Any]) -> int:
    """Samples of a micro batch of `MicroBatches`, padded or packed, without what fills it up."""
    return int((batch["sample_numbers"] >= 0).sum())


def as_tensors(batch: Batch, pin_memory: bool = False) -> dict[str, Any]:
    """The batch with tensors for arrays, without a copy unless memory is to be pinned."""
    return {name: _as_tensor(value, pin_memory) for name, value in batch.items()}


def _as_tensor(value: Any, pin_memory: bool) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    tensor = torch.from_numpy(value)
    return tensor.pin_memory() if pin_memory else tensor


def _check_multiple(token_multiple: int, source: Samples, packed: bool) -> None:
    most = source.settings.seq_length if packed else 1
    if not 1 <= token_multiple <= most:
        raise ValueError(f"token multiple {token_multiple} is not within 1 .. {most}")


def _padded(arrays: Arrays, numbers: Ints) -> Batch:
    """Padded samples with their numbers and the count of their tokens."""
    real_tokens = int(arrays["attention_mask"].sum())
    return {**arrays, "sample_numbers": numbers, "real_tokens": real_tokens}


def _fill(arrays: Arrays, numbers: Ints, real: int, rows: int) -> Batch:
    """The first `real` rows, and the first row again and again without anything to predict."""
    pick = np.arange(rows)
    pick[real:] = 0
    width = arrays["input_ids"].shape[1]
    names = ("input_ids", "token_type_ids", "attention_mask", "next_sentence_labels")
    filled: Batch = {name: arrays[name][pick] for name in names if name in arrays}
    if "next_sentence_labels" in filled:
        filled["next_sentence_labels"][real:] = IGNORED_LABEL
    kept = arrays["masked_positions"] < real * width
    filled["masked_positions"] = arrays["masked_positions"][kept]
    filled["masked_labels"] = arrays["masked_labels"][kept]
    filled["sample_numbers"] = numbers[pick]
    filled["real_tokens"] = int(arrays["attention_mask"][:real].sum())
    return filled


@dataclass(frozen=True)
class _Failure:
    """A wrong input met in a worker process, on its way to the main one in one line."""

    message: str


class _Steps(Dataset[Any]):
    """Number -> the arrays of micro steps that are made together, in order."""

    def __init__(
        self, source: Samples, steps: MicroSteps, window: Window | None, token_multiple: int
    ) -> None:
        self._source, self._steps, self._window = source, steps, window
        self._token_multiple = token_multiple

    def __getitem__(self, number: int) -> list[Batch] | _Failure:
        try:
            return self._padded(number) if self._window is None else self._packed(number)
        except UserError as error:
            return _Failure(str(error))

    def _padded(self, micro_step: int) -> list[Batch]:
        first = self._steps.first_sample(micro_step)
        numbers = np.arange(first, first + self._steps.micro_batch_size)
        return [_padded(self._source.samples(numbers), numbers)]

    def _packed(self, number: int) -> list[Batch]:
        assert self._window is not None
        return packed_batches(
            self._source,
            self._steps.of_window(self._window, number),
            self._window,
            self._steps.data_parallel_rank % self._window.ranks,
            self._token_multiple,
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
