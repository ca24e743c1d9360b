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
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from megabert.common.errors import UserError

Words = npt.NDArray[np.uint64]  # 32-bit words in 64 bits, so that products do not overflow
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.integer[Any]]

ROUNDS = 10
_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)
_KEY_STEPS = np.array([[0x9E3779B9], [0xBB67AE85]], np.uint64)
_ROUND_STEPS = (np.arange(ROUNDS, dtype=np.uint64)[:, None, None] * _KEY_STEPS).astype(np.uint32)
_AT_ONCE = 10_000
"""Counters whose rounds are computed at once: their words stay in the processor's cache."""
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


class Streams(NamedTuple):
    """Items of several seeds, numbered one after the other.

    Attributes:
        seeds: whole numbers >= 0, of any size, K of them.
        firsts: int64 [K], the first item of each seed, from 0 on. A seed's draws are addressed by the
            number of an item among its own.
    """

    seeds: tuple[int, ...]
    firsts: Ints

    def of(self, items: Ints) -> Ints:
        """The place of each item's seed, [...] -> [...]."""
        return self.firsts.searchsorted(items, side="right") - 1


def one_stream(seed: int) -> Streams:
    """All items with one seed."""
    return Streams((seed,), np.zeros(1, np.int64))


def philox(counter: tuple[Integers, Integers, Integers, Integers], key: Integers) -> Words:
    """Philox4x32-10 of broadcastable 32-bit counter words; returns the output words, [4, ...].

    The key is uint32 [2], or [2, ...] with one for each counter, which broadcasts, too.

    A round multiplies words 0 and 2. The high half of each product goes into the other of the two,
    the low half into the word after the other. The state is therefore stored as two rows of even and
    two rows of odd words, and each step is one array operation on both rows.
    """
    shape = np.broadcast(*counter).shape
    words = np.empty((4, *shape), np.uint64)
    words[0], words[1], words[2], words[3] = counter
    words = words.reshape(4, -1)  # [4, N]
    keys = np.empty((2, *shape) if key.size > 2 else key.shape, np.uint32)
    keys[...] = key
    keys = keys.reshape(2, -1)  # [2, N] or [2, 1]
    for first in range(0, words.shape[1], _AT_ONCE):
        part = slice(first, first + _AT_ONCE)
        _encrypt(words[:, part], keys[:, part] if keys.shape[1] > 1 else keys)
    return words.reshape(4, *shape)


def _encrypt(words: Words, key: Integers) -> None:
    """The rounds, in place: [4, n], with a key uint32 [2, n] or [2, 1]."""
    even, odd = words[0::2].astype(np.uint32), words[1::2].astype(np.uint32)
    products = np.empty(even.shape, np.uint64)
    halves = products.view(np.uint32)[::-1]  # [2, 2 n], of the other product
    low, high = halves[:, _LOW::2], halves[:, 1 - _LOW :: 2]
    round_key = np.empty_like(key)
    for step in _ROUND_STEPS:
        np.add(key, step, out=round_key)
        np.multiply(even, _MULTIPLIERS, out=products)
        np.bitwise_xor(high, odd, out=even)
        even ^= round_key
        odd[...] = low
    words[0::2], words[1::2] = even, odd


def check_seed(seed: int) -> None:
    """Raises UserError unless `seed` is a whole number that is not negative."""
    if seed < 0:
        raise UserError(f"seed {seed} is negative: give a whole number of 0 or more")


class CounterRng:
    """The draws of one purpose.

    Args:
        seed: whole number >= 0, of any size; or the items of several seeds.
        purpose: what the draws are for.

    Raises:
        UserError: a seed is negative.
    """

    def __init__(self, seed: int | Streams, purpose: Purpose) -> None:
        self._streams = seed if isinstance(seed, Streams) else one_stream(seed)
        keys = []
        for each in self._streams.seeds:
            check_seed(each)
            sequence = np.random.SeedSequence([each, int(purpose)])
            keys.append(sequence.generate_state(2, np.uint32))
        self._keys = np.stack(keys, axis=1)  # [2, K]

    def words(self, epochs: Ints, items: Ints, blocks: Ints) -> Words:
        """The four words of each address, [4, ...]; the arguments broadcast against each other."""
        keys = self._keys
        if keys.shape[1] > 1:
            streams = self._streams.of(items)
            keys, items = keys.take(streams, axis=1), items - self._streams.firsts.take(streams)
        return philox((blocks, epochs, items & 0xFFFFFFFF, items >> 32), keys)

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
