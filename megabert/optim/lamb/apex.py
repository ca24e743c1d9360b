"""NVIDIA apex's FusedLAMB, where it is exact: without ZeRO and tensor parallelism.

The package called ``apex`` on the Python package index is another project. It is recognised by what
it lacks, and reported.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from megabert.common.errors import UserError
from megabert.optim.base import ShardedOptimizer
from megabert.optim.lamb.backend import LambOptions
from megabert.optim.registry import StateLayout

_NO_CLIP = 1e30
"""FusedLAMB clips by itself, per call; this limit is never reached (0 would divide by zero)."""


def wrong_apex() -> str | None:
    """One line about an installed package that is not NVIDIA's apex; None if that is not the case."""
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
        UserError: it is not installed; the message says why.
    """
    fault = wrong_apex()
    if fault is None and importlib.util.find_spec("apex") is None:
        fault = "apex is not installed; build NVIDIA's from its source with its CUDA extensions"
    if fault is None and importlib.util.find_spec("amp_C") is None:
        fault = "apex was built without its CUDA extensions (no amp_C); build it again with them"
    if fault is not None:
        raise UserError(f"--lamb-backend apex: {fault}; or use --lamb-backend auto")
    return importlib.import_module("apex.optimizers").FusedLAMB


def apex_lamb(
    groups: list[dict[str, Any]], options: LambOptions, layout: StateLayout
) -> ShardedOptimizer:
    """NVIDIA's FusedLAMB over ``groups``, where it computes what our own LAMB would.

    It takes one norm of each tensor that it is given, so tensors must be whole; it has no bounds; and
    it adapts the groups that decay (or all, with ``use_nvlamb``).

    Raises:
        UserError: apex is missing, is another package, or would not be exact here; says which.
    """
    fused_lamb: Any = _fused_lamb()
    bounds = (options.min_trust_ratio, options.max_trust_ratio)
    decays = all((group["weight_decay"] > 0.0) == group["adapt"] for group in groups)
    everything = all(group["adapt"] for group in groups)
    obstacle = None
    if options.rule != "lamb":
        obstacle = f"it has no {options.rule}"
    elif layout.zero_stage > 0:
        obstacle = (
            f"under ZeRO {layout.zero_stage} it would take the norms of slices: use --zero-stage 0"
        )
    elif layout.tensor_parallel > 1:
        obstacle = "with tensor parallelism it would take the norms of parts of tensors"
    elif any(bound is not None for bound in bounds):
        obstacle = "it has no trust ratio bounds: leave --min-trust-ratio and --max-trust-ratio out"
    elif not (decays or everything):
        obstacle = "it adapts exactly the tensors that decay: set --weight-decay above 0"
    if obstacle is not None:
        raise UserError(f"--lamb-backend apex: {obstacle}; or use --lamb-backend auto")

    class ApexLamb(fused_lamb, ShardedOptimizer):  # type: ignore[misc]
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

    make: Any = ApexLamb
    optimizer: ShardedOptimizer = make(
        groups,
        lr=options.lr,
        betas=options.betas,
        eps=options.eps,
        bias_correction=options.bias_correction,
        adam_w_mode=True,
        grad_averaging=True,
        max_grad_norm=_NO_CLIP,
        use_nvlamb=everything,
    )
    return optimizer
