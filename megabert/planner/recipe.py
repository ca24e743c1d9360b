"""How much a run trains on, and how many of its tokens are real."""

from __future__ import annotations

from dataclasses import dataclass

from megabert.config.model import ModelConfig
from megabert.config.recipes import RECIPES, Phase
from megabert.config.sections.ramps import ramp_base, read_ramp
from megabert.data.samples.course import Course, CourseStage, plan_course
from megabert.engine.config import LOADER_WORKERS
from megabert.model.flops import pretraining_flops
from megabert.planner.activations import MicroBatch
from megabert.planner.settings import CPU, PlanSettings

PADDING_SHORT, PADDING_LONG = 0.048, 0.082
"""Fraction of padding at 128 and 512 tokens (English; docs/results/2026-11/loader.md)."""
PACKED_BALANCE = 1.03
"""Tokens of the largest packed micro batch over the mean (docs/results/2026-11/loader.md)."""


@dataclass(frozen=True)
class PlannedRun:
    """A run's sizes.

    Attributes:
        phase: 1, 2 or continue.
        length: tokens per sequence, at most.
        fill: mean fraction of these that is real.
        mask_fraction: predicted fraction of the real tokens.
        sentence_task: whether a sentence head is trained.
        global_batch: sequences per update.
        steps: number of updates.
        micro: sequences per micro step, if given.
        workers: data loader processes per rank.
    """

    phase: Phase
    length: int
    fill: float
    mask_fraction: float
    sentence_task: bool
    global_batch: int
    steps: int
    micro: int | None
    workers: int

    @property
    def squared_fill(self) -> float:
        """Mean of (length / S)^2: a fraction 2 (1 - fill) of the samples is short, uniformly in length."""
        return 1.0 - 4.0 / 3.0 * (1.0 - self.fill)

    def micro_batch(self, sequences: float, *, packed: bool) -> MicroBatch:
        """Sizes of a micro batch of this many sequences; packed, of the largest one."""
        places = sequences * self.length
        real = places * self.fill
        return MicroBatch(
            min(places, real * PACKED_BALANCE) if packed else places,
            real * self.mask_fraction,
            sequences if self.sentence_task else 0.0,
        )

    def flops(self, model: ModelConfig, sequences: float, *, real: bool) -> float:
        """FLOPs of forward and backward: of the real tokens, or of all places of a padded batch."""
        tokens, squares = sequences * self.length, sequences * self.length**2
        predicted = tokens * self.fill * self.mask_fraction
        if real:
            tokens, squares = tokens * self.fill, squares * self.squared_fill
        return pretraining_flops(model, tokens, squares, predicted)


def planned_course(settings: PlanSettings) -> Course:
    """Batch size and length along the run, with the settings that the user gave."""
    asked, published = settings.recipe, RECIPES[settings.recipe.phase]
    steps, tokens = ramp_base(
        asked.ramp_duration, asked.steps or published.steps, asked.train_tokens
    )
    return plan_course(
        [read_ramp(text) for text in asked.batch_ramp],
        [read_ramp(text) for text in asked.length_ramp],
        asked.global_batch_size or published.global_batch_size,
        asked.seq_length or published.seq_length,
        steps=steps,
        tokens=tokens,
    )


def planned_run(settings: PlanSettings, stage: CourseStage) -> PlannedRun:
    """The phase's recipe, with the settings that the user gave, and the sizes of a stage of the course."""
    asked, published = settings.recipe, RECIPES[settings.recipe.phase]
    length = stage.length
    padding = asked.padding
    if padding is None:
        padding = PADDING_SHORT if length <= 256 else PADDING_LONG
    steps = asked.steps or published.steps
    if asked.train_tokens is not None:
        steps = planned_course(settings).updates_for_tokens(asked.train_tokens)
    workers = asked.loader_workers
    if workers is None:
        workers = 0 if settings.machine.gpu == CPU else LOADER_WORKERS
    return PlannedRun(
        asked.phase,
        length,
        1.0 - padding,
        asked.mask_fraction,
        asked.sentence_task != "none",
        stage.batch,
        steps,
        asked.micro_batch_size,
        workers,
    )
