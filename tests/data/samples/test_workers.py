"""Worker processes of the loader: they run ahead, and a lost one ends all."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch
from torch.utils.data._utils import signal_handling
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from megabert.common.errors import UserError
from megabert.data.samples.loader import LoaderOptions, MicroBatches
from megabert.data.samples.micro_steps import MicroSteps
from megabert.data.samples.packing import Window
from megabert.data.samples.source import SampleArrays, SampleSource
from tests.data.samples.test_loader import NSP, small
from tests.helpers.memory_corpus import wiki_like


class _Counted(SampleSource):
    """Counts in all processes the samples that were made."""

    made = multiprocessing.Value("q", 0)

    def samples(self, numbers: np.ndarray) -> SampleArrays:
        with self.made.get_lock():
            self.made.value += len(numbers)
        return super().samples(numbers)


@pytest.mark.parametrize("window", [None, Window(3, 1)])
def test_workers_make_the_next_update_while_this_one_runs(window):
    update = 6 * 4
    _Counted.made.value = 0
    source = _Counted(wiki_like(60), NSP)
    options = LoaderOptions(2, "fork", prefetch=6, window=window)
    batches = MicroBatches(source, MicroSteps(4, 0, 1), options)
    for number in range(1, 4):
        found = list(itertools.islice(batches, 6))
        assert sum(batch.real_samples for batch in found) == update
        started = time.monotonic()
        while _Counted.made.value < (number + 1) * update and time.monotonic() < started + 20:
            time.sleep(0.01)
        assert _Counted.made.value == (number + 1) * update  # and no more
    batches.close()


def test_a_thread_pins_what_workers_made(monkeypatch):
    """With a stand-in for a GPU."""
    threads = set()

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        threads.add(threading.current_thread())
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    for name, value in (
        ("is_available", True), ("current_accelerator", torch.device("cuda")),
        ("current_device_index", 0), ("set_device_index", None),
    ):  # fmt: skip
        monkeypatch.setattr(torch.accelerator, name, lambda *_, value=value: value)
    options = LoaderOptions(2, "fork", pin_memory=True, window=Window(2, 1))
    batches = MicroBatches(small(), MicroSteps(4, 0, 1), options)
    found = list(itertools.islice(batches, 6))
    batches.close()
    assert len(threads) == 1
    assert threading.main_thread() not in threads
    alone = MicroBatches(small(), MicroSteps(4, 0, 1), LoaderOptions(window=Window(2, 1)))
    for pinned, plain in zip(found, alone):
        assert pinned.first_sample == plain.first_sample
        assert pinned.input_ids.tolist() == plain.input_ids.tolist()
        assert pinned.labels["masked_labels"].tolist() == plain.labels["masked_labels"].tolist()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_is_a_fault_of_the_next_batch_and_ends_the_others(workers):
    """The training thread is not interrupted where it happens to be."""
    before = signal.getsignal(signal.SIGCHLD)
    batches = MicroBatches(small(), MicroSteps(4, 0, 1), LoaderOptions(workers, "fork", prefetch=2))
    assert signal.getsignal(signal.SIGCHLD) == before
    next(batches)
    worker = multiprocessing.active_children()[-1]
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()  # a handler would raise here
    with pytest.raises(UserError, match="a process that reads samples was killed") as caught:
        list(itertools.islice(batches, 4))
    assert not multiprocessing.active_children(), "though the error is still held"
    assert caught.value.__context__ is None
    assert signal.getsignal(signal.SIGCHLD) == before


def test_a_lost_loader_leaves_its_id_to_the_next():
    """Torch keeps the workers of an iterator by its `id`, and refuses one that it knows."""
    batches = MicroBatches(small(), MicroSteps(4, 0, 1), LoaderOptions(1, "fork", prefetch=2))
    items = batches._items
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(UserError, match="was killed"):
        list(itertools.islice(batches, 4))
    signal_handling._set_worker_pids(id(items), ())
    signal_handling._remove_worker_pids(id(items))


class _Stuck(SampleSource):
    """From some sample on, a process makes no more samples, and is killed soon after."""

    def samples(self, numbers: np.ndarray) -> SampleArrays:
        if numbers[0] >= 16:
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()
            time.sleep(60)
        return super().samples(numbers)


def test_a_worker_that_is_killed_while_its_batch_is_waited_for():
    batches = MicroBatches(
        _Stuck(wiki_like(60), NSP), MicroSteps(8, 0, 1), LoaderOptions(2, "fork", prefetch=2)
    )
    list(itertools.islice(batches, 2))
    started = time.monotonic()
    with pytest.raises(UserError, match="a process that reads samples was killed"):
        next(batches)
    assert time.monotonic() - started < 4, "torch looks every 5 s"
    assert not multiprocessing.active_children()


def test_a_worker_that_is_killed_in_the_midst_of_sending():
    """Its batch is larger than a pipe, so that a part of it waits there, and the queue's lock is held."""
    options = LoaderOptions(2, "fork", prefetch=2)
    batches = MicroBatches(small(), MicroSteps(2048, 0, 1), options)
    time.sleep(1.5)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    with pytest.raises(UserError, match="a process that reads samples was killed"):
        list(itertools.islice(batches, 4))
    assert not multiprocessing.active_children()


def test_a_worker_that_does_not_leave_is_killed(monkeypatch):
    """As those of a run whose worker was killed: they ignore the SIGTERM that torch sends."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "_shutdown_workers", lambda self: None)
    batches = MicroBatches(small(), MicroSteps(4, 0, 1), LoaderOptions(2, "fork", prefetch=2))
    next(batches)
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal.SIGTERM)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert not multiprocessing.active_children()
