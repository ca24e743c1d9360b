"""Seeds of samples and of weights apart, and the scheme of initial weights, in a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from megabert.config.model import model_config
from megabert.model.init import initial_tensor
from megabert.pretrain.inputs import open_inputs
from tests.helpers.resume_runs import state_after
from tests.helpers.training_runs import TINY, make_shards, settings_of


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


def test_the_data_seed_alone_decides_the_samples(shards: Path) -> None:
    def samples(*argv: str) -> tuple[np.ndarray, np.ndarray]:
        settings = settings_of([*TINY, "--data", str(shards), *argv])
        made = open_inputs(settings).train.samples(np.arange(40))
        return made.input_ids, made.masked_positions

    usual = samples()
    for same in (
        samples("--data-seed", "42"),
        samples("--seed", "3", "--data-seed", "42"),
        samples("--weight-seed", "9"),
        samples("--init-scheme", "width-aware"),
    ):
        assert all(np.array_equal(a, b) for a, b in zip(usual, same))
    other = samples("--data-seed", "0")
    assert not np.array_equal(usual[0], other[0])
    assert all(np.array_equal(a, b) for a, b in zip(other, samples("--seed", "0")))


def test_split_ranks_draw_the_same_weights(shards: Path, tmp_path: Path) -> None:
    argv = [
        *TINY,
        "--data",
        str(shards),
        "--output",
        str(tmp_path / "run"),
        "--tensor-parallel",
        "2",
    ]
    schemes = "--init-scheme", "scaled-residual", "--weight-seed", "0", "--data-seed", "1"
    found = state_after(2, *argv, *schemes)["tensors"]
    config = model_config(
        "bert-tiny", hidden_size=32, num_attention_heads=4, intermediate_size=64, vocab_size=397,
        max_position_embeddings=64,
    )  # fmt: skip
    for name, values in found.items():
        shape = tuple(values["weight"].shape)
        expected = initial_tensor(name, shape, config, 0, "scaled-residual")
        assert torch.equal(values["weight"], expected), name
    assert found["bert.layers.0.mlp.down.weight"]["weight"].std() < 0.012
