"""Settings that every task has: which task, its files, its rows. A task's own are in its package."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass

from megabert.config.flags import setting
from megabert.config.numbers import Count, NonNegativeInt, PositiveInt, Probability, Size
from megabert.config.values import DEFERRED
from megabert.tasks.registry import DEFAULT_TASK, task_names


@dataclass(frozen=True, config=DEFERRED)
class TaskSettings:
    """Task and files"""

    task: str = setting(DEFAULT_TASK, "what to fine-tune for", choices=task_names)
    checkpoint: Path | None = setting(
        None, "megabert folder, pretraining run, or Hugging Face BERT folder to start from"
    )
    train: Path | None = setting(
        None, "training file; without it, --eval and --test are only scored"
    )
    eval: Path | None = setting(None, "file to score during and after training")
    test: Path | None = setting(
        None, "file to predict with the selected model into RUN/test; scored if it has labels"
    )
    eval_share: Probability | None = setting(
        None,
        "fraction of --train that is held out by --seed and scored, without --eval (default: 0.1 for tasks "
        "with labels of one's own, 0 for others)",
    )
    text_column: str | None = setting(
        None, "column or JSON key of the text, or of a pair's first (default: by its usual names)"
    )
    text_pair_column: str | None = setting(None, "column or JSON key of a pair's second text")
    label_column: str | None = setting(
        None, "column or JSON key of the labels (default: by its usual names)"
    )
    bad_lines: Literal["error", "skip"] = setting(
        "error",
        "lines that cannot be used, as with an unknown label (classification, regress, tag): stop with an "
        "error, or leave them out and count them",
    )
    output: Path | None = setting(None, "run folder (default: runs/TASK)", resume="free")
    max_length: Size | None = setting(
        None,
        "tokens per row, at most (default: 384 for squad and squad2, 128 for other tasks; without --train that of the "
        "fine-tuning)",
    )
    max_train_examples: Count | None = setting(
        None, "training examples to use, at most; a random choice by --seed (default: all)"
    )
    random_init: bool = setting(
        False, "use shape and tokenizer of --checkpoint, but random weights"
    )
    new_head: bool = setting(
        False, "draw a new head even if --checkpoint was fine-tuned for this task"
    )
    seed: NonNegativeInt = setting(42, "seed of new weights, order of examples and dropout")
    log_interval: PositiveInt = setting(10, "updates between lines of metrics", resume="free")
    dropout: Probability | None = setting(
        None, "dropout probability of hidden states and of attention (default: the checkpoint's)"
    )
