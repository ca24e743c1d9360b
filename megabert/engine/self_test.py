"""The self-test at the start of a run: one update of a small model, compared with plain autograd.

A release of DeepSpeed or torch that scales, sums or clips gradients otherwise trains without an error
and is silently wrong. Therefore, before the run's model is built, a model of its kind with two small
layers makes an update of two micro steps through the run's engine: the same ZeRO stage, precision,
tensor parallel degree, optimizer and device. Compared are

    the loss of the two micro steps,
    the global gradient norm,
    the loss of the first micro step again, with the updated weights,

with those of the same model in float64 on the main rank's CPU, where the operators are torch's own
(``megabert/kernels/reference.py``), and where a copy of the optimizer updates whole tensors. The data-
parallel ranks have two kinds of batches, so that a missing sum over ranks shows.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.common.packed_batch import PackedBatch
from megabert.config.model import ModelConfig
from megabert.config.training import OptimizerSettings, ParallelSettings
from megabert.engine.broadcast import broadcast_object
from megabert.engine.build import build_engine
from megabert.engine.config import BatchSizes
from megabert.engine.launch import World
from megabert.model.heads import BertForPreTraining
from megabert.model.init import initialize_weights
from megabert.optim.param_groups import parameter_groups
from megabert.optim.registry import StateLayout, optimizer_spec
from megabert.parallel.rng import DropoutSeeds

MICRO_STEPS = 2
MICRO_BATCH = 2
KINDS = 2
"""Different batches among the data-parallel ranks."""
VOCABULARY = 100
SEED = 7
LEARNING_RATE = 0.01
TOLERANCE = {"fp32": (1e-4, 1e-3), "bf16": (5e-3, 4e-2), "fp16": (5e-3, 2e-2), "fp8": (1e-2, 0.1)}
"""Precision -> relative differences allowed of a loss and of the gradient norm."""
_LEFT_OUT = (
    "tensorboard", "csv_monitor", "wandb", "comet", "nebula", "flops_profiler", "comms_logger",
    "wall_clock_breakdown", "memory_breakdown", "dump_state", "checkpoint", "compile",
)  # fmt: skip
"""Sections of a DeepSpeed file that report or write something, or take long."""


class UpdateFigures(NamedTuple):
    """What is compared."""

    loss: float
    gradient_norm: float
    loss_afterwards: float


@dataclass(frozen=True)
class TestedRun:
    """The parts of a run's settings that its self-test takes over."""

    model: ModelConfig
    optimizer: OptimizerSettings
    parallel: ParallelSettings
    deepspeed_sections: Mapping[str, Any]
    sentence_task: bool = True


def self_test(run: TestedRun, world: World) -> None:
    """Compare an update of a small model with the reference (a collective); the result is logged.

    Random generators are left as they were.

    Raises:
        UserError: they differ: on all ranks, with the versions of DeepSpeed and torch.
    """
    began = time.monotonic()
    devices = [world.device] if world.device.type == "cuda" else []
    with torch.random.fork_rng(devices), _quiet():
        small = _Small.of(run, world)
        found, precision = small.through_engine(world)
        expected = broadcast_object(world, lambda: small.reference(precision, found))
    get_logger().info(
        "self-test: loss %.4f and gradient norm %.4f agree with the reference, %.4f and %.4f (%.1f s)",
        *found[:2],
        *expected[:2],
        time.monotonic() - began,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the messages of DeepSpeed's engine."""
    logger = logging.getLogger("DeepSpeed")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@dataclass(frozen=True)
class _Small:
    """The small model of a run and its batches."""

    run: TestedRun
    config: ModelConfig
    optimizer: OptimizerSettings
    lengths: tuple[int, int]
    data_parallel: int

    @classmethod
    def of(cls, run: TestedRun, world: World) -> _Small:
        degree = world.topology.tensor_parallel
        tokens = degree * -(-48 // degree)  # sequence parallelism divides them
        config = replace(
            run.model,
            name="self-test",
            vocab_size=VOCABULARY,
            vocab_multiple=32 * degree,
            hidden_size=32 * degree,
            num_hidden_layers=2,
            num_attention_heads=2 * degree,
            intermediate_size=64 * degree,
            max_position_embeddings=max(64, tokens),
            hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=0.0,  # flash attention has masks of the device's generator
            initializer_range=0.1,
        )
        spec = optimizer_spec(run.optimizer.optimizer)
        given = {
            name: getattr(run.optimizer, name) for name in sorted(spec.fields_read(run.optimizer))
        }
        given |= {
            "weight_decay": run.optimizer.weight_decay,
            "gradient_clipping": run.optimizer.gradient_clipping,
        }
        if "muon_precision" in given:
            given["muon_precision"] = "fp32"  # as on the reference's CPU
        optimizer = OptimizerSettings(
            optimizer=spec.name,
            **given,
            lr=LEARNING_RATE,
            schedule="constant",
            warmup_fraction=0.0,
            steps=2,
        )
        lengths = (tokens - tokens // 3, tokens // 3)
        return cls(run, config, optimizer, lengths, world.topology.data_parallel)

    # ---------------------------------------------------------------- batches

    def batches(self, kind: int) -> list[PackedBatch[Tensor]]:
        """The micro batches of the data-parallel ranks of one kind."""
        return [self._batch(kind * MICRO_STEPS + step) for step in range(MICRO_STEPS)]

    def _batch(self, number: int) -> PackedBatch[Tensor]:
        draw = np.random.default_rng([SEED, number])
        tokens = sum(self.lengths)
        masked = np.sort(draw.choice(tokens, 5 + number, replace=False))
        labels = {
            "masked_positions": masked,
            "masked_labels": draw.integers(5, VOCABULARY, len(masked)),
        }
        if self.run.sentence_task:
            labels["next_sentence_labels"] = draw.integers(0, 2, MICRO_BATCH)
        batch = PackedBatch.from_lengths(
            draw.integers(5, VOCABULARY, tokens),
            draw.integers(0, 2, tokens),
            np.array(self.lengths),
            max(self.lengths),
            sample_numbers=number * MICRO_BATCH + np.arange(MICRO_BATCH),
            labels=labels,
        )
        return batch.map(torch.from_numpy)

    def _kinds(self) -> Iterator[tuple[int, int]]:
        """Each kind of batches, and how many data-parallel ranks have it."""
        for kind in range(min(KINDS, self.data_parallel)):
            yield kind, len(range(kind, self.data_parallel, KINDS))

    def counts(self) -> tuple[int, int]:
        """Masked positions and pairs of the whole global batch."""
        masked = sum(
            ranks * len(batch.labels["masked_positions"])
            for kind, ranks in self._kinds()
            for batch in self.batches(kind)
        )
        return masked, self.data_parallel * MICRO_STEPS * MICRO_BATCH

    def _part(self, output: Any) -> Tensor:
        masked, pairs = self.counts()
        part: Tensor = output.mlm_loss_sum / masked + output.nsp_loss_sum / pairs
        return part

    # ---------------------------------------------------------------- the two ways

    def _model(self, world: World | None) -> BertForPreTraining:
        parallel = self.run.parallel
        tp = None
        if world is not None:
            tp = replace(world.tp, sequence_parallel=parallel.sequence_parallel)
        model = BertForPreTraining(
            self.config,
            tp,
            DropoutSeeds(SEED),
            sentence_task=self.run.sentence_task,
            activation_checkpointing=parallel.activation_checkpointing and world is not None,
        )
        initialize_weights(model, self.config, SEED)
        return model

    def through_engine(self, world: World) -> tuple[UpdateFigures, str]:
        """The figures of the run's engine, and its precision (a collective)."""
        ranks = self.data_parallel
        sizes = BatchSizes(ranks * MICRO_STEPS * MICRO_BATCH, MICRO_BATCH, MICRO_STEPS, ranks)
        parallel, sections = self.run.parallel, _sections(self.run.deepspeed_sections)
        engine = build_engine(self._model(world), world, self.optimizer, parallel, sizes, sections)
        sums = torch.zeros(2, dtype=torch.float64, device=world.device)
        batches = self.batches(world.topology.data_parallel_rank % KINDS)
        for batch in batches:
            loss = self._part(engine(batch.to(world.device)))
            sums[0] += loss.detach()
            engine.backward(loss)
            engine.step()
        with torch.no_grad():
            sums[1] = self._part(engine(batches[0].to(world.device)))
        before, after = world.sum_over_data_parallel(sums).tolist()
        figures = UpdateFigures(before, engine.grad_norm(), after)
        precision = engine.precision
        engine.close()
        return figures, precision

    def reference(self, precision: str, found: UpdateFigures) -> UpdateFigures:
        """The figures of one model on the CPU.

        Raises:
            UserError: ``found`` differs from them.
        """
        model = self._model(None).double()
        loss = self._loss(model, MICRO_STEPS)
        loss.backward()
        weights = [parameter for parameter in model.parameters() if parameter.grad is not None]
        norm = float(torch.stack([w.grad.norm() for w in weights if w.grad is not None]).norm())
        self._update(model, norm)
        with torch.no_grad():
            after = self._loss(model, 1)
        expected = UpdateFigures(loss.item(), norm, after.item())
        of_losses, of_norms = TOLERANCE[precision]
        allowed = UpdateFigures(of_losses, of_norms, of_losses)
        wrong = [
            f"{name.replace('_', ' ')} {value:.6g} instead of {right:.6g}"
            for name, value, right, part in zip(UpdateFigures._fields, found, expected, allowed)
            if not abs(value - right) <= part * abs(right)
        ]
        if wrong:
            raise UserError(
                f"self-test: DeepSpeed {version('deepspeed')} and torch {torch.__version__} compute another "
                f"update than plain autograd at ZeRO {self.run.parallel.zero_stage} in {precision}: "
                f"{', '.join(wrong)}; install the versions of constraints.txt, or report this "
                "(--self-test off starts the run all the same)"
            )
        return expected

    def _loss(self, model: BertForPreTraining, micro_steps: int) -> Tensor:
        """The part of the first micro steps of all data-parallel ranks."""
        parts = [
            ranks * self._part(model(batch))
            for kind, ranks in self._kinds()
            for batch in self.batches(kind)[:micro_steps]
        ]
        return torch.stack(parts).sum()

    def _update(self, model: nn.Module, norm: float) -> None:
        """Update the whole weights from their gradients, clipped, in fp32 as the engine's masters are."""
        limit = self.optimizer.gradient_clipping
        factor = min(1.0, limit / (norm + 1e-6)) if limit > 0.0 else 1.0
        for parameter in model.parameters():
            gradient = parameter.grad
            parameter.grad = None
            parameter.data = parameter.data.float()
            if gradient is not None:
                parameter.grad = (gradient * factor).float()
        spec = optimizer_spec(self.optimizer.optimizer)
        groups = parameter_groups(
            model,
            self.optimizer.weight_decay,
            adapt_all=self.optimizer.adapt_all,
            matrices=spec.matrices,
        )
        settings = replace(self.optimizer, lamb_backend="auto")
        optimizer = spec.make(groups, settings, StateLayout())
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * group.get("lr_scale", 1.0)
        optimizer.step()
        model.double()


def _sections(given: Mapping[str, Any]) -> dict[str, Any]:
    """A user's DeepSpeed file with buffers of the small model's size; every tensor is divided at stage 3."""
    sections = {name: value for name, value in given.items() if name not in _LEFT_OUT}
    zero = dict(sections.get("zero_optimization", {}))
    zero |= {"reduce_bucket_size": 1_000_000, "allgather_bucket_size": 1_000_000}
    sections["zero_optimization"] = zero | {"stage3_param_persistence_threshold": 0}
    fp16 = dict(sections.get("fp16", {}))
    sections["fp16"] = fp16 | {"initial_scale_power": 8}  # no first update that overflows
    return sections
