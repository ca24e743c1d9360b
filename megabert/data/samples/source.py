"""The samples of a run as padded, masked arrays, by their number (numpy only; see docs/design/loader.md).

A run's samples are numbered 0, 1, 2, ... without end. Number n is the sample at place n mod N of
the order of epoch n div N, N being the samples of an epoch.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

from megabert.common.errors import UserError
from megabert.data.samples.counter_rng import Ints
from megabert.data.samples.masking import Masker, MaskSettings
from megabert.data.samples.pairs import CorpusLike, PairMaker, PairPlan, SampleSettings, Tokens
from megabert.data.shards.spans import Spans

Arrays = dict[str, npt.NDArray[np.int64]]
EVALUATION_SEED = 0


def evaluation_settings(settings: SampleSettings) -> SampleSettings:
    """The same samples in every run: the settings with a seed that is not the run's."""
    return dataclasses.replace(settings, seed=EVALUATION_SEED)


class SampleSource:
    """Samples as padded, masked arrays, by their number in the run.

    Args:
        corpus: the split to read.
        sample_settings: what a sample is.
        mask_settings: how tokens are masked.

    Raises:
        UserError: the split is empty or too small (see `PairMaker`).

    Can be pickled if the corpus can.
    """

    def __init__(
        self,
        corpus: CorpusLike,
        sample_settings: SampleSettings,
        mask_settings: MaskSettings | None = None,
    ) -> None:
        masks = mask_settings or MaskSettings()
        info = corpus.manifest.tokenizer
        self.corpus, self.settings = corpus, sample_settings
        self._special, self._vocab_size = info.special, int(info.vocab_size)
        self._pairs = PairMaker(corpus, sample_settings)
        special_ids = tuple(info.special.values())
        self._masker = Masker(
            masks, sample_settings.seed, info.special.mask, self._vocab_size, special_ids
        )

    @property
    def samples_per_epoch(self) -> int:
        """Samples in one epoch; each stands in each epoch exactly once."""
        return self._pairs.index.num_samples

    def addresses(self, numbers: Ints) -> tuple[Ints, Ints]:
        """Epoch and sample of these samples of the run, [N] -> two int64 [N]."""
        epochs, places = np.divmod(numbers, self.samples_per_epoch)
        here = set(epochs.tolist())
        if len(here) == 1:
            return epochs, self._pairs.index.order(here.pop(), places)
        samples = np.empty_like(places)
        for epoch in here:
            rows = epochs == epoch
            samples[rows] = self._pairs.index.order(epoch, places[rows])
        return epochs, samples

    def lengths(self, numbers: Ints) -> Ints:
        """Real tokens of these samples of the run, special tokens included: [N] -> int64 [N].

        What `samples` would give as the sums of its attention mask, without reading tokens.
        """
        special = self.settings.seq_length - self.settings.room
        return self.plan(numbers).lengths + special

    def plan(self, numbers: Ints) -> PairPlan:
        """Which text these samples of the run hold, before masking."""
        return self._pairs.plan(*self.addresses(numbers))

    def batch(self, first: int, count: int) -> Arrays:
        """The run's samples first .. first+count-1; as `samples`."""
        return self.samples(_row(first, count))

    def samples(self, numbers: Ints) -> Arrays:
        """These samples of the run, int64 [B], in this order.

        Returns:
            input_ids, token_type_ids, attention_mask int64 [B, S] (mask: 1 = real, 0 = padding);
            masked_positions int64 [M] into the flat B * S, and masked_labels int64 [M];
            next_sentence_labels int64 [B], 0 = B follows A; without it for the task "none".

        Raises:
            UserError: the corpus holds an id outside its vocabulary, or is damaged.
        """
        epochs, samples = self.addresses(numbers)
        plan = self._pairs.plan(epochs, samples)
        spans = plan.first.in_turn(plan.second) if self.settings.paired else plan.first
        tokens = self.corpus.read_tokens(spans)
        self._check_ids(tokens, spans)

        columns = np.arange(self.settings.seq_length)
        separators = 1 + plan.first.lengths  # column of the [SEP] behind A
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
        positions, labels = self._masker.apply(input_ids, maskable, words, epochs, samples)
        arrays = {
            "input_ids": input_ids,
            "token_type_ids": (attention & (columns > separators[:, None])).astype(np.int64),
            "attention_mask": attention.astype(np.int64),
            "masked_positions": positions,
            "masked_labels": labels,
        }
        if self.settings.paired:
            arrays["next_sentence_labels"] = plan.labels
        return arrays

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


def _row(first: int, count: int) -> Ints:
    return np.arange(first, first + count, dtype=np.int64)
