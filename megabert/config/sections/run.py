"""A run: its folder, where it begins, its evaluations and checkpoints, and what it does in trouble."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator
from pydantic.dataclasses import dataclass

from megabert.config.flags import setting
from megabert.config.numbers import Count, Limits, NonNegativeInt, PositiveFloat, PositiveInt
from megabert.config.recipes import Phase
from megabert.config.sections.duration import IntervalOrNever, IntervalText
from megabert.config.values import DEFERRED


def _sample_ranges(value: object) -> object:
    """Texts of the form A:B[,A:B...]; YAML reads a bare ``112:30`` as a number."""
    if isinstance(value, str) and re.fullmatch(
        r"(\s*\d{1,18}\s*:\s*\d{1,18}\s*(,|$))+(?<!,)", value
    ):
        return value
    raise ValueError(
        "expected ranges of sample numbers as A:B[,A:B...]; write them in quotes in a YAML file"
    )


EVALUATED = ("eval_mlm_loss", "eval_mlm_accuracy", "eval_nsp_accuracy")
"""Values of every evaluation of pretraining; of one corpus of several as ``eval_mlm_loss/NAME``."""


def of_average(name: str) -> str:
    """``eval_ema_mlm_loss`` of ``eval_mlm_loss``: the same value of the moving average of the weights."""
    return name.replace("eval_", "eval_ema_", 1)


def _evaluated(value: object) -> object:
    """One of :data:`EVALUATED`, perhaps of averaged weights, perhaps of one corpus."""
    if isinstance(value, str):
        name = value.partition("/")[0]
        if name in EVALUATED or name in map(of_average, EVALUATED):
            return value
    raise ValueError(f"expected one of {', '.join(EVALUATED)}, or of averaged weights eval_ema_...")


EvaluatedMetric = Annotated[str, BeforeValidator(_evaluated)]
"""A value of the evaluation lines of ``metrics.jsonl``."""

SampleRanges = Annotated[str, BeforeValidator(_sample_ranges)]
"""``A:B[,A:B...]``; :func:`megabert.data.samples.skip.parse_ranges` reads them."""


STOP_GRACE = 600.0
"""Default of ``--stop-grace``, in seconds."""


@dataclass(frozen=True, config=DEFERRED)
class RunSettings:
    """Run"""

    phase: Phase = setting(
        1,
        "use this phase's published recipe for what is not set; 1, 2: BERT-large with LAMB (You et al. 2020); "
        "continue: a finished model on other text (Gururangan et al. 2020)",
        resume="must_match",
    )
    output: Path | None = setting(
        None,
        "run folder (default: runs/MODEL-phaseN, runs/MODEL-continue; MODEL is --model, without it the name of the "
        "folder of --init-from, or bert-large where that is a run and the phase is 1 or 2)",
        metavar="DIR",
    )
    init_from: Path | None = setting(
        None,
        "model that starts this run; step and schedule start at 0. A run or a checkpoint: with its moments. "
        "Weights only: a megabert or Hugging Face folder, or a checkpoint of Google (TensorFlow), NVIDIA or "
        "MindSpore",
        metavar="PATH",
    )
    init_moments: bool = setting(
        True, "with a run or a checkpoint as --init-from: take over the optimizer's moments"
    )
    resume: str = setting(
        "never",
        "auto: resume from the newest complete checkpoint of --output; TAG: from this checkpoint; best: "
        "from that of --keep-best",
        metavar="never|auto|TAG",
    )
    seed: NonNegativeInt = setting(
        42,
        "seed of initial weights, samples, masks and dropout; --data-seed and --weight-seed set those of "
        "samples and weights apart, dropout has always this one",
        resume="must_match",
    )
    stop_after: IntervalText | None = setting(
        None,
        "save a checkpoint and stop after this update, or that which reaches this many tokens ('1e9 tokens'), "
        "counted from the start of the run; the schedule is still that of --steps",
        metavar="DURATION",
    )
    stop_grace: Annotated[float, Limits(gt=0.0, le=1e8)] = setting(
        STOP_GRACE,
        "seconds in which a checkpoint must be saved after a signal or the end of the launcher; then the "
        "process ends without",
    )
    eval_interval: IntervalOrNever = setting(
        500,
        "updates between evaluations, or tokens ('1e9 tokens'); 0 evaluates only at the end",
        metavar="DURATION",
    )
    eval_at_start: bool | None = setting(
        None,
        "evaluate before the first update (default: on with --init-from, else off)",
        resume="free",
    )
    eval_samples: Count = setting(1024, "evaluation sequences per corpus and evaluation, at most")
    save_interval: IntervalOrNever = setting(
        500, "updates between checkpoints, or tokens; 0 saves only at the end", metavar="DURATION"
    )
    log_interval: IntervalText = setting(
        10, "updates between lines of metrics, or tokens", metavar="DURATION"
    )
    profile: Count | None = setting(
        None,
        "profile this many updates, after 3 warm-up updates, and write trace and operator times to "
        "RUN/profile (default: no profile)",
    )
    peak_tflops: PositiveFloat | None = setting(
        None,
        "peak TFLOP/s of one rank's device, for MFU (default: a GPU's published figure for the precision; a CPU is measured)",
    )
    trust_ratio_interval: NonNegativeInt = setting(
        100, "updates between lines of every tensor's trust ratio and norms; 0 writes none"
    )
    keep_last: PositiveInt = setting(2, "newest checkpoints to keep in the run folder")
    keep_every: PositiveInt | None = setting(
        None, "also save checkpoints after every multiple of this many updates, and keep them all"
    )
    keep_best: EvaluatedMetric | None = setting(
        None,
        "also keep the checkpoint with the best value of the evaluations: eval_mlm_loss, "
        "eval_mlm_accuracy or eval_nsp_accuracy (of averaged weights: eval_ema_mlm_loss ...); it is saved "
        "right after the evaluation",
        metavar="METRIC",
    )
    on_spike: Literal["stop", "rollback", "ignore"] = setting(
        "stop",
        "what to do when the loss jumps or is not finite: stop; or rollback to the last checkpoint and "
        "skip the samples; ignore continues after jumps but stops when the loss is not finite",
    )
    spike_threshold: PositiveFloat = setting(
        12.0,
        "a loss this many robust standard deviations above the recent median is a spike",
    )
    skip_samples: SampleRanges | None = setting(
        None,
        "skip samples A to B-1 of the run; multiples of the global batch size",
        metavar="A:B[,A:B...]",
    )
    max_rollbacks: PositiveInt = setting(
        10, "rollbacks after which a run stops if it does not get past the bad update"
    )
