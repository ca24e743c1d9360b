"""The fused operators on CPUs: ``cpu.cpp``, compiled at first use, with the signatures of reference.py.

The library is built once per machine by the C++ compiler ``$CXX`` (``g++``; arguments may follow, as in
``ccache g++``) and kept in ``$MEGABERT_CACHE`` (``~/.cache/megabert``) under a name derived from source,
compiler and processor.
:func:`available` says whether it can be used; without a compiler the operators of reference.py compute
the same more slowly, and a log line says so.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import shlex
import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import profiler
from torch.autograd.profiler import record_function

from megabert.common.files import new_file, sha256_of
from megabert.common.log import get_logger
from megabert.kernels.attention.relative_reference import reach
from megabert.kernels.compiling import prepare_caches
from megabert.kernels.dropout import Dropout
from megabert.kernels.joined import arranged_as
from megabert.kernels.reference import Normed, NormGradients

KINDS = {torch.float32: 0, torch.bfloat16: 1}
"""Dtypes of the compiled operators."""

_SOURCE = Path(__file__).with_name("cpu.cpp")
_FLAGS = (
    "-O3", "-march=native", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-fopenmp",
    "-shared", "-fPIC",
)  # fmt: skip


def available() -> bool:
    """Whether the compiled operators can be used here; the first call builds them."""
    return _library() is not None


def _cache() -> Path:
    prepare_caches()
    chosen = os.environ.get("MEGABERT_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "megabert"


def _processor() -> str:
    """A description that differs between processors for which ``-march=native`` compiles differently."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    relevant = ("flags", "Features", "model name", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(relevant)}))


def build_library(compiler: str, folder: Path) -> Path:
    """The library for this machine in ``folder``, compiled unless it is there.

    Args:
        compiler: a program, with arguments if it needs some, as a shell reads them.

    Raises:
        OSError: the compiler does not exist, or the folder cannot be written.
        ValueError: a quotation in ``compiler`` has no end.
        subprocess.CalledProcessError: the compiler failed.
    """
    program = shlex.split(compiler)
    version = subprocess.run([*program, "--version"], capture_output=True, check=True).stdout
    flags = " ".join([*program[1:], *_FLAGS])
    recipe = [_SOURCE.read_bytes(), version, flags.encode(), _processor().encode()]
    path = folder / f"cpu-{sha256_of(b'|'.join(recipe))[:20]}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with new_file(path, unique=True) as temporary:  # ranks may build at the same time
            command = [*program, *_FLAGS, str(_SOURCE), "-o", str(temporary)]
            subprocess.run(command, capture_output=True, check=True)
    return path


@functools.cache
def _library() -> ctypes.CDLL | None:
    log = get_logger()
    try:
        library = ctypes.CDLL(str(build_library(os.environ.get("CXX") or "g++", _cache())))
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: no home folder
        log.warning(
            "no compiled CPU operators (%s): using plain torch operators, which are slower", error
        )
        return None
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip().splitlines()[:1]
        log.warning(
            "no compiled CPU operators (%s): using plain torch operators, which are slower", *reason
        )
        return None
    sgemm = _sgemm()
    if sgemm is None:
        log.warning("this torch exports no sgemm: using plain torch operators, which are slower")
        return None
    library.mb_set_sgemm(ctypes.cast(sgemm, ctypes.c_void_p))
    return library


def _sgemm() -> Any:
    """Fortran ``sgemm`` of the BLAS that torch brings, or None."""
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        return ctypes.CDLL(str(path)).sgemm_
    except (OSError, AttributeError):
        return None


def _call(name: str, dtype: torch.dtype, *arguments: Any) -> None:
    library = _library()
    assert library is not None
    # a profiler sees no call through ctypes by itself
    shown = record_function(f"megabert::{name}") if _is_profiler_enabled() else nullcontext()
    with shown:
        getattr(library, name)(KINDS[dtype], *(_c(argument) for argument in arguments))


def _is_profiler_enabled() -> bool:
    return bool(profiler._is_profiler_enabled)


def _c(value: Any) -> Any:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, float):
        return ctypes.c_float(value)
    if isinstance(value, int):
        return ctypes.c_int64(value)
    return value  # None is a null pointer; ctypes values are themselves


def _mask(dropout: Dropout | None) -> tuple[Any, ...]:
    """Keys, seed, threshold and scale of a mask, as the library takes them."""
    if dropout is None:
        return None, ctypes.c_uint64(0), ctypes.c_uint32(0), 1.0
    seed, threshold = ctypes.c_uint64(dropout.seed), ctypes.c_uint32(dropout.threshold)
    return dropout.rows, seed, threshold, dropout.scale


def _vector(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.detach().float().contiguous()


def _table(relative: Tensor | None) -> tuple[Tensor | None, int]:
    """The table of relative positions, float [2m + 1, D], and m."""
    return _vector(relative), 0 if relative is None else reach(relative)


def _matrix(x: Tensor) -> tuple[int, int]:
    """Rows and columns of a contiguous matrix."""
    rows, columns = x.shape
    return rows, columns


def dropped(x: Tensor, dropout: Dropout | None) -> Tensor:
    """As :func:`megabert.kernels.reference.dropped`."""
    if dropout is None:
        return x
    x = x.contiguous()
    out = torch.empty_like(x)
    _call("mb_drop", x.dtype, x, out, *x.shape, *_mask(dropout))
    return out


def bias_gelu_forward(x: Tensor, bias: Tensor) -> Tensor:
    """As :func:`megabert.kernels.reference.bias_gelu_forward`."""
    x = x.contiguous()
    out = torch.empty_like(x)
    _call("mb_gelu_forward", x.dtype, x, _vector(bias), out, *_matrix(x))
    return out


def bias_gelu_backward(grad: Tensor, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """As :func:`megabert.kernels.reference.bias_gelu_backward`."""
    grad, x = grad.contiguous(), x.contiguous()
    grad_x, grad_bias = torch.empty_like(x), torch.empty(x.size(1))
    _call("mb_gelu_backward", x.dtype, grad, x, _vector(bias), grad_x, grad_bias, *_matrix(x))
    return grad_x, grad_bias


def add_norm_forward(
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor,
    weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    dropout: Dropout | None,
) -> Normed:
    """As :func:`megabert.kernels.reference.add_norm_forward`."""
    x, residual = x.contiguous(), residual.contiguous()
    result = Normed(
        torch.empty_like(x), torch.empty_like(x), torch.empty(len(x)), torch.empty(len(x))
    )
    vectors = _vector(bias), residual, _vector(weight), _vector(norm_bias)
    _call("mb_norm_forward", x.dtype, x, *vectors, eps, *_mask(dropout), *result, *_matrix(x))
    return result


def add_norm_backward(
    grad: Tensor | None,
    grad_total: Tensor | None,
    total: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
    dropout: Dropout | None,
    with_bias: bool,
) -> NormGradients:
    """As :func:`megabert.kernels.reference.add_norm_backward`."""
    grad = None if grad is None else grad.contiguous()
    grad_total = None if grad_total is None else grad_total.contiguous()
    residual = torch.empty_like(total)
    grad_x = residual if dropout is None else torch.empty_like(total)
    sums = torch.empty(3, total.size(1))
    given = grad, grad_total, total, mean, rstd, _vector(weight)
    made = residual, grad_x, sums
    _call("mb_norm_backward", total.dtype, *given, *_mask(dropout), *made, *_matrix(total))
    return NormGradients(residual, grad_x, sums[0] if with_bias else None, sums[1], sums[2])


def _layout(query: Tensor, spans: Tensor) -> tuple[tuple[int, ...], Callable[..., Tensor]]:
    """(sequences, heads, head_size, tokens, max_length); how to allocate a new ``[T, ...]``.

    Rows outside all sequences are not written, therefore they have to be zeroed.
    """
    lengths = spans[:, 1] - spans[:, 0]
    max_length = int(lengths.max()) if len(spans) else 0
    tokens, heads, width = query.shape
    make = torch.empty if int(lengths.sum()) == tokens else torch.zeros
    return (len(spans), heads, width, tokens, max_length), make


def _rows_of(*parts: Tensor) -> tuple[Tensor, ...]:
    """``[T, N, D]`` parts whose rows have one stride and whose heads are contiguous."""
    strides = {part.stride() for part in parts}
    width = parts[0].size(2)
    if len(strides) == 1 and parts[0].stride()[1:] == (width, 1):
        return parts
    return tuple(part.contiguous() for part in parts)


def attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    spans: Tensor,
    first_head: int,
    scale: float,
    dropout: Dropout | None,
    relative: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As :func:`megabert.kernels.reference.attention_forward`."""
    query, key, value = _rows_of(query, key, value)
    shape, make = _layout(query, spans)
    context = make(query.shape, dtype=query.dtype)
    lse = make(query.size(1), query.size(0))
    given = query, key, value, query.stride(0)
    place = first_head, scale, *_mask(dropout), *_table(relative)
    _call("mb_attention_forward", query.dtype, *given, context, lse, spans, *shape, *place)
    return context, lse


def attention_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    context: Tensor,
    lse: Tensor,
    spans: Tensor,
    first_head: int,
    scale: float,
    dropout: Dropout | None,
    relative: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`megabert.kernels.reference.attention_backward`."""
    query, key, value = _rows_of(query, key, value)
    shape, make = _layout(query, spans)
    grads = arranged_as((query, key, value), make)
    given = grad.contiguous(), query, key, value, query.stride(0), context.contiguous(), lse
    place = first_head, scale, *_mask(dropout), *_table(relative)
    grad_ld = grads[0].stride(0)
    _call("mb_attention_backward", query.dtype, *given, *grads, grad_ld, spans, *shape, *place)
    return grads[0], grads[1], grads[2]


def cross_entropy_rows(logits: Tensor, labels: Tensor, first: int, real: int) -> Tensor:
    """As :func:`megabert.kernels.reference.cross_entropy_rows`; real > 0, rows contiguous."""
    out = torch.empty(len(logits), 4)
    _call("mb_loss_rows", logits.dtype, logits, labels, out, *_matrix(logits), first, real)
    return out


def cross_entropy_gradient_(
    logits: Tensor, labels: Tensor, lse: Tensor, first: int, real: int
) -> Tensor:
    """As :func:`megabert.kernels.reference.cross_entropy_gradient_`; rows contiguous."""
    _call("mb_loss_gradient", logits.dtype, logits, labels, lse, *_matrix(logits), first, real)
    return logits


def embedding_backward(grad: Tensor, ids: Tensor, rows: int, first: int) -> Tensor:
    """As :func:`megabert.kernels.reference.embedding_backward`."""
    table = torch.empty(rows, grad.size(1))
    places = ids.contiguous(), table, grad.size(0), rows, grad.size(1), first
    _call("mb_add_rows", grad.dtype, grad.contiguous(), *places)
    return table
