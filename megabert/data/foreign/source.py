"""Samples of foreign shards by their number in the run, as the loader needs them.

As with our own shards, sample n of a run is the sample at place n mod N in the order of epoch
n div N, and that order is the same pseudo-random permutation. The masks are those of the shards, in
every epoch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from megabert.common.errors import UserError
from megabert.data.foreign.static import ForeignFile, ForeignShardError, StaticSample
from megabert.data.samples.counter_rng import Floats, Purpose
from megabert.data.samples.index import SampleSettings, permute
from megabert.data.samples.source import SampleArrays
from megabert.data.shards.manifest import TokenizerInfo
from megabert.data.shards.spans import Ints

OPEN_FILES = 128


class ForeignSource:
    """Masked samples of foreign shards, padded to the run's sequence length.

    Args:
        files: the shards of one split, in order.
        settings: sequence length; "nsp" for the shards' own sentence labels, "none" to leave them
            out; seed of the order. The fraction of short sequences has no effect here.
        tokenizer: the tokenizer that the ids must fit.

    Raises:
        UserError: samples stored wider than the sequence length, "sop", "nsp" without labels.

    A process keeps at most ``OPEN_FILES`` files open; open files are not pickled.
    """

    def __init__(
        self, files: Sequence[ForeignFile], settings: SampleSettings, tokenizer: TokenizerInfo
    ) -> None:
        self.files, self.settings, self.tokenizer = tuple(files), settings, tokenizer
        self._ends = np.cumsum([file.samples for file in self.files])  # [files]
        self._open: OrderedDict[int, None] = OrderedDict()
        first = self.files[0]
        if settings.sentence_task == "sop":
            raise UserError(
                f"{first.path}: masked shards have labels of their own: --sentence-task nsp uses "
                "them, none leaves them out; sop is not possible"
            )
        if settings.paired and not first.labelled:
            raise UserError(f"{first.path}: has no next_sentence_labels; use --sentence-task none")
        for file in self.files:
            if file.width is not None and file.width > settings.seq_length:
                raise self._too_long(str(file.path), file.width)

    @property
    def samples_per_epoch(self) -> int:
        """Samples in one epoch; each occurs exactly once in each epoch."""
        return int(self._ends[-1])

    def addresses(self, numbers: Ints) -> tuple[Ints, Ints]:
        """File and row of these samples of the run: [N] -> two int64 [N]."""
        epochs, places = np.divmod(numbers, self.samples_per_epoch)
        samples = np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            key = [self.settings.seed, epoch, int(Purpose.ORDER)]
            samples[here] = permute(places[here], self.samples_per_epoch, key)
        files = np.searchsorted(self._ends, samples, side="right")
        before = np.where(files > 0, self._ends[files - 1], 0)
        return files.astype(np.int64), samples - before

    def lengths(self, numbers: Ints) -> Ints:
        """Real tokens of these samples of the run, special tokens included: [N] -> int64 [N]."""
        files, rows = self.addresses(numbers)
        return np.array(
            [self._file(f).length(row) for f, row in zip(files.tolist(), rows.tolist())], np.int64
        )

    def samples(self, numbers: Ints, fractions: Floats | None = None) -> SampleArrays:
        """These samples of the run, int64 [B], in this order, with the masks that they have.

        Raises:
            UserError: a sample is damaged, longer than the sequence length, or not made with this
                tokenizer; the message names file and sample.
        """
        files, rows = (part.tolist() for part in self.addresses(numbers))
        shape = (len(numbers), self.settings.seq_length)
        input_ids = np.full(shape, self.tokenizer.special.pad, dtype=np.int64)
        token_types = np.zeros(shape, dtype=np.int64)
        attention = np.zeros(shape, dtype=np.int64)
        labels = np.full(shape, -1, dtype=np.int64)
        next_sentence = np.zeros(len(numbers), dtype=np.int64)
        for place, (number, row, sample) in enumerate(zip(files, rows, self._read(files, rows))):
            self._check(self.files[number], row, sample)
            size = len(sample.input_ids)
            input_ids[place, :size] = sample.input_ids
            token_types[place, :size] = sample.segment_ids
            attention[place, :size] = 1
            labels[place, sample.positions] = sample.labels
            next_sentence[place] = sample.next_sentence
        positions = np.flatnonzero(labels.ravel() >= 0)
        return SampleArrays(
            numbers=numbers,
            input_ids=input_ids,
            token_type_ids=token_types,
            attention_mask=attention,
            masked_positions=positions,
            masked_labels=labels.ravel()[positions],
            next_sentence_labels=next_sentence if self.settings.paired else None,
        )

    def _read(self, files: Sequence[int], rows: Sequence[int]) -> Iterator[StaticSample]:
        """The samples at these places, in this order; those of a file are read together."""
        asked: dict[int, list[int]] = {}
        for number, row in zip(files, rows):
            asked.setdefault(number, []).append(row)
        read = {number: iter(self._file(number).read_rows(own)) for number, own in asked.items()}
        return (next(read[number]) for number in files)

    def _check(self, file: ForeignFile, row: int, sample: StaticSample) -> None:
        if len(sample.input_ids) > self.settings.seq_length:
            raise self._too_long(f"{file.path}: sample {row}", len(sample.input_ids))
        check_sample(file, row, sample, self.tokenizer)
        check_text(file, row, sample.input_ids, self.tokenizer)

    def _too_long(self, what: str, length: int) -> UserError:
        return UserError(
            f"{what}: samples of {length} tokens are longer than --seq-length "
            f"{self.settings.seq_length}; give --seq-length {length}"
        )

    def _file(self, number: int) -> ForeignFile:
        """A file, marked as used last; the least recently used file is closed."""
        self._open[number] = None
        self._open.move_to_end(number)
        if len(self._open) > OPEN_FILES:
            self.files[self._open.popitem(last=False)[0]].close()
        return self.files[number]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}


def check_sample(
    file: ForeignFile, row: int, sample: StaticSample, tokenizer: TokenizerInfo
) -> None:
    """Raise ``ForeignShardError`` for ids outside the vocabulary, or no [CLS] and [SEP] at the ends."""
    check_ids(file, row, sample, tokenizer)
    ids, special = sample.input_ids, tokenizer.special
    if not len(ids) or ids[0] != special.cls or ids[-1] != special.sep:
        ends = f"begins with id {ids[0]} and ends with {ids[-1]}" if len(ids) else "is empty"
        raise file.error(
            row,
            f"{ends}, not with [CLS] {special.cls} and [SEP] {special.sep} of the tokenizer; give "
            "--tokenizer the one that made the shards",
        )


def check_text(file: ForeignFile, row: int, ids: Ints, tokenizer: TokenizerInfo) -> None:
    """Raise ``ForeignShardError`` for [CLS] or [PAD] behind a sample's first token.

    ``ids``: those of the sample, masked or not.
    """
    special = tokenizer.special
    strange = (ids[1:] == special.cls) | (ids[1:] == special.pad)
    if strange.any():
        place = 1 + int(strange.argmax())
        name = "[CLS]" if ids[place] == special.cls else "[PAD]"
        raise file.error(row, f"its token {place} is {name} (id {ids[place]}); {_ADVICE}")


_ADVICE = (
    "text never gives this token: give --tokenizer the one that made the shards, or make them again "
    "from text in which it is not a token"
)


def check_ids(file: ForeignFile, row: int, sample: StaticSample, tokenizer: TokenizerInfo) -> None:
    """Raise ``ForeignShardError`` for an id outside the vocabulary, naming file and sample."""
    for ids in (sample.input_ids, sample.labels):
        outside = (ids < 0) | (ids >= tokenizer.vocab_size)
        if outside.any():
            raise ForeignShardError(
                f"{file.path}: sample {row}: token id {int(ids[outside][0])} is outside the "
                f"vocabulary of {tokenizer.vocab_size}; give --tokenizer the one that made the "
                "shards"
            )
