"""Samples of several corpora as one run: which corpus each sample is of (docs/reference/samples.md).

    MixturePlan     sample number in the run -> corpus, and number of the sample in that corpus
    MixedSamples    the samples of several sources by a plan
    JoinedSource    the same of sources of our own shards, all made together, which is faster
    mix             the one of both that serves

Both maps are closed formulas in whole numbers: nothing is stored, drawn or counted along the way, so the
position of a run over a mixture is one integer, as it is over one corpus.

A stage with whole weights w_1 .. w_K, of the sum W, takes its corpora one after the other. Of m samples
corpus 1 gets floor(m w_1 / W). The others share the rest in the same way with the rest of the weights.
Sample m is of corpus 1 if floor((m + 1) w_1 / W) is larger than floor(m w_1 / W); otherwise it is
sample m - floor(m w_1 / W) of the rest. Each corpus is thereby spread evenly: of the first m samples of a
stage it has its share of m, to within less than K samples, for every m.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from megabert.common.errors import UserError
from megabert.data.samples.counter_rng import Floats, Ints, Purpose, Streams
from megabert.data.samples.source import SampleArrays, Samples, SampleSource
from megabert.data.shards.corpus import Corpus

WEIGHT_SUM = 2**31
"""Weights are whole numbers of at most this sum: the product of two fits into 64 bits."""


class Stage(NamedTuple):
    """A part of a run in which the shares of the corpora stay the same.

    Attributes:
        weights: one per corpus, whole numbers >= 0, their sum from 1 to ``WEIGHT_SUM``.
        samples: how long it lasts; None: to the end of the run.
    """

    weights: tuple[int, ...]
    samples: int | None


def whole_weights(weights: Sequence[Fraction]) -> tuple[int, ...]:
    """The smallest whole numbers in these proportions.

    Where their sum would be above ``WEIGHT_SUM`` they are rounded to it, a weight above 0 at least to 1.

    Raises:
        UserError: the weights are all 0.
    """
    if not any(weights):
        raise UserError("the weights are all 0; give at least one corpus a weight above 0")
    least = math.lcm(*(weight.denominator for weight in weights))
    whole = [int(weight * least) for weight in weights]
    common = math.gcd(*whole)
    whole = [weight // common for weight in whole]
    total = sum(whole)
    if total <= WEIGHT_SUM:
        return tuple(whole)
    scaled = [max(1, weight * WEIGHT_SUM // total) if weight else 0 for weight in whole]
    scaled[scaled.index(max(scaled))] += WEIGHT_SUM - sum(scaled)
    return whole_weights([Fraction(weight) for weight in scaled])


def corpus_seed(seed: int, position: int) -> int:
    """The seed of a run's corpus by its position among those that are trained on; the first has the run's."""
    if position == 0:
        return seed
    key = [seed, position, int(Purpose.CORPUS)]
    high, low = np.random.SeedSequence(key).generate_state(2, np.uint64).tolist()
    return int(high << 64 | low)


class MixturePlan:
    """Which corpus each sample of a run is of.

    Args:
        stages: one after the other; all but the last say how long they last.

    Raises:
        ValueError: a stage's weights are not as `Stage` says, or only the last one has no end.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = tuple(stages)
        self.corpora = len(self.stages[0].weights)
        for stage in self.stages:
            if len(stage.weights) != self.corpora or min(stage.weights) < 0:
                raise ValueError(f"{stage.weights} are not {self.corpora} weights of 0 or more")
            if not 1 <= sum(stage.weights) <= WEIGHT_SUM:
                raise ValueError(f"the sum of {stage.weights} is not within 1 .. {WEIGHT_SUM}")
        lasting = [stage.samples for stage in self.stages[:-1]]
        if self.stages[-1].samples is not None or not all(lasting):
            raise ValueError("each stage but the last lasts for 1 sample or more")
        self._starts = np.cumsum([0, *(samples or 0 for samples in lasting)], dtype=np.int64)
        self._before = [[0] * self.corpora]  # samples of each corpus before each stage
        for stage in self.stages[:-1]:
            parts = _shared(stage.samples or 0, stage.weights)
            self._before.append([a + b for a, b in zip(self._before[-1], parts)])

    def less(self, samples: Iterable[int]) -> MixturePlan:
        """The same corpora; the number of a sample in its corpus is less by these, one per corpus."""
        fewer = list(samples)
        if not any(fewer):
            return self
        changed = copy.copy(self)
        changed._before = [[a - b for a, b in zip(row, fewer)] for row in self._before]
        return changed

    def assign(self, numbers: Ints) -> tuple[Ints, Ints]:
        """Corpus of each sample of the run, and the number of the sample in that corpus: [N] -> two [N]."""
        corpora, places = np.empty_like(numbers), np.empty_like(numbers)
        stages = self._starts.searchsorted(numbers, side="right") - 1
        for stage in sorted(set(stages.tolist())):
            rows = (stages == stage).nonzero()[0]
            self._assign_in_stage(stage, numbers[rows] - self._starts[stage], rows, corpora, places)
        return corpora, places

    def _assign_in_stage(
        self, stage: int, left: Ints, rows: Ints, corpora: Ints, places: Ints
    ) -> None:
        weights = self.stages[stage].weights
        total = sum(weights)
        for corpus, weight in enumerate(weights):
            if not weight:
                continue
            if weight == total:  # the last one
                places[rows], corpora[rows] = left + self._before[stage][corpus], corpus
                return
            # floor(m w / W) with m = q W + r, so that no product exceeds 64 bits
            whole, rest = np.divmod(left, total)
            more, rest = np.divmod(rest * weight, total)
            earlier = whole * weight + more
            taken = rest + weight >= total
            places[rows[taken]] = earlier[taken] + self._before[stage][corpus]
            corpora[rows[taken]] = corpus
            left, rows = (left - earlier)[~taken], rows[~taken]
            total -= weight

    def counts(self, stop: int) -> list[int]:
        """Samples of each corpus among the run's samples 0 .. stop-1."""
        stage = int(self._starts.searchsorted(stop, side="right")) - 1
        parts = _shared(stop - int(self._starts[stage]), self.stages[stage].weights)
        return [a + b for a, b in zip(self._before[stage], parts)]

    def number(self, corpus: int, place: int, stop: int) -> int:
        """The number in the run of a corpus's sample, which is below ``stop``."""
        low, high = 0, stop
        while high - low > 1:
            middle = (low + high) // 2
            if self.counts(middle)[corpus] > place:
                high = middle
            else:
                low = middle
        return low


def _shared(samples: int, weights: Sequence[int]) -> list[int]:
    """The samples of each corpus among the first ones of a stage."""
    total, parts = sum(weights), []
    for weight in weights:
        parts.append(samples * weight // total if weight else 0)
        samples, total = samples - parts[-1], total - weight
    return parts


class MixedSamples:
    """The samples of several sources by a plan: see `Samples`.

    Args:
        sources: one per corpus of the plan, with settings that differ only in their seeds.
        plan: which corpus each sample is of.
    """

    def __init__(self, sources: Sequence[Samples], plan: MixturePlan) -> None:
        self.sources, self.plan = tuple(sources), plan
        self.settings = self.sources[0].settings

    @property
    def samples_per_epoch(self) -> int:
        """Samples in one epoch of every corpus together."""
        return sum(source.samples_per_epoch for source in self.sources)

    def lengths(self, numbers: Ints) -> Ints:
        """Real tokens of these samples of the run, special tokens included: [N] -> int64 [N]."""
        lengths = np.empty_like(numbers)
        for source, rows, places in self._parts(numbers):
            lengths[rows] = source.lengths(places)
        return lengths

    def samples(self, numbers: Ints, fractions: Floats | None = None) -> SampleArrays:
        """These samples of the run, int64 [B], in this order.

        Raises:
            UserError: a source is damaged; the message names the file.
        """
        shape = (len(numbers), self.settings.seq_length)
        ids, types, attention = (np.empty(shape, dtype=np.int64) for _ in range(3))
        sentences = np.empty(len(numbers), dtype=np.int64) if self.settings.paired else None
        found: list[tuple[Ints, Ints]] = []
        for source, rows, places in self._parts(numbers):  # one part in memory at a time
            part = source.samples(places, None if fractions is None else fractions[rows])
            ids[rows] = part.input_ids
            types[rows] = part.token_type_ids
            attention[rows] = part.attention_mask
            if sentences is not None and part.next_sentence_labels is not None:
                sentences[rows] = part.next_sentence_labels
            found.append((_moved(part.masked_positions, rows, shape[1]), part.masked_labels))
        positions, labels = (np.concatenate(pieces) for pieces in zip(*found))
        rising = np.argsort(positions, kind="stable")  # merges sorted parts, in linear time
        return SampleArrays(
            numbers=numbers,
            input_ids=ids,
            token_type_ids=types,
            attention_mask=attention,
            masked_positions=positions[rising],
            masked_labels=labels[rising],
            next_sentence_labels=sentences,
        )

    def _parts(self, numbers: Ints) -> list[tuple[Samples, Ints, Ints]]:
        """Each source that has some of these samples, their rows, and their numbers in that source."""
        corpora, places = self.plan.assign(numbers)
        found = []
        for corpus, source in enumerate(self.sources):
            rows = (corpora == corpus).nonzero()[0]
            if len(rows):
                found.append((source, rows, places[rows]))
        return found


def _moved(positions: Ints, rows: Ints, width: int) -> Ints:
    """Positions in a grid of some rows as positions in the grid of all."""
    inside, columns = np.divmod(positions, width)
    return rows[inside] * width + columns


class JoinedSource(SampleSource):
    """The same as `MixedSamples` of sources of our own shards.

    Their documents are numbered one after the other, so that a batch is planned, read and masked at once.

    Args:
        sources: one per corpus of the plan, with settings that differ only in their seeds, and with
            the same tokenizer.
        corpora: what they read.
        plan: which corpus each sample is of.
    """

    def __init__(
        self, sources: Sequence[SampleSource], corpora: Sequence[Corpus], plan: MixturePlan
    ) -> None:
        seeds = tuple(source.settings.seed for source in sources)
        firsts = np.cumsum([0, *(corpus.num_documents for corpus in corpora[:-1])])
        first = sources[0]
        documents = Streams(seeds, firsts)
        super().__init__(Corpus.joined(corpora), first.settings, first.masks, documents)
        self._mixture = plan

    def addresses(self, numbers: Ints) -> tuple[Ints, Ints]:
        """Epoch of its corpus and sample of each of these samples of the run, [N] -> two int64 [N]."""
        corpora, places = self._mixture.assign(numbers)
        epochs, places = np.divmod(places, self._index.corpus_sizes[corpora])
        return epochs, self._index.order(corpora, epochs, places)


def mix(sources: Sequence[Samples], plan: MixturePlan) -> Samples:
    """The samples of several sources by a plan: `JoinedSource` if it can, otherwise `MixedSamples`."""
    own = [source for source in sources if isinstance(source, SampleSource)]
    corpora = [source.corpus for source in own if isinstance(source.corpus, Corpus)]
    tokenizers = {
        (corpus.manifest.tokenizer.vocab_size, corpus.manifest.tokenizer.special)
        for corpus in corpora
    }
    if len(corpora) == len(sources) and len(tokenizers) == 1:
        return JoinedSource(own, corpora, plan)
    return MixedSamples(sources, plan)
