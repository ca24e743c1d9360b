"""Settings of question answering."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BeforeValidator
from pydantic.dataclasses import dataclass

from megabert.config.flags import setting
from megabert.config.numbers import Size
from megabert.config.values import DEFERRED


def _threshold(value: object) -> object:
    """A finite number as a float, "auto" unchanged."""
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


@dataclass(frozen=True, config=DEFERRED)
class SquadSettings:
    """Question answering (SQuAD)"""

    doc_stride: Size = setting(128, "distance in tokens between the windows of a long context")
    max_query_length: Size = setting(64, "tokens per question, at most; the rest is cut off")
    max_answer_length: Size = setting(30, "tokens per answer, at most")
    n_best: Size = setting(20, "answers per question in nbest_predictions.json")
    null_threshold: NullThreshold | None = setting(
        None,
        "squad2: give the empty answer where its score exceeds the best span's by more than this; auto: "
        "the value with the best F1 on --eval (default: the checkpoint's, else 0)",
        metavar="X|auto",
    )
    metric_language: Literal["auto", "en", "zh"] = setting(
        "auto",
        "rules of exact match and F1: SQuAD's, or CMRC 2018's for Chinese; auto: by the language of the answers in --eval",
    )
