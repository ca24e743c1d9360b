"""Peak speed of a rank's device, and how much of its memory the rank has used."""

from __future__ import annotations

import re
import time
from pathlib import Path

import torch

from megabert.common.hardware import find_accelerator

_SIZE = 1024
_SECONDS = 0.12
_MAX_PRODUCTS = 20


def peak_flops(device: torch.device, precision: str) -> tuple[float | None, str]:
    """Peak of matrix products of a rank's device in FLOP/s, and the source of the figure.

    For a GPU it is the published peak of the run's ``precision`` ("fp32", "bf16", "fp16", "fp8"); None
    if the device is not in the table. For a CPU it is measured with the run's threads: the fastest of
    several products of 1024 x 1024 in fp32, and also in bf16 if the run computes in it.
    """
    if device.type != "cuda":
        dtypes = [torch.float32] + ([torch.bfloat16] if precision == "bf16" else [])
        peak = max(measured_flops(dtype) for dtype in dtypes)
        return peak, f"measured, {torch.get_num_threads()} threads"
    name = torch.cuda.get_device_name(device)
    accelerator = find_accelerator(name)
    if accelerator is None:
        return None, f"no published peak of {name} is known"
    if precision == "fp32" and torch.get_float32_matmul_precision() != "highest":
        return accelerator.tf32_flops or accelerator.fp32_flops, f"published, {name}, TF32"
    return accelerator.peak_flops(precision), f"published, {name}, {precision}"


def measured_flops(dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of some large matrix products on this CPU (about 0.1 s)."""
    left = torch.ones(_SIZE, _SIZE, dtype=dtype)
    right, product = torch.ones_like(left), torch.empty_like(left)
    best, began = float("inf"), time.perf_counter()
    for _ in range(_MAX_PRODUCTS):
        start = time.perf_counter()
        torch.mm(left, right, out=product)
        best = min(best, time.perf_counter() - start)
        if time.perf_counter() - began > _SECONDS:
            break
    return 2.0 * _SIZE**3 / best


def peak_rank_memory(device: torch.device) -> float:
    """Peak bytes: allocated on a GPU by torch; on a CPU resident in this process (VmHWM)."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    return float(found[1]) * 1024 if found else 0.0
