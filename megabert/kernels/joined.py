"""Tensors that lie next to each other in memory, seen as one matrix without a copy.

end to end       weights [a, K] and [b, K] as [a + b, K], as ZeRO's flat tensors hold them
side by side     matrices [T, a] and [T, b] as the columns of one [T, a + b]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def _follow(parts: Sequence[Tensor], lengths: Sequence[int]) -> bool:
    """Whether each part begins ``lengths`` elements after the one before it, in one storage."""
    first = parts[0]
    place, size, dtype = first.data_ptr(), first.element_size(), first.dtype
    for part, length in zip(parts[1:], lengths):
        place += length * size
        if part.data_ptr() != place or part.dtype != dtype:
            return False
    storage = first.untyped_storage()._cdata
    return all(part.untyped_storage()._cdata == storage for part in parts[1:])


def end_to_end(parts: Sequence[Tensor]) -> Tensor | None:
    """Contiguous tensors ``[n_i, ...]`` as one ``[sum n_i, ...]``; None where they lie elsewhere."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if not first.numel() or not _follow(parts, [part.numel() for part in parts]):
        return None
    if not all(part.is_contiguous() and part.shape[1:] == first.shape[1:] for part in parts):
        return None
    shape = (sum(part.size(0) for part in parts), *first.shape[1:])
    return first.as_strided(shape, first.stride())


def side_by_side(parts: Sequence[Tensor]) -> Tensor | None:
    """Matrices ``[T, n_i]`` as one ``[T, sum n_i]``; None where they lie elsewhere."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if not first.numel() or not all(part.stride() == first.stride() for part in parts):
        return None
    width = sum(part.size(1) for part in parts)
    if first.stride() != (width, 1) or not _follow(parts, [part.size(1) for part in parts]):
        return None
    return first.as_strided((first.size(0), width), first.stride())


def arranged_as(
    parts: Sequence[Tensor], make: Callable[..., Tensor] = torch.empty
) -> tuple[Tensor, ...]:
    """New tensors for parts ``[T, N, D]`` of one shape, side by side if the parts are, else apart.

    ``make``: ``torch.empty`` or ``torch.zeros``.
    """
    first = parts[0]
    rows = [part.flatten(1) for part in parts] if first.stride(1) == first.size(2) else []
    kind = {"dtype": first.dtype, "device": first.device}
    if len(rows) < 2 or side_by_side(rows) is None:
        return tuple(make(first.shape, **kind) for _ in parts)
    whole = make((first.size(0), len(parts), *first.shape[1:]), **kind)
    return tuple(whole.unbind(1))
