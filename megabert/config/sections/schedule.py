"""Settings of the run's length and learning rate that :class:`OptimizerSettings` does not have."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass

from megabert.config.flags import setting
from megabert.config.numbers import Fraction
from megabert.config.sections.duration import DurationOrNone, DurationText, IntervalText, TokenCount
from megabert.config.values import DEFERRED

Decay = Literal["linear", "1-sqrt", "cosine"]


@dataclass(frozen=True, config=DEFERRED)
class ScheduleSettings:
    """Length of the run, warm-up and decay"""

    train_tokens: TokenCount | None = setting(
        None,
        "length of the run in tokens instead of --steps: positions of the batches, padding included; the "
        "last update is the first one that reaches them",
        metavar="N",
    )
    warmup: DurationOrNone | None = setting(
        None,
        "warm-up instead of --warmup-fraction: updates (500), tokens ('1e9 tokens') or a share of the updates "
        "(10%)",
        metavar="DURATION",
    )
    decay: Decay = setting(
        "1-sqrt", "with --schedule wsd and --decay-from: how the learning rate falls"
    )
    decay_duration: DurationText = setting(
        "10%",
        "with --schedule wsd: the last part of the run, in which the learning rate falls; with --decay-from "
        "the length of this run, where a share is of the updates before it",
        metavar="DURATION",
    )
    final_lr_fraction: Fraction = setting(
        0.0,
        "learning rate of the last update, as a fraction of the peak (schedules linear, cosine and wsd)",
    )
    decay_from: Path | None = setting(
        None,
        "start a decay branch: continue the checkpoint of this step of a run with --schedule constant or wsd "
        "(default: its newest), in another --output (default: RUN-decay-STEP), and only decay; settings that are "
        "not given are that run's",
        metavar="RUN@STEP",
    )
    ramp_duration: IntervalText | None = setting(
        None,
        "length of the run, in updates or tokens, for what changes over the run: the mask fraction, and shares "
        "in ramps (default: --steps or --train-tokens; with --decay-from that of the stable run)",
        metavar="DURATION",
        resume="must_match",
    )
