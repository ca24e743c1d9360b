"""The samples of a run as masked arrays, by number (numpy only; docs/reference/samples.md).

    Samples        what the loader needs of any source of samples
    SampleArrays   some samples, one per row of a grid
    SampleSource   the samples of a split of our own shards

The samples of a run are numbered 0, 1, 2, ... without end. Number n is the sample at place n mod N of
the order of epoch n div N, N being the samples of an epoch.
"""

import dataclasses
from typing import Protocol

import numpy as np

from megabert.common.errors import UserError
from megabert.data.samples.counter_rng import Floats, Ints, Streams
from megabert.data.samples.index import SampleSettings
from megabert.data.samples.masking import Masker, MaskSettings
from megabert.data.samples.pairs import CorpusLike, PairMaker, PairPlan, Tokens
from megabert.data.shards.spans import Spans

EVALUATION_SEED = 0


@dataclasses.dataclass(frozen=True, eq=False)
class SampleArrays:
    """B masked samples on a grid with S columns, as masking needs it; padding is last in each row.

    Args:
        numbers: int64 [B], the samples' numbers in the run.
        input_ids, token_type_ids: int64 [B, S].
        attention_mask: int64 [B, S], 1 for real tokens, 0 for padding.
        masked_positions: int64 [M], rising, into the flat B * S.
        masked_labels: int64 [M], the ids to predict there.
        next_sentence_labels: int64 [B], 0 where B follows A; None for the sentence task "none".
    """

    numbers: Ints
    input_ids: Ints
    token_type_ids: Ints
    attention_mask: Ints
    masked_positions: Ints
    masked_labels: Ints
    next_sentence_labels: Ints | None

    @property
    def lengths(self) -> Ints:
        """Real tokens of each sample, int64 [B]."""
        return self.attention_mask.sum(axis=1)


class Samples(Protocol):
    """A source of samples for the loader: samples by their numbers in the run.

    Attributes:
        settings: what a sample is.
    """

    settings: SampleSettings

    @property
    def samples_per_epoch(self) -> int:
        """Samples in one epoch."""

    def samples(self, numbers: Ints, fractions: Floats | None = None) -> SampleArrays:
        """These samples, int64 [B], in this order.

        Args:
            fractions: mask fraction of each sample; None: that of the settings. Samples that are stored
                with masks keep theirs.

        Raises:
            UserError: the source is damaged; the message names the file.
        """

    def lengths(self, numbers: Ints) -> Ints:
        """Real tokens of these samples, int64 [B], equal to the lengths of `samples`."""


def evaluation_settings(settings: SampleSettings) -> SampleSettings:
    """The settings with a fixed seed, so that every run evaluates the same samples."""
    return dataclasses.replace(settings, seed=EVALUATION_SEED)


class SampleSource:
    """The samples of a split of our own shards: see `Samples`.

    Args:
        corpus: the split to read.
        sample_settings: what a sample is.
        mask_settings: how tokens are masked.
        documents: see `SampleIndex`.

    Raises:
        UserError: the split is empty or too small (see `PairMaker`).

    It can be pickled if the corpus can.
    """

    def __init__(
        self,
        corpus: CorpusLike,
        sample_settings: SampleSettings,
        mask_settings: MaskSettings | None = None,
        documents: Streams | None = None,
    ) -> None:
        self.masks = mask_settings or MaskSettings()
        info = corpus.manifest.tokenizer
        self.corpus, self.settings = corpus, sample_settings
        self._special, self._vocab_size = info.special, int(info.vocab_size)
        self._pairs = PairMaker(corpus, sample_settings, documents)
        self._index = self._pairs.index
        special_ids = tuple(info.special.values())
        self._masker = Masker(
            self.masks, self._index.corpora, info.special.mask, self._vocab_size, special_ids
        )

    def at_length(self, seq_length: int) -> "SampleSource":
        """The samples of the same corpus, of one seed, at another sequence length."""
        return SampleSource(
            self.corpus,
            dataclasses.replace(self.settings, seq_length=seq_length),
            self.masks.at_length(self.settings.seq_length, seq_length),
        )

    @property
    def samples_per_epoch(self) -> int:
        """Samples in one epoch; every sample occurs exactly once per epoch."""
        return self._index.num_samples

    def addresses(self, numbers: Ints) -> tuple[Ints, Ints]:
        """Epoch and sample of these samples of the run, [N] -> two int64 [N]."""
        epochs, places = np.divmod(numbers, self.samples_per_epoch)
        return epochs, self._index.order(np.zeros_like(numbers), epochs, places)

    def lengths(self, numbers: Ints) -> Ints:
        """Real tokens of these samples of the run, special tokens included: [N] -> int64 [N].

        Equal to the `lengths` of what `samples` returns, without reading tokens.
        """
        special = self.settings.seq_length - self.settings.room
        return self.plan(numbers).lengths + special

    def plan(self, numbers: Ints) -> PairPlan:
        """The text of these samples of the run, before masking."""
        return self._pairs.plan(*self.addresses(numbers))

    def samples(self, numbers: Ints, fractions: Floats | None = None) -> SampleArrays:
        """These samples of the run, int64 [B], in this order.

        Raises:
            UserError: the corpus holds an id outside its vocabulary, or is damaged.
        """
        epochs, samples = self.addresses(numbers)
        plan = self._pairs.plan(epochs, samples)
        spans = plan.first.interleaved(plan.second) if self.settings.paired else plan.first
        tokens = self.corpus.read_tokens(spans)
        self._check_ids(tokens, spans)

        columns = np.arange(self.settings.seq_length)
        separators = 1 + plan.first.lengths  # column of the [SEP] after A
        ends = separators + 1
        maskable = (columns > 0) & (columns < separators[:, None])
        if self.settings.paired:
            ends = ends + plan.second.lengths + 1
            maskable |= (columns > separators[:, None]) & (columns < ends[:, None] - 1)
        attention = columns < ends[:, None]

        rows = np.arange(len(numbers))
        input_ids = np.full(attention.shape, self._special.pad, dtype=np.int64)
        input_ids[:, 0] = self._special.cls
        input_ids[rows, separators] = input_ids[rows, ends - 1] = self._special.sep
        input_ids[maskable] = tokens
        words = None
        if self._masker.settings.by_word:
            words = np.zeros(attention.shape, dtype=bool)
            words[maskable] = self.corpus.read_word_starts(spans)
        positions, labels = self._masker.apply(
            input_ids, maskable, words, epochs, samples, fractions
        )
        return SampleArrays(
            numbers=numbers,
            input_ids=input_ids,
            token_type_ids=(attention & (columns > separators[:, None])).astype(np.int64),
            attention_mask=attention.astype(np.int64),
            masked_positions=positions,
            masked_labels=labels,
            next_sentence_labels=plan.labels if self.settings.paired else None,
        )

    def _check_ids(self, tokens: Tokens, spans: Spans) -> None:
        bad = (tokens >= self._vocab_size) | (tokens < 0)
        if not bad.any():
            return
        place = int(np.flatnonzero(bad)[0])
        span = int(np.searchsorted(np.cumsum(spans.lengths), place, side="right"))
        path, number = self.corpus.shard_of(int(spans.documents[span]))
        raise UserError(
            f"token id {int(tokens[place])} in document {number} of {path} is outside the "
            f"vocabulary of {self._vocab_size}: the shards are damaged or were made with another "
            "tokenizer; make them again"
        )
