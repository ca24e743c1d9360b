"""Who computes the optimizer's step: Triton kernels, torch operators, or NVIDIA's apex.

    auto      triton on a CUDA device for ZeRO's flat slices, torch operators otherwise (without
              ZeRO each tensor would cost the kernels' launches)
    triton    fused kernels over the flat partition (CUDA; on a CPU only through triton's interpreter)
    torch     fused and foreach operators, on any device
    apex      NVIDIA apex's FusedLAMB, where it can be exact: no ZeRO, no tensor parallelism

The package called ``apex`` on the Python package index is another project. It is told from NVIDIA's
by what it lacks, and named.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import Any, Literal

import torch

from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.optim.lamb_torch import TorchBackend
from megabert.optim.work import Backend

Name = Literal["auto", "triton", "torch", "apex"]

_NO_CLIP = 1e30
"""FusedLAMB clips by itself, per call; its limit is put where it never acts (0 divides by zero)."""


def wrong_apex() -> str | None:
    """One line about an installed package that is not NVIDIA's apex; None if there is none."""
    if importlib.util.find_spec("apex") is None or importlib.util.find_spec("amp_C") is not None:
        return None
    try:
        found = hasattr(importlib.import_module("apex.optimizers"), "FusedLAMB")
        reason = "it has no apex.optimizers.FusedLAMB"
    except Exception as error:  # the unrelated package fails in many ways, not only as ImportError
        found, reason = False, " ".join(f"{type(error).__name__}: {error}".split())[:120]
    if found:
        return None
    return (
        "the installed package 'apex' is not NVIDIA's apex but an unrelated one of that name "
        f"({reason}): pip uninstall apex; NVIDIA's is built from its source"
    )


def _fused_lamb() -> Any:
    """NVIDIA's class.

    Raises:
        UserError: why there is none.
    """
    fault = wrong_apex()
    if fault is None and importlib.util.find_spec("apex") is None:
        fault = "apex is not installed; build NVIDIA's from its source with its CUDA extensions"
    if fault is None and importlib.util.find_spec("amp_C") is None:
        fault = "apex was built without its CUDA extensions (no amp_C); build it again with them"
    if fault is not None:
        raise UserError(f"--lamb-backend apex: {fault}; or use --lamb-backend auto")
    return importlib.import_module("apex.optimizers").FusedLAMB


def choose_backend(name: Name, device: torch.device, *, flat: bool = True) -> Backend:
    """The backend for optimizer state on ``device``, in ``flat`` slices or tensor by tensor.

    "apex" is no backend but an optimizer: see :func:`apex_lamb`.

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
        from megabert.optim.lamb_triton import TritonBackend

        return TritonBackend()
    fault = wrong_apex() if name == "auto" else None
    if fault is not None:
        get_logger().info("%s. It is not used.", fault)
    return TorchBackend()


def apex_lamb(
    groups: list[dict[str, Any]],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    bias_correction: bool,
    bounds: tuple[float | None, float | None],
    rule: str,
    zero_stage: int,
    tensor_parallel: int,
) -> torch.optim.Optimizer:
    """NVIDIA's FusedLAMB over ``groups``, where it computes what :class:`Lamb` would.

    It takes one norm a tensor that it is given, so tensors must be whole; it has no bounds; and it
    adapts the groups that decay (or, told so, all).

    Raises:
        UserError: apex is missing, another package, or would not be exact here; says which.
    """
    fused_lamb: Any = _fused_lamb()
    decays = all((group["weight_decay"] > 0.0) == group["adapt"] for group in groups)
    everything = all(group["adapt"] for group in groups)
    obstacle = None
    if rule != "lamb":
        obstacle = f"it has no {rule}"
    elif zero_stage > 0:
        obstacle = f"under ZeRO {zero_stage} it would take the norms of slices: use --zero-stage 0"
    elif tensor_parallel > 1:
        obstacle = "with tensor parallelism it would take the norms of parts of tensors"
    elif any(bound is not None for bound in bounds):
        obstacle = "it has no trust ratio bounds: leave --min-trust-ratio and --max-trust-ratio out"
    elif not (decays or everything):
        obstacle = "it adapts exactly the tensors that decay: set --weight-decay above 0"
    if obstacle is not None:
        raise UserError(f"--lamb-backend apex: {obstacle}; or use --lamb-backend auto")

    class ApexLamb(fused_lamb):  # type: ignore[misc]
        """FusedLAMB with its step count in the state of each parameter, where Lamb has it."""

        def step(self, closure: Any = None) -> Any:
            for group in self.param_groups:
                steps = [self.state[p]["step"] for p in group["params"] if "step" in self.state[p]]
                group["step"] = int(max(steps, default=0))
            result = super().step(closure)
            for group in self.param_groups:
                for parameter in group["params"]:
                    if self.state[parameter]:
                        self.state[parameter]["step"] = group["step"]
            return result

    return ApexLamb(
        groups,
        lr=lr,
        betas=betas,
        eps=eps,
        bias_correction=bias_correction,
        adam_w_mode=True,
        grad_averaging=True,
        max_grad_norm=_NO_CLIP,
        use_nvlamb=everything,
    )
