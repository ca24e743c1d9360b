"""A CUDA device of shapes and dtypes only: the GPU branches run on a machine without a GPU.

    open_device()                     # before torch is imported
    with FakeTensorMode(): ...        # tensors on "cuda" have no data

Triton kernels are not run; each launch is handed to ``on_launch``. A value that the host reads from the
device raises, unless a dispatch mode answers it.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

MEMORY_BYTES = 141 * 10**9
CAPABILITY = (9, 0)
"""An H200's."""
Launched = Callable[[Any, Sequence[Any]], None]


def open_device(on_launch: Launched) -> None:
    """Register the device, and answer what is asked of ``torch.cuda``, DeepSpeed's accelerator and Triton.

    ``on_launch``: called with each Triton kernel that is launched and its arguments.
    """
    if "torch" in sys.modules:
        raise RuntimeError("open_device() must be called before torch is imported")
    _load_guard()
    _patch_torch()
    _patch_triton(on_launch)
    _set_accelerator()


def _load_guard() -> None:
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("torch is not installed")
    torch = Path(found.origin).parent
    libraries = torch / "lib"
    for name in ("libc10.so", "libtorch_cpu.so"):
        ctypes.CDLL(str(libraries / name), ctypes.RTLD_GLOBAL)
    source = Path(__file__).with_name("cuda_guard.cpp")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "guard.so"
        command = [
            os.environ.get("CXX", "g++"), "-shared", "-fPIC", "-std=c++20", f"-I{torch / 'include'}", str(source),
            "-o", str(library), f"-L{libraries}", "-lc10", "-ltorch_cpu",
        ]  # fmt: skip
        subprocess.run(command, check=True)
        ctypes.CDLL(str(library))


class _Stream:
    """Stands in for streams and events."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.cuda_stream = 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *_, **__: None


def _patch_torch() -> None:
    import torch

    properties = SimpleNamespace(
        total_memory=MEMORY_BYTES, name="no GPU", multi_processor_count=132, major=CAPABILITY[0],
        minor=CAPABILITY[1], warp_size=32, shared_memory_per_block_optin=232448, uuid="0",
    )  # fmt: skip

    def here(*_: Any, **__: Any) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda _: None,
        "device": here,
        "device_of": here,
        "stream": here,
        "Stream": _Stream,
        "Event": _Stream,
        "current_stream": _Stream,
        "default_stream": _Stream,
        "get_device_capability": lambda *_: CAPABILITY,
        "get_device_name": lambda *_: properties.name,
        "get_device_properties": lambda *_: properties,
        "is_bf16_supported": lambda *_: True,
        "memory_allocated": lambda *_: 0,
        "max_memory_allocated": lambda *_: 0,
        "memory_reserved": lambda *_: 0,
        "max_memory_reserved": lambda *_: 0,
        "reset_peak_memory_stats": lambda *_: None,
        "memory_stats": lambda *_: {},
        "mem_get_info": lambda *_: (MEMORY_BYTES, MEMORY_BYTES),
        "empty_cache": lambda: None,
        "synchronize": lambda *_: None,
        "default_generators": (torch.default_generator,),
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)


def _patch_triton(on_launch: Launched) -> None:
    from triton.runtime.jit import KernelInterface

    def launch(kernel: Any, grid: Any) -> Callable[..., None]:
        return lambda *args, **named: on_launch(kernel, [*args, *named.values()])

    KernelInterface.__getitem__ = launch


def _set_accelerator() -> None:
    from deepspeed.accelerator import cpu_accelerator, real_accelerator

    class Accelerator(cpu_accelerator.CPU_Accelerator):  # type: ignore[misc]
        """The CPU's, with CUDA's names and properties."""

        def __init__(self) -> None:
            super().__init__()
            self._name, self._communication_backend_name = "cuda", "fake"

        def device_name(self, device_index: int | None = None) -> str:
            return "cuda" if device_index is None else f"cuda:{device_index}"

        def current_device_name(self) -> str:
            return "cuda:0"

        def current_device(self) -> int:
            return 0

        def is_synchronized_device(self) -> bool:
            return False

        use_host_timers = resolves_data_dependency = handles_memory_backpressure = (
            is_synchronized_device
        )
        Stream = Event = property(lambda self: _Stream)

        def current_stream(self, device_index: int | None = None) -> Any:
            return _Stream()

        default_stream = current_stream

        def on_accelerator(self, tensor: Any) -> bool:
            return bool(tensor.device.type == "cuda")

        def is_fp16_supported(self) -> bool:
            return True

    real_accelerator.set_accelerator(Accelerator())
