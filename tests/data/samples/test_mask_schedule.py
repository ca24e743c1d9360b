"""A mask fraction that changes in the run, as a function of the sample's number."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from megabert.data.samples.course import Course
from megabert.data.samples.index import SampleSettings
from megabert.data.samples.loader import LoaderOptions, MicroBatches
from megabert.data.samples.mask_schedule import MaskSchedule, ScheduledMasks
from megabert.data.samples.masking import MaskSettings
from megabert.data.samples.micro_steps import MicroSteps
from megabert.data.samples.mixture import MixedSamples, MixturePlan, Stage, mix
from megabert.data.samples.packing import Window
from megabert.data.samples.source import SampleArrays, SampleSource
from megabert.data.shards.corpus import Corpus
from tests.helpers.training_runs import make_shards

SCHEDULE = MaskSchedule(0.4, 0.1, 7, Course.constant_of(8, 64))
MASKS = MaskSettings("token", 0.4, 20)


def source_of(folder: Path, seed: int = 42) -> SampleSource:
    return SampleSource(Corpus.open(folder, "train"), SampleSettings(48, seed=seed), MASKS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    top = tmp_path_factory.mktemp("corpora")
    return [make_shards(top / name, seed=number) for number, name in enumerate("ab")]


def predicted(samples: SampleArrays) -> list[set[int]]:
    """The masked columns of each sample."""
    found: list[set[int]] = [set() for _ in samples.numbers]
    for place in samples.masked_positions.tolist():
        found[place // 48].add(place % 48)
    return found


def test_fractions_lie_on_a_line() -> None:
    fractions = SCHEDULE.fractions(np.arange(80))
    assert fractions.tolist() == [SCHEDULE.fraction(number) for number in range(80)]
    assert (fractions.reshape(-1, 8) == fractions[::8, None]).all()  # one per update
    assert fractions[::8][:7] == pytest.approx([0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1])
    assert (fractions[0], set(fractions[48:].tolist())) == (0.4, {0.1})
    assert (
        MaskSchedule(0.15, 0.15, 1000, Course.constant_of(1, 64))
        .fractions(np.arange(1000))
        .tolist()
        == [0.15] * 1000
    )
    assert MaskSchedule(0.3, 0.15, 1, Course.constant_of(8, 64)).fraction(7) == 0.3


def test_each_sample_has_its_update_s_fraction(folders: list[Path]) -> None:
    source = source_of(folders[0])
    scheduled = pickle.loads(pickle.dumps(ScheduledMasks(source, SCHEDULE)))
    numbers = np.random.default_rng(0).permutation(64)
    made = scheduled.samples(numbers)
    assert (scheduled.lengths(numbers) == made.lengths).all()
    most = predicted(source.samples(numbers))
    for number, length, chosen, all_chosen in zip(
        numbers.tolist(), made.lengths.tolist(), predicted(made), most
    ):
        text = length - 3
        assert len(chosen) == max(1, int(SCHEDULE.fraction(number) * text + 0.5))
        assert chosen <= all_chosen


def test_a_mixture_counts_the_run_s_samples(folders: list[Path]) -> None:
    sources = [source_of(folder, seed) for seed, folder in enumerate(folders)]
    plan = MixturePlan([Stage((2, 1), None)])
    numbers = np.arange(64)
    together = ScheduledMasks(mix(sources, plan), SCHEDULE).samples(numbers)
    apart = ScheduledMasks(MixedSamples(sources, plan), SCHEDULE).samples(numbers)
    assert (together.masked_positions == apart.masked_positions).all()
    assert (together.input_ids == apart.input_ids).all()
    counts = [len(chosen) for chosen in predicted(together)]
    expected = SCHEDULE.fractions(numbers) * (together.lengths - 3) + 0.5
    assert counts == np.maximum(1, expected.astype(int)).tolist()


def test_ranks_windows_workers_and_positions_change_nothing(folders: list[Path]) -> None:
    """Each update has the same masked tokens for one rank and for two, from any update on."""
    source = ScheduledMasks(source_of(folders[0]), SCHEDULE)

    def masked(
        ranks: int, window: Window | None, begin: int, workers: int = 0
    ) -> list[dict[int, int]]:
        """For each update, how many tokens of each sample are predicted."""
        micro_steps = 4 // ranks
        updates: list[dict[int, int]] = [{} for _ in range(begin, 8)]
        for rank in range(ranks):
            steps = MicroSteps(2, rank, ranks, consumed_samples=8 * begin)
            options = LoaderOptions(workers, "fork", window=window)
            batches = MicroBatches(source, steps, options, 64)
            for number, batch in enumerate(batches):
                places, ends = batch.labels["masked_positions"].numpy(), batch.cu_seqlens.numpy()
                counts = np.histogram(places, ends)[0].tolist()
                update = updates[number // micro_steps]
                update.update(zip(batch.sample_numbers.tolist(), counts))
            batches.close()
        return updates

    whole = masked(1, None, 0)
    assert [sorted(update) for update in whole] == np.arange(64).reshape(8, 8).tolist()
    sums = [sum(update.values()) for update in whole]
    assert sums[0] > 2 * sums[6]
    assert masked(2, Window(2, 2), 0) == whole
    assert masked(1, Window(4, 1), 3, workers=2) == whole[3:]
