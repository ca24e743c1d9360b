"""Whether any rank was asked to stop or lacks its batch: known to all ranks in the same update."""

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
        delayed: whether ``asked`` and ``failed`` are those of the :meth:`sum` before the last one.
        asked: whether any rank was asked to stop.
        failed: whether any rank cannot read its batches.
    """

    def __init__(self, world: World, watch: StopWatch) -> None:
        self.asked = self.failed = False
        self.delayed = read_later(world)
        self._world, self._watch = world, watch
        self._copied: tuple[Tensor, torch.cuda.Event | None] | None = None

    def ask(self) -> bool:
        """Whether any rank was asked to stop, outside of updates (one small collective)."""
        self.sum([])
        return self.asked

    def sum(self, values: list[float], *, failed: bool = False) -> Tensor:
        """``values`` summed over all ranks, float32 on the device (one collective, if there are several).

        ``failed``: this rank has no batch; with ``delayed``, none for the next update.
        """
        flags = [float(self._watch.asked), float(failed)]
        # a copy from pageable memory may wait for the device
        pinned = self._world.device.type == "cuda"
        mine = torch.tensor([*values, *flags], dtype=torch.float32, pin_memory=pinned)
        if self._world.topology.world_size == 1:
            self.asked, self.failed = self._watch.asked, failed
            return mine[:-2].to(self._world.device, non_blocking=True)
        sums = mine.to(self._world.device, non_blocking=True)
        torch.distributed.all_reduce(sums)
        if self.delayed:
            self._read_the_last()
            self._copied = _copy_to_host(sums[-2:])
        else:
            self._take(sums[-2:])
        return sums[:-2]

    def _read_the_last(self) -> None:
        if self._copied is not None:
            copy, event = self._copied
            if event is not None:
                event.synchronize()
            self._take(copy)

    def _take(self, flags: Tensor) -> None:
        self.asked, self.failed = (flags > 0).tolist()

    def reason(self) -> str:
        """Who has asked, in words: of the first rank that was asked (a collective)."""
        reasons: list[str | None] = [None] * self._world.topology.world_size
        torch.distributed.all_gather_object(reasons, self._watch.reason)
        asked = [(rank, reason) for rank, reason in enumerate(reasons) if reason]
        if not asked:
            return "asked to stop"
        rank, reason = asked[0]
        return f"{reason} (rank {rank})" if len(asked) < len(reasons) else reason


def read_later(world: World) -> bool:
    """Whether a sum is read one update later: where the host would have to wait for a device."""
    return world.device.type == "cuda" and world.topology.world_size > 1


def _copy_to_host(flags: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """A copy, and the event after which it holds the values."""
    if flags.device.type != "cuda":
        return flags.clone(), None
    copy = torch.empty(len(flags), pin_memory=True)
    copy.copy_(flags, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return copy, event
