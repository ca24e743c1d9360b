"""Where a step's time goes: each operator's own time, by the kind of work, from torch.profiler."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

ATTENTION, PRODUCTS, LOSS, EMBEDDING = "attention", "matrix products", "loss", "embedding"
ELEMENTWISE, REST = "norm, GELU, dropout", "rest"
KINDS = (ATTENTION, PRODUCTS, LOSS, EMBEDDING, ELEMENTWISE, REST)

_PARTS: dict[str, tuple[str, ...]] = {
    ATTENTION: ("attention", "attn", "flash", "softmax"),
    PRODUCTS: ("aten::mm", "addmm", "bmm", "matmul", "linear", "gemm", "scaledmm"),
    LOSS: ("loss", "entropy", "logsumexp", "logsoftmax"),
    EMBEDDING: ("embedding", "aten::index"),
    ELEMENTWISE: (
        "norm", "gelu", "drop", "bernoulli", "tanh", "aten::add", "aten::mul", "aten::where",
    ),
}  # fmt: skip
"""Kind -> parts of operators' names, in lower case and without underscores."""


def kind_of(names: Sequence[str]) -> str:
    """Kind of work of an operator: ``names`` are those around it, outermost first, and its own last.

    All that is inside attention is attention's; a matrix product elsewhere is one, whatever
    encloses it; what remains inside a loss or an embedding is theirs; else the nearest name that says a kind.
    """
    lower = [name.lower().replace("_", "") for name in names]

    def says(name: str, kind: str) -> bool:
        if kind != LOSS and any(part in name for part in _PARTS[LOSS]):
            return False
        return any(part in name for part in _PARTS[kind])

    if any(says(name, ATTENTION) for name in lower):
        return ATTENTION
    if says(lower[-1], PRODUCTS):
        return PRODUCTS
    for kind in (LOSS, EMBEDDING):
        if any(says(name, kind) for name in lower):
            return kind
    for name in reversed(lower):
        for kind in _PARTS:
            if says(name, kind):
                return kind
    return REST


def time_shares(step: Callable[[], Any], steps: int, device: torch.device) -> dict[str, float]:
    """Share of each kind in the operators' own time over some steps; kinds in the order of KINDS."""
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as recorded:
        for _ in range(steps):
            step()
    spent: Counter[str] = Counter()
    for event in recorded.events():
        if cuda and event.device_type != torch.autograd.DeviceType.CPU:
            continue  # a kernel's time counts at the operator that launched it
        own = event.self_device_time_total if cuda else event.self_cpu_time_total
        spent[kind_of(_names(event))] += own
    total = sum(spent.values()) or 1
    return {kind: spent[kind] / total for kind in KINDS}


def _names(event: Any) -> list[str]:
    names = [event.name]
    while event.cpu_parent is not None:
        event = event.cpu_parent
        names.append(event.name)
    return names[::-1]
