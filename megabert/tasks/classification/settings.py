"""Settings of classification and regression."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from megabert.config.flags import setting
from megabert.config.numbers import Fraction
from megabert.config.values import DEFERRED


@dataclass(frozen=True, config=DEFERRED)
class ClassificationSettings:
    """Classification (GLUE, TNEWS, labels of one's own)"""

    class_weights: Literal["none", "balanced"] = setting(
        "none", "weight of a label in the loss; balanced: in inverse proportion to its count"
    )
    label_separator: str | None = setting(
        None, "text between the labels of one example, as ',': an example has any number of them"
    )
    threshold: Fraction | None = setting(
        None,
        "probability from which a label is given, where an example has any number of them (default: the "
        "checkpoint's, else 0.5)",
    )
