"""Additions to the loss."""

from __future__ import annotations

from typing import Annotated

from pydantic.dataclasses import dataclass

from megabert.config.flags import setting
from megabert.config.numbers import Limits
from megabert.config.values import DEFERRED


@dataclass(frozen=True, config=DEFERRED)
class LossSettings:
    """Loss"""

    z_loss: Annotated[float, Limits(ge=0.0, le=0.01)] = setting(
        0.0,
        "add this times the mean of logsumexp(logits)^2 over the predicted tokens to the loss, which keeps "
        "the logits from drifting; PaLM has 1e-4",
    )
