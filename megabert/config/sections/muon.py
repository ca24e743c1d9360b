"""Settings of Muon, which belong to the optimizer's section."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from megabert.config.flags import setting
from megabert.config.numbers import PositiveInt, Probability
from megabert.config.values import DEFERRED


@dataclass(frozen=True, kw_only=True, config=DEFERRED)
class MuonPart:
    """Optimizer and schedule"""

    muon_momentum: Probability = setting(0.95, "with muon: decay rate of the momentum of matrices")
    muon_steps: PositiveInt = setting(5, "with muon: steps of the Newton-Schulz iteration")
    muon_precision: Literal["auto", "bf16", "fp32"] = setting(
        "auto",
        "with muon: number format of the iteration and of what is sent for it; auto is bf16 on a GPU, "
        "fp32 on a CPU",
    )
    muon_others: Literal["adamw", "lamb"] = setting(
        "adamw", "with muon: rule of embeddings, biases, norms and classifiers"
    )
