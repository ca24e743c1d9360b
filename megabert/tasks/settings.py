"""Settings of the tasks: which one, its files, and what each kind of task can be told."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

from megabert.config.flags import setting
from megabert.config.model import Probability

TaskName = Literal[
    "squad", "squad2",
    "cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli",
    "tnews", "cluener", "conll",
]  # fmt: skip


def _threshold(value: object) -> object:
    """A finite number as one, "auto" as it is."""
    if value == "auto":
        return value
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError("expected a number, or auto")
    return number


NullThreshold = Annotated[float | str, BeforeValidator(_threshold)]


@dataclass(frozen=True)
class TaskSettings:
    """Task and files"""

    task: TaskName = setting("squad", "what to fine-tune for")
    checkpoint: Path | None = setting(
        None, "megabert folder, pretraining run, or Hugging Face BERT folder to start from"
    )
    train: Path | None = setting(None, "training file (none: only score --eval and --test)")
    eval: Path | None = setting(None, "file to score while training and at its end")
    test: Path | None = setting(
        None, "file to predict with the kept model into RUN/test; scored if it has labels"
    )
    output: Path | None = setting(None, "new run folder (runs/TASK)")
    max_length: PositiveInt | None = setting(
        None, "tokens of a row at most (squad, squad2: 384; other tasks: 128)"
    )
    max_train_examples: PositiveInt | None = setting(
        None, "use at most so many training examples, drawn by --seed"
    )
    random_init: bool = setting(
        False, "take shape and tokenizer of --checkpoint, but random weights (on|off)"
    )
    new_head: bool = setting(
        False, "draw a new head even if --checkpoint was fine-tuned for this task (on|off)"
    )
    seed: NonNegativeInt = setting(42, "new weights, order of examples and dropout")
    log_interval: PositiveInt = setting(10, "updates between lines of metrics")
    dropout: Probability | None = setting(None, "hidden and attention dropout (the checkpoint's)")


@dataclass(frozen=True)
class SquadSettings:
    """Question answering (SQuAD)"""

    doc_stride: PositiveInt = setting(128, "tokens from one window of a long context to the next")
    max_query_length: PositiveInt = setting(64, "tokens of a question; the rest is cut off")
    max_answer_length: PositiveInt = setting(30, "tokens of an answer at most")
    n_best: PositiveInt = setting(20, "answers a question in nbest_predictions.json")
    null_threshold: NullThreshold | None = setting(
        None,
        "squad2: answer nothing where that scores so much more than the best span; auto: the best F1 on "
        "--eval decides (the checkpoint's, else 0)",
    )
    metric_language: Literal["auto", "en", "zh"] = setting(
        "auto",
        "rules of exact match and F1: SQuAD's, or CMRC 2018's for Chinese (auto: by the truths)",
    )


@dataclass(frozen=True)
class ClassificationSettings:
    """Classification (GLUE, TNEWS)"""

    class_weights: Literal["none", "balanced"] = setting(
        "none", "weight of a label in the loss; balanced: in inverse proportion to its count"
    )
    bad_lines: Literal["error", "skip"] = setting(
        "error", "lines with a wrong number of columns or an unknown label: stop, or leave them out"
    )


@dataclass(frozen=True)
class TaggingSettings:
    """Tagging (CLUENER, CoNLL)"""

    crf: bool = setting(False, "a conditional random field on the linear head (on|off)")
    crf_constraints: Literal["none", "decode", "always"] = setting(
        "decode",
        "tags out of the scheme's order are ruled out: never, in predictions, in the loss too",
    )
    tag_scheme: Literal["auto", "bio", "bioes", "bmes"] = setting(
        "auto",
        "tags: of the files of conll (auto: what --train has); of cluener's labels (auto: bio)",
    )
