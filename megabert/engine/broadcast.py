"""What ranks send each other outside training steps: inputs read once, outputs gathered."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from megabert.common.errors import UserError
from megabert.common.storage import RESUME, StorageFault, is_storage_error, storage_line
from megabert.engine.launch import World

Value = TypeVar("Value")


def broadcast_object(world: World, make: Callable[[], Value]) -> Value:
    """``make()`` of the main rank, on every rank (a collective; the value is pickled).

    Raises:
        UserError: on every rank, where ``make`` raised it on the main one.
        StorageFault: the same; also in place of an error of the disk.
    """
    outcome: list[Any] = [None, None]
    if world.is_main:
        try:
            outcome[0] = make()
        except UserError as error:
            outcome[1] = UserError, str(error)
        except StorageFault as error:
            outcome[1] = StorageFault, str(error)
        except OSError as error:
            if not is_storage_error(error):
                raise
            outcome[1] = StorageFault, storage_line(error, then=RESUME)
    if world.topology.world_size > 1:
        dist.broadcast_object_list(outcome, src=0, device=world.device)
    if outcome[1] is not None:
        if world.topology.world_size > 1:
            # The main rank must not exit before all ranks have read its message; a rank that has
            # read it may exit before the others.
            with contextlib.suppress(RuntimeError):
                dist.barrier()
        kind, message = outcome[1]
        raise kind(message)
    return outcome[0]


def first_of_ranks(world: World, mine: str | None) -> str | None:
    """The message of the first rank that has one; None: no rank has (a collective)."""
    everyone: list[str | None] = [None] * world.topology.world_size
    dist.all_gather_object(everyone, mine)
    return next(filter(None, everyone), None)


def least_of_ranks(world: World, mine: float) -> float:
    """The smallest of the ranks' numbers (a collective, if there are several)."""
    if world.topology.world_size == 1:
        return mine
    least = torch.tensor(mine, dtype=torch.float64, device=world.device)
    dist.all_reduce(least, op=dist.ReduceOp.MIN)
    return float(least)


def made_by_each(world: World, make: Callable[[], Value], facts: Callable[[Value], Any]) -> Value:
    """``make()`` of this rank, which reads what all ranks must read alike (a collective).

    Args:
        facts: of the value, small; they are compared.

    Raises:
        UserError: on every rank: ``make`` raised it on some of them, or they read different contents.
    """
    fault, value = None, None
    try:
        value = make()
    except UserError as error:
        fault = str(error)
    mine = (fault, None if fault else facts(value))  # type: ignore[arg-type]
    everything: list[Any] = [mine]
    if world.topology.world_size > 1:
        everything = [None] * world.topology.world_size
        dist.all_gather_object(everything, mine)
    if any(one != everything[0] for one in everything) or fault:
        dist.barrier()  # no rank exits before all have read the others' messages
        raise UserError(_disagreement(everything))
    return value  # type: ignore[return-value]


def _disagreement(everything: list[tuple[str | None, Any]]) -> str:
    """What is wrong, and on which ranks."""
    rank = next((rank for rank, (fault, _) in enumerate(everything) if fault), None)
    if rank is None:
        other = next(r for r, one in enumerate(everything) if one != everything[0])
        return (
            f"rank 0 and rank {other} read different inputs ({everything[0][1]}, {everything[other][1]}): "
            "a file changed while it was read, or the hosts do not have the same files; start again"
        )
    fault = everything[rank][0]
    alike = all(one[0] == fault for one in everything)
    return str(fault) if alike else f"{fault} (on rank {rank})"


def broadcast_tensors(
    world: World, tensors: Mapping[str, torch.Tensor] | None
) -> dict[str, torch.Tensor]:
    """The main rank's tensors on every rank, in host memory (a collective; one at a time)."""
    held = dict(tensors or {})
    if world.topology.world_size == 1:
        return held
    headers = broadcast_object(world, lambda: [(n, t.shape, t.dtype) for n, t in held.items()])
    received = {}
    for name, shape, dtype in headers:
        if world.is_main:
            buffer = held[name].to(world.device).contiguous()
        else:
            buffer = torch.empty(shape, dtype=dtype, device=world.device)
        dist.broadcast(buffer, src=0)
        received[name] = held[name] if world.is_main else buffer.cpu()
    return received


def rank_batches(
    lengths: np.ndarray, batch_size: int, rank: int, ranks: int
) -> Iterator[tuple[np.ndarray, bool]]:
    """This rank's batches of rows, of similar length, longest first: (rows, whether they count).

    The batches that count, over all ranks, hold every row once. Every rank gets the same number of
    batches, because a forward pass can be collective; a rank that runs out repeats the last batch,
    which then does not count.
    """
    order = np.argsort(-lengths, kind="stable")
    batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    for first in range(0, len(batches), ranks):
        mine = first + rank
        yield batches[min(mine, len(batches) - 1)], mine < len(batches)


def gather_rows(
    world: World, rows: list[np.ndarray], outputs: list[dict[str, np.ndarray]], total: int
) -> dict[str, np.ndarray]:
    """Outputs of all data-parallel ranks as arrays over rows 0 ... ``total`` - 1 (a collective).

    ``outputs[i]``, arrays [len(rows[i]), ...], are the outputs of the rows ``rows[i]``.
    """
    everything: list[Any] = [(rows, outputs)]
    if world.topology.data_parallel > 1:
        everything = [None] * world.topology.data_parallel
        dist.all_gather_object(everything, (rows, outputs), group=world.groups.data)
    whole: dict[str, np.ndarray] = {}
    for some_rows, some_outputs in everything:
        for places, values in zip(some_rows, some_outputs):
            for name, value in values.items():
                if name not in whole:
                    whole[name] = np.zeros((total, *value.shape[1:]), value.dtype)
                whole[name][places] = value
    return whole
