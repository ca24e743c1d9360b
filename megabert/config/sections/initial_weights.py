"""How initial weights are drawn."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from megabert.config.flags import setting
from megabert.config.numbers import Fraction
from megabert.config.values import DEFERRED

InitScheme = Literal["normal", "scaled-residual", "width-aware"]
"""Rules of the standard deviations of initial weights; :mod:`megabert.model.init` has them."""


@dataclass(frozen=True, config=DEFERRED)
class InitialWeightSettings:
    """Initial weights"""

    init_scheme: InitScheme = setting(
        "normal",
        "standard deviation of initial weights: normal is --initializer-range for all; scaled-residual "
        "divides that of each block's output projection by sqrt(2 x layers) (GPT-2, Megatron-LM); "
        "width-aware is 1 / sqrt(inputs) for every matrix except embeddings (PaLM)",
        resume="must_match",
    )
    init_local_heads: Fraction = setting(
        0.0,
        "share of each layer's attention heads that begin with attention to one neighbour each, the token "
        "before, after, two before, ...; needs relative positions (NEZHA), with which 0.5 learns far faster than 0",
        resume="must_match",
    )
