"""Processes for tests of Triton kernels: one that interprets them on CPU tensors, one that compiles.

The interpreter must be chosen before Triton is imported, which may already have happened in the test
process: each kind lives in a process of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch

Run = Callable[..., Any]


@contextmanager
def process(**environment: str) -> Iterator[Run]:
    """Calls functions in a new process with this environment, and no interpreter unless in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TRITON_INTERPRET", raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        pool.submit(start).result()
    with pool:
        yield lambda check, *args: pool.submit(check, *args).result()


def start() -> None:
    """Set a worker up. Two faults of the interpreter are mended: it truncates to bf16 where a GPU rounds
    to nearest, and multiplies the bits of bf16 matrices as integers."""
    torch.set_num_threads(1)
    if os.environ.get("TRITON_INTERPRET") == "1":
        from triton.runtime import interpreter

        convert = interpreter._convert_float

        def rounding(data: Any, source: Any, target: Any, mode: Any) -> Any:
            if source.name == "fp32" and target.name == "bf16":
                return torch.from_numpy(data.copy()).bfloat16().view(torch.uint16).numpy()
            return convert(data, source, target, mode)

        interpreter._convert_float = rounding
        builder = interpreter.InterpreterBuilder
        dot = builder.create_dot

        def widened(matrix: Any) -> Any:
            if matrix.dtype.scalar.name != "bf16":
                return matrix
            bits = torch.from_numpy(matrix.data.copy()).view(torch.bfloat16)
            return interpreter.TensorHandle(bits.float().numpy(), interpreter.tl.float32)

        builder.create_dot = lambda self, a, b, *rest: dot(self, widened(a), widened(b), *rest)


class Recorder:
    """Stands in for a kernel in a module and keeps what it is launched with."""

    def __init__(self, kernel: Any, launches: list[tuple[Any, tuple, dict]]) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *args, **options: self.launches.append((self.kernel, args, options))


def launches(modules: Sequence[ModuleType], function: Run, *args: Any) -> list[tuple]:
    """Launches (kernel, arguments, options) that ``function`` makes of the modules' kernels.

    The kernels are not run. Only without the interpreter.
    """
    from triton.runtime.jit import JITFunction

    found: list[tuple[Any, tuple, dict]] = []
    with pytest.MonkeyPatch.context() as patch:
        for module in modules:
            for name, value in list(vars(module).items()):
                if isinstance(value, JITFunction) and name.endswith("_kernel"):
                    patch.setattr(module, name, Recorder(value, found))
        function(*args)
    return found


def target_of(arch: int | str) -> Any:
    """What to compile for: compute capability of NVIDIA (90), or a name of AMD's ("gfx942")."""
    from triton.backends.compiler import GPUTarget

    return GPUTarget("hip", arch, 64) if isinstance(arch, str) else GPUTarget("cuda", arch, 32)


def assembly(made: Any) -> str:
    """PTX or AMD's assembly of a compiled kernel, of which the machine code was made too."""
    assert made.asm.get("cubin") or made.asm.get("hsaco")
    text: str = made.asm["ptx" if "ptx" in made.asm else "amdgcn"]
    return text


def bound(launch: tuple, arch: int | str) -> tuple:
    """What the launcher knows of a launch on a GPU: (target, backend, arguments, key, options).

    The key is what launches must have in common to share a compiled kernel.
    """
    from triton.compiler.compiler import make_backend
    from triton.runtime.jit import create_function_from_signature

    kernel, args, options = launch
    target = target_of(arch)
    backend = make_backend(target)
    binder = create_function_from_signature(kernel.signature, kernel.params, backend)
    return (target, backend, *binder(*args, **options))


def compiled(launch: tuple, arch: int | str) -> Any:
    """The kernel of a launch, compiled for a GPU that need not be there."""
    import triton
    from triton.compiler import ASTSource

    kernel = launch[0]
    target, backend, arguments, key, options = bound(launch, arch)
    parsed, *parts = kernel._pack_args(backend, options, arguments, key, options)
    return triton.compile(ASTSource(kernel, *parts), target=target, options=parsed.__dict__)


class Code(NamedTuple):
    """A compiled kernel: bytes of spilled registers (-1: not known) and of shared memory; its assembly."""

    spilled: int
    shared: int
    text: str

    @classmethod
    def of(cls, made: Any) -> Code:
        """Of what :func:`compiled` gives."""
        shared = made.metadata.shared
        spilled = _stack_bytes(made.asm["cubin"]) if "cubin" in made.asm else -1
        return cls(spilled, shared, assembly(made))


def _stack_bytes(cubin: bytes) -> int:
    """Local memory of a kernel, where spilled registers go."""
    import triton.backends.nvidia

    tool = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "-res-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"STACK:(\d+)", said)
    assert found, said
    return int(found[1])
