"""Packing: whole samples laid end to end in flat micro batches without padding (numpy only).

    choose_window   which micro steps of which ranks share their samples
    deal            sizes -> which bin gets which of them: equal counts, nearly equal sums
    deal_window     lengths of the window's samples -> which of them each micro batch holds
    flat_batches    padded samples and their order -> flat arrays
    packed_batches  all of it: the flat micro batches of one rank of a window

A window covers q micro steps of g neighbouring data-parallel ranks, and so the same samples as these
micro steps have without packing: an update reads the same global batch. The window's samples are
dealt to its q g micro batches, each as many as without packing, so that the micro batches hold
nearly equal numbers of tokens; the micro batches are then dealt to the ranks in the same way, so that
the ranks of a micro step, and over the window, have nearly equal work. Samples are never split.
All of it is a pure function of the lengths, computed alike by each rank of the window.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np

from megabert.data.samples.counter_rng import Ints
from megabert.data.samples.source import Arrays
from megabert.data.shards.spans import ranges

WINDOW_SAMPLES = 2048
"""Samples that a window holds at least, if the global batch allows it."""
FEWEST_RANKS, MOST_RANKS = 8, 64
"""Ranks of a window. More balance better; each plans with the lengths of all their samples."""
IGNORED_LABEL = -100
"""Sentence label of a row or sequence that only fills up a batch; loss and counts leave it out."""
NO_SAMPLE = -1
"""Sample number of a sequence that only fills up a flat batch."""

Batch = dict[str, Any]
"""A micro batch: numpy arrays, and the integers `real_tokens` and, if it is flat, `max_seqlen`."""


class Window(NamedTuple):
    """What is packed together: `micro_steps` of an update on `ranks` neighbouring ranks."""

    micro_steps: int
    ranks: int

    @property
    def micro_batches(self) -> int:
        """Micro batches in the window."""
        return self.micro_steps * self.ranks


class PackableSource(Protocol):
    """Samples by their number in the run, as `SampleSource` gives them.

    Padding comes last in each sample, and masked positions rise.
    """

    def samples(self, numbers: Ints) -> Arrays:
        """Padded arrays of these samples, in this order."""

    def lengths(self, numbers: Ints) -> Ints:
        """Real tokens of these samples."""


def choose_window(micro_batch_size: int, accumulation: int, data_parallel: int) -> Window:
    """The window of a run.

    Its ranks are the smallest divisor of `data_parallel` from `FEWEST_RANKS` on (the largest below,
    if there is none up to `MOST_RANKS`), and its micro steps the fewest that divide the accumulation
    and reach `WINDOW_SAMPLES`. If even all of them don't, more ranks come together.
    """
    groups = _divisors(data_parallel, MOST_RANKS)
    preferred = [ranks for ranks in groups if ranks >= FEWEST_RANKS] or groups[-1:]
    for ranks in preferred:
        for micro_steps in _divisors(accumulation, accumulation):
            if micro_steps * ranks * micro_batch_size >= WINDOW_SAMPLES:
                return Window(micro_steps, ranks)
    return Window(accumulation, preferred[-1])


def deal(sizes: Ints, bins: int) -> Ints:
    """Divides things into bins: equally many in each, and nearly equal sums of their sizes.

    The things are sorted, largest first (the earlier one if equal), and cut into rounds of one a
    bin. Rounds are dealt one after the other, the one whose sizes differ most first: its largest
    goes to the bin with the smallest sum so far, and so on, its smallest to the largest sum. The
    sums then differ by no more than the sizes of one round do, and by less the more rounds there
    are: later rounds even out what earlier ones left.

    Args:
        sizes: int64 [N]; N is a multiple of `bins`.
        bins: B.

    Returns:
        Indices into `sizes`, int64 [N / B, B]: row by row a round, the one of the largest first, and
        in each column what the bin gets, largest first.
    """
    rounds = np.argsort(-sizes, kind="stable").reshape(-1, bins)
    by_round = sizes[rounds]
    spreads = by_round[:, 0] - by_round[:, -1]
    widest_first = np.argsort(-spreads, kind="stable")
    dealt, sums = rounds.copy(), np.zeros(bins, dtype=np.int64)
    for number in widest_first[: np.count_nonzero(spreads)].tolist():
        emptiest_first = np.argsort(sums, kind="stable")
        dealt[number, emptiest_first] = rounds[number]
        sums[emptiest_first] += by_round[number]
    return dealt


def deal_window(lengths: Ints, window: Window) -> Ints:
    """Deals a window's samples to its micro batches by tokens, and these to the window's ranks.

    Args:
        lengths: int64 [N]; N is a multiple of the window's micro batches.
        window: its layout.

    Returns:
        Indices into `lengths`, int64 [q, g, N / (q g)]: for each micro step and rank its samples,
        longest first. The first micro step holds the largest micro batches.
    """
    micro_batches = deal(lengths, window.micro_batches).T  # [q g, N / (q g)]
    ranks = deal(lengths[micro_batches].sum(axis=1), window.ranks)  # [q, g]
    return micro_batches[ranks]


def packed_batches(
    source: PackableSource, numbers: Ints, window: Window, rank: int, token_multiple: int = 1
) -> list[Batch]:
    """The flat micro batches of one rank of a window.

    Args:
        source: the samples.
        numbers: those of the whole window, int64 [N]; N is a multiple of its micro batches.
        window: its layout.
        rank: this rank's place among the window's.
        token_multiple: as in `flat_batches`.

    Returns:
        For each micro step N / (q g) samples, longest first, as `flat_batches`.

    Raises:
        UserError: as the source's `samples`.
        ValueError: the source's lengths are not those of its samples.
    """
    if window.ranks == 1:  # all samples are its own, and tell their lengths
        arrays = source.samples(numbers)
        order = deal_window(arrays["attention_mask"].sum(axis=1), window)[:, 0]
        return flat_batches(arrays, numbers, order, token_multiple)
    lengths = source.lengths(numbers)
    own = deal_window(lengths, window)[:, rank]
    arrays = source.samples(numbers[own.ravel()])
    if not np.array_equal(arrays["attention_mask"].sum(axis=1), lengths[own.ravel()]):
        raise ValueError("the source's lengths are not those of its samples")
    order = np.arange(own.size).reshape(own.shape)
    return flat_batches(arrays, numbers[own.ravel()], order, token_multiple)


def flat_batches(
    arrays: Arrays, numbers: Ints, order: Ints, token_multiple: int = 1
) -> list[Batch]:
    """Padded samples as flat micro batches.

    Args:
        arrays: of a `PackableSource`; N samples of width S, padded.
        numbers: of these samples in the run, int64 [N].
        order: indices of the samples of each micro batch, int64 [Q, K]; K may be 0.
        token_multiple: each micro batch is filled up to a multiple of so many tokens, 1 .. S.

    Returns:
        For each of the Q micro batches, with P sequences of T tokens together, M of them masked:
            input_ids, token_type_ids, position_ids int64 [T]; positions begin at 0 in each sequence;
            cu_seqlens int32 [P + 1], from 0 to T: where sequences begin and end;
            sample_numbers int64 [P];
            masked_positions int64 [M], rising, into T, and masked_labels int64 [M];
            next_sentence_labels int64 [P], if the source gives them;
            max_seqlen, the integer S: no sequence is longer;
            real_tokens, an integer: T without filling.
        A T that is no multiple of `token_multiple`, or is 0, is filled up by one more sequence, which
        stands last whatever its length: token id 0, type 0, nothing masked, sample number
        `NO_SAMPLE`, sentence label `IGNORED_LABEL`.
    """
    flat = _laid_end_to_end(arrays, numbers, order.ravel())
    count = order.shape[1]
    parts = (flat.part(i * count, (i + 1) * count) for i in range(len(order)))
    return [_filled_up(part, token_multiple) for part in parts]


def _divisors(number: int, most: int) -> list[int]:
    return [n for n in range(1, min(number, most) + 1) if number % n == 0]


class _Flat(NamedTuple):
    """Samples laid end to end.

    Args:
        by_token: arrays of one entry a token.
        by_masked: arrays of one entry a masked token.
        by_sample: arrays of one entry a sample.
        token_ends: int64 [samples + 1], 0 and where each sample ends in `by_token`.
        masked_ends: the same of `by_masked`.
        width: S.
    """

    by_token: Arrays
    by_masked: Arrays
    by_sample: Arrays
    token_ends: Ints
    masked_ends: Ints
    width: int

    def part(self, first: int, last: int) -> Batch:
        """Samples first .. last-1 as a micro batch."""
        begin, end = int(self.token_ends[first]), int(self.token_ends[last])
        masked = slice(int(self.masked_ends[first]), int(self.masked_ends[last]))
        batch: Batch = {name: array[begin:end] for name, array in self.by_token.items()}
        batch["cu_seqlens"] = (self.token_ends[first : last + 1] - begin).astype(np.int32)
        batch["masked_positions"] = self.by_masked["masked_positions"][masked] - begin
        batch["masked_labels"] = self.by_masked["masked_labels"][masked]
        batch |= {name: array[first:last] for name, array in self.by_sample.items()}
        return batch | {"max_seqlen": self.width, "real_tokens": end - begin}


def _laid_end_to_end(arrays: Arrays, numbers: Ints, samples: Ints) -> _Flat:
    """The samples of these rows, in this order."""
    width = arrays["input_ids"].shape[1]
    begins = samples * width
    lengths = arrays["attention_mask"].sum(axis=1)[samples]
    tokens, token_ends = ranges(begins, lengths), _after_zero(lengths.cumsum())
    counts = np.bincount(arrays["masked_positions"] // width, minlength=len(numbers))
    masked_counts = counts[samples]
    masked = ranges((counts.cumsum() - counts)[samples], masked_counts)
    by_token = {name: arrays[name].take(tokens) for name in ("input_ids", "token_type_ids")}
    by_token["position_ids"] = ranges(np.zeros_like(lengths), lengths)
    moved = (token_ends[:-1] - begins).repeat(masked_counts)
    by_sample = {"sample_numbers": numbers[samples]}
    if "next_sentence_labels" in arrays:
        by_sample["next_sentence_labels"] = arrays["next_sentence_labels"][samples]
    return _Flat(
        by_token,
        {
            "masked_positions": arrays["masked_positions"][masked] + moved,
            "masked_labels": arrays["masked_labels"][masked],
        },
        by_sample,
        token_ends,
        _after_zero(masked_counts.cumsum()),
        width,
    )


def _after_zero(values: Ints) -> Ints:
    return np.concatenate((np.zeros(1, dtype=np.int64), values))


def _filled_up(batch: Batch, multiple: int) -> Batch:
    """The batch with the sequence that fills it up, if it needs one; see `flat_batches`."""
    tokens = batch["real_tokens"]
    size = -tokens % multiple if tokens else multiple
    if not size:
        return batch
    more = {
        "input_ids": np.zeros(size, dtype=np.int64),
        "token_type_ids": np.zeros(size, dtype=np.int64),
        "position_ids": np.arange(size),
        "cu_seqlens": np.array([tokens + size], dtype=np.int32),
        "sample_numbers": np.array([NO_SAMPLE]),
        "next_sentence_labels": np.array([IGNORED_LABEL]),
    }
    joined = {name: np.concatenate((batch[name], more[name])) for name in more if name in batch}
    return batch | joined
