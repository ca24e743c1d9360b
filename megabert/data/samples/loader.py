"""Batches for training and evaluation: which samples each rank gets at each micro step.

    Samples              sample number in the run -> masked arrays (numpy; pure)
    MicroBatches         the samples of this rank, micro step by micro step, padded or packed (torch
                         tensors; worker processes)
    evaluation_batches   every sample of a split once, the same each time, padded or packed

The data position of a run is the number of samples consumed. It means the same for any data-parallel
size, micro batch size and number of workers.
"""

import contextlib
import dataclasses
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from megabert.common.errors import UserError
from megabert.common.packed_batch import PackedBatch
from megabert.common.processes.stopping import REQUESTS
from megabert.data.samples.counter_rng import Ints
from megabert.data.samples.micro_steps import MicroSteps
from megabert.data.samples.packing import (
    Window,
    pack_samples,
    pad_samples,
    pad_with_repeats,
    window_batches,
)
from megabert.data.samples.source import Samples

_KILLED_SECONDS = 5.0
"""The time in which a killed process ends, unless the system holds it."""


@dataclass(frozen=True)
class LoaderOptions:
    """How micro batches are made.

    Args:
        num_workers: processes that prepare batches ahead; 0 prepares them when asked.
        start_method: "fork", "spawn" or "forkserver" for the processes; None = the default.
        pin_memory: put tensors in page-locked memory, from which copies to a GPU are started and not
            waited for. With workers a thread of this process does it.
        prefetch: batches that the workers together prepare ahead, at least; whole windows of them, with
            packing, and at least one of these per worker.
        window: the micro steps and ranks whose samples are packed together; None = no packing.
        token_multiple: packed batches are filled up to a multiple of this many tokens.

    Raises:
        UserError: a negative number of workers.
    """

    num_workers: int = 0
    start_method: str | None = None
    pin_memory: bool = False
    prefetch: int = 4
    window: Window | None = None
    token_multiple: int = 1

    def __post_init__(self) -> None:
        if self.num_workers < 0:
            raise UserError(f"number of data workers {self.num_workers} is negative; use 0 or more")


class MicroBatches:
    """This rank's micro batches, in order and without epoch boundaries.

    Iterating gives batches of tensors in host memory, as `pack_samples` or `pad_samples` make them.
    Their `first_sample` is the number of the batch's first sample in the run, were it not packed. Every
    rank gets the same number of batches, and the same number with packing as without.

    Args:
        source: the samples.
        steps: which samples the rank gets; its `consumed_samples` is a global batch's first sample.
        options: how batches are made.
        stop: sample number at which to end: no micro step goes beyond it. None = never.

    Attributes:
        seconds_waited: time spent waiting for batches, since the beginning.

    Raises:
        UserError: later, as `Samples.samples`.
        ValueError: the data-parallel ranks don't divide into windows, or a `token_multiple` below 1,
            above the source's `seq_length`, or other than 1 without packing.
    """

    def __init__(
        self,
        source: Samples,
        steps: MicroSteps,
        options: LoaderOptions | None = None,
        stop: int | None = None,
    ) -> None:
        options = options or LoaderOptions()
        self.steps = steps
        window, workers = options.window, options.num_workers
        if window is not None and steps.data_parallel_size % window.ranks:
            raise ValueError(
                f"{steps.data_parallel_size} ranks are not a multiple of "
                f"the window's {window.ranks}"
            )
        _check_multiple(options.token_multiple, source, window is not None)
        self.seconds_waited = 0.0
        self._pin_memory = options.pin_memory
        micro_steps = 1 if window is None else window.micro_steps
        ahead = -(-options.prefetch // (micro_steps * workers)) if workers else None
        loader: DataLoader[Any] = DataLoader(
            _Steps(source, steps, window, options.token_multiple),
            batch_size=None,
            sampler=_Counting(None if stop is None else steps.until(stop) // micro_steps),
            num_workers=workers,
            collate_fn=_unchanged,
            multiprocessing_context=options.start_method if workers else None,
            prefetch_factor=ahead,
            pin_memory=options.pin_memory and workers > 0,
            generator=torch.Generator(),  # so that no draw is taken from the global one
            worker_init_fn=_leave_signals_to_parent,
        )
        with _child_handler():
            self._items: Any = iter(loader)
        self._workers: list[BaseProcess] = getattr(self._items, "_workers", [])
        self._ready: deque[PackedBatch[Tensor]] = deque()
        self._micro_step = 0

    def __iter__(self) -> Iterator[PackedBatch[Tensor]]:
        return self

    def __next__(self) -> PackedBatch[Tensor]:
        if self._items is None:
            raise StopIteration
        started = time.perf_counter()
        if not self._ready:
            item = self._next_item()
            if isinstance(item, _Failure):
                self.close()
                raise UserError(item.message)
            if isinstance(item, _Made):
                item = item.pin_memory() if self._pin_memory else item.tensors()
            self._ready.extend(item)
        batch = self._ready.popleft()
        first = self.steps.first_sample(self._micro_step)
        self._micro_step += 1
        batch = dataclasses.replace(batch, first_sample=first)
        self.seconds_waited += time.perf_counter() - started
        return batch

    def _next_item(self) -> Any:
        try:
            with _child_handler(self._require_workers):
                self._require_workers()
                return next(self._items)
        except RuntimeError:
            if not self._lost:
                raise
        self.close()  # no frame of torch's holds its iterator any more
        raise UserError(
            "a process that reads samples was killed (out of memory?): use fewer --loader-workers, or "
            "a machine with more memory"
        )

    @property
    def _lost(self) -> bool:
        """Whether a worker process was killed."""
        return any(worker.exitcode not in (None, 0) for worker in self._workers)

    def _require_workers(self, *_: object) -> None:
        """As a handler of ended children it ends the wait for a batch of which a killed worker has sent only
        a part; torch would wait for ever."""
        if self._lost:
            raise RuntimeError("a worker process was killed")

    def close(self) -> None:
        """Ends the worker processes; no batch comes after it."""
        items, self._items = self._items, None
        self._ready.clear()
        if not self._workers or items is None:
            return
        if self._lost:
            items._shutdown = True  # torch would wait for locks that a killed worker may hold
            if (
                items._worker_pids_set
            ):  # a later iterator may get this one's id, which torch refuses
                signal_handling._remove_worker_pids(id(items))
                items._worker_pids_set = False
        else:
            items._shutdown_workers()
        for worker in self._workers:
            worker.kill()  # they ignore the SIGTERM that torch sends, and Python at its end
            worker.join(_KILLED_SECONDS)


def evaluation_batches(
    source: Samples,
    steps: MicroSteps,
    max_samples: int | None = None,
    *,
    packed: bool = False,
    token_multiple: int = 1,
) -> Iterator[PackedBatch[Tensor]]:
    """The first `max_samples` samples (None: all) of epoch 0, once each, the same every time.

    Batches are as those of `MicroBatches`; batch for batch they hold the same samples packed as padded.
    Every rank gets the same number of batches, as collectives need. Padded batches have
    `micro_batch_size` rows, as from `pad_with_repeats`. A packed batch is filled up only to a whole
    `token_multiple`, or where it has no sample at all, as `pack_samples` says. So sums over all ranks do
    not depend on their number.

    Raises:
        UserError: `max_samples` is below 1; later, as `Samples.samples`.
        ValueError: `token_multiple` as in `MicroBatches`.
    """
    if max_samples is not None and max_samples < 1:
        raise UserError(f"evaluation of {max_samples} samples: at least 1")
    _check_multiple(token_multiple, source, packed)
    total = min(source.samples_per_epoch, max_samples or source.samples_per_epoch)
    rows = steps.micro_batch_size
    for micro_step in range(-(-total // steps.stride)):
        first = steps.first_sample(micro_step)
        real = min(rows, max(0, total - first))
        numbers = np.arange(first, first + real) if real else np.zeros(1, dtype=np.int64)
        samples = source.samples(numbers)
        if packed:
            longest_first = np.argsort(-samples.lengths, kind="stable")
            (batch,) = pack_samples(samples, longest_first[None, :real], token_multiple)
        else:
            batch = pad_with_repeats(samples, real, rows)
        yield dataclasses.replace(batch.map(torch.from_numpy), first_sample=first)


def _check_multiple(token_multiple: int, source: Samples, packed: bool) -> None:
    most = source.settings.seq_length if packed else 1
    if not 1 <= token_multiple <= most:
        raise ValueError(f"token multiple {token_multiple} is not within 1 .. {most}")


@dataclass(frozen=True)
class _Failure:
    """A wrong input met in a worker process, sent to the main process as one line."""

    message: str


class _Made(list[PackedBatch[Ints]]):
    """Micro batches that were made together."""

    def tensors(self) -> list[PackedBatch[Tensor]]:
        """The same as tensors, which share the arrays' memory."""
        return [batch.map(torch.from_numpy) for batch in self]

    def pin_memory(self) -> list[PackedBatch[Tensor]]:
        """The same as tensors in page-locked memory; the loader's thread calls it."""
        return [batch.pin_memory() for batch in self.tensors()]


class _Steps(Dataset[Any]):
    """Number -> the micro batches of micro steps that are made together, in order."""

    def __init__(
        self, source: Samples, steps: MicroSteps, window: Window | None, token_multiple: int
    ) -> None:
        self._source, self._steps, self._window = source, steps, window
        self._token_multiple = token_multiple

    def __getitem__(self, number: int) -> _Made | _Failure:
        try:
            return _Made(self._padded(number) if self._window is None else self._packed(number))
        except UserError as error:
            return _Failure(str(error))

    def _padded(self, micro_step: int) -> list[PackedBatch[Ints]]:
        first = self._steps.first_sample(micro_step)
        numbers = np.arange(first, first + self._steps.micro_batch_size)
        return [pad_samples(self._source.samples(numbers))]

    def _packed(self, number: int) -> list[PackedBatch[Ints]]:
        assert self._window is not None
        return window_batches(
            self._source,
            self._steps.of_window(self._window, number),
            self._window,
            self._steps.data_parallel_rank % self._window.ranks,
            self._token_multiple,
        )


@contextlib.contextmanager
def _child_handler(handler: Callable[..., None] | None = None) -> Iterator[None]:
    """In the block, this handler of ended children; after it, the process's own again.

    Torch sets one with its first workers, which would raise wherever the training thread is when a worker
    is killed. Threads other than the main one have none: they find the loss when the batch is due.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        if handler is not None:
            signal.signal(signal.SIGCHLD, handler)
        yield
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


def _leave_signals_to_parent(_: int) -> None:
    """A launcher, terminal or scheduler may send a signal to workers as well; the rank needs them until it
    has saved. They end with it."""
    for number in REQUESTS:
        signal.signal(number, signal.SIG_IGN)


class _Counting:
    """0, 1, 2, ...; without end if `stop` is None."""

    def __init__(self, stop: int | None) -> None:
        self._stop = stop

    def __iter__(self) -> Iterator[int]:
        number = 0
        while self._stop is None or number < self._stop:
            yield number
            number += 1


def _unchanged(arrays: Any) -> Any:
    return arrays
