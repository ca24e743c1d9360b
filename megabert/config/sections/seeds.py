"""Seeds of parts of a run."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from megabert.config.flags import setting
from megabert.config.numbers import NonNegativeInt
from megabert.config.values import DEFERRED


@dataclass(frozen=True, config=DEFERRED)
class SeedSettings:
    """Seeds"""

    data_seed: NonNegativeInt | None = setting(
        None,
        "seed of the samples: their order, where documents are cut, and masks (default: --seed)",
        resume="must_match",
    )
    weight_seed: NonNegativeInt | None = setting(
        None,
        "seed of initial weights, also of heads that the model of --init-from lacks (default: --seed)",
        resume="must_match",
    )
