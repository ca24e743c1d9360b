"""Samples as micro batches: packed without padding, or padded (numpy only).

    choose_window       which micro steps of which ranks share their samples
    distribute          sizes -> which bin gets which of them: equal counts, nearly equal sums
    distribute_window   lengths of the window's samples -> which of them each micro batch holds
    pack_samples        samples and their order -> packed micro batches
    window_batches      all of it: the packed micro batches of one rank of a window
    pad_samples         samples -> one padded micro batch

A window covers q micro steps of g neighbouring data-parallel ranks. It holds the same samples as these
micro steps have without packing, so that an update reads the same global batch. The samples of a window
are distributed to its q g micro batches. Each gets as many samples as without packing, and all get
nearly equal numbers of tokens. The micro batches are then distributed to the ranks in the same way, so
that the ranks have nearly equal work at each micro step and over the window. Samples are never split.
The result is a pure function of the lengths, which each rank of the window computes identically.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from megabert.common.packed_batch import PackedBatch
from megabert.data.samples.counter_rng import Ints
from megabert.data.samples.source import SampleArrays, Samples
from megabert.data.shards.spans import ranges

WINDOW_SAMPLES = 2048
"""A window holds at least this many samples, if the global batch allows it."""
FEWEST_RANKS, MOST_RANKS = 8, 64
"""Ranks of a window. More ranks balance better, but each rank reads the lengths of all their samples."""
IGNORED_LABEL = -100
"""Sentence label of a sequence that only fills up a batch; loss and counts leave it out."""
NO_SAMPLE = -1
"""Sample number of a sequence that only fills up a packed batch."""


class Window(NamedTuple):
    """What is packed together: `micro_steps` of an update on `ranks` neighbouring ranks."""

    micro_steps: int
    ranks: int

    @property
    def micro_batches(self) -> int:
        """Micro batches in the window."""
        return self.micro_steps * self.ranks


def choose_window(micro_batch_size: int, accumulation: int, data_parallel: int) -> Window:
    """The window of a run.

    The number of its ranks is the smallest divisor of `data_parallel` from `FEWEST_RANKS` to
    `MOST_RANKS`, or the largest divisor below if there is no such one. The number of its micro steps
    is the smallest divisor of the accumulation that reaches `WINDOW_SAMPLES`. If none does, the next
    larger divisor is tried for the ranks; if even the largest window holds fewer samples, that one is
    taken.
    """
    groups = _divisors(data_parallel, MOST_RANKS)
    preferred = [ranks for ranks in groups if ranks >= FEWEST_RANKS] or groups[-1:]
    for ranks in preferred:
        for micro_steps in _divisors(accumulation, accumulation):
            if micro_steps * ranks * micro_batch_size >= WINDOW_SAMPLES:
                return Window(micro_steps, ranks)
    return Window(accumulation, preferred[-1])


def distribute(sizes: Ints, bins: int) -> Ints:
    """Distributes items to bins: equally many to each, with nearly equal sums of their sizes.

    The items are sorted, largest first (the earlier one if equal), and cut into rounds of one item per
    bin. The rounds are distributed one after the other, the one whose sizes differ most first: its
    largest item goes to the bin with the smallest sum so far, its second largest to the bin with the
    second smallest sum, and so on. The sums then differ at most by the difference of sizes within one
    round, and by less the more rounds there are, because later rounds compensate for earlier ones.

    Args:
        sizes: int64 [N]; N is a multiple of `bins`.
        bins: B.

    Returns:
        Indices into `sizes`, int64 [N / B, B]. Each row is a round, the round of the largest sizes first;
        each column holds the items of a bin, largest first.
    """
    rounds = np.argsort(-sizes, kind="stable").reshape(-1, bins)
    by_round = sizes[rounds]
    differences = by_round[:, 0] - by_round[:, -1]
    widest_first = np.argsort(-differences, kind="stable")
    result, sums = rounds.copy(), np.zeros(bins, dtype=np.int64)
    for number in widest_first[: np.count_nonzero(differences)].tolist():
        emptiest_first = np.argsort(sums, kind="stable")
        result[number, emptiest_first] = rounds[number]
        sums[emptiest_first] += by_round[number]
    return result


def distribute_window(lengths: Ints, window: Window) -> Ints:
    """Distributes a window's samples to its micro batches by tokens, and these to the window's ranks.

    Args:
        lengths: int64 [N]; N is a multiple of the window's micro batches.
        window: its layout.

    Returns:
        Indices into `lengths`, int64 [q, g, N / (q g)]: for each micro step and rank its samples,
        longest first. The first micro step holds the largest micro batches.
    """
    micro_batches = distribute(lengths, window.micro_batches).T  # [q g, N / (q g)]
    ranks = distribute(lengths[micro_batches].sum(axis=1), window.ranks)  # [q, g]
    return micro_batches[ranks]


def window_batches(
    source: Samples, numbers: Ints, window: Window, rank: int, token_multiple: int = 1
) -> list[PackedBatch[Ints]]:
    """The packed micro batches of one rank of a window.

    Args:
        source: the samples.
        numbers: those of the whole window, int64 [N]; N is a multiple of its micro batches.
        window: its layout.
        rank: this rank's place among the window's.
        token_multiple: as in `pack_samples`.

    Returns:
        For each micro step a batch of N / (q g) samples, longest first, as from `pack_samples`.

    Raises:
        UserError: as the source's `samples`.
        ValueError: the source's `lengths` are not those of its samples.
    """
    if window.ranks == 1:  # all samples are its own, so it need not read their lengths first
        samples = source.samples(numbers)
        order = distribute_window(samples.lengths, window)[:, 0]
        return pack_samples(samples, order, token_multiple)
    lengths = source.lengths(numbers)
    own = distribute_window(lengths, window)[:, rank]
    samples = source.samples(numbers[own.ravel()])
    if not np.array_equal(samples.lengths, lengths[own.ravel()]):
        raise ValueError("the source's lengths are not those of its samples")
    order = np.arange(own.size).reshape(own.shape)
    return pack_samples(samples, order, token_multiple)


def pack_samples(
    samples: SampleArrays, order: Ints, token_multiple: int = 1
) -> list[PackedBatch[Ints]]:
    """Samples as packed micro batches.

    Args:
        samples: N samples of width S.
        order: indices of the samples of each micro batch, int64 [Q, K]; K may be 0.
        token_multiple: each micro batch is filled up to a multiple of this many tokens, 1 .. S.

    Returns:
        Q micro batches of max_length S. Their labels are
            masked_positions int64 [M], rising, into the batch's T tokens, and masked_labels int64 [M];
            next_sentence_labels int64 [P], if the samples have them.
        A batch whose T is 0 or not a multiple of `token_multiple` gets one more sequence to fill it up.
        That sequence comes last whatever its length: token id 0, type 0, nothing masked, sample number
        `NO_SAMPLE`, sentence label `IGNORED_LABEL`.
    """
    width = samples.input_ids.shape[1]
    rows = order.ravel()
    lengths = samples.lengths[rows]
    places = ranges(rows * width, lengths)  # of each token in the grid
    ids, types = samples.input_ids.take(places), samples.token_type_ids.take(places)
    token_ends = _after_zero(lengths.cumsum())

    counts = np.bincount(samples.masked_positions // width, minlength=len(samples.numbers))
    masked = ranges((counts.cumsum() - counts)[rows], counts[rows])
    moved = (token_ends[:-1] - rows * width).repeat(counts[rows])
    positions, masked_labels = (
        samples.masked_positions[masked] + moved,
        samples.masked_labels[masked],
    )
    masked_ends = _after_zero(counts[rows].cumsum())

    batches = []
    for number in range(len(order)):
        first, last = number * order.shape[1], (number + 1) * order.shape[1]
        tokens = slice(token_ends[first], token_ends[last])
        predicted = slice(masked_ends[first], masked_ends[last])
        labels = {
            "masked_positions": positions[predicted] - token_ends[first],
            "masked_labels": masked_labels[predicted],
        }
        if samples.next_sentence_labels is not None:
            labels["next_sentence_labels"] = samples.next_sentence_labels[rows[first:last]]
        batch = PackedBatch.from_lengths(
            ids[tokens], types[tokens], lengths[first:last], width,
            samples.numbers[rows[first:last]], labels,
        )  # fmt: skip
        batches.append(_filled_up(batch, token_multiple))
    return batches


def pad_samples(samples: SampleArrays) -> PackedBatch[Ints]:
    """Samples as one padded micro batch, with the labels of `pack_samples`."""
    labels = {
        "masked_positions": samples.masked_positions,
        "masked_labels": samples.masked_labels,
    }
    if samples.next_sentence_labels is not None:
        labels["next_sentence_labels"] = samples.next_sentence_labels
    return PackedBatch.from_padded(
        samples.input_ids, samples.token_type_ids, samples.attention_mask, samples.numbers, labels
    )


def pad_with_repeats(samples: SampleArrays, real: int, rows: int) -> PackedBatch[Ints]:
    """The first `real` samples as a padded micro batch of `rows` rows.

    The other rows repeat the first sample. They have no masked position and the sentence label
    `IGNORED_LABEL`.
    """
    pick = np.arange(rows)
    pick[real:] = 0
    sentences = samples.next_sentence_labels
    if sentences is not None:
        sentences = sentences[pick]
        sentences[real:] = IGNORED_LABEL
    keep_mask = samples.masked_positions < real * samples.input_ids.shape[1]
    filled = SampleArrays(
        numbers=samples.numbers[pick],
        input_ids=samples.input_ids[pick],
        token_type_ids=samples.token_type_ids[pick],
        attention_mask=samples.attention_mask[pick],
        masked_positions=samples.masked_positions[keep_mask],
        masked_labels=samples.masked_labels[keep_mask],
        next_sentence_labels=sentences,
    )
    real_tokens = int(samples.lengths[:real].sum())
    return dataclasses.replace(pad_samples(filled), real_samples=real, real_tokens=real_tokens)


def _divisors(number: int, most: int) -> list[int]:
    return [n for n in range(1, min(number, most) + 1) if number % n == 0]


def _after_zero(values: Ints) -> Ints:
    return np.concatenate((np.zeros(1, dtype=np.int64), values))


def _filled_up(batch: PackedBatch[Ints], multiple: int) -> PackedBatch[Ints]:
    """The batch with the sequence that fills it up, if it needs one; see `pack_samples`."""
    tokens = batch.real_tokens
    size = -tokens % multiple if tokens else multiple
    if not size:
        return batch
    zeros = np.zeros(size, dtype=np.int64)
    labels: Mapping[str, Ints] = batch.labels
    if "next_sentence_labels" in labels:
        sentences = np.append(labels["next_sentence_labels"], IGNORED_LABEL)
        labels = {**labels, "next_sentence_labels": sentences}
    assert batch.sample_numbers is not None
    return dataclasses.replace(
        batch,
        input_ids=np.concatenate((batch.input_ids, zeros)),
        token_type_ids=np.concatenate((batch.token_type_ids, zeros)),
        position_ids=np.concatenate((batch.position_ids, np.arange(size))),
        cu_seqlens=np.append(batch.cu_seqlens, np.int32(tokens + size)),
        sample_numbers=np.append(batch.sample_numbers, NO_SAMPLE),
        labels=labels,
    )
