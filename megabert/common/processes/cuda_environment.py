"""Variables that CUDA, NCCL and torch's allocator read when they start; what the user has set stays."""

from __future__ import annotations

from collections.abc import MutableMapping

ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""Names under which torch reads its allocator's settings."""
CONNECTIONS = "CUDA_DEVICE_MAX_CONNECTIONS"


def set_cuda_variables(environment: MutableMapping[str, str], tensor_parallel: int) -> None:
    """Set what must be set before torch is imported, which may start CUDA's driver; harmless without a GPU.

    - Expandable segments: batches of several sizes do not split the GPU's memory into pieces.
    - One connection to the device with tensor parallelism: a collective that is started before a
      product then also runs before it, and so overlaps with it (``megabert/parallel/linear.py``).
    """
    if not any(environment.get(name) for name in ALLOCATOR):
        environment[ALLOCATOR[0]] = "expandable_segments:True"
    if tensor_parallel > 1:
        environment.setdefault(CONNECTIONS, "1")


def set_nccl_variables(environment: MutableMapping[str, str]) -> None:
    """For a run whose watch judges hanging ranks (``--hang-timeout``): NCCL's own thread does not end processes.

    When a rank is lost that thread would abort the others with long messages, before the watch can
    name the rank. NCCL's warnings are shown instead. torchrun sets 1 by itself, which is torch's
    choice and not the user's.
    """
    handling = "TORCH_NCCL_ASYNC_ERROR_HANDLING"
    if environment.get(handling) == "1" and "TORCHELASTIC_RUN_ID" in environment:
        del environment[handling]
    environment.setdefault(handling, "0")
    environment.setdefault("NCCL_DEBUG", "WARN")
