"""Packing: whole samples laid end to end in rows of a budget of tokens (numpy only).

    choose_window   which micro steps of which ranks are packed together
    assign_rows     lengths of the window's samples -> their rows
    plan_window     ... -> micro batch, row and first token of each sample
    packed_batches  ... -> the arrays of a rank's own micro batches

A window covers q micro steps of g neighbouring data-parallel ranks, and so the same samples as these
micro steps have without packing: an update reads the same global batch. The window's samples are
laid into rows by best-fit decreasing: longest first, each into the fullest row that has room for it. It
needs at most 11/9 of the fewest possible rows and 4 more, like first-fit decreasing (Johnson et al.
1974), but finds a row in constant time, as free tokens are whole numbers up to the budget.

Rows are shared out over the window's q g micro batches: fullest first, forth and back, so that
each gets as many rows as any other, or one fewer, and about as many tokens. Samples are never split.
All of it is a pure function of the lengths, computed alike by each rank of the window.
"""

from typing import NamedTuple, Protocol

import numpy as np

from megabert.data.counter_rng import Ints
from megabert.data.sample_source import Arrays

WINDOW_SAMPLES = 2048
"""Samples that a window holds at least, if the global batch allows it."""
FEWEST_RANKS, MOST_RANKS = 8, 64
"""Ranks of a window. More balance better; each plans with the lengths of all their samples."""


class Window(NamedTuple):
    """What is packed together: `micro_steps` of an update on `ranks` neighbouring ranks."""

    micro_steps: int
    ranks: int

    @property
    def micro_batches(self) -> int:
        """Micro batches in the window."""
        return self.micro_steps * self.ranks


class Plan(NamedTuple):
    """Where each sample of a window stands.

    Args:
        batch: its micro batch, 0 .. B-1; int64 [N].
        row: its row in the micro batch; int64 [N].
        start: its first token's place in the row; int64 [N].
        place: 1 = the first sample of its row, 2 = the second ...; int64 [N].
        rows: rows of each micro batch, at least 1; int64 [B].
    """

    batch: Ints
    row: Ints
    start: Ints
    place: Ints
    rows: Ints


class PackableSource(Protocol):
    """Samples by their number in the run, as `SampleSource` gives them: padding comes last."""

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


def assign_rows(lengths: Ints, budget: int) -> Ints:
    """Best-fit decreasing; equal lengths go by their place in `lengths`.

    Args:
        lengths: int64 [N], N >= 1, each 1 .. budget.
        budget: tokens of a row.

    Returns:
        The row of each sample, int64 [N]; rows are numbered 0, 1, 2, ... without a gap.
    """
    order = np.argsort(-lengths, kind="stable")
    longest_first = lengths[order]
    alone = int(np.count_nonzero(longest_first > budget - longest_first[-1]))
    rows = list(range(alone))
    by_free: list[list[int]] = [[] for _ in range(budget + 1)]
    free_sizes = 0  # bit n is set while by_free[n] holds a row
    opened = alone
    for length in longest_first[alone:].tolist():
        fitting = free_sizes >> length
        if fitting:
            free = length + (fitting & -fitting).bit_length() - 1
            row = by_free[free].pop()
            if not by_free[free]:
                free_sizes ^= 1 << free
        else:
            free, row = budget, opened
            opened += 1
        rows.append(row)
        by_free[free - length].append(row)
        free_sizes |= 1 << (free - length)
    assigned = np.empty(len(lengths), dtype=np.int64)
    assigned[order] = rows
    return assigned


def plan_window(lengths: Ints, budget: int, micro_batches: int) -> Plan:
    """Rows for a window's samples, shared out over its micro batches.

    Args:
        lengths: int64 [N], N >= micro_batches, each 1 .. budget.
        budget: tokens of a row.
        micro_batches: how many share the rows; none goes empty.
    """
    assigned = _at_least(micro_batches, assign_rows(lengths, budget))
    fills = np.bincount(assigned, lengths).astype(np.int64)
    fullest_first = np.argsort(-fills, kind="stable")
    turns, batches = np.divmod(np.arange(len(fills)), micro_batches)
    batches = np.where(turns % 2, micro_batches - 1 - batches, batches)
    batch, row = np.empty_like(fills), np.empty_like(fills)
    batch[fullest_first], row[fullest_first] = batches, turns
    start, place = _line_up(assigned, lengths)
    return Plan(
        batch[assigned],
        row[assigned],
        start,
        place,
        np.bincount(batches, minlength=micro_batches),
    )


def packed_batches(
    source: PackableSource, numbers: Ints, budget: int, window: Window, rank: int
) -> list[Arrays]:
    """The micro batches of one rank of a window.

    Args:
        source: the samples.
        numbers: those of the whole window, int64 [N].
        budget: tokens of a row, at least the width of the source's arrays.
        window: its layout.
        rank: this rank's place among the window's.

    Returns:
        For each micro step, with R rows of S = budget tokens and P samples:
            input_ids, token_type_ids, position_ids, sequence_ids, attention_mask int64 [R, S];
            sequence_ids is 0 in padding and else the sample's place in its row, from 1 on;
            positions begin at 0 in each sample;
            masked_positions int64 [M], rising, into the flat R * S, and masked_labels int64 [M];
            sequence_starts int64 [P], rising, the flat place of each sample's first token;
            next_sentence_labels int64 [P], if the source gives them.
        Padding holds token id 0, whatever the vocabulary: nothing attends to it.

    Raises:
        UserError: as the source's `samples`.
    """
    arrays = source.samples(numbers) if window.ranks == 1 else None  # then all are its own
    lengths = source.lengths(numbers) if arrays is None else arrays["attention_mask"].sum(axis=1)
    plan = plan_window(lengths, budget, window.micro_batches)
    steps, ranks = np.divmod(plan.batch, window.ranks)
    own = np.flatnonzero(ranks == rank)
    if arrays is None:
        arrays = source.samples(numbers[own])
    if not np.array_equal(arrays["attention_mask"].sum(axis=1), lengths[own]):
        raise ValueError("the source's lengths are not those of its samples")
    rows = plan.rows.reshape(window.micro_steps, window.ranks)[:, rank]
    ends = np.cumsum(rows)
    firsts = ((ends - rows)[steps[own]] + plan.row[own]) * budget + plan.start[own]
    stacked = _stack(arrays, firsts, plan.place[own], int(ends[-1]), budget)
    return _split(stacked, (ends - rows).tolist(), ends.tolist())


def _divisors(number: int, most: int) -> list[int]:
    return [n for n in range(1, min(number, most) + 1) if number % n == 0]


def _at_least(count: int, assigned: Ints) -> Ints:
    """The same rows, or, if they are fewer than `count`, with samples moved to rows of their own."""
    opened = int(assigned.max()) + 1
    if opened >= count:
        return assigned
    _, first_of_row = np.unique(assigned, return_index=True)
    followers = np.setdiff1d(np.arange(len(assigned)), first_of_row)
    assigned[followers[len(followers) - (count - opened) :]] = np.arange(opened, count)
    return assigned


def _line_up(assigned: Ints, lengths: Ints) -> tuple[Ints, Ints]:
    """First token and place of each sample in its row, the longest first; int64 [N] each."""
    by_row = np.lexsort((-lengths, assigned))
    rows = assigned[by_row]
    begins = np.cumsum(lengths[by_row]) - lengths[by_row]
    heads = np.searchsorted(rows, rows)  # index of the first sample of the same row
    start, place = np.empty_like(lengths), np.empty_like(lengths)
    start[by_row] = begins - begins[heads]
    place[by_row] = np.arange(len(rows)) - heads + 1
    return start, place


def _stack(arrays: Arrays, firsts: Ints, places: Ints, rows: int, budget: int) -> Arrays:
    """Moves padded samples to their places in `rows` rows; flat places come out rising.

    Args:
        arrays: of the source, P samples.
        firsts: flat place of each sample's first token in the rows, int64 [P].
        places: each sample's place in its row, from 1 on; int64 [P].
        rows: R.
        budget: tokens of a row.
    """
    real = arrays["attention_mask"].astype(bool)  # [P, seq_length]
    width = real.shape[1]
    columns = np.arange(width)
    target = (firsts[:, None] + columns)[real]

    def laid_out(values: Ints) -> Ints:
        flat = np.zeros(rows * budget, dtype=np.int64)
        flat[target] = np.broadcast_to(values, real.shape)[real]
        return flat.reshape(rows, budget)

    sequence_ids = laid_out(places[:, None])
    samples, masked_columns = np.divmod(arrays["masked_positions"], width)
    masked = firsts[samples] + masked_columns
    by_place, in_order = np.argsort(masked, kind="stable"), np.argsort(firsts)
    stacked = {
        "input_ids": laid_out(arrays["input_ids"]),
        "token_type_ids": laid_out(arrays["token_type_ids"]),
        "position_ids": laid_out(columns),
        "sequence_ids": sequence_ids,
        "attention_mask": (sequence_ids > 0).astype(np.int64),
        "masked_positions": masked[by_place],
        "masked_labels": arrays["masked_labels"][by_place],
        "sequence_starts": firsts[in_order],
    }
    if "next_sentence_labels" in arrays:
        stacked["next_sentence_labels"] = arrays["next_sentence_labels"][in_order]
    return stacked


def _split(stacked: Arrays, begins: list[int], ends: list[int]) -> list[Arrays]:
    """Rows begins[i] .. ends[i]-1 as batch i, with flat places counted from its own first row."""
    width = stacked["input_ids"].shape[1]
    batches = []
    for begin, end in zip(begins, ends):
        masked = _between(stacked["masked_positions"], begin * width, end * width)
        starts = _between(stacked["sequence_starts"], begin * width, end * width)
        batch = {name: a[begin:end] for name, a in stacked.items() if a.ndim == 2}
        batch["masked_positions"] = stacked["masked_positions"][masked] - begin * width
        batch["masked_labels"] = stacked["masked_labels"][masked]
        batch["sequence_starts"] = stacked["sequence_starts"][starts] - begin * width
        if "next_sentence_labels" in stacked:
            batch["next_sentence_labels"] = stacked["next_sentence_labels"][starts]
        batches.append(batch)
    return batches


def _between(rising: Ints, low: int, high: int) -> slice:
    return slice(*np.searchsorted(rising, (low, high)).tolist())
