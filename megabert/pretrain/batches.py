"""This rank's micro batches of a pretraining run, for training and for evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from megabert.common.log import get_logger
from megabert.config.training import PretrainSettings
from megabert.data.samples.loader import MicroBatches, count_samples, evaluation_batches
from megabert.data.samples.packing import Window, choose_window
from megabert.data.samples.skip import GlobalBatches
from megabert.engine.config import BatchSizes
from megabert.engine.launch import World
from megabert.pretrain.inputs import Inputs


def open_batches(
    settings: PretrainSettings, inputs: Inputs, world: World, batch: BatchSizes
) -> GlobalBatches:
    """The global batches of the run, packed where the settings say so; nothing is read yet."""
    open_loader = partial(
        MicroBatches,
        inputs.train,
        batch.micro_size,
        world.topology.data_parallel_rank,
        world.topology.data_parallel,
        num_workers=settings.data.loader_workers,
        pin_memory=world.device.type == "cuda",
        window=_window(batch) if settings.data.packing == "on" else None,
        token_multiple=_token_multiple(settings),
    )
    return GlobalBatches(open_loader, batch.global_size, batch.accumulation)


def held_out_batches(
    settings: PretrainSettings, inputs: Inputs, world: World, batch: BatchSizes
) -> Iterator[dict[str, Any]]:
    """The held-out samples, the same every time, packed as in training; ready for the model."""
    assert inputs.evaluation is not None
    for micro_batch in evaluation_batches(
        inputs.evaluation,
        batch.micro_size,
        world.topology.data_parallel_rank,
        world.topology.data_parallel,
        settings.run.eval_samples,
        packed=settings.data.packing == "on",
        token_multiple=_token_multiple(settings),
    ):
        for name in ("first_sample", "real_samples", "real_tokens"):
            micro_batch.pop(name)
        yield to_device(micro_batch, world.device)


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch with its tensors on ``device``, without waiting; integers stay as they are."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
    }


def global_counts(
    world: World, micro_batches: list[dict[str, Any]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Masked positions and pairs of the whole global batch (at least 1 each), 0-d tensors."""
    counts = torch.tensor(
        [
            sum(len(batch["masked_positions"]) for batch in micro_batches),
            sum(count_samples(b) for b in micro_batches if "next_sentence_labels" in b),
        ],
        dtype=torch.float32,
    ).to(world.device, non_blocking=True)
    masked, pairs = world.sum_over_data_parallel(counts).clamp(min=1.0).unbind()
    return masked, pairs


def _window(batch: BatchSizes) -> Window:
    window = choose_window(batch.micro_size, batch.accumulation, batch.data_parallel)
    samples = window.micro_batches * batch.micro_size
    get_logger().info(
        "packing windows of %d samples: micro steps %d x data-parallel ranks %d", samples, *window
    )
    return window


def _token_multiple(settings: PretrainSettings) -> int:
    """What the tokens of each packed micro batch are a multiple of."""
    if settings.data.packing == "off" or not settings.parallel.sequence_parallel:
        return 1
    return settings.parallel.tensor_parallel
