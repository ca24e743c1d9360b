"""The messages of a bucket: parts of updates to the owners of their matrices, and results back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from megabert.optim.exchange import RankExchange
from megabert.optim.muon.ownership import Ownership, Part

PartLists = list[list[Part]]
"""For each rank, parts."""
Pieces = dict[tuple[int, int], list[tuple[int, Tensor]]]
"""(matrix, tensor-parallel part) -> where each piece begins in it, and the piece."""


class Mail:
    """What this rank sends and receives, in one number format; lists are worked out once per bucket.

    Args:
        plan: owners and parts.
        exchange: None for a rank that does all.
        dtype: of what is sent.
        device: where matrices are orthogonalized.
    """

    def __init__(
        self,
        plan: Ownership,
        exchange: RankExchange | None,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.plan, self.exchange, self.dtype, self.device = plan, exchange, dtype, device
        self.rank = 0 if exchange is None else exchange.rank
        self._lists: dict[tuple[str, int], tuple[PartLists, PartLists]] = {}

    def _listed(self, way: str, bucket: Sequence[int]) -> tuple[PartLists, PartLists]:
        """The parts that this rank sends to each rank, and those that it receives from each."""
        key = way, bucket[0] if bucket else -1  # buckets have no matrix in common
        if key not in self._lists:
            ranks, me = range(self.plan.grid.ranks), self.rank
            parts = self.plan.to_owner if way == "to owners" else self.plan.to_holder
            self._lists[key] = (
                [list(parts(me, rank, bucket)) for rank in ranks],
                [list(parts(rank, me, bucket)) for rank in ranks],
            )
        return self._lists[key]

    def collect(self, bucket: Sequence[int], views: Sequence[Tensor]) -> Callable[[], Pieces]:
        """Send this rank's parts of updates (``views``, by place) to the owners.

        Returns:
            A function that waits for the pieces of the matrices that this rank owns.
        """
        out, into = self._listed("to owners", bucket)
        wait = self._send([[(part, views[part.place]) for part in parts] for parts in out], into)

        def finish() -> Pieces:
            pieces: Pieces = {}
            for sender, arrived in enumerate(wait()):
                for part, values in arrived:
                    key = part.matrix, self.plan.column(sender, part.matrix)
                    pieces.setdefault(key, []).append((part.start, values))
            return pieces

        return finish

    def give_back(
        self, bucket: Sequence[int], results: dict[tuple[int, int], Tensor]
    ) -> Callable[[], list[tuple[Part, Tensor]]]:
        """Send parts of results to their holders.

        ``results``: by matrix and tensor-parallel part, flat.

        Returns:
            A function that waits for this rank's parts.
        """
        parts, into = self._listed("to holders", bucket)
        out = [
            [(part, self._cut(part, holder, results)) for part in mine]
            for holder, mine in enumerate(parts)
        ]
        wait = self._send(out, into)
        return lambda: [item for arrived in wait() for item in arrived]

    def _cut(self, part: Part, holder: int, results: dict[tuple[int, int], Tensor]) -> Tensor:
        flat = results[part.matrix, self.plan.column(holder, part.matrix)]
        return flat[part.start : part.start + part.numel]

    def _send(
        self, out: Sequence[Sequence[tuple[Part, Tensor]]], into: Sequence[Sequence[Part]]
    ) -> Callable[[], list[list[tuple[Part, Tensor]]]]:
        """Send each rank its pieces; what a rank sends to itself does not pass through a message."""
        kept = [(part, self._ready(values)) for part, values in out[self.rank]]
        if self.exchange is None or self.plan.grid.ranks == 1:
            return lambda: [kept]
        others = [[] if rank == self.rank else list(parts) for rank, parts in enumerate(out)]
        sizes = [sum(part.numel for part, _ in parts) for parts in others]
        sent = self._packed((values for parts in others for _, values in parts), sum(sizes))
        expected = [[] if rank == self.rank else list(parts) for rank, parts in enumerate(into)]
        arriving = [sum(part.numel for part in parts) for parts in expected]
        wait = self.exchange.start(sent, sizes, arriving)

        def finish() -> list[list[tuple[Part, Tensor]]]:
            numels = [part.numel for parts in expected for part in parts]
            pieces = iter(wait().split(numels))
            found = [[(part, next(pieces)) for part in parts] for parts in expected]
            found[self.rank] = kept
            return found

        return finish

    def _ready(self, values: Tensor) -> Tensor:
        return values.to(self.device, self.dtype)

    def _packed(self, values: Iterable[Tensor], numel: int) -> Tensor:
        packed = torch.empty(numel, dtype=self.dtype, device=self.device)
        start = 0
        for piece in values:
            packed[start : start + piece.numel()].copy_(piece)
            start += piece.numel()
        return packed
