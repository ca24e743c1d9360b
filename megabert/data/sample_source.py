"""The samples of a run as padded, masked arrays, by their number (numpy only; see docs/loader.md).

A run's samples are numbered 0, 1, 2, ... without end. Number n is the sample at place n mod N of
the order of epoch n div N, N being the samples of an epoch.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

from megabert.data.counter_rng import Ints
from megabert.data.masking import Masker, MaskSettings
from megabert.data.pairs import CorpusLike, Pair, PairMaker, SampleSettings
from megabert.log import UserError

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
        self._pairs = PairMaker(corpus, sample_settings, with_words=masks.by_word)
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
        samples = np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            samples[here] = self._pairs.index.order(epoch, places[here])
        return epochs, samples

    def pairs(self, first: int, count: int) -> list[Pair]:
        """The text of the run's samples first .. first+count-1, before masking."""
        return self._pairs.make(*self.addresses(_row(first, count)))

    def lengths(self, numbers: Ints) -> Ints:
        """Real tokens of these samples of the run, special tokens included: [N] -> int64 [N].

        Reads no tokens: what `samples` would give as the sums of its attention mask.
        """
        special = self.settings.seq_length - self.settings.room
        pairs = self._pairs.make(*self.addresses(numbers))
        return np.array([len(p.a_ids) + len(p.b_ids) + special for p in pairs], dtype=np.int64)

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
        pairs = self._pairs.make(epochs, samples)
        shape = (len(numbers), self.settings.seq_length)
        input_ids = np.full(shape, self._special.pad, dtype=np.int64)
        token_types = np.zeros(shape, dtype=np.int64)
        attention = np.zeros(shape, dtype=np.int64)
        maskable = np.zeros(shape, dtype=bool)
        word_starts = np.zeros(shape, dtype=bool) if self._masker.settings.by_word else None
        for row, pair in enumerate(pairs):
            input_ids[row, 0] = self._special.cls
            end = 1
            for part, (ids, words) in enumerate(
                ((pair.a_ids, pair.a_words), (pair.b_ids, pair.b_words))
            ):
                if part and not len(ids):
                    break
                stop = end + len(ids)
                input_ids[row, end:stop] = ids
                input_ids[row, stop] = self._special.sep
                maskable[row, end:stop] = True
                token_types[row, end : stop + 1] = part
                if word_starts is not None:
                    word_starts[row, end:stop] = words
                end = stop + 1
            attention[row, :end] = 1
        self._check_ids(input_ids, pairs)
        positions, labels = self._masker.apply(input_ids, maskable, word_starts, epochs, samples)
        arrays = {
            "input_ids": input_ids,
            "token_type_ids": token_types,
            "attention_mask": attention,
            "masked_positions": positions,
            "masked_labels": labels,
        }
        if self.settings.paired:
            arrays["next_sentence_labels"] = np.array(
                [pair.label for pair in pairs], dtype=np.int64
            )
        return arrays

    def _check_ids(self, input_ids: Ints, pairs: list[Pair]) -> None:
        if input_ids.max() < self._vocab_size and input_ids.min() >= 0:
            return
        bad = (input_ids >= self._vocab_size) | (input_ids < 0)
        row = int(np.flatnonzero(bad.any(axis=1))[0])
        pair = pairs[row]
        in_a = (pair.a_ids >= self._vocab_size).any() or (pair.a_ids < 0).any()
        document = (pair.a_place if in_a or pair.b_place is None else pair.b_place)[0]
        path, number = self.corpus.shard_of(document)
        raise UserError(
            f"token id {int(input_ids[bad][0])} in document {number} of {path} is outside the "
            f"vocabulary of {self._vocab_size}: the shards are damaged or were made with another "
            "tokenizer; make them again"
        )


def _row(first: int, count: int) -> Ints:
    return np.arange(first, first + count, dtype=np.int64)
