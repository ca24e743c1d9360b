"""Cores, threads and memory of a rank's process.

Torch gives every process as many threads as the machine has cores, so that the threads of several
ranks compete; and glibc returns large tensors to the kernel each time one is freed, which then clears
the pages again for the next. Measurements: docs/results/2026-11/speed.md.

On a GPU host a rank uses cores of its GPU's NUMA node: memory that the GPU reads lies behind the same
memory controller. Worker processes of the loader inherit the cores.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from megabert.common.log import get_logger
from megabert.common.processes.launchers import ranks_of_host

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # names of glibc's malloc.h
_FREE_BYTES = 1 << 30
"""Free memory at the end of the heap that is not returned to the kernel."""
_NVIDIA_OR_AMD = ("0x10de", "0x1002")
_DISPLAY = ("0x0300", "0x0302", "0x0380", "0x1200")
"""First digits of the PCI classes of GPUs."""


def own_cores(cores: Sequence[int], local_rank: int, local_ranks: int) -> list[int]:
    """The cores of one of a machine's ranks: equal runs of neighbours; all of them if there are more
    ranks than cores."""
    count = len(cores) // local_ranks
    if count == 0:
        return list(cores)
    return list(cores[local_rank * count : (local_rank + 1) * count])


def prepare_cpu(environment: Mapping[str, str]) -> None:
    """Give this process its cores, a thread on each, and memory that stays mapped.

    Call it before the first parallel computation. Cores and threads are not changed where
    OMP_NUM_THREADS is set (the user has chosen them), nor where no launcher says how many ranks
    share the host, or says fewer than this rank's number.
    """
    keep_freed_memory()
    if "OMP_NUM_THREADS" in environment or not hasattr(os, "sched_setaffinity"):
        return
    local_rank, ranks = int(environment["LOCAL_RANK"]), ranks_of_host(environment)
    if local_rank >= ranks:
        return
    cores = own_cores(sorted(os.sched_getaffinity(0)), local_rank, ranks)
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(len(cores))
    get_logger().info("this rank's cores: %s", ", ".join(map(str, cores)))


def keep_freed_memory() -> None:
    """Have glibc serve large tensors from the heap and keep freed memory; no effect elsewhere."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, _FREE_BYTES)


# ---------------------------------------------------------------- hosts with GPUs


def bind_to_gpu(environment: Mapping[str, str], device: int, sysfs: Path = Path("/sys")) -> None:
    """Give this process its part of the cores near its GPU, and a thread on each.

    No effect where somebody has chosen already: OMP_NUM_THREADS is set (``deepspeed
    --bind_cores_to_rank`` sets it), or the process may use fewer cores than the host's first one
    (numactl, srun). torchrun sets OMP_NUM_THREADS=1 by itself, which chooses no cores.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    by_torchrun = "TORCHELASTIC_RUN_ID" in environment and environment.get("OMP_NUM_THREADS") == "1"
    allowed = sorted(os.sched_getaffinity(0))
    if ("OMP_NUM_THREADS" in environment and not by_torchrun) or len(allowed) < _cores_of_host():
        return
    rank, ranks = int(environment["LOCAL_RANK"]), ranks_of_host(environment)
    seen = [pci_address(number) for number in range(torch.cuda.device_count())]
    if rank < ranks <= len(seen):
        gpus = seen[:ranks]
    else:  # each task is shown its own GPU only
        gpus = gpus_of_host(sysfs)
    cores = cores_near(seen[device], gpus, allowed, sysfs)
    if not cores:
        return
    os.sched_setaffinity(0, cores)
    if not by_torchrun:
        torch.set_num_threads(len(cores))
    get_logger().info(
        "cores of this rank, near GPU %s: %s", seen[device], ", ".join(map(str, cores))
    )


def _cores_of_host() -> int:
    """Cores that the first process of the host, or of the container, may use."""
    try:
        return len(os.sched_getaffinity(1))
    except OSError:
        return 0


def pci_address(device: int) -> str:
    """The address of a GPU as sysfs names it, ``0000:1b:00.0``; "" where torch does not say it."""
    properties: Any = torch.cuda.get_device_properties(device)
    try:
        domain, bus = properties.pci_domain_id, properties.pci_bus_id
        return f"{domain:04x}:{bus:02x}:{properties.pci_device_id:02x}.0"
    except AttributeError:
        return ""


def gpus_of_host(sysfs: Path) -> list[str]:
    """Addresses of all GPUs of NVIDIA or AMD."""
    found = []
    for folder in sorted((sysfs / "bus/pci/devices").glob("*")):
        kind, vendor = _text(folder / "class"), _text(folder / "vendor")
        if vendor in _NVIDIA_OR_AMD and kind.startswith(_DISPLAY):
            found.append(folder.name)
    return found


def cores_near(gpu: str, gpus: Sequence[str], allowed: Sequence[int], sysfs: Path) -> list[int]:
    """The part of the cores near ``gpu`` that is its rank's, of all GPUs that are used on this host.

    GPUs near the same cores share them evenly. The hardware threads of a core stay together. Empty if
    sysfs does not know the GPU.
    """
    near = {one: _local_cores(one, sysfs) for one in {*gpus, gpu}}
    sharing = sorted(one for one in near if near[one] == near[gpu])
    cores = [core for core in allowed if core in near[gpu]]
    cores.sort(key=lambda core: (_first_sibling(core, sysfs), core))
    return sorted(own_cores(cores, sharing.index(gpu), len(sharing)))


def _local_cores(gpu: str, sysfs: Path) -> frozenset[int]:
    folder = sysfs / "bus/pci/devices" / gpu
    node = _text(folder / "numa_node")
    near = _cores(_text(folder / "local_cpulist"))
    if not near and node.isdigit():
        near = _cores(_text(sysfs / f"devices/system/node/node{node}/cpulist"))
    return near


def _first_sibling(core: int, sysfs: Path) -> int:
    siblings = _text(sysfs / f"devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    return min(_cores(siblings), default=core)


def _cores(text: str) -> frozenset[int]:
    """``0-3,8`` as numbers."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
