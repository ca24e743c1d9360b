"""Counter-based random numbers: a draw is a function of its address, not of earlier draws.

Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC
2011) over numpy arrays. A block of four 32-bit words is addressed by

    key     = 64 bits from (seed, purpose)
    counter = (block, epoch, low half of item, high half of item), 32 bits each

so the draws of a whole batch are made at once, and an item's draws are the same in any batch, order
and process. The words agree with the published known answers of Philox4x32-10.
"""

import enum
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from megabert.common.errors import UserError

Words = npt.NDArray[np.uint64]  # 32-bit words in 64 bits, so that products do not overflow
Ints = npt.NDArray[np.int64]
Integers = npt.NDArray[np.integer[Any]]

ROUNDS = 10
_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)
_KEY_STEPS = np.array([[0x9E3779B9], [0xBB67AE85]], np.uint64)
_LOW = 0 if sys.byteorder == "little" else 1  # where the low half of a 64-bit word is in memory
# As arrays: an operation on a small array takes half as long as with a scalar.
_MASK32 = np.array([0xFFFFFFFF], np.uint64)
_SHIFT32 = np.array([32], np.uint64)


class Purpose(enum.IntEnum):
    """What draws are for; draws for different purposes are independent."""

    ORDER = 1
    GRID = 2
    PAIR = 3
    MASK_PLACE = 4
    MASK_KIND = 5
    NEW_ROW = 6
    CORPUS = 7


def philox(counter: tuple[Integers, Integers, Integers, Integers], key: tuple[int, int]) -> Words:
    """Philox4x32-10 of broadcastable 32-bit counter words; returns the output words, [4, ...].

    A round multiplies words 0 and 2. The high half of each product goes into the other of the two,
    the low half into the word after the other. The state is therefore stored as two rows of even and
    two rows of odd words, and each step is one array operation on both rows.
    """
    shape = np.broadcast(*counter).shape
    even, odd = np.empty((2, *shape), np.uint32), np.empty((2, *shape), np.uint32)
    even[0], odd[0], even[1], odd[1] = counter
    even, odd = even.reshape(2, -1), odd.reshape(2, -1)  # [2, N]
    products = np.empty(even.shape, np.uint64)
    halves = products.view(np.uint32)[::-1]  # [2, 2N], of the other product
    low, high = halves[:, _LOW::2], halves[:, 1 - _LOW :: 2]
    steps = np.arange(ROUNDS, dtype=np.uint64)[:, None, None] * _KEY_STEPS
    for round_key in (steps + np.array(key, np.uint64)[:, None]).astype(np.uint32):
        np.multiply(even, _MULTIPLIERS, out=products)
        np.bitwise_xor(high, odd, out=even)
        even ^= round_key
        odd[...] = low
    result = np.empty((4, even.shape[1]), np.uint64)
    result[0::2], result[1::2] = even, odd
    return result.reshape(4, *shape)


def check_seed(seed: int) -> None:
    """Raises UserError unless `seed` is a whole number that is not negative."""
    if seed < 0:
        raise UserError(f"seed {seed} is negative: give a whole number of 0 or more")


class CounterRng:
    """The draws of one (seed, purpose).

    Args:
        seed: whole number >= 0, of any size.
        purpose: what the draws are for.

    Raises:
        UserError: the seed is negative.
    """

    def __init__(self, seed: int, purpose: Purpose) -> None:
        check_seed(seed)
        k0, k1 = np.random.SeedSequence([seed, int(purpose)]).generate_state(2, np.uint32)
        self._key = (int(k0), int(k1))

    def words(self, epochs: Ints, items: Ints, blocks: Ints) -> Words:
        """The four words of each address, [4, ...]; the arguments broadcast against each other."""
        return philox((blocks, epochs, items & 0xFFFFFFFF, items >> 32), self._key)

    def rows(self, epochs: Ints, items: Ints, count: int) -> Words:
        """The first `count` words of each item, [N] and [N] -> [N, count]."""
        blocks = np.arange(-(-count // 4), dtype=np.int64)
        drawn = self.words(epochs[:, None], items[:, None], blocks)  # [4, N, blocks]
        return drawn.transpose(1, 2, 0).reshape(len(items), -1)[:, :count]


def below(words: Words, limit: int) -> Ints:
    """Maps 32-bit words to whole numbers 0 .. limit-1 (limit <= 2**32), evenly enough.

    The probabilities of two numbers differ by a fraction of at most limit / 2**32.
    """
    return ((words * np.uint64(limit)) >> _SHIFT32).astype(np.int64)


def below64(high: Words, low: Words, limits: Ints | int) -> Ints:
    """Maps 64-bit draws, given as two 32-bit words, to whole numbers 0 .. limit-1.

    The result is the upper half of the product of draw and limit. [N], [N] and [N] or a number, each
    below 2**32 -> [N]; a limit of 0 gives 0.
    """
    wide = np.asarray(limits, np.uint64)
    return ((high * wide + (low * wide >> _SHIFT32)) >> _SHIFT32).astype(np.int64)


def below64_wide(high: Words, low: Words, limits: Ints) -> Ints:
    """As `below64`, for limits below 2**63."""
    wide = limits.astype(np.uint64)
    upper, lower = wide >> _SHIFT32, wide & _MASK32
    middle = high * lower + (low * lower >> _SHIFT32)
    carried = (low * upper + (middle & _MASK32)) >> _SHIFT32
    return (high * upper + (middle >> _SHIFT32) + carried).astype(np.int64)
