"""A plan: what fits in a rank's memory, how an update is divided, how long it takes; the search."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from megabert.common.errors import UserError
from megabert.config.deepspeed_file import read_deepspeed_config
from megabert.config.model import ModelConfig, model_config
from megabert.config.sections.shape import DEFAULT_MODEL
from megabert.config.training import BatchSettings
from megabert.data.samples.course import CourseStage
from megabert.engine.config import BatchSizes, batch_of_stage, micro_batch_limit, resolve_batch
from megabert.model.encoder import variant_of
from megabert.planner.activations import Division, MicroBatch
from megabert.planner.collectives import (
    Exchange,
    data_exchanges,
    make_ring,
    matrix_exchanges,
    tensor_exchanges,
)
from megabert.planner.machine import Machine
from megabert.planner.matrices import WholeMatrices
from megabert.planner.memory import rank_memory
from megabert.planner.parameters import LocalParameters, local_parameters
from megabert.planner.rank import Rank
from megabert.planner.recipe import PlannedRun, planned_course, planned_run
from megabert.planner.settings import LayoutSettings, PlanSettings
from megabert.planner.states import FP32, Buckets, Parts, Sharding
from megabert.planner.timing import DATA, HOST, update_times


@dataclass(frozen=True)
class PlannedStage:
    """A part of a run with one batch size and one length.

    Attributes:
        updates: how many of the run's.
        memory: instant -> part -> bytes per rank.
        times: part -> seconds per update.
    """

    recipe: PlannedRun
    updates: int
    batch: BatchSizes
    micro: MicroBatch
    memory: dict[str, Parts]
    exchanges: list[Exchange]
    times: dict[str, float]

    @property
    def seconds(self) -> float:
        """Of one update."""
        return sum(self.times.values())

    @property
    def peak_bytes(self) -> float:
        """Bytes of a rank at the instant that needs most."""
        return max(sum(parts.values()) for parts in self.memory.values())


@dataclass(frozen=True)
class LayoutPlan:
    """One layout with everything that follows from it.

    Attributes:
        devices: number of ranks.
        largest: the largest micro batch that fits, whether it divides the batch or not; 0 if not even
            one sequence fits.
        stages: of the run; one without ramps. Batch, micro batch, times and FLOPs are those of the last.
        memory: instant -> part -> bytes per rank; of the stage that needs most.
        limit: bytes that a rank may use.
        times: part -> seconds per update.
        real_flops: model FLOPs of the real tokens of one update.
        peak_flops: of all devices together, for the utilization.
    """

    model: ModelConfig
    machine: Machine
    devices: int
    layout: LayoutSettings
    precision: str
    recipe: PlannedRun
    parameters: LocalParameters
    batch: BatchSizes
    largest: int
    micro: MicroBatch
    stages: list[PlannedStage]
    memory: dict[str, Parts]
    limit: float
    exchanges: list[Exchange]
    times: dict[str, float]
    real_flops: float
    peak_flops: float

    @property
    def peak_bytes(self) -> float:
        """Bytes at the instant that needs most."""
        return max(sum(parts.values()) for parts in self.memory.values())

    @property
    def fits(self) -> bool:
        """Whether a rank's memory suffices for this micro batch."""
        return self.peak_bytes <= self.limit

    @property
    def step_seconds(self) -> float:
        """Seconds of one update."""
        return sum(self.times.values())

    @property
    def hours(self) -> float:
        """Hours of all updates."""
        return sum(stage.seconds * stage.updates for stage in self.stages) / 3600

    @property
    def real_tokens(self) -> float:
        """Real tokens of all updates."""
        return sum(
            stage.updates * stage.recipe.global_batch * stage.recipe.length * stage.recipe.fill
            for stage in self.stages
        )

    @property
    def utilization(self) -> float:
        """Model FLOPs utilization (MFU): FLOPs of the real tokens over the devices' peak."""
        return self.real_flops / (self.step_seconds * self.peak_flops)

    @property
    def rounds_sums(self) -> bool:
        """Whether gradients of several micro steps are summed in a half precision (stages 0 and 3)."""
        wide = self.layout.zero in (1, 2) or self.precision == "fp32"
        return self.precision == "fp16" or (not wide and self.batch.accumulation > 1)

    @property
    def limited_by(self) -> str:
        """What sets the pace: workers or the host, if all else waits for them; or the longest part."""
        beside = [DATA] if self.recipe.workers else []
        for name in (*beside, HOST):
            if self.times.get(name):
                return name
        return max(self.times, key=lambda name: self.times[name])

    @property
    def waiting_for_data(self) -> float:
        """Fraction of an update."""
        return self.times[DATA] / self.step_seconds

    @property
    def workers_needed(self) -> int:
        """Data loader processes per rank that are as fast as everything else, if now they are not."""
        others = self.step_seconds - self.times[DATA]
        making = (
            self.recipe.workers * self.step_seconds if self.recipe.workers else self.times[DATA]
        )
        return math.ceil(making / others)


class Planner:
    """Makes plans for one model, machine and recipe in any layout."""

    def __init__(self, settings: PlanSettings, machine: Machine) -> None:
        self.settings, self.machine = settings, machine
        self.devices = settings.machine.gpus
        self.course = planned_course(settings)
        self.recipe = planned_run(settings, self.course.final)
        self.model = settings.model.resolve(
            settings.recipe.vocab_size
            or model_config(settings.model.model or DEFAULT_MODEL).vocab_size
        )
        longest = max(self.course.lengths)
        if longest > self.model.max_position_embeddings:
            flag = "--seq-length" if longest == self.recipe.length else "--length-ramp"
            raise UserError(
                f"{flag} {longest} is larger than "
                f"{variant_of(self.model).length_limit(self.model)} (--max-position-embeddings)"
            )
        precision = settings.layout.precision
        if precision == "auto":
            precision = "fp32" if machine.is_cpu else "bf16"
            if precision not in machine.peak:
                precision = "fp16"
        if precision not in machine.peak:
            known = ", ".join(machine.peak)
            if machine.is_cpu:
                raise UserError(
                    f"--precision {precision}: the planner has no figures of it for a CPU; it has those "
                    f"of {known}"
                )
            raise UserError(
                f"--precision {precision}: {machine.name} does not support it; it supports {known}"
            )
        self.precision = precision
        config = settings.layout.deepspeed_config
        self.buckets = Buckets.of(read_deepspeed_config(config) if config else {})
        self.limit = machine.memory_bytes * (1.0 - settings.machine.memory_margin)

    def sharding(self, layout: LayoutSettings) -> Sharding:
        """How a layout divides the optimizer's state.

        Raises:
            UserError: the tensor parallel degree does not divide the number of devices.
        """
        ranks, rest = divmod(self.devices, layout.tensor_parallel)
        if rest:
            raise UserError(
                f"--gpus {self.devices} is not a multiple of --tensor-parallel "
                f"{layout.tensor_parallel}; change one of them"
            )
        return Sharding(
            layout.zero,
            self.precision,
            ranks,
            self.buckets,
            self.machine.is_cpu,
            self.settings.recipe.optimizer,
            self.settings.recipe.averaged,
        )

    def rank(self, layout: LayoutSettings) -> Rank:
        """One rank of the layout.

        Raises:
            UserError: a degree does not divide the model or the number of devices.
        """
        degree = layout.tensor_parallel
        return Rank(
            self.model,
            local_parameters(self.model, degree, self.recipe.sentence_task),
            self.sharding(layout),
            Division(degree, layout.sequence_parallel, layout.activation_checkpointing),
            WholeMatrices.of(
                self.model,
                self.settings.recipe.matrix_rule,
                self.recipe.sentence_task,
                on_cpu=self.machine.is_cpu,
            ),
        )

    def memory(
        self,
        layout: LayoutSettings,
        sequences: float,
        micro_steps: int,
        stage: CourseStage | None = None,
    ) -> dict[str, Parts]:
        """Bytes per rank, by instant and part; ``sequences`` of each of an update's micro steps.

        ``stage``: of the course; None for the last one.
        """
        recipe = planned_run(self.settings, stage or self.course.final)
        batch = recipe.micro_batch(sequences, packed=layout.packing == "on")
        return rank_memory(self.machine, self.rank(layout), batch, micro_steps)

    def _fits(self, layout: LayoutSettings, sequences: int) -> bool:
        """Whether a micro batch of the last stage fits, and those of as many tokens of all others."""
        ranks = self.sharding(layout).ranks
        for stage in self.course.stages:
            own = max(1, sequences * self.course.final.length // stage.length)
            memory = self.memory(layout, own, max(2, stage.batch // ranks // own), stage)
            if max(sum(parts.values()) for parts in memory.values()) > self.limit:
                return False
        return True

    def largest(self, layout: LayoutSettings) -> int:
        """The largest micro batch that fits with accumulation; 0 if not even one sequence fits."""
        low, high = 0, 1
        while self._fits(layout, high) and high < 1 << 24:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            if self._fits(layout, middle):
                low = middle
            else:
                high = middle
        return low

    def micro_limit(self, largest: int) -> int:
        """Sequences of a micro batch whose size is not set, at most; a run on a GPU takes the same."""
        limit = micro_batch_limit(self.recipe.length, on_gpu=not self.machine.is_cpu)
        return max(1, min(limit, largest))

    def divide(self, layout: LayoutSettings, largest: int) -> BatchSizes:
        """Micro batch and accumulation, as given, or the default of a run (:meth:`micro_limit`).

        Raises:
            UserError: the sizes do not multiply out.
        """
        ranks = self.sharding(layout).ranks
        sizes = BatchSettings(
            global_batch_size=self.recipe.global_batch,
            micro_batch_size=self.recipe.micro,
            gradient_accumulation_steps=self.settings.recipe.accumulation,
        )
        return resolve_batch(sizes, ranks, self.micro_limit(largest))

    def plan(self, layout: LayoutSettings) -> LayoutPlan:
        """One layout, whether it fits or not.

        Raises:
            UserError: its degrees do not fit the model, the devices or the batch; no figures are known of
                its attention.
        """
        scratch = variant_of(self.model).gpu_scratch
        if layout.attention == "flash" and scratch is not None and not self.machine.is_cpu:
            raise UserError(
                f"--attention flash: the planner has no figures of {self.model.name} with torch's operators; "
                "the plan is for the Triton kernel: leave the flag out"
            )
        rank = self.rank(layout)
        largest = self.largest(layout)
        batch = self.divide(layout, largest)
        parts = self.course.parts(self.recipe.steps)
        stages = [self._stage(layout, rank, batch, *part) for part in parts]
        last = stages[-1]
        peak = self.machine.peak["bf16" if self.precision == "fp8" else self.precision]
        return LayoutPlan(
            model=self.model,
            machine=self.machine,
            devices=self.devices,
            layout=layout,
            precision=self.precision,
            recipe=last.recipe,
            parameters=rank.parameters,
            batch=last.batch,
            largest=largest,
            micro=last.micro,
            stages=stages,
            memory=max(stages, key=lambda stage: stage.peak_bytes).memory,
            limit=self.limit,
            exchanges=last.exchanges,
            times=last.times,
            real_flops=last.recipe.flops(self.model, last.recipe.global_batch, real=True),
            peak_flops=peak * self.devices,
        )

    def _stage(
        self,
        layout: LayoutSettings,
        rank: Rank,
        final: BatchSizes,
        stage: CourseStage,
        updates: int,
    ) -> PlannedStage:
        recipe, packed = planned_run(self.settings, stage), layout.packing == "on"
        batch = batch_of_stage(final, stage.batch, Fraction(self.course.final.length, stage.length))
        micro = recipe.micro_batch(batch.micro_size, packed=packed)
        exchanges = self._exchanges(rank, micro, batch.accumulation)
        return PlannedStage(
            recipe,
            updates,
            batch,
            micro,
            self.memory(layout, batch.micro_size, batch.accumulation, stage),
            exchanges,
            update_times(self.machine, rank, recipe, batch, exchanges, packed=packed),
        )

    def _exchanges(self, rank: Rank, micro: MicroBatch, micro_steps: int) -> list[Exchange]:
        sharding, degree = rank.sharding, rank.division.degree
        data = make_ring(self.machine, sharding.ranks, degree)
        tensor = make_ring(self.machine, degree, 1)
        return [
            *data_exchanges(rank.parameters, sharding, data, micro_steps),
            *tensor_exchanges(
                self.model, micro, self.precision, tensor, micro_steps, rank.division
            ),
            *matrix_exchanges(
                rank.matrices,
                sharding,
                make_ring(self.machine, sharding.ranks * degree, 1),
                degree,
                2 if rank.matrices.in_bf16 else FP32,
            ),
        ]

    def candidates(self) -> list[LayoutPlan]:
        """All layouts that fit, the best first.

        Layouts that sum gradients in fp32 come first, then faster ones, then simpler ones among those
        within 2 %.
        """
        found = [plan for plan in map(self._try, self._layouts()) if plan is not None and plan.fits]
        best = min((plan.step_seconds for plan in found), default=0.0)

        def order(plan: LayoutPlan) -> tuple[bool, int, int, bool, int]:
            layout, slower = plan.layout, plan.step_seconds / best
            step = math.floor(math.log(slower, 1.02))
            checkpointing = layout.activation_checkpointing
            return (
                plan.rounds_sums, step, layout.tensor_parallel, checkpointing, abs(layout.zero - 1)
            )  # fmt: skip

        return sorted(found, key=order)

    def _layouts(self) -> list[LayoutSettings]:
        stages: tuple[Literal[0, 1, 2, 3], ...] = (0, 1, 2, 3)
        degrees = [t for t in (1, 2, 4, 8) if t <= self.machine.per_host and not self.devices % t]
        return [
            replace(
                self.settings.layout,
                zero=zero,
                tensor_parallel=t,
                sequence_parallel=t > 1,
                activation_checkpointing=checkpointing,
            )
            for t, zero, checkpointing in itertools.product(degrees, stages, (False, True))
        ]

    def _try(self, layout: LayoutSettings) -> LayoutPlan | None:
        """The plan of a layout; None if a degree does not divide the model or the batch."""
        try:
            return self.plan(layout)
        except UserError:
            return None
