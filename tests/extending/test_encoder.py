"""An encoder from outside the package: it trains, splits, plans, is saved, loaded and resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from megabert.common.errors import UserError
from megabert.common.registry import Registry
from megabert.config import flags
from megabert.config.model import (
    EncoderDeclaration,
    ModelConfig,
    changed_fields,
    model_config,
    preset_names,
)
from megabert.convert.run import ConversionRequest, convert
from megabert.data.tokenizers.load import load_tokenizer
from megabert.model.encoder import variant_of
from megabert.model.flops import sequence_flops
from megabert.model.weights import load_weights
from megabert.parallel.topology import TensorParallel
from megabert.planner.machine import make_machine
from megabert.planner.plan import Planner
from megabert.planner.settings import PlanFlags, plan_settings, read_flags
from tests.extending.rope_geglu import RopeAttention, RopeConfig
from tests.helpers.training_runs import losses, make_shards, metrics, train, whole_weights

ROPE = ["--model", "rope-geglu-tiny", "--dropout", "0.1"]


def test_it_is_known_by_name() -> None:
    config = model_config("rope-geglu-tiny", vocab_size=101)
    assert isinstance(config, RopeConfig)
    assert "rope-geglu-tiny" in preset_names()
    stored = json.loads(json.dumps(config.to_dict()))
    assert (stored["encoder"], stored["rope_theta"]) == ("rope-geglu", 10000.0)
    assert ModelConfig.from_dict(stored) == config
    with pytest.raises(UserError, match="unknown encoder 'rope-swiglu'"):
        ModelConfig.from_dict(stored | {"encoder": "rope-swiglu"})
    with pytest.raises(UserError, match=r"unknown fields \['rope_base'\]"):
        ModelConfig.from_dict(stored | {"rope_base": 1.0})


def test_an_entry_point_makes_it_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is installed needs no import."""
    installed = tmp_path / "theirs-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    line = "rope-geglu = tests.extending.rope_geglu:RopeGeglu"
    (installed / "entry_points.txt").write_text(f"[megabert.encoders]\n{line}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    encoders: Registry[type[EncoderDeclaration]] = Registry("encoder", {}, "megabert.encoders")
    monkeypatch.setattr("megabert.config.model.ENCODERS", encoders)
    assert encoders.names() == ("rope-geglu",)
    assert model_config("rope-geglu-tiny").encoder == "rope-geglu"


def test_changed_fields() -> None:
    bert, rope = model_config("bert-tiny"), model_config("rope-geglu-tiny")
    changed = changed_fields(bert, rope)
    assert changed["encoder"] == ("bert", "rope-geglu")
    assert changed["rope_theta"] == (None, 10000.0)
    assert changed_fields(rope, bert)["rope_theta"] == (10000.0, None)
    longer = replace(rope, max_position_embeddings=1024)
    assert changed_fields(rope, longer) == {"max_position_embeddings": (512, 1024)}


def test_what_has_no_effect_is_refused() -> None:
    for changes, message in (
        ({"hidden_size": 6}, "head size 3 must be even"),
        ({"position_embeddings": "relative"}, "has no effect in the encoder rope-geglu"),
    ):
        config = model_config("rope-geglu-tiny", **changes)
        with pytest.raises(UserError, match=message):
            variant_of(config)


def test_scores_depend_on_distances_only() -> None:
    config = model_config("rope-geglu-tiny")
    assert isinstance(config, RopeConfig)
    attention = RopeAttention(config, TensorParallel())
    query, key = torch.randn(2, 7, 2, config.head_size).unbind()
    places = torch.arange(7)

    def scores(positions: torch.Tensor) -> torch.Tensor:
        return torch.einsum("qnd,knd->nqk", *attention.rotate(query, key, positions))

    torch.testing.assert_close(scores(places + 100), scores(places), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(scores(2 * places), scores(places), atol=0.1)


def test_flops_count_the_gate() -> None:
    """Two thirds of BERT's MLP width, as many products."""
    config = model_config("rope-geglu-tiny", intermediate_size=256)
    bert = model_config("bert-tiny", intermediate_size=384)
    assert sequence_flops(config, 100, 15) == sequence_flops(bert, 100, 15)


def test_it_is_planned() -> None:
    argv = ["--model", "rope-geglu-tiny", "--tensor-parallel", "2", "--gpus", "2"]
    settings = plan_settings(read_flags(flags.parse(PlanFlags, argv, "plan.py", "")))
    made = Planner(settings, make_machine(settings.machine)).plan(settings.layout)
    assert made.fits
    assert made.parameters.layer == (4 * 128 * 128 + 3 * 128 * 256) // 2 + 2 * 128


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards whose tokenizer's files have the SHA-256 that they state, as conversion asks."""
    folder = tmp_path_factory.mktemp("data")
    tokenizer = load_tokenizer(make_shards(folder / "first") / "tokenizer")
    return make_shards(folder / "shards", sha256=tokenizer.sha256)


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four updates on one rank, stopped after two and resumed."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    train(shards, folder, *ROPE, "--stop-after", "2")
    train(shards, folder, *ROPE, "--resume", "auto")
    return folder


def test_two_tensor_parallel_ranks_train_the_same(shards: Path, run: Path, tmp_path: Path) -> None:
    argv = [*ROPE, "--tensor-parallel", "2", "--sequence-parallel", "on"]
    lines = train(shards, tmp_path / "two", *argv, ranks=2)
    with pytest.raises(UserError, match="encoder rope-geglu -> bert"):
        train(shards, tmp_path / "three", "--init-from", str(run))
    before = losses(metrics(run))
    assert len(before) == 4
    assert before[0] > before[-1]
    assert losses(lines) == pytest.approx(before, rel=1e-5)
    weights = whole_weights(run)
    assert not any(name.endswith("norm.bias") for name in weights)
    for name, values in whole_weights(tmp_path / "two").items():
        torch.testing.assert_close(
            values["weight"], weights[name]["weight"], rtol=1e-4, atol=1e-5, msg=name
        )


def test_it_is_saved_and_loaded(run: Path, tmp_path: Path) -> None:
    convert(ConversionRequest("megabert", run, "megabert", tmp_path / "folder"))
    config, tensors, _ = load_weights(tmp_path / "folder")
    assert isinstance(config, RopeConfig)
    assert config.hidden_size == 32
    weights = whole_weights(run)
    assert tensors.keys() == weights.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, weights[name]["weight"][: len(tensor)]), name
    with pytest.raises(UserError, match="transformers has no encoder like this one"):
        convert(ConversionRequest("megabert", run, "huggingface", tmp_path / "other"))
