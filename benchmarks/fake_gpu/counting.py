"""Operators of an update: launches, bytes, FLOPs, reads of the host, and bytes alive."""

from __future__ import annotations

import traceback
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

PRODUCTS, ATTENTION, FUSED, ELEMENTWISE = "products", "attention", "fused", "elementwise"
OPTIMIZER, COLLECTIVES = "optimizer", "collectives"
CATEGORIES = (PRODUCTS, ATTENTION, FUSED, ELEMENTWISE, OPTIMIZER, COLLECTIVES)

_NO_KERNEL = frozenset(
    {
        "detach", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh",
        "device", "promote_types", "_local_scalar_dense", "set_", "resize_", "is_pinned", "record_stream",
        "_reshape_alias", "_unsafe_view",
    }
)  # fmt: skip
_ROWS_ONLY = frozenset({"embedding", "index_select", "index"})
"""Operators that read as many rows as they write, not their whole table."""


@dataclass(frozen=True)
class Kernel:
    """One launch: what it is, the bytes of its tensors, and the FLOPs of a product.

    ``rate``: of the product's peak, in that of half precision: 2 for float8.
    """

    category: str
    name: str
    bytes: int
    flops: float
    rate: float = 1.0

    def seconds(self, bandwidth: float, peak: float) -> float:
        """The least time it can take: that of its bytes or of its FLOPs."""
        return max(self.bytes / bandwidth, self.flops / (self.rate * peak))


def _on_device(values: Any) -> list[Tensor]:
    return [x for x in tree_leaves(values) if isinstance(x, Tensor) and x.device.type == "cuda"]


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)


def _category(name: str) -> str:
    if "attention" in name:
        return ATTENTION
    if name in {"mm", "addmm", "addmm_", "bmm", "baddbmm", "_scaled_mm", "_addmm_activation"}:
        return PRODUCTS
    return ELEMENTWISE


class Operations(TorchDispatchMode):
    """Notes what runs on fake CUDA tensors while it is on; below all other modes.

    Attributes:
        kernels: the launches, in order, Triton's included (:meth:`launched`).
        operators: dispatched operators of any kind, on the host too: what costs the host time.
        reads: where the host read a value from the device, as "file:line"; it was answered with 1.0, 0 or
            False, by its dtype, so that an update continues as one whose gradient is finite and not clipped.
        alive, peak: bytes of the device's tensors, and the most since :meth:`forget_peak`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[Kernel] = []
        self.operators = 0
        self.reads: list[str] = []
        self.alive = self.peak = 0
        self._storages: dict[int, weakref.ref[Any]] = {}

    def forget(self) -> None:
        """Begin again, with what is alive."""
        self.kernels, self.reads, self.operators = [], [], 0
        self.peak = self.alive

    def launched(self, kernel: Any, tensors: Sequence[Any]) -> None:
        """A Triton kernel was launched on ``tensors``, each of which it reads or writes once."""
        name, module = kernel.fn.__name__, kernel.fn.__module__
        category = OPTIMIZER if ".optim." in module else FUSED
        if "attention" in module or "attention" in name:
            category = ATTENTION
        self.kernels.append(Kernel(category, name, _bytes(_on_device(tensors)), 0.0))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        namespace, name = func._schema.name.split("::")
        self.operators += name != "device"
        if name == "_local_scalar_dense":
            return self._answer(args[0])
        out = func(*args, **kwargs)
        for tensor in _on_device(out):
            self._keep(tensor)
        if namespace == "c10d":
            self.kernels.append(Kernel(COLLECTIVES, name, _bytes(_on_device(args)), 0.0))
        elif namespace in ("aten", "megabert") and name not in _NO_KERNEL and not func.is_view:
            self._note(func, name, args, kwargs, out)
        return out

    def _note(self, func: Any, name: str, args: Any, kwargs: Any, out: Any) -> None:
        written = _on_device(out)
        read = written if name in _ROWS_ONLY else _on_device((args, kwargs))
        read = list({id(x): x for x in read}.values())  # a sum that is also the output counts once
        if not written and not read:
            return
        flops = 0.0
        formula = flop_registry.get(func._overloadpacket)
        if name == "addmm_" or func._overloadname == "dtype_out":
            flops = 2.0 * args[1].shape[0] * args[1].shape[1] * args[2].shape[1]
        elif formula is not None and _category(name) == PRODUCTS:
            flops = float(formula(*args, **kwargs, out_val=out))
        rate = 2.0 if name == "_scaled_mm" else 1.0
        moved = _bytes(read) + _bytes(written)
        self.kernels.append(Kernel(_category(name), name, moved, flops, rate))

    def _answer(self, scalar: Tensor) -> bool | float | int:
        frames = [f for f in traceback.extract_stack() if f.filename.endswith(".py")]
        own = [f for f in frames if "/deepspeed/" in f.filename or "/megabert/" in f.filename]
        where = (own or frames)[-1]
        self.reads.append(f"{'/'.join(where.filename.split('/')[-2:])}:{where.lineno}")
        if scalar.dtype == torch.bool:
            return False
        return 1.0 if scalar.dtype.is_floating_point else 0

    def _keep(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return

        def gone(_: Any) -> None:
            self.alive -= size
            self._storages.pop(key, None)

        self._storages[key] = weakref.ref(storage, gone)
        self.alive += size
        self.peak = max(self.peak, self.alive)


def by_category(kernels: Sequence[Kernel]) -> Iterator[tuple[str, list[Kernel]]]:
    """The launches of each category that has any."""
    for category in CATEGORIES:
        if found := [kernel for kernel in kernels if kernel.category == category]:
            yield category, found
