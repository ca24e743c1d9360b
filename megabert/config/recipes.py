"""The published recipes: what a phase of pretraining uses for what is not set."""

from __future__ import annotations

from typing import Literal, NamedTuple

Phase = Literal[1, 2, "continue"]
CONTINUE = "continue"
"""The phase of a run that continues a finished model on other text."""


class Recipe(NamedTuple):
    """Published settings of one phase."""

    seq_length: int
    max_predictions: int
    global_batch_size: int
    steps: int
    lr: float
    warmup_fraction: float
    optimizer: str = "lamb"
    beta2: float = 0.999
    schedule: str = "poly"
    masking: str = "token"


RECIPES: dict[int | str, Recipe] = {
    1: Recipe(128, 20, 65536, 7038, 6e-3, 0.2843),
    2: Recipe(512, 80, 32768, 1563, 4e-3, 0.128),
    CONTINUE: Recipe(512, 80, 2048, 12500, 5e-4, 0.06, "adamw", 0.98, "linear", "whole-word"),
}
"""1 and 2: BERT-large with LAMB (You et al. 2020, and its public scripts). continue: domain-adaptive
pretraining of Gururangan et al. 2020, with the whole-word masking of Google BERT's release of May 2019."""
