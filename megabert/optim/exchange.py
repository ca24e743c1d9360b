"""Parts of tensors sent between the ranks that update them: what an optimizer may ask the engine for.

Nothing here communicates; :mod:`megabert.engine.zero.exchange` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class RankExchange(Protocol):
    """Messages between all ranks of a run; every rank calls each method in the same order.

    Attributes:
        rank: this one's number; tensor-parallel ranks are neighbours.
        ranks: how many there are.
        tensor_parallel: how many of them split each layer's weights.
        copies: every data-parallel rank holds all its tensors whole (no ZeRO); otherwise they hold
            different parts.
        device: where messages are sent from and arrive.
    """

    rank: int
    ranks: int
    tensor_parallel: int
    copies: bool
    device: torch.device

    def gather(self, value: Any) -> list[Any]:
        """Each rank's value, in the order of the ranks."""
        ...

    def start(
        self, sent: Tensor, sent_sizes: Sequence[int], received_sizes: Sequence[int]
    ) -> Callable[[], Tensor]:
        """Begin to send pieces of ``sent`` to the ranks, in their order; sizes count elements.

        Returns:
            A function that waits and returns what arrived, end to end in the order of the ranks.
        """
        ...
