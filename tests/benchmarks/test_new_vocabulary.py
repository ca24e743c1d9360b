"""The three models of benchmarks/new_vocabulary.py differ in what they should, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import new_vocabulary
from megabert.common.errors import UserError
from megabert.config.model import ModelConfig
from megabert.model.init import initial_tensor
from megabert.model.parameters import VOCABULARY_TENSORS, pretraining_parameters
from megabert.model.weights import load_weights, save_weights, true_config

CONFIG = true_config(
    ModelConfig("tiny", 24, 16, 1, 2, intermediate_size=32, max_position_embeddings=8)
)


def test_drawn_models(tmp_path: Path) -> None:
    whole = pretraining_parameters(CONFIG)
    tensors = {name: torch.randn(p.shape) for name, p in whole.items()}
    save_weights(tmp_path / "moved", CONFIG, tensors, None, tokenizer_sha256="ab" * 32)
    for folder, names in (("random", VOCABULARY_TENSORS), ("scratch", tuple(tensors))):
        drawn = None if folder == "scratch" else names
        new_vocabulary.with_drawn(tmp_path / "moved", tmp_path / folder, drawn, seed=7)
        config, found, info = load_weights(tmp_path / folder)
        assert (config, info["tokenizer_sha256"]) == (CONFIG, "ab" * 32)
        for name, tensor in tensors.items():
            new = initial_tensor(name, tuple(tensor.shape), CONFIG, 7)
            assert torch.equal(found[name], new if name in names else tensor)


def test_evaluations_of_a_run(tmp_path: Path) -> None:
    lines = ['{"step": 0, "eval_mlm_loss": 5.0}', '{"step": 1, "loss": 4.0}']
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"eval_mlm_loss": 3.0}']))
    assert [r["eval_mlm_loss"] for r in new_vocabulary.evaluations(tmp_path)] == [5.0, 3.0]


def test_an_output_that_exists_is_refused(tmp_path: Path) -> None:
    given = [str(tmp_path), "--new-tokenizer", "x", "--data", "x", "--output", str(tmp_path)]
    with pytest.raises(UserError, match="exists; choose another --output"):
        new_vocabulary.main(given)
