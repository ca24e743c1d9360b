"""Which backend computes the optimizer's step: Triton kernels or torch operators.

    auto      triton on a CUDA device for ZeRO's flat partitions, torch operators otherwise (without
              ZeRO the kernels would be launched once per tensor)
    triton    fused kernels over the flat partition (CUDA; on a CPU only in triton's interpreter)
    torch     fused and foreach operators, on any device

A fourth choice, ``apex``, is not a backend but NVIDIA's optimizer: :mod:`megabert.optim.lamb.apex`.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Literal

import torch

from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.optim.lamb.apex import wrong_apex
from megabert.optim.lamb.backend import UpdateBackend
from megabert.optim.lamb.torch_passes import TorchBackend

BackendName = Literal["auto", "triton", "torch", "apex"]


def choose_backend(name: BackendName, device: torch.device, *, flat: bool = True) -> UpdateBackend:
    """The backend for optimizer state on ``device``, in ``flat`` partitions or tensor by tensor.

    Raises:
        UserError: triton was asked for and cannot be used here.
    """
    installed = importlib.util.find_spec("triton") is not None
    on_gpu = device.type == "cuda"
    if name == "triton" and not installed:
        raise UserError("--lamb-backend triton: triton is not installed; pip install triton")
    if name == "triton" and not on_gpu and os.environ.get("TRITON_INTERPRET") != "1":
        raise UserError(
            f"--lamb-backend triton: the optimizer's state is on the {device.type}, and triton's "
            "kernels need a CUDA device; use --lamb-backend torch (or auto)"
        )
    if name == "triton" or (name == "auto" and on_gpu and installed and flat):
        from megabert.optim.lamb.triton_passes import TritonBackend

        return TritonBackend()
    fault = wrong_apex() if name == "auto" else None
    if fault is not None:
        get_logger().info("not used: %s", fault)
    return TorchBackend()
