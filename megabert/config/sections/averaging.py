"""The moving average of the weights."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator
from pydantic.dataclasses import dataclass

from megabert.common.errors import UserError
from megabert.config.flags import setting
from megabert.config.numbers import Probability
from megabert.config.values import DEFERRED


def _none_is_off(value: object) -> object:
    return 0.0 if isinstance(value, str) and value.strip().lower() in ("none", "off") else value


@dataclass(frozen=True, config=DEFERRED)
class AveragingSettings:
    """Averaged weights"""

    ema_decay: Annotated[Probability, BeforeValidator(_none_is_off)] = setting(
        0.0,
        "keep an exponential moving average of the weights, which each update moves by 1 - this towards "
        "the new weights, as 0.999; 0 or none keeps none",
    )
    eval_weights: Literal["trained", "ema", "both"] = setting(
        "trained",
        "weights that evaluations use; those of the average give eval_ema_mlm_loss and so on",
    )

    def __post_init__(self) -> None:
        if self.eval_weights != "trained" and not self.ema_decay:
            raise UserError(
                f"--eval-weights {self.eval_weights} evaluates the moving average of the weights, which "
                "needs --ema-decay, as 0.999"
            )
