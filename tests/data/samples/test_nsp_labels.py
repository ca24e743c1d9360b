"""Labels of next sentence prediction are true; both halves come from the whole corpus."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.archive_2026_11.nsp_labels import Labels, measure
from megabert.common import names
from megabert.data.samples.index import SampleSettings
from megabert.data.samples.pairs import PairMaker, PairPlan
from megabert.data.shards.corpus import Corpus
from tests.helpers.memory_corpus import wiki_like


def assert_true_and_even(found: Labels) -> None:
    assert found.random_from_same_document == 0
    assert found.next_from_other_document == 0
    assert found.next_with_a_gap == 0
    assert abs(found.random_share - 0.5) < 4 * 0.5 / found.pairs**0.5
    assert found.random_document_score < 4
    assert found.first_part_score < 4
    assert found.random_part_score < 4
    assert found.independence_score < 4
    assert max(found.first_distance, found.random_distance) < 1.2 * found.distance_limit


@pytest.mark.parametrize("seq_length", [32, 128])
def test_pairs_of_a_small_corpus(seq_length: int) -> None:
    found = measure(wiki_like(400), SampleSettings(seq_length), 20_000)
    print(found)
    assert_true_and_even(found)


def test_wrong_labels_and_a_corner_of_the_corpus_would_be_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan_of = PairMaker.plan

    def spoilt(self: PairMaker, epochs: np.ndarray, samples: np.ndarray) -> PairPlan:
        plan = plan_of(self, epochs, samples)
        wrong = dataclasses.replace(plan.second, documents=plan.second.documents // 2)
        return dataclasses.replace(plan, second=wrong)

    monkeypatch.setattr(PairMaker, "plan", spoilt)
    found = measure(wiki_like(400), SampleSettings(32), 20_000)
    assert found.next_from_other_document > 5000
    assert found.random_from_same_document > 0
    assert found.random_document_score > 100
    assert found.random_part_score > 100
    assert found.random_distance > 10 * found.distance_limit


@pytest.mark.slow
@pytest.mark.parametrize("seq_length", [128, 512])
def test_a_hundred_thousand_pairs_of_real_text(
    root: Path, shared_data: Path, tmp_path: Path, seq_length: int
) -> None:
    command = [sys.executable, str(root / "data_tools" / "shard_wiki.py"), "--shards", "4"]
    command += ["--input", str(shared_data / "wiki_extracted" / "enwiki-part.tar.xz")]
    command += ["--tokenizer", str(shared_data / "vocab" / "bert-base-uncased-vocab.txt")]
    subprocess.run([*command, "--output", str(tmp_path / "shards")], check=True)
    corpus = Corpus.open(tmp_path / "shards", names.TRAIN)
    found = measure(corpus, SampleSettings(seq_length), 100_000)
    print(found)
    assert_true_and_even(found)
