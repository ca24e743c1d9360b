"""``--ema-decay`` and ``--z-loss`` through runs: metrics, the best checkpoint, resumes, conversion."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from megabert.checkpoint.save_load import newest_checkpoint
from megabert.common.errors import UserError
from megabert.convert.own_weights import read
from megabert.model.weights import true_vocabulary
from megabert.optim.base import EMA
from tests.helpers.resume_runs import assert_tensors, options, state_after
from tests.helpers.training_runs import (
    TINY,
    make_shards,
    metrics,
    settings_of,
    train,
    whole_weights,
)

SETTINGS = ["--lr", "1e-2", "--dropout", "0", "--precision", "fp32", "--z-loss", "1e-3"]
AVERAGE = ["--ema-decay", "0.5", "--eval-weights", "both"]
BEST = ["--eval-interval", "1", "--keep-best", "eval_ema_mlm_loss", "--keep-last", "9"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="module")
def straight(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three updates with an average and the z-loss, each evaluated."""
    run = tmp_path_factory.mktemp("runs") / "straight"
    train(shards, run, *SETTINGS, *AVERAGE, *BEST, "--stop-after", "3", ranks=1)
    shutil.rmtree(run / "tokenizer")  # whose checksum these shards do not know
    return run


def test_metrics_and_the_best_checkpoint(straight: Path) -> None:
    lines = metrics(straight)
    for line in (one for one in lines if "loss" in one):
        assert line["z_loss"] > 0
        parts = line["mlm_loss"] + line["nsp_loss"] + line["z_loss"]
        assert line["loss"] == pytest.approx(parts, rel=1e-6)
    evaluations = [line for line in lines if "eval_mlm_loss" in line]
    assert len(evaluations) == 3
    for line in evaluations:
        assert line["eval_ema_mlm_loss"] != line["eval_mlm_loss"]
        assert {"eval_ema_mlm_accuracy", "eval_ema_nsp_accuracy"} <= set(line)
    best = min(evaluations, key=lambda line: line["eval_ema_mlm_loss"])["step"]
    assert (straight / "checkpoints" / "best").read_text().strip().endswith(f"{best:07d}")


def test_the_report_has_averages_as_a_run_of_their_own(straight: Path) -> None:
    from launch.report import table, table_of_scores

    only = [
        {key: line[key] for key in line if not key.startswith("eval_mlm")}
        for line in metrics(straight)
    ]
    both = table([("a", metrics(straight))]).splitlines()[2:]
    assert [row.split(" | ")[0] for row in both] == ["| a"] * 3 + ["| a, averaged weights"] * 3
    assert table([("a", only)]).splitlines()[2:] == both[3:]
    assert table_of_scores([("a", only)]) == ""


def test_resumed_bit_for_bit(straight: Path, shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    given = [*SETTINGS, *AVERAGE, *BEST]
    train(shards, run, *given, "--stop-after", "2", ranks=1)
    train(shards, run, *given, "--stop-after", "3", "--resume", "auto", ranks=1)
    assert_tensors(whole_weights(run), whole_weights(straight))
    kept = ("step", "loss", "z_loss", "eval_mlm_loss", "eval_ema_mlm_loss")
    assert [[line.get(key) for key in kept] for line in metrics(run)] == [
        [line.get(key) for key in kept] for line in metrics(straight)
    ]


def test_conversion_takes_the_average(straight: Path) -> None:
    whole = whole_weights(straight)
    assert not torch.equal(*(whole["mlm.dense.weight"][key] for key in ("weight", EMA)))
    config = read(straight).config
    for path in (straight, newest_checkpoint(straight).folder):
        model = read(path, averaged=True)
        assert "averaged weights" in str(model.origin)
        for name, values in whole.items():
            wanted = true_vocabulary(name, values[EMA], config.vocab_size)
            assert torch.equal(model.tensors[name], wanted)


def test_a_new_run_starts_from_the_trained_weights(
    straight: Path, shards: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = [*SETTINGS, "--init-from", str(straight), "--stop-after", "1"]
    train(shards, tmp_path / "run", *given, ranks=1)
    assert "its averaged weights are not used" in capfd.readouterr().err
    train(shards, tmp_path / "averaged", *given, "--ema-decay", "0.5", ranks=1)
    said = capfd.readouterr().err
    assert "weights, moments and averaged weights of" in said
    assert "not used" not in said


def test_wrong_settings(tmp_path: Path) -> None:
    given = [*TINY, "--data", str(tmp_path), "--output", str(tmp_path / "run")]
    with pytest.raises(UserError, match=r"--eval-weights ema .* needs --ema-decay"):
        settings_of([*given, "--eval-weights", "ema"])
    with pytest.raises(UserError, match="ema-decay"):
        settings_of([*given, "--ema-decay", "1"])
    with pytest.raises(UserError, match="z-loss"):
        settings_of([*given, "--z-loss", "1"])
    assert settings_of([*given, "--ema-decay", "none"]).averaging.ema_decay == 0.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "arguments"),
    [(1, options(1, 0)), (2, options(1, 3)), (2, options(2, 2)), (2, options(1, 1, "bf16"))],
)
def test_moves_to_any_layout(
    ranks: int, arguments: list[str], straight: Path, shards: Path, tmp_path: Path
) -> None:
    """The average bit for bit on other layouts; and from the present weights where there is none."""
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    given = [*TINY, "--data", str(shards), "--output", str(run), "--resume", "auto", *SETTINGS]
    expected = whole_weights(straight)
    found = state_after(ranks, *given, *AVERAGE, *arguments)["tensors"]
    assert_tensors(found, expected)


@pytest.mark.slow
def test_switched_off_and_on(
    straight: Path, shards: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    given = [*SETTINGS, "--resume", "auto"]
    train(shards, run, *given, "--stop-after", "4", ranks=1)
    assert "are dropped: this run has no --ema-decay" in capfd.readouterr().err
    assert all(EMA not in values for values in whole_weights(run).values())
    shutil.rmtree(run / "tokenizer")
    with pytest.raises(UserError, match="trained without --ema-decay"):
        read(run, averaged=True)
    again = [*TINY, "--data", str(shards), "--output", str(run), *given, *AVERAGE]
    for values in state_after(1, *again)["tensors"].values():
        assert torch.equal(values[EMA], values["weight"])
    assert "the average starts from its present weights" in capfd.readouterr().err
