"""Durations in updates: the run's length, its warm-up and decay, and when an event is due. Needs no torch.

All are pure functions of the settings and the update's number, so a resumed run, on any topology, has the
same as an uninterrupted one. A duration in tokens is rounded up to whole updates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Protocol

from megabert.common.errors import UserError
from megabert.config.flags import Given, SettingsLayer
from megabert.config.sections.branch_point import BranchPoint, read_branch_point
from megabert.config.sections.duration import Duration, read_duration
from megabert.config.sections.replacing import REPLACES
from megabert.config.training import PretrainSettings, ResolvedSettings
from megabert.optim.curve import WITH_A_FLOOR, Curve

_ONLY_WSD = ("decay", "decay_duration")


class Positions(Protocol):
    """Tokens of a run's updates: positions of their batches."""

    def tokens(self, update: int) -> int:
        """Positions of the first ``update`` updates."""
        ...

    def updates_for_tokens(self, tokens: int) -> int:
        """The least number of updates with at least that many."""
        ...


def derived(settings: PretrainSettings) -> list[tuple[str, str]]:
    """(section, setting) of what follows from another setting, and is not recorded."""
    return [
        ("optimizer", other)
        for (section, name), other in REPLACES.items()
        if getattr(getattr(settings, section), name) is not None
    ]


def run_lengths(settings: PretrainSettings, course: Callable[[], Positions]) -> SettingsLayer:
    """``steps`` and ``warmup_fraction`` where the settings give them in another unit.

    Args:
        settings: with the recipe's values.
        course: makes the positions of the updates; called only if there are tokens.

    Raises:
        UserError: the warm-up is as long as the run.
    """
    schedule, steps = settings.schedule, settings.optimizer.steps
    found: dict[str, float] = {}
    if schedule.train_tokens is not None:
        steps = found["steps"] = course().updates_for_tokens(schedule.train_tokens)
    if schedule.decay_from is not None:
        steps = found["steps"] = _end_of_branch(settings, course)
    assert steps is not None
    if schedule.warmup is not None:
        warmup = read_duration(schedule.warmup)
        share = warmup.number / 100
        if warmup.unit != "percent":
            share = Fraction(first_update(warmup, course), steps)
        if share >= 1:
            raise UserError(
                f"--warmup {schedule.warmup}: the run has {steps:,} updates, and all of them would be warm-up: "
                "give a shorter one"
            )
        found["warmup_fraction"] = float(share)
    return SettingsLayer({"optimizer": found})


def _end_of_branch(settings: PretrainSettings, course: Callable[[], Positions]) -> int:
    """The last update of a decay branch."""
    began, decay = branch_of(settings), read_duration(settings.schedule.decay_duration)
    assert began is not None
    step = began.step or 0
    if decay.unit == "tokens":
        return max(step + 1, course().updates_for_tokens(course().tokens(step) + int(decay.number)))
    return step + (int(decay.number) if decay.unit == "steps" else last_part(decay, step, course))


def ramp_updates(settings: ResolvedSettings, course: Callable[[], Positions]) -> int:
    """Updates over which the mask fraction changes.

    A decay branch has those of its stable run, so that its samples are those of that run.
    """
    whole = settings.schedule.ramp_duration
    return settings.optimizer.steps if whole is None else first_update(read_duration(whole), course)


def branch_of(settings: PretrainSettings) -> BranchPoint | None:
    """Where a decay branch began; None for any other run."""
    place = settings.schedule.decay_from
    return None if place is None else read_branch_point(place)


def first_update(duration: Duration, course: Callable[[], Positions]) -> int:
    """The first update that reaches a duration in steps or tokens from the start of the run."""
    if duration.unit == "tokens":
        return course().updates_for_tokens(int(duration.number))
    return int(duration.number)


def last_part(duration: Duration, steps: int, course: Callable[[], Positions]) -> int:
    """Updates of the last part of a run of ``steps``, at least 1 and at most all."""
    if duration.unit == "percent":
        updates = math.ceil(duration.number * steps / 100)
    elif duration.unit == "tokens":
        before = course().tokens(steps) - int(duration.number)
        updates = steps - (course().updates_for_tokens(before + 1) - 1 if before > 0 else 0)
    else:
        updates = int(duration.number)
    return min(max(updates, 1), steps)


def curve_of(settings: PretrainSettings, course: Callable[[], Positions]) -> Curve:
    """The learning rates of a run, whose settings have ``steps`` and the other values of a recipe.

    Raises:
        UserError: the decay, or warm-up and decay, do not fit into the run.
    """
    optimizer, schedule = settings.optimizer, settings.schedule
    warmup = None if schedule.warmup is None else read_duration(schedule.warmup)
    lr, steps, fraction = optimizer.lr, optimizer.steps, optimizer.warmup_fraction
    assert lr is not None
    assert steps is not None
    assert fraction is not None
    began, decay_steps = branch_of(settings), 0
    if began is not None:
        decay_steps = steps - (began.step or 0)
    elif optimizer.schedule == "wsd":
        decay = read_duration(schedule.decay_duration)
        whole = course().tokens(steps) if decay.unit == "tokens" else steps
        if decay.unit != "percent" and decay.number > whole:
            raise UserError(
                f"--decay-duration {schedule.decay_duration}: the run has only {whole:,} {decay.unit}; give a shorter decay"
            )
        decay_steps = last_part(decay, steps, course)
    return Curve(
        optimizer.schedule,
        steps,
        lr,
        fraction,
        None if warmup is None or warmup.unit == "percent" else first_update(warmup, course),
        schedule.decay,
        decay_steps,
        schedule.final_lr_fraction,
    )


def check_schedule(settings: ResolvedSettings, given: Given) -> None:
    """Refuse settings that have no effect on the schedule.

    Raises:
        UserError: which.
    """
    name, schedule = settings.optimizer.schedule, settings.schedule
    for setting in _ONLY_WSD:
        if name != "wsd" and given.flags.sets("schedule", setting):
            raise UserError(
                f"--{setting.replace('_', '-')} is the decay of --schedule wsd, and the schedule is {name}: "
                "leave it out, or set --schedule wsd"
            )
    if schedule.final_lr_fraction and name not in WITH_A_FLOOR:
        raise UserError(
            f"--final-lr-fraction {schedule.final_lr_fraction:g} has no effect with --schedule {name}: leave "
            f"it out, or use one of {', '.join(WITH_A_FLOOR)}"
        )


def last_update(settings: ResolvedSettings, course: Callable[[], Positions]) -> int:
    """The update after which this job ends."""
    steps, stop = settings.optimizer.steps, settings.run.stop_after
    return steps if stop is None else min(steps, first_update(read_duration(stop), course))


class Interval:
    """When an event is due: after the first update at or past each multiple of the interval.

    Args:
        value: updates or tokens; 0: never.
        course: positions of the updates; used only if the interval is in tokens.
    """

    def __init__(self, value: int | str, course: Callable[[], Positions]) -> None:
        number, unit = read_duration(value)
        self._every = int(number)
        self._positions = course() if unit == "tokens" else None

    def due(self, step: int) -> bool:
        """Whether it is, after update ``step``."""
        if not self._every:
            return False
        if self._positions is None:
            return step % self._every == 0
        reached, before = (self._positions.tokens(n) // self._every for n in (step, step - 1))
        return reached > before
