"""Batch sizes and sequence lengths along a run, from its settings. Needs no torch."""

from __future__ import annotations

from megabert.common.errors import UserError
from megabert.config.sections.ramps import ramp_base, read_ramp
from megabert.config.training import PretrainSettings, ResolvedSettings
from megabert.data.samples.course import Course, plan_course


def course_of(settings: PretrainSettings) -> Course:
    """Batch size and sequence length along the run, whose settings have the recipe's length.

    Raises:
        UserError: the size of the global batch is not set.
    """
    ramps, batch = settings.ramps, settings.batch.global_batch_size
    if batch is None:
        what = "durations in tokens need"
        if ramps.batch_ramp or ramps.length_ramp:
            what = f"{'--batch-ramp' if ramps.batch_ramp else '--length-ramp'} ends with"
        raise UserError(f"{what} the global batch of the run: give --global-batch-size")
    assert settings.data.seq_length is not None
    schedule = settings.schedule
    steps, tokens = ramp_base(
        schedule.ramp_duration, settings.optimizer.steps, schedule.train_tokens
    )
    return plan_course(
        [read_ramp(text) for text in ramps.batch_ramp],
        [read_ramp(text) for text in ramps.length_ramp],
        batch,
        settings.data.seq_length,
        steps=steps,
        tokens=tokens,
    )


def lengths_of(settings: ResolvedSettings) -> dict[int, str]:
    """The sequence lengths of a run, and the flag that names each."""
    found = {read_ramp(text).value: "--length-ramp" for text in settings.ramps.length_ramp}
    return {**found, settings.data.seq_length: "--seq-length"}


def unreached(course: Course, steps: int) -> str | None:
    """A warning if a run ends before its last stage."""
    if len(course.parts(steps)) == len(course.stages):
        return None
    batch, length, _ = course.final
    return (
        f"the run of {steps:,} updates ends before the ramps do: it never reaches a global batch of {batch:,} with "
        f"sequences of {length} tokens"
    )
