"""Decay branches: the same bits as one uninterrupted run, from any step, on any topology; resumed; refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from megabert.common.errors import UserError
from megabert.config import flags
from megabert.config.training import PretrainSettings
from megabert.convert.exports.history import checkpoint_history
from megabert.data.samples.course import Course
from megabert.pretrain.inputs import mask_schedule
from megabert.pretrain.settings import resolve_pretraining
from tests.helpers.distributed import run_ranks
from tests.helpers.resume_runs import options
from tests.helpers.training_runs import (
    import_once,
    losses,
    make_shards,
    metrics,
    settings_of,
    train,
    whole_weights,
)

STABLE = (
    "--steps", "30", "--schedule", "constant", "--warmup", "2", "--save-interval", "1024 tokens",
    "--keep-last", "9", "--stop-after", "9",
)  # fmt: skip
"""A checkpoint every 4 updates of 256 tokens, and after update 9."""


WHOLE = ("--schedule", "wsd", "--warmup", "2", "--decay-duration", "3")
"""The same run, if it decays instead of being stopped."""
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, a stable run on two ranks, and the run that decays after its update 8 without a branch."""
    folder = tmp_path_factory.mktemp("branches")
    shards = make_shards(folder / "shards")
    train(shards, folder / "stable", *STABLE, ranks=2)
    train(shards, folder / "whole8", "--steps", "11", *WHOLE, ranks=2)
    return folder


def branch(folder: Path, output: Path, step: int, *given: str, ranks: int = 2) -> list[Any]:
    """A branch with nothing else given than its length: the rest is the stable run's."""
    argv = ["--decay-from", f"{folder / 'stable'}@{step}", "--output", str(output), *given]
    import_once()
    run_ranks(_pretrain, ranks, argv, initialize=False, timeout=240.0)
    return metrics(output)


def _pretrain(rank: int, world_size: int, argv: list[str]) -> None:
    from megabert.pretrain.command import pretrain

    pretrain(settings_of(argv))


def _content(folder: Path) -> dict[str, str]:
    return {
        str(path): f"{path.stat().st_mtime_ns} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _same(lines: list[Any], whole: list[Any], after: int) -> None:
    """The lines of the updates after a step, in all that does not depend on the clock."""
    names = (
        "step",
        "loss",
        "mlm_loss",
        "nsp_loss",
        "lr",
        "grad_norm",
        "consumed_samples",
        "tokens",
    )
    rows = [
        [[line[name] for name in names] for line in some if "loss" in line and line["step"] > after]
        for some in (lines, whole)
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 3


def _same_weights(run: Path, whole: Path) -> None:
    found, expected = whole_weights(run), whole_weights(whole)
    assert found.keys() == expected.keys()
    for name, values in found.items():
        assert all(values[key].equal(expected[name][key]) for key in expected[name]), name


def test_a_branch_is_bit_for_bit_the_uninterrupted_run(folder: Path, tmp_path: Path) -> None:
    """Stopped in its decay, too, and resumed when the stable run is gone."""
    run, stable, whole = tmp_path / "run", tmp_path / "stable", folder / "whole8"
    shutil.copytree(folder / "stable", stable)
    before = _content(stable)
    branch(tmp_path, run, 8, "--decay-duration", "3", "--stop-after", "9")
    assert _content(stable) == before
    shutil.rmtree(stable)
    lines = branch(tmp_path, run, 8, "--decay-duration", "3", "--resume", "auto")
    _same(lines, metrics(whole), 8)
    assert {line["step"] for line in lines} == {9, 10, 11}
    _same_weights(run, whole)
    began = {"run": str(stable), "step": 8}
    results = json.loads((run / "results.json").read_text())
    assert (results["decay_from"], results["steps"], results["finished"]) == (began, 11, True)
    last = run / "checkpoints" / "step-0000011"
    record = json.loads((last / "megabert.json").read_text())
    assert record["decay_from"] == began
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["schedule"]["decay_from"] == f"{stable}@8"
    assert (config["optimizer"]["schedule"], config["optimizer"]["steps"]) == ("wsd", None)
    (stage,) = checkpoint_history(last, record)
    assert (stage["decay"], stage["decay_duration"], stage["step"]) == ("1-sqrt", 3, 11)


@SLOW
def test_another_branch_of_the_same_run(folder: Path, tmp_path: Path) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole4"
    train(folder / "shards", whole, "--steps", "7", *WHOLE, ranks=2)
    _same(branch(folder, run, 4, "--decay-duration", "3"), metrics(whole), 4)
    _same_weights(run, whole)


@pytest.mark.parametrize(
    ("ranks", "given"),
    [
        (1, options(1, 0)),
        pytest.param(2, options(2, 2), marks=SLOW),
        pytest.param(4, options(2, 1), marks=SLOW),
        pytest.param(2, options(1, 3), marks=SLOW),
    ],
)
def test_a_branch_on_another_topology(
    ranks: int, given: list[str], folder: Path, tmp_path: Path
) -> None:
    tokens = ("--decay-duration", "512 tokens")
    lines = branch(folder, tmp_path / "run", 8, *tokens, *given, ranks=ranks)
    assert [line["step"] for line in lines if "loss" in line] == [9, 10]
    whole = [line for line in metrics(folder / "whole8") if line.get("step") == 9]
    assert losses(lines)[0] == pytest.approx(losses(whole)[0], rel=1e-4)
    assert lines[0]["consumed_samples"] == whole[0]["consumed_samples"]


def resolved(folder: Path, *given: str) -> Any:
    """The settings of a branch; ``STABLE`` is the stable run's folder."""
    argv = [text.replace("STABLE", str(folder / "stable")) for text in given]
    return resolve_pretraining(flags.parse(PretrainSettings, argv, "pretrain.py", ""))


def test_flags_that_need_a_setting_of_the_stable_run(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "stable", tmp_path / "stable")
    given = ("--decay-from", "STABLE@8", "--eval-weights", "ema")
    with pytest.raises(UserError, match=r"--eval-weights ema .* needs --ema-decay"):
        resolved(tmp_path, *given)
    path = tmp_path / "stable" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["averaging"] = {"ema_decay": 0.9}
    path.write_text(yaml.safe_dump(config))
    assert resolved(tmp_path, *given).averaging.eval_weights == "ema"


def test_what_a_branch_takes_over(folder: Path) -> None:
    made = resolved(
        folder, *["--decay-from", "STABLE", "--decay", "linear", "--final-lr-fraction", "0.1"]
    )
    assert str(made.schedule.decay_from) == f"{folder / 'stable'}@9"
    assert made.run.output == Path(f"{folder / 'stable'}-decay-9")
    assert made.optimizer.steps == 10  # 10% of 9 updates
    assert (made.data.seq_length, made.optimizer.lr, made.run.save_interval) == (
        32,
        1e-2,
        "1024 tokens",
    )
    assert (made.run.stop_after, made.schedule.decay, made.schedule.warmup) == (None, "linear", 2)
    assert made.schedule.ramp_duration == 30
    falling = settings_of(
        ["--ramp-duration", "30", "--steps", "10", "--final-mask-fraction", "0.3"]
    )
    schedule = mask_schedule(falling, Course.constant_of(8, 32))
    assert schedule is not None
    assert 0.15 < schedule.fraction(8 * 10 - 1) < 0.2  # at a third of the way
    for step, duration, steps in ((8, "50%", 12), (4, "257 tokens", 6), (4, "2", 6)):
        made = resolved(folder, "--decay-from", f"STABLE@{step}", "--decay-duration", duration)
        assert made.optimizer.steps == steps


def test_the_folder_of_a_branch_to_resume(folder: Path, tmp_path: Path) -> None:
    """Found without --output, also when the stable run no longer has the step, or has newer ones."""
    shutil.copytree(folder / "stable", tmp_path / "stable")
    resume = ("--decay-from", "STABLE", "--resume", "auto")
    assert resolved(tmp_path, *resume).run.output == Path(f"{tmp_path / 'stable'}-decay-9")
    for step in (4, 8):
        begun = tmp_path / f"stable-decay-{step}"
        tag = begun / "checkpoints" / f"step-{step + 1:07d}"
        tag.mkdir(parents=True)
        (tag / "megabert.json").touch()
        config = yaml.safe_load((tmp_path / "stable" / "config.yaml").read_text())
        config["schedule"]["decay_from"] = f"{tmp_path / 'stable'}@{step}"
        config["optimizer"] |= {"schedule": "wsd", "steps": None}
        (begun / "config.yaml").write_text(yaml.safe_dump(config))
        if step == 4:
            assert resolved(tmp_path, *resume).run.output == begun
    with pytest.raises(UserError, match="several branches of it can be resumed"):
        resolved(tmp_path, *resume)
    shutil.rmtree(tmp_path / "stable")
    made = resolved(tmp_path, "--decay-from", "STABLE@8", "--resume", "auto")
    assert made.run.output == tmp_path / "stable-decay-8"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--decay-from STABLE@5", "the checkpoint of step 5 is not in"),
        ("--decay-from STABLE@5", "(kept steps: 4, 8, 9)"),
        ("--decay-from nowhere@5", "no run is in nowhere (config.yaml is missing)"),
        ("--decay-from STABLE@8 --output STABLE", "is in the folder of --decay-from"),
        ("--decay-from STABLE@8 --output STABLE/branch", "is in the folder of --decay-from"),
        (
            "--decay-from STABLE@8 --steps 9",
            "--steps and --decay-from: the run ends with its decay",
        ),
        ("--decay-from STABLE@8 --warmup 1", "--warmup and --decay-from: the warm-up was that of"),
        (
            "--decay-from STABLE@8 --ramp-duration 9",
            "--ramp-duration and --decay-from: what changes over",
        ),
        ("--decay-from STABLE@8 --schedule poly", "--schedule and --decay-from"),
        ("--decay-from STABLE@8 --init-from x", "--init-from and --decay-from"),
    ],
)
def test_refused(given: str, message: str, folder: Path) -> None:
    with pytest.raises(UserError) as error:
        resolved(folder, *given.split())
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"schedule": "wsd", "steps": 9},
            "which decays after update 8; steps that are kept from it: 4, 8",
        ),
        ({"schedule": "poly"}, "has --schedule poly, whose learning rate is not constant"),
        (
            {"warmup_fraction": 0.5},
            "which warms up until update 15; steps that are kept from it: none",
        ),
    ],
)
def test_a_run_that_is_not_stable_there(
    change: dict[str, Any], message: str, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "stable", tmp_path / "stable")
    path = tmp_path / "stable" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["optimizer"] |= change
    config["schedule"]["warmup"] = None if "warmup_fraction" in change else 2
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(UserError) as error:
        resolved(tmp_path, "--decay-from", "STABLE@9")
    assert message in str(error.value)


def test_a_branch_of_a_branch_is_already_decaying(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "stable"
    shutil.copytree(folder / "stable", run)
    path = run / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["optimizer"]["schedule"], config["optimizer"]["steps"] = "wsd", None
    config["schedule"]["decay_from"] = f"{folder / 'stable'}@8"
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match="decays after update 8"):
        resolved(tmp_path, "--decay-from", "STABLE@9")


def test_other_data_is_refused(folder: Path, tmp_path: Path) -> None:
    cure = "a decay branch continues the data and the model of its run"
    with pytest.raises(Exception, match=f"data_seed 42 -> 7; {cure}"):
        branch(folder, tmp_path / "run", 8, "--data-seed", "7", ranks=1)
    assert not (tmp_path / "run").exists()
