"""A damaged byte or a cut, anywhere in a folder of shards, is found, and never trained on."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.archive_2026_11.corruption import make_faults, summarise, try_faults
from megabert.common import names
from megabert.data.shards.writer import Document, write_corpus
from megabert.data.tokenizers.load import load_tokenizer
from tests.helpers.small_dump import write_vocabulary


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards to train on and one to evaluate on, with their tokenizer's files."""
    tokenizer = load_tokenizer(write_vocabulary(tmp_path / "vocab.txt"))
    draw = random.Random(5)

    def documents(count: int) -> list[Document]:
        content = []
        for number in range(count):
            sentences = []
            for _ in range(draw.randint(1, 30)):
                size = draw.randint(1, 30)
                ids = [draw.randrange(5, tokenizer.vocab_size) for _ in range(size)]
                sentences.append((ids, [draw.random() < 0.7 for _ in range(size)]))
            content.append(Document(number, sentences))
        return content

    shards = {names.TRAIN: [documents(n) for n in (30, 60, 20)], names.EVAL: [documents(9)]}
    made = tmp_path / "shards"
    write_corpus(made, shards, tokenizer.info())
    tokenizer.save(made / names.TOKENIZER_FOLDER)
    return made


@pytest.mark.parametrize(
    ("flips", "cuts"), [(30, 6), pytest.param(1000, 100, marks=pytest.mark.slow)]
)
def test_any_damage_is_found_and_named(folder: Path, flips: int, cuts: int) -> None:
    outcomes = list(try_faults(folder, make_faults(folder, flips, cuts, seed=1)))
    print(summarise(outcomes))
    assert [outcome for outcome in outcomes if not outcome.found] == []
    assert len(outcomes) == flips + cuts
    assert sum(outcome.read is not None for outcome in outcomes) > flips // 4
