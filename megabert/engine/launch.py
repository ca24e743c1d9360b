"""Start of a distributed run under any launcher: deepspeed, torchrun, srun, mpirun or none.

Launchers pass their information in environment variables. DeepSpeed and torchrun set RANK,
LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT; Slurm and MPI use other names, which are
translated here, so that training never needs mpi4py. A bare ``python`` becomes a world of one rank.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch

from megabert.common.errors import RankError, TrainingStopped, UserError
from megabert.common.log import get_logger
from megabert.common.processes.cuda_environment import (
    ALLOCATOR,
    CONNECTIONS,
    set_cuda_variables,
    set_nccl_variables,
)
from megabert.engine.machine.cores import bind_to_gpu, prepare_cpu
from megabert.engine.machine.device import claim_own_device, own_device
from megabert.engine.watch.ending import WatchedRun
from megabert.engine.watch.guard import watched_to_the_end
from megabert.engine.watch.judge import SLOW
from megabert.engine.watch.watcher import Watcher
from megabert.kernels.compiling import prepare_caches, require_launcher
from megabert.parallel.layers import TensorParallel
from megabert.parallel.mpu import Mpu
from megabert.parallel.topology import ProcessGroups, Topology

DEEPSPEED_MINIMUM, DEEPSPEED_LIMIT = (0, 19, 8), (0, 20)
"""The first release that a run accepts, and the first that it does not."""
UNTESTED = "MEGABERT_UNTESTED_DEEPSPEED"
"""Set to 1, this variable accepts releases from :data:`DEEPSPEED_LIMIT` on."""
JOIN_TIMEOUT = timedelta(minutes=30)
"""How long a rank looks for rank 0 without ``--hang-timeout``."""
COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""At least; longer than the watch's longest limit, whose message says more."""

# rank, local rank, world size, as other launchers name them
_LAUNCHERS = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "MPI_LOCALRANKID", "PMI_SIZE"),
    # of a step of srun: a batch script also has SLURM_PROCID and SLURM_NTASKS, and is one process
    ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS"),
)


def fill_environment(environment: MutableMapping[str, str]) -> None:
    """Set RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT where they are missing.

    Raises:
        RankError: several ranks, without the address of rank 0; a variable that is no such number.
    """
    if "RANK" not in environment:
        for rank, local_rank, size in _LAUNCHERS:
            if rank in environment and size in environment:
                environment["RANK"] = environment[rank]
                own = environment.get("SLURM_LOCALID", environment[rank])  # with srun --mpi=pmi2
                environment["LOCAL_RANK"] = environment.get(local_rank, own)
                environment["WORLD_SIZE"] = environment[size]
                break
        else:
            if environment.get("WORLD_SIZE", "1") != "1":
                raise RankError(
                    f"WORLD_SIZE={environment['WORLD_SIZE']} is set, but RANK is not: start the ranks with a "
                    "launcher (deepspeed, torchrun, srun, mpirun), or unset WORLD_SIZE"
                )
            environment.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    environment.setdefault("LOCAL_RANK", environment["RANK"])
    environment.setdefault("WORLD_SIZE", "1")
    world_size = _number(environment, "WORLD_SIZE", 1, None)
    for name in ("RANK", "LOCAL_RANK"):
        _number(environment, name, 0, world_size - 1)
    if world_size == 1:
        environment.setdefault("MASTER_ADDR", "127.0.0.1")
        if "MASTER_PORT" not in environment:
            environment["MASTER_PORT"] = str(_free_port())
    elif "MASTER_ADDR" not in environment or "MASTER_PORT" not in environment:
        raise RankError(
            f"{world_size} ranks were started, but MASTER_ADDR and MASTER_PORT are not set; "
            "export the host name of rank 0 and a free port on it"
        )
    _number(environment, "MASTER_PORT", 1, 65535)


def _number(environment: Mapping[str, str], name: str, least: int, most: int | None) -> int:
    text = environment[name]
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else -1
    if number < least or (most is not None and number > most):
        upper = "" if most is None else f", at most {most}"
        raise RankError(
            f"{name}={text[:40]} in the environment is not a number of at least {least}{upper}: start the ranks "
            "with a launcher (deepspeed, torchrun, srun, mpirun), or unset its variables"
        )
    return number


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def check_versions() -> None:
    """Refuse DeepSpeed releases whose gradients or partition tables differ, or may differ, from those tested.

    Raises:
        UserError: which release, and what to install.
    """
    import deepspeed

    version = tuple(int(part) for part in deepspeed.__version__.split("+")[0].split(".")[:3])
    wanted, limit = (".".join(map(str, v)) for v in (DEEPSPEED_MINIMUM, DEEPSPEED_LIMIT))
    install = f"pip install 'deepspeed>={wanted},<{limit}'"
    if version < DEEPSPEED_MINIMUM:
        raise UserError(
            f"DeepSpeed {deepspeed.__version__} loses gradients in some configurations; "
            f"install {wanted} or newer: {install}"
        )
    if version >= DEEPSPEED_LIMIT and os.environ.get(UNTESTED) != "1":
        raise UserError(
            f"DeepSpeed {deepspeed.__version__} is not tested, and megabert reads its internal tables: "
            f"{install}; or try it with {UNTESTED}=1 in the environment and the self-test on"
        )


@dataclass
class World:
    """This rank's place: topology, process groups, device."""

    topology: Topology
    groups: ProcessGroups
    mpu: Mpu | None
    tp: TensorParallel
    device: torch.device
    watcher: Watcher | None = None

    @property
    def is_main(self) -> bool:
        """True on the one rank that prints messages and writes common files."""
        return self.topology.rank == 0

    def barrier(self) -> None:
        """Wait for all ranks."""
        torch.distributed.barrier()

    def sum_over_data_parallel(self, values: torch.Tensor) -> torch.Tensor:
        """``values`` summed in place over the data-parallel ranks (one collective)."""
        if self.topology.data_parallel > 1:
            torch.distributed.all_reduce(values, group=self.groups.data)
        return values

    def agree(self, good: bool) -> bool:
        """True if ``good`` on every rank (one collective)."""
        flag = torch.tensor([0.0 if good else 1.0], device=self.device)
        torch.distributed.all_reduce(flag)
        return flag.item() == 0.0

    def close(self) -> None:
        """Leave the process group."""
        if torch.distributed.is_initialized():
            import deepspeed

            torch.distributed.destroy_process_group()
            # it would keep the group's threads alive; a forked process cannot end them, and waits for ever
            deepspeed.utils.groups._WORLD_GROUP = None

    @contextlib.contextmanager
    def closed_at_the_end(self) -> Iterator[None]:
        """Leave the process group after the block.

        Not where an error ends it on one of several ranks: NCCL may wait for the others there, or abort
        the process, before the error is printed. The process then ends without
        (:func:`megabert.common.log.run_command`).
        """
        try:
            yield
        except BaseException:
            if self.topology.world_size == 1:
                self.close()
            raise
        self.close()


def start(tensor_parallel: int = 1, watched: WatchedRun | None = None) -> World:
    """Join the run and return this rank's :class:`World`; the watch over the run begins.

    Raises:
        UserError: the world size is not a multiple of ``tensor_parallel``; a DeepSpeed too old.
        TrainingStopped: not all ranks came.
    """
    fill_environment(os.environ)
    topology = Topology(
        world_size=int(os.environ["WORLD_SIZE"]),
        rank=int(os.environ["RANK"]),
        tensor_parallel=tensor_parallel,
    )
    cuda = torch.cuda.is_available()
    prepare_caches()
    device = _prepare_cuda(topology, watched) if cuda else torch.device("cpu")
    if not cuda:
        prepare_cpu(os.environ)
    import deepspeed

    _quiet_libraries()
    check_versions()
    if not cuda:
        # On a CPU DeepSpeed compiles a shared-memory all-reduce for inference at start-up. Training
        # never calls it, the build needs a compiler, and a killed build leaves a lock on which later
        # runs hang. Its table of buildable operators is read for this one only; filling it here
        # also avoids probing all the others.
        deepspeed.ops.__compatible_ops__ = {"deepspeed_shm_comm": False}
    limit = watched.limit if watched is not None else 0.0
    timeout = max(COLLECTIVE_TIMEOUT, timedelta(seconds=2 * SLOW * limit))
    watcher = _watch(topology, watched)
    try:
        with _named_port():
            deepspeed.init_distributed(
                dist_backend="nccl" if cuda else "gloo",
                auto_mpi_discovery=False,
                verbose=False,
                timeout=timeout,
            )
        if cuda and topology.world_size > 1:
            claim_own_device(device, topology.rank)
        groups = ProcessGroups.create(topology, timeout)
    except BaseException:
        with watched_to_the_end(watcher):
            raise
    mpu = None if groups.tensor is None else Mpu(groups)
    # Without an mpu DeepSpeed's data-parallel group is a copy of the world's, another communicator,
    # unless it has that "copy" already. The mpu is global there: an earlier engine's must not stay.
    deepspeed.utils.groups.mpu = mpu
    deepspeed.utils.groups._WORLD_GROUP = torch.distributed.group.WORLD
    return World(topology, groups, mpu, groups.tensor_parallel, device, watcher)


def _prepare_cuda(topology: Topology, watched: WatchedRun | None) -> torch.device:
    """This rank's GPU, with the variables, cores and compiler that it needs.

    Raises:
        UserError: there is no GPU for this rank; Triton cannot compile what it needs.
    """
    set_cuda_variables(os.environ, topology.tensor_parallel)
    if watched is not None and watched.limit and topology.world_size > 1:
        set_nccl_variables(os.environ)
    for name in (*ALLOCATOR, CONNECTIONS):
        if name in os.environ:
            get_logger().info("%s=%s", name, os.environ[name])
    device = torch.device("cuda", own_device(os.environ, torch.cuda.device_count()))
    bind_to_gpu(os.environ, int(device.index))
    torch.cuda.set_device(device)
    try:
        require_launcher()
    except UserError as error:
        if os.environ["LOCAL_RANK"] == "0":  # it may be true of this host alone
            raise RankError(str(error)) from error
        raise
    return device


@contextlib.contextmanager
def _named_port() -> Iterator[None]:
    """Raise UserError if the port of rank 0 is another run's."""
    try:
        yield
    except torch.distributed.DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise
        raise UserError(
            f"port {os.environ['MASTER_PORT']} is in use, probably by another run on this machine: "
            "choose another one (deepspeed --master_port N, torchrun --master-port N)"
        ) from error


def _wait_for_port(address: tuple[str, int], seconds: timedelta) -> None:
    """Wait until rank 0, or torchrun's agent, can be reached.

    Raises:
        TrainingStopped: it cannot.
    """
    deadline = time.monotonic() + seconds.total_seconds()
    while True:
        try:
            socket.create_connection(address, timeout=10.0).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                reason = error.strerror or str(error)
                raise TrainingStopped(f"{_not_found(address, seconds)} ({reason})") from error
        time.sleep(0.2)


def _not_found(address: tuple[str, int], seconds: timedelta) -> str:
    return (
        f"rank 0 was not found within {seconds.total_seconds():.0f} s at {address[0]} port {address[1]}: "
        f"it did not start, has ended, or cannot be reached from {socket.gethostname()}; see its own output"
    )


def _watch(topology: Topology, watched: WatchedRun | None) -> Watcher | None:
    """Begin to watch over the run, before all ranks are there: one of them may be lost by now.

    Raises:
        TrainingStopped: rank 0 is not there.
    """
    if watched is None:
        return None
    if topology.world_size == 1:
        watcher = Watcher(watched, 0, 1, None)
    else:
        seconds = timedelta(seconds=watched.limit) if watched.limit else JOIN_TIMEOUT
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun has opened it
        if topology.rank > 0:
            _wait_for_port(address, seconds)
        try:
            with _named_port():
                store = torch.distributed.TCPStore(
                    *address,
                    is_master=topology.rank == 0 and not agents,
                    timeout=seconds,
                    wait_for_workers=False,
                    multi_tenant=not agents,  # init_distributed opens it again
                )
                watcher = Watcher(watched, topology.rank, topology.world_size, store)
        except torch.distributed.DistError as error:
            raise TrainingStopped(_not_found(address, seconds)) from error
    watcher.start()
    return watcher


def _quiet_libraries() -> None:
    """Hide warnings about other libraries' internals; errors stay."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(torch|deepspeed)\b.*")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)


# ---------------------------------------------------------------- collectives

# methods of ProcessGroup that start a collective; which of them exist depends on torch's release
_COLLECTIVES = (
    "allreduce", "allreduce_coalesced", "broadcast", "reduce", "barrier",
    "allgather", "_allgather_base", "all_gather_single", "all_gather_single_coalesced",
    "allgather_coalesced", "allgather_into_tensor_coalesced",
    "reduce_scatter", "_reduce_scatter_base", "reduce_scatter_single",
    "reduce_scatter_single_coalesced", "reduce_scatter_tensor_coalesced",
    "alltoall", "alltoall_base", "all_to_all_single", "gather", "scatter", "send", "recv",
)  # fmt: skip


@contextlib.contextmanager
def wrapped_collectives(wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Replace every function that starts or ends a collective by ``wrap`` of it, during the block.

    Every collective of torch.distributed, ours or DeepSpeed's, is started by a method of
    ``ProcessGroup``, and every blocking one ends in ``Work.wait``, as do those started with
    ``async_op``.
    """
    group, work = torch.distributed.ProcessGroup, torch.distributed.Work
    places = [(work, "wait"), *((group, name) for name in _COLLECTIVES if name in vars(group))]
    plain = [(owner, name, vars(owner)[name]) for owner, name in places]  # unbound descriptors
    try:
        for owner, name, _ in plain:
            setattr(owner, name, wrap(getattr(owner, name)))
        yield
    finally:
        for owner, name, method in plain:
            setattr(owner, name, method)
