"""One rank of a layout: its part of the model, and how the layout divides everything else."""

from __future__ import annotations

from dataclasses import dataclass

from megabert.config.model import ModelConfig
from megabert.planner.activations import Division
from megabert.planner.matrices import WholeMatrices
from megabert.planner.parameters import LocalParameters
from megabert.planner.states import Sharding


@dataclass(frozen=True)
class Rank:
    """One rank.

    Attributes:
        model: the whole model.
        parameters: this rank's, under tensor parallelism and before ZeRO.
        sharding: of the optimizer's state, by ZeRO.
        division: of activations, by tensor and sequence parallelism.
        matrices: those that the optimizer updates whole.
    """

    model: ModelConfig
    parameters: LocalParameters
    sharding: Sharding
    division: Division
    matrices: WholeMatrices
