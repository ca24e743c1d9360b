"""Settings of classification and regression."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from megabert.config.flags import setting
from megabert.config.values import DEFERRED


@dataclass(frozen=True, config=DEFERRED)
class ClassificationSettings:
    """Classification (GLUE, TNEWS)"""

    class_weights: Literal["none", "balanced"] = setting(
        "none", "weight of a label in the loss; balanced: in inverse proportion to its count"
    )
    bad_lines: Literal["error", "skip"] = setting(
        "error",
        "lines with a wrong number of columns or an unknown label: stop with an error, or leave them out",
    )
