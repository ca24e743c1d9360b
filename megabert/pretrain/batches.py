"""This rank's micro batches of a pretraining run, for training and for evaluation."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cache

from torch import Tensor

from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.common.packed_batch import PackedBatch
from megabert.config.training import ResolvedSettings
from megabert.data.samples.course import Course, CourseStage
from megabert.data.samples.loader import LoaderOptions, MicroBatches, evaluation_batches
from megabert.data.samples.mask_schedule import ScheduledMasks
from megabert.data.samples.micro_steps import MicroSteps
from megabert.data.samples.packing import Window, choose_window
from megabert.data.samples.skip import GlobalBatches, Range
from megabert.data.samples.source import Samples
from megabert.engine.agreement import StopAgreement, read_later
from megabert.engine.broadcast import first_of_ranks
from megabert.engine.config import LOADER_WORKERS, BatchSizes, batch_of_stage
from megabert.engine.launch import World
from megabert.pretrain.inputs import mask_schedule
from megabert.pretrain.stages import RunSamples

ALIGNED_TOKENS = 128
"""Packed micro batches on a GPU are filled up to a multiple of this."""


def open_batches(
    settings: ResolvedSettings, samples: RunSamples, world: World, batch: BatchSizes
) -> ReadBatches:
    """The global batches of the run, packed where the settings say so; nothing is read yet.

    ``batch``: of the last stage of the course.
    """
    workers, packed = _workers(settings, world), settings.data.packing == "on"

    @cache  # the log names each window once
    def options_of(sizes: BatchSizes, length: int) -> LoaderOptions:
        return LoaderOptions(
            num_workers=workers,
            pin_memory=world.device.type == "cuda",
            prefetch=sizes.accumulation,
            window=_window(sizes) if packed else None,
            token_multiple=_token_multiple(settings, world, length),
        )

    schedule = mask_schedule(settings, samples.course)

    def open_at(consumed_samples: int, stop: int | None) -> MicroBatches:
        stage = samples.course.at_sample(consumed_samples)
        sizes = stage_sizes(batch, samples.course, stage)
        here = replace(_micro_steps(world, sizes), consumed_samples=consumed_samples)
        options = options_of(sizes, stage.length)
        train = samples.at(consumed_samples)
        if schedule is not None:
            train = ScheduledMasks(train, schedule)
        return MicroBatches(train, here, options, stop)

    def micro_steps(stage: CourseStage) -> int:
        return stage_sizes(batch, samples.course, stage).accumulation

    batches = GlobalBatches(open_at, samples.course, micro_steps)
    return ReadBatches(batches, ahead=read_later(world))


def stage_sizes(final: BatchSizes, course: Course, stage: CourseStage) -> BatchSizes:
    """The batch of a stage; ``final``: of the last one.

    Raises:
        UserError: the ranks do not divide it.
    """
    return batch_of_stage(final, stage.batch, Fraction(course.final.length, stage.length))


def evaluation_micro_batches(
    settings: ResolvedSettings, evaluation: Samples, world: World, batch: BatchSizes
) -> Iterator[PackedBatch[Tensor]]:
    """The evaluation samples of a corpus, the same every time, packed as in training; in host memory."""
    yield from evaluation_batches(
        evaluation,
        _micro_steps(world, batch),
        settings.run.eval_samples,
        packed=settings.data.packing == "on",
        token_multiple=_token_multiple(settings, world, settings.data.seq_length),
    )


class UnreadableData(Exception):
    """Some rank cannot read its samples; raised on all ranks, between two updates."""


def require_readable(world: World, fault: str | None) -> None:
    """Raise ``UnreadableData`` on every rank if one has a fault (a collective)."""
    first = first_of_ranks(world, fault)
    if first is not None:
        raise UnreadableData(first)


class ReadBatches:
    """A run's global batches. A fault of the data is kept until all ranks can end the run together.

    Args:
        batches: where they are read from.
        ahead: read one more global batch than is handed out, so that the other ranks know of a
            fault one update before this rank lacks a batch.

    Attributes:
        position: the sample after the last global batch that was handed out.
        fault: why the next one cannot be read, or None.
        at_start: whether none was handed out since the start or the last :meth:`move`.
    """

    def __init__(self, batches: GlobalBatches, *, ahead: bool) -> None:
        self._batches, self.ahead = batches, ahead
        self._read: deque[tuple[list[PackedBatch[Tensor]], int]] = deque()
        self.position = batches.position
        self.fault: UserError | None = None
        self.at_start = True

    @property
    def seconds_waited(self) -> float:
        """Time spent waiting for batches, since the beginning."""
        return self._batches.seconds_waited

    def ready(self) -> bool:
        """Read the next global batch, if that is not done yet; whether there is one."""
        if not self._read and self.fault is None:
            self._read_one()
        return bool(self._read)

    def next(self, *, more: bool) -> list[PackedBatch[Tensor]]:
        """This rank's micro batches of the next global batch; none at a :attr:`fault`.

        ``more``: another one will be needed after it.
        """
        if not self.ready():
            return []
        batches, self.position = self._read.popleft()
        self.at_start = False
        if more and self.ahead:
            self.ready()
        return batches

    def _read_one(self) -> None:
        try:
            batches = self._batches.next()
        except UserError as error:
            self.fault = error
        else:
            self._read.append((batches, self._batches.position))

    def move(self, position: int, skipped: Sequence[Range]) -> None:
        """Continue at ``position``, a global batch's first sample, and skip the merged ranges."""
        self._read.clear()
        self._batches.move(position, skipped)
        self.position, self.fault, self.at_start = position, None, True

    def close(self) -> None:
        """End the worker processes; :meth:`next` starts new ones."""
        self._batches.close()


def global_counts(
    agreement: StopAgreement,
    world: World,
    micro_batches: list[PackedBatch[Tensor]],
    *,
    failed: bool,
) -> tuple[Tensor, Tensor]:
    """Masked positions and pairs of the whole global batch (at least 1 each), 0-d tensors.

    Requests to stop, and ``failed`` (this rank cannot read its batches), are sent along. The ranks that
    split a layer have the same batches: one of them counts.
    """
    counts = [
        sum(len(batch.labels["masked_positions"]) for batch in micro_batches),
        sum(b.real_samples for b in micro_batches if "next_sentence_labels" in b.labels),
    ]
    mine = 1.0 if world.topology.tensor_parallel_rank == 0 else 0.0
    masked, pairs = (
        agreement.sum([mine * count for count in counts], failed=failed).clamp(min=1.0).unbind()
    )
    return masked, pairs


def _micro_steps(world: World, batch: BatchSizes) -> MicroSteps:
    topology = world.topology
    return MicroSteps(batch.micro_size, topology.data_parallel_rank, topology.data_parallel)


def _window(batch: BatchSizes) -> Window:
    window = choose_window(batch.micro_size, batch.accumulation, batch.data_parallel)
    samples = window.micro_batches * batch.micro_size
    get_logger().info(
        "%-10swindows of %d samples = micro steps %d x data-parallel ranks %d x micro batch %d",
        "packing",
        samples,
        *window,
        batch.micro_size,
    )
    return window


def _workers(settings: ResolvedSettings, world: World) -> int:
    """As set, or on a GPU some of the rank's cores, so that no update waits for its samples."""
    if settings.data.loader_workers is not None:
        return settings.data.loader_workers
    if world.device.type != "cuda":
        return 0
    return min(LOADER_WORKERS, len(os.sched_getaffinity(0)) - 1)


def _token_multiple(settings: ResolvedSettings, world: World, length: int) -> int:
    """The number of tokens of each packed micro batch is a multiple of this.

    On a GPU of 128 where sequences are that long: its matrix products then have whole tiles, and its
    allocator sees few sizes.
    """
    if settings.data.packing == "off":
        return 1
    split = settings.parallel.tensor_parallel if settings.parallel.sequence_parallel else 1
    aligned = math.lcm(ALIGNED_TOKENS, split)
    fits = world.device.type == "cuda" and aligned <= length
    return aligned if fits else split
