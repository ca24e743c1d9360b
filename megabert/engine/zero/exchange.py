"""Messages between the ranks that hold parts of the same tensors, for an optimizer that needs whole ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megabert.parallel.topology import TensorParallel


class WorldExchange:
    """:class:`megabert.optim.exchange.RankExchange` over all ranks of the run."""

    def __init__(self, engine: Any, tp: TensorParallel) -> None:
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        self.tensor_parallel = tp.size
        self.copies = engine.zero_optimization_stage() == 0
        self.device: torch.device = engine.device

    def gather(self, value: Any) -> list[Any]:
        """Each rank's value."""
        values: list[Any] = [None] * self.ranks
        dist.all_gather_object(values, value)
        return values

    def start(
        self, sent: Tensor, sent_sizes: Sequence[int], received_sizes: Sequence[int]
    ) -> Callable[[], Tensor]:
        """One all-to-all of bytes (gloo does not send every number format), which does not block."""
        width = sent.element_size()
        received = sent.new_empty(sum(received_sizes))
        work = dist.all_to_all_single(
            received.view(torch.uint8),
            sent.view(torch.uint8),
            [width * size for size in received_sizes],
            [width * size for size in sent_sizes],
            async_op=True,
        )

        def finish() -> Tensor:
            work.wait()
            del sent_bytes[:]
            return received

        sent_bytes = [sent]  # must live until the end
        return finish
