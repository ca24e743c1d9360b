"""Dropout masks by a counter-based hash: the same on every device, for any division of the work.

Whether a unit is kept depends on its place and on nothing else:

    row key     k = mix64(token key xor place seed), 64 bits; its halves are k1 (low) and k2
    unit c      x = c + k1;  x ^= x >> 16;  x *= 0x7feb352d;  x ^= k2;  x ^= x >> 15;
                x *= 0x846ca68b;  x ^= x >> 16                      (32 bits, unsigned, wrapping)
    keep        x >= round(p 2^32)

``mix64`` is SplitMix64's finalizer (Steele et al. 2014) and the two multipliers are those of Wellons'
32-bit mixer. A token's key is made of its sample's number in the run and its position in the sample,
and a place seed of the run's seed, the layer and the place in it. Therefore a mask does not depend on
micro batches, packing, ranks or history, and nothing has to be stored to make it again in backward.

In attention the place seed of head h is ``mix64(seed + h)`` (h counts all heads of the layer, whatever
rank holds it), the row is the query token and the column the key's position in the sequence.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_MASK_32 = 0xFFFFFFFF
_MASK_64 = 0xFFFFFFFFFFFFFFFF
_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
POSITIONS = 1 << 20
"""Largest number of tokens of a sample for which its keys differ from those of other samples."""


class Dropout(NamedTuple):
    """Dropout at one place of a micro step.

    Args:
        probability: of a unit to be dropped, above 0 and below 1.
        seed: of the place, 0 .. 2^63-1.
        rows: the tokens' keys, int64 [T].
        draw: distinguishes micro steps if a generator draws the mask instead; 0 and up.
    """

    probability: float
    seed: int
    rows: Tensor
    draw: int = 0

    @property
    def threshold(self) -> int:
        """Hashes below it are dropped, 0 .. 2^32-1."""
        return min(round(self.probability * 2**32), _MASK_32)

    @property
    def scale(self) -> float:
        """Factor of the units that are kept."""
        return 1.0 / (1.0 - self.probability)


def mix64(value: int) -> int:
    """SplitMix64's finalizer of ``value + golden``, on 64-bit integers."""
    value = (value + _GOLDEN) & _MASK_64
    value = ((value ^ (value >> 30)) * _FIRST) & _MASK_64
    value = ((value ^ (value >> 27)) * _SECOND) & _MASK_64
    return value ^ (value >> 31)


def head_seed(seed: int, head: int) -> int:
    """Place seed of one head of a layer's attention; below 2^64."""
    return mix64((seed + head) & _MASK_64)


def token_keys(sample_numbers: Tensor, positions: Tensor) -> Tensor:
    """Keys of tokens, int64, from their samples' numbers and their positions (broadcast together)."""
    return sample_numbers * POSITIONS + positions


def signed(value: int) -> int:
    """The 64 bits of ``value``, 0 .. 2^64-1, as a signed number."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _shift(value: Tensor, bits: int) -> Tensor:
    """Logical right shift of 64-bit words kept in int64."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def row_keys(rows: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """k1 and k2 of each row, int64 [T] of 32-bit values; ``seed`` below 2^64."""
    value = (rows ^ signed(seed)) + signed(_GOLDEN)
    value = (value ^ _shift(value, 30)) * signed(_FIRST)
    value = (value ^ _shift(value, 27)) * signed(_SECOND)
    value = value ^ _shift(value, 31)
    return value & _MASK_32, _shift(value, 32)


def keep_mask(rows: Tensor, seed: int, columns: int, threshold: int) -> Tensor:
    """Which of ``columns`` units of each row are kept: bool [T, columns]."""
    key, second_key = row_keys(rows, seed)
    value = (torch.arange(columns, device=rows.device) + key[:, None]) & _MASK_32
    value = ((value ^ (value >> 16)) * 0x7FEB352D) & _MASK_32
    value = value ^ second_key[:, None]
    value = ((value ^ (value >> 15)) * 0x846CA68B) & _MASK_32
    return (value ^ (value >> 16)) >= threshold
