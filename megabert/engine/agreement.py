"""Whether any rank was asked to stop: known to all ranks after the same update."""

from __future__ import annotations

import torch
from torch import Tensor

from megabert.common.processes.stopping import StopWatch
from megabert.engine.launch import World


class StopAgreement:
    """Sends each rank's request along with a sum that the update needs anyway.

    All ranks read the same sums, so all of them see the request after the same update: on a CPU the one
    in which it was sent, on a GPU the next one. The host reads a sum only one update later there, when
    the device has long computed it, and does not wait for the update that it has just started.

    Attributes:
        asked: whether any rank was asked to stop, as of the last :meth:`sum`.
    """

    def __init__(self, world: World, watch: StopWatch) -> None:
        self.asked = False
        self._world, self._watch = world, watch
        self._copied: tuple[Tensor, torch.cuda.Event] | None = None

    def sum(self, values: list[float]) -> Tensor:
        """``values`` summed over all ranks, float32 on the device (one collective, if there are several)."""
        mine = torch.tensor([*values, float(self._watch.asked)], dtype=torch.float32)
        if self._world.topology.world_size == 1:
            self.asked = self._watch.asked
            return mine[:-1].to(self._world.device, non_blocking=True)
        sums = mine.to(self._world.device, non_blocking=True)
        torch.distributed.all_reduce(sums)
        if sums.device.type == "cuda":
            self._read_the_last()
            copy = torch.empty(1, pin_memory=True)
            copy.copy_(sums[-1:], non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self._copied = copy, event
        else:
            self.asked = bool(sums[-1] > 0)
        return sums[:-1]

    def _read_the_last(self) -> None:
        if self._copied is not None:
            copy, event = self._copied
            event.synchronize()
            self.asked = bool(copy[0] > 0)

    def reason(self) -> str:
        """Who has asked, in words: of the first rank that was asked (a collective)."""
        reasons: list[str | None] = [None] * self._world.topology.world_size
        torch.distributed.all_gather_object(reasons, self._watch.reason)
        asked = [(rank, reason) for rank, reason in enumerate(reasons) if reason]
        if not asked:
            return "asked to stop"
        rank, reason = asked[0]
        return f"{reason} (rank {rank})" if len(asked) < len(reasons) else reason
