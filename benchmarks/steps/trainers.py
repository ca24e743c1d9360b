"""Whole updates: megabert's engine, transformers in DeepSpeed, and plain torch, from the same weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.lamb import PlainLamb
from benchmarks.steps.batches import MicroBatch, Work
from benchmarks.steps.peers import our_model, their_loss, transformers_bert, whole_tensors
from benchmarks.steps.plain_bert import plain_bert
from megabert.common.packed_batch import PackedBatch
from megabert.config.model import ModelConfig
from megabert.config.training import OptimizerSettings, ParallelSettings
from megabert.engine.build import build_engine
from megabert.engine.config import BatchSizes
from megabert.engine.launch import World
from megabert.engine.training_engine import TrainingEngine
from megabert.model.heads import PRETRAINING
from megabert.optim.param_groups import parameter_groups

LR, CLIP, DECAY, BETAS, EPS = 1e-4, 1.0, 0.01, (0.9, 0.999), 1e-6


@dataclass(frozen=True)
class GlobalBatch:
    """This rank's micro batches of an update, in both forms, and the work of all ranks."""

    padded: list[MicroBatch]
    packed: list[dict[str, Any]]
    work: Work


Update = Callable[[GlobalBatch], Tensor]
"""One update; this rank's mean loss."""


def our_updates(
    config: ModelConfig, batch: BatchSizes, world: World, precision: str
) -> tuple[Update, Update, dict[str, Tensor]]:
    """Updates of one engine with packed and with padded samples; its first weights."""
    model = our_model(config)
    tensors = {name: t.clone() for name, t in whole_tensors(model, config).items()}
    engine: TrainingEngine = build_engine(
        model,
        world,
        OptimizerSettings(
            gradient_clipping=CLIP, schedule="constant", steps=10**6, lr=LR, warmup_fraction=0.0
        ),
        ParallelSettings(precision=precision, zero_stage=1),
        batch,
    )

    def update(micro_batches: Sequence[PackedBatch[Tensor]], work: Work) -> Tensor:
        total = torch.zeros((), device=world.device)
        for inputs in micro_batches:
            output = engine(inputs)
            loss = output.mlm_loss_sum / work.predictions + output.nsp_loss_sum / work.samples
            engine.backward(loss)
            engine.step()
            total += loss.detach()
        return total * world.topology.data_parallel

    return (
        lambda one: update(one.packed, one.work),
        lambda one: update([micro.padded for micro in one.padded], one.work),
        tensors,
    )


def their_update(
    config: ModelConfig, tensors: dict, batch: BatchSizes, world: World, precision: str
) -> Update:
    """transformers' model in DeepSpeed."""
    import deepspeed

    model = transformers_bert(config, tensors, PRETRAINING).to(world.device)
    named = [
        {"params": group["params"], "weight_decay": group["weight_decay"]}
        for group in parameter_groups(model, DECAY)
    ]
    optimizer = torch.optim.AdamW(named, lr=LR, betas=BETAS, eps=EPS, fused=True)
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # it warns of any optimizer not its own
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        dist_init_required=False,
        config={
            "train_batch_size": batch.global_size,
            "train_micro_batch_size_per_gpu": batch.micro_size,
            "gradient_accumulation_steps": batch.accumulation,
            "gradient_clipping": CLIP,
            "zero_optimization": {"stage": 1},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "bf16": {"enabled": precision == "bf16"},
            "steps_per_print": 2**31,
        },
    )
    loss_of = their_loss(engine)

    def update(one: GlobalBatch) -> Tensor:
        total = torch.zeros((), device=world.device)
        for micro in one.padded:
            loss = loss_of(micro)
            engine.backward(loss)
            engine.step()
            total += loss.detach() / batch.accumulation
        return total

    return update


def plain_update(
    config: ModelConfig, tensors: dict, batch: BatchSizes, world: World, precision: str
) -> Update:
    """What is written by hand, without a library for training."""
    model = plain_bert(config, tensors).to(world.device)
    optimizer = PlainLamb(
        [
            {"params": group["params"], "weight_decay": group["weight_decay"]}
            for group in parameter_groups(model, DECAY)
        ],
        {"lr": LR},
    )
    for parameter in model.parameters():
        moments = {key: torch.zeros_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": 0, **moments}
    ranks = world.topology.data_parallel

    def update(one: GlobalBatch) -> Tensor:
        total = torch.zeros((), device=world.device)
        for micro in one.padded:
            with torch.autocast(world.device.type, torch.bfloat16, enabled=precision == "bf16"):
                loss = model(micro.padded) / batch.accumulation
            loss.backward()
            total += loss.detach()
        if ranks > 1:
            for parameter in model.parameters():
                assert parameter.grad is not None
                dist.all_reduce(parameter.grad)
                parameter.grad /= ranks
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total

    return update
