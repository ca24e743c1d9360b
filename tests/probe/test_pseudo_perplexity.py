"""Pseudo-perplexity: batches of masked copies give the sum that one mask at a time gives."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from megabert.common.errors import UserError
from megabert.common.packed_batch import PackedBatch
from megabert.config.sections.initial_weights import InitialWeightSettings
from megabert.predict.predictor import AnswerOptions, open_predictor
from megabert.probe.pseudo_perplexity import chosen_sentences, masked_batches, pseudo_perplexity
from megabert.probe.task_file import PerplexityProbe, PerplexitySettings
from tests.helpers.distributed import run_ranks
from tests.helpers.finetune_runs import make_inputs

TEXT = "Ann met Bob.\n\n  \nx y z, x\nDan\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("inputs")
    run_ranks(make_inputs, 1, made, initialize=False)
    (made / "text.txt").write_text(TEXT, encoding="utf-8")
    return made


def _probe(folder: Path, **settings: int) -> PerplexityProbe:
    return PerplexityProbe("text", folder / "text.txt", PerplexitySettings(**settings))


def test_one_mask_at_a_time(folder: Path) -> None:
    predictor = open_predictor(folder / "start", AnswerOptions(max_length=40))
    tokenizer, special = predictor.tokenizer, predictor.tokenizer.special
    total, count = 0.0, 0
    for line in (line for line in TEXT.split("\n") if line.strip()):
        [encoded] = tokenizer.encode_sentences([line.strip()])
        row = np.array([special.cls, *encoded.ids, special.sep])
        for place in range(1, len(row) - 1):
            masked = row.copy()
            masked[place] = special.mask
            batch = PackedBatch.from_padded(masked[None]).map(torch.from_numpy)
            logits, _ = predictor.model.logits(batch)  # type: ignore[operator]
            total += float(logits[place].double().log_softmax(dim=0)[row[place]])
            count += 1
    for size in (1, 5, 64):
        found = pseudo_perplexity(
            _probe(folder, batch_size=size, max_length=40), folder / "start", None
        )
        assert found["pseudo_log_likelihood"] == pytest.approx(total, rel=1e-5)
        assert found["pseudo_perplexity"] == pytest.approx(math.exp(-total / count), rel=1e-5)
        assert (found["tokens"], found["sentences"]) == (count, 3)


def test_every_token_is_masked_once(folder: Path) -> None:
    tokenizer = open_predictor(folder / "start", AnswerOptions(max_length=40)).tokenizer
    rows = [np.array([10, 11, 12]), np.array([20])]
    batches = list(masked_batches(rows, tokenizer, 3))
    assert [len(words) for *_, words in batches] == [3, 1]
    assert np.concatenate([words for *_, words in batches]).tolist() == [10, 11, 12, 20]
    mask = tokenizer.special.mask
    for ids, lengths, places, _ in batches:
        assert np.flatnonzero(ids == mask).tolist() == places.tolist()
        assert lengths.sum() == len(ids)


def test_sentences_are_cut_and_chosen_by_seed(folder: Path) -> None:
    tokenizer = open_predictor(folder / "start", AnswerOptions(max_length=40)).tokenizer
    assert max(map(len, chosen_sentences(_probe(folder, max_length=5), tokenizer))) == 3
    chosen = {
        tuple(chosen_sentences(_probe(folder, sentences=1, seed=seed), tokenizer)[0].tolist())
        for seed in range(20)
    }
    assert len(chosen) == 3


def test_random_weights_are_as_good_as_no_knowledge(folder: Path) -> None:
    probe = _probe(folder, max_length=40)
    plain, wide = InitialWeightSettings(), InitialWeightSettings(init_scheme="width-aware")
    first, again, other = (
        pseudo_perplexity(probe, folder / "start", (7, drawn)) for drawn in (plain, plain, wide)
    )
    vocabulary = open_predictor(folder / "start", AnswerOptions()).tokenizer.vocab_size
    assert first == again != other
    assert first["pseudo_perplexity"] == pytest.approx(vocabulary, rel=0.1)


@pytest.mark.parametrize(
    ("content", "message"), [(b"\n \n", "has no text"), (b"\xff\xfe\n", "not UTF-8")]
)
def test_wrong_texts(content: bytes, message: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        pseudo_perplexity(_probe(tmp_path, max_length=40), folder / "start", None)
