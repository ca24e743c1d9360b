"""The GPU of a rank: which one it is, and that no other rank has it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from megabert.common.errors import RankError


def own_device(environment: Mapping[str, str], visible: int) -> int:
    """The number of this rank's GPU among the ``visible`` ones.

    That is LOCAL_RANK; or 0 where each task is shown one GPU (``srun --gpus-per-task=1``).

    Raises:
        RankError: there is none for this rank.
    """
    local_rank = int(environment["LOCAL_RANK"])
    if local_rank < visible:
        return local_rank
    if visible == 1:
        return 0
    shown = environment.get("CUDA_VISIBLE_DEVICES")
    raise RankError(
        f"LOCAL_RANK is {local_rank}, and this rank sees {visible} GPUs"
        f"{'' if shown is None else f' (CUDA_VISIBLE_DEVICES={shown})'}: start at most {visible} ranks on this "
        "host, or show each rank its own GPU (srun --gpus-per-task=1)"
    )


def claim_device(store: Any, identity: str, rank: int) -> None:
    """Note in the run's ``store`` that this rank has the device; one exchange.

    NCCL would refuse two ranks of one GPU later, and in many lines.

    Raises:
        RankError: another rank has it.
    """
    holder = store.compare_set(f"megabert/device/{identity}", "", str(rank)).decode()
    if holder != str(rank):
        raise RankError(
            f"ranks {holder} and {rank} have the same GPU ({identity}): start one rank per GPU (deepspeed "
            "--num_gpus N, torchrun --nproc-per-node N, srun --ntasks-per-node N with --gpus-per-task=1)"
        )


def claim_own_device(device: torch.device, rank: int) -> None:
    """:func:`claim_device` of this rank's GPU, in the store of the process group, if that is NCCL's.

    Raises:
        RankError: another rank has it.
    """
    if "nccl" not in torch.distributed.get_backend():
        return
    identity = str(torch.cuda.get_device_properties(device).uuid)
    store = torch.distributed.distributed_c10d._get_default_store()
    claim_device(store, f"{os.uname().nodename}/{identity}", rank)
