"""Seeds of dropout masks: every place of a model has its own.

A mask is a pure function of the run's seed, the layer, the place in it, the sample's number in the run
and the token's position in the sample (:mod:`megabert.kernels.dropout`). Therefore tensor-parallel ranks
drop the same units of tensors they all hold and different units of their own heads; activation
checkpointing and a resumed run see the same masks; and the division of a global batch into ranks and
micro batches, padded or packed, changes no mask. No generator state is stored.

Attention on a GPU, and over padded rows, draws from torch's generator instead, seeded by place: there
masks depend on the micro batch. With relative positions it does not.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from megabert.kernels.dropout import Dropout, mix64

EMBEDDINGS = -1
"""Layer number of the embeddings."""
ATTENTION, AFTER_ATTENTION, AFTER_MLP = range(3)
"""Places of a layer: the attention's probabilities, and the outputs of its two blocks."""
HEAD = 3
"""Place of the layer EMBEDDINGS: what a task's head reads."""
_PLACES = 4


@dataclass(frozen=True)
class DropoutSeeds:
    """The masks of a run with this seed."""

    seed: int

    def place(self, layer: int, place: int) -> int:
        """Seed of a place of ``layer`` (EMBEDDINGS, or 0 and up), 0 .. 2^63-1."""
        return mix64(mix64(self.seed) + (layer + 1) * _PLACES + place) >> 1


@dataclass(frozen=True)
class MicroStepDropout:
    """The masks of one micro step.

    Args:
        dropout_seeds: of the run.
        rows: keys of the tokens, int64 [T].
        hidden: probability in the embeddings and after each block.
        attention: probability in the attention's weights.
        draw: the micro step's first sample, or any number that differs between micro steps.
    """

    dropout_seeds: DropoutSeeds
    rows: Tensor
    hidden: float
    attention: float
    draw: int = 0

    def at(
        self, layer: int, place: int = AFTER_ATTENTION, rows: Tensor | None = None
    ) -> Dropout | None:
        """Dropout of a place, for tokens with these keys (all of the micro step); None if its probability is 0."""
        probability = self.attention if place == ATTENTION else self.hidden
        if probability == 0.0:
            return None
        keys = self.rows if rows is None else rows
        return Dropout(probability, self.dropout_seeds.place(layer, place), keys, self.draw)
