"""This rank's micro batches of a pretraining run, for training and for evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from megabert.common.log import get_logger
from megabert.common.packed_batch import PackedBatch
from megabert.config.training import ResolvedSettings
from megabert.data.samples.loader import LoaderOptions, MicroBatches, evaluation_batches
from megabert.data.samples.micro_steps import MicroSteps
from megabert.data.samples.packing import Window, choose_window
from megabert.data.samples.skip import GlobalBatches
from megabert.engine.agreement import StopAgreement
from megabert.engine.config import BatchSizes
from megabert.engine.launch import World
from megabert.pretrain.inputs import Inputs


def open_batches(
    settings: ResolvedSettings, inputs: Inputs, world: World, batch: BatchSizes
) -> GlobalBatches:
    """The global batches of the run, packed where the settings say so; nothing is read yet."""
    steps = _micro_steps(world, batch)
    options = LoaderOptions(
        num_workers=settings.data.loader_workers,
        pin_memory=world.device.type == "cuda",
        window=_window(batch) if settings.data.packing == "on" else None,
        token_multiple=_token_multiple(settings),
    )

    def open_at(consumed_samples: int, stop: int | None) -> MicroBatches:
        here = replace(steps, consumed_samples=consumed_samples)
        return MicroBatches(inputs.train, here, options, stop)

    return GlobalBatches(open_at, batch.global_size, batch.accumulation)


def evaluation_micro_batches(
    settings: ResolvedSettings, inputs: Inputs, world: World, batch: BatchSizes
) -> Iterator[PackedBatch[Tensor]]:
    """The evaluation samples, the same every time, packed as in training; on the device."""
    assert inputs.evaluation is not None
    for micro_batch in evaluation_batches(
        inputs.evaluation,
        _micro_steps(world, batch),
        settings.run.eval_samples,
        packed=settings.data.packing == "on",
        token_multiple=_token_multiple(settings),
    ):
        yield micro_batch.to(world.device)


def global_counts(
    agreement: StopAgreement, world: World, micro_batches: list[PackedBatch[Tensor]]
) -> tuple[Tensor, Tensor]:
    """Masked positions and pairs of the whole global batch (at least 1 each), 0-d tensors.

    Requests to stop travel along. The ranks that split a layer have the same batches: one of them counts.
    """
    counts = [
        sum(len(batch.labels["masked_positions"]) for batch in micro_batches),
        sum(b.real_samples for b in micro_batches if "next_sentence_labels" in b.labels),
    ]
    mine = 1.0 if world.topology.tensor_parallel_rank == 0 else 0.0
    masked, pairs = agreement.sum([mine * count for count in counts]).clamp(min=1.0).unbind()
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


def _token_multiple(settings: ResolvedSettings) -> int:
    """The number of tokens of each packed micro batch is a multiple of this."""
    if settings.data.packing == "off" or not settings.parallel.sequence_parallel:
        return 1
    return settings.parallel.tensor_parallel
