"""Counter-based random numbers: a draw is a function of its address, not of the draws before it.

Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC
2011) over numpy arrays. A block of four 32-bit words is addressed by

    key     = 64 bits from (seed, purpose)
    counter = (block, epoch, low half of item, high half of item), 32 bits each

so the draws of a whole batch are made at once, and each item's draws are the same in whatever
batch, order or process they are made. The words agree with the published known answers of
Philox4x32-10.
"""

import enum

import numpy as np
import numpy.typing as npt

from megabert.log import UserError

Words = npt.NDArray[np.uint64]  # 32-bit words, kept in 64 bits so that products do not overflow
Ints = npt.NDArray[np.int64]

ROUNDS = 10
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_MASK32 = np.uint64(0xFFFFFFFF)
_SHIFT32 = np.uint64(32)


class Purpose(enum.IntEnum):
    """What a stream of draws is for: streams of different purposes are independent."""

    ORDER = 1
    GRID = 2
    PAIR = 3
    MASK_PLACE = 4
    MASK_KIND = 5


def philox(counter: tuple[Words, Words, Words, Words], key: tuple[int, int]) -> Words:
    """Philox4x32-10 of broadcastable counter words; returns the four output words, [4, ...]."""
    c0, c1, c2, c3 = np.broadcast_arrays(*counter)
    k0, k1 = key
    for _ in range(ROUNDS):
        product0 = c0 * _MULTIPLIERS[0]
        product1 = c2 * _MULTIPLIERS[1]
        c0 = (product1 >> _SHIFT32) ^ c1 ^ np.uint64(k0)
        c2 = (product0 >> _SHIFT32) ^ c3 ^ np.uint64(k1)
        c1 = product1 & _MASK32
        c3 = product0 & _MASK32
        k0 = (k0 + _KEY_STEPS[0]) & 0xFFFFFFFF
        k1 = (k1 + _KEY_STEPS[1]) & 0xFFFFFFFF
    return np.stack((c0, c1, c2, c3))


def check_seed(seed: int) -> None:
    """Raises UserError unless `seed` is a whole number that is not negative."""
    if seed < 0:
        raise UserError(f"seed {seed} is negative: give a whole number of 0 or more")


class CounterRng:
    """The draws of one (seed, purpose).

    Args:
        seed: whole number >= 0, of any size.
        purpose: keeps streams apart.

    Raises:
        UserError: the seed is negative.
    """

    def __init__(self, seed: int, purpose: Purpose) -> None:
        check_seed(seed)
        k0, k1 = np.random.SeedSequence([seed, int(purpose)]).generate_state(2, np.uint32)
        self._key = (int(k0), int(k1))

    def words(self, epochs: Ints, items: Ints, blocks: Ints) -> Words:
        """The four words of each address, [4, ...]; the arguments broadcast against each other."""
        low = items.astype(np.uint64) & _MASK32
        high = items.astype(np.uint64) >> _SHIFT32
        return philox((blocks.astype(np.uint64), epochs.astype(np.uint64), low, high), self._key)

    def rows(self, epochs: Ints, items: Ints, count: int) -> Words:
        """The first `count` words of each item, [N] and [N] -> [N, count]."""
        blocks = np.arange(-(-count // 4), dtype=np.int64)
        drawn = self.words(epochs[:, None], items[:, None], blocks)  # [4, N, blocks]
        return drawn.transpose(1, 2, 0).reshape(len(items), -1)[:, :count]


def below(words: Words, limit: int) -> Ints:
    """Maps 32-bit words to whole numbers 0 .. limit-1 (limit <= 2**32), evenly enough.

    The chances of two numbers differ by a share of limit / 2**32 at most.
    """
    return ((words * np.uint64(limit)) >> _SHIFT32).astype(np.int64)
