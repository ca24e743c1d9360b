"""How a rank uses a CPU: its own cores, a thread on each, and memory that stays mapped.

Torch gives every process as many threads as the machine has cores, so that the threads of several ranks
get into each other's way; and glibc hands large tensors back to the kernel each time one is freed,
which then clears the pages again for the next. Figures: docs/results/2026-11/speed.md.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence

import torch

from megabert.common.log import get_logger

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # names of glibc's malloc.h
_KEPT_BYTES = 1 << 30
"""Free memory at the end of the heap that is not handed back."""


def own_cores(cores: Sequence[int], local_rank: int, local_ranks: int) -> list[int]:
    """The cores of one of a machine's ranks: equal shares of neighbours; all where ranks are more."""
    share = len(cores) // local_ranks
    if share == 0:
        return list(cores)
    return list(cores[local_rank * share : (local_rank + 1) * share])


def prepare_cpu(environment: Mapping[str, str]) -> None:
    """Set up this process, before its first parallel computation.

    Cores and threads are left alone where OMP_NUM_THREADS is set: somebody has chosen.
    """
    keep_freed_memory()
    if "OMP_NUM_THREADS" in environment or not hasattr(os, "sched_setaffinity"):
        return
    ranks = int(environment.get("LOCAL_WORLD_SIZE") or environment.get("LOCAL_SIZE") or 1)
    cores = own_cores(sorted(os.sched_getaffinity(0)), int(environment["LOCAL_RANK"]), ranks)
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(len(cores))
    get_logger().info("this rank's cores: %s", ", ".join(map(str, cores)))


def keep_freed_memory() -> None:
    """Have glibc serve large tensors from the heap, and keep what is freed; nothing elsewhere."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
