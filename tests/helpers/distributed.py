"""Run one function on N gloo ranks of this machine and hand its results back.

    def check(rank: int, world_size: int, width: int) -> float: ...
    values = run_ranks(check, 2, 16)          # [value of rank 0, value of rank 1]

Every rank is a forked process (0.1 s a world) with its own environment (RANK, WORLD_SIZE,
LOCAL_RANK, MASTER_ADDR, MASTER_PORT; no GPU is seen) and one compute thread.  The first
exception of any rank ends all ranks and is raised again in the parent with the rank's traceback
as a note; so does the time limit.  With ``initialize=False`` the function makes the process group
itself through DeepSpeed, which is then imported here, once.
"""

from __future__ import annotations

import datetime
import functools
import gc
import multiprocessing
import os
import pickle
import socket
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


class RankTimeout(RuntimeError):
    """The ranks did not end within the time limit."""


@functools.cache
def import_once() -> None:
    """Import here what every rank would import for itself (5 s a run); forked ranks inherit it."""
    before = os.environ.get("DS_ACCELERATOR")
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401
    import torch._dynamo
    import torch.utils.tensorboard  # noqa: F401

    if before is None:
        del os.environ["DS_ACCELERATOR"]


def run_ranks(
    function: Callable[..., Any],
    world_size: int,
    *args: Any,
    timeout: float = 120.0,
    initialize: bool = True,
    start_method: str = "fork",
    **kwargs: Any,
) -> list[Any]:
    """Call ``function(rank, world_size, *args, **kwargs)`` on each rank; results in rank order.

    Results must be picklable (tensors travel by value).  With ``start_method="spawn"`` the
    function and its arguments must be picklable too.  Raises the first rank's exception,
    or RankTimeout after ``timeout`` seconds.
    """
    if not initialize and start_method == "fork":
        import_once()
    context: Any = multiprocessing.get_context(start_method)
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        store = str(Path(folder) / "store") if initialize else None
        port = _free_port()
        processes, pipes = [], []
        for rank in range(world_size):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(
                target=_rank_main,
                args=(sender, store, port, timeout, rank, world_size, function, args, kwargs),
                daemon=True,
            )
            process.start()
            sender.close()
            processes.append(process)
            pipes.append(receiver)
        try:
            return _collect(pipes, timeout)
        finally:
            deadline = time.monotonic() + 5.0
            for process in processes:
                process.join(max(0.0, deadline - time.monotonic()))
                if process.is_alive():
                    process.kill()
                    process.join()


def _collect(pipes: list[Connection], timeout: float) -> list[Any]:
    deadline = time.monotonic() + timeout
    waiting = {pipe: rank for rank, pipe in enumerate(pipes)}
    results: dict[int, Any] = {}
    failures: list[tuple[float, int, BaseException]] = []
    while waiting and not failures:
        ready = wait(list(waiting), max(0.0, deadline - time.monotonic()))
        if not ready:
            raise RankTimeout(f"ranks {sorted(waiting.values())} still ran after {timeout:g} s")
        for pipe in ready:
            assert isinstance(pipe, Connection)
            rank = waiting.pop(pipe)
            try:
                ok, moment, payload, trace = pickle.loads(pipe.recv_bytes())
            except EOFError:
                failures.append((time.monotonic(), rank, RuntimeError("the rank died")))
                continue
            if ok:
                results[rank] = payload
            else:
                payload.add_note(f"raised on rank {rank}:\n{trace}")
                failures.append((moment, rank, payload))
    if failures:
        raise min(failures, key=lambda failure: failure[:2])[2]
    return [results[rank] for rank in range(len(pipes))]


def _rank_main(
    sender: Connection,
    store: str | None,
    port: int,
    timeout: float,
    rank: int,
    world_size: int,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    gc.freeze()  # garbage of this process's parent may be process groups whose threads are not here
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        DS_ACCELERATOR="cpu",
        CUDA_VISIBLE_DEVICES="",
        OMP_NUM_THREADS="1",
    )
    try:
        if store is not None:
            dist.init_process_group(
                "gloo",
                init_method=f"file://{store}",
                rank=rank,
                world_size=world_size,
                timeout=datetime.timedelta(seconds=timeout),
            )
        result = function(rank, world_size, *args, **kwargs)
        message = pickle.dumps((True, time.monotonic(), result, ""))
    except BaseException as error:
        message = _failure(error)
    sender.send_bytes(message)
    sender.close()
    if dist.is_initialized():
        dist.destroy_process_group()


def _failure(error: BaseException) -> bytes:
    trace = traceback.format_exc()
    moment = time.monotonic()
    try:
        message = pickle.dumps((False, moment, error, trace))
        pickle.loads(message)
    except Exception:
        plain = RuntimeError(f"{type(error).__name__}: {error}")
        message = pickle.dumps((False, moment, plain, trace))
    return message


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
