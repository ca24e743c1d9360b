"""Runs in which the mask fraction changes: metrics, resuming from its midst, another topology."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from megabert.data.samples.masking import MaskSettings
from megabert.pretrain.inputs import evaluation_masks, open_inputs
from tests.helpers.kill_and_resume import checkpoint_differences
from tests.helpers.resume_runs import go_on, stopped, train
from tests.helpers.training_runs import TINY, losses, make_shards, metrics, settings_of

FALLING = ("--mask-fraction", "0.4", "--final-mask-fraction", "0.1", "--mask-share", "0.7")


def test_what_follows_from_the_fractions() -> None:
    """The limit of predictions, and the masks of evaluations."""

    def made(*argv: str) -> tuple[int, MaskSettings]:
        settings = settings_of(["--data", "none", "--phase", "1", *argv])
        return settings.data.max_predictions, evaluation_masks(settings)

    assert made() == (20, MaskSettings("token", 0.15, 20))
    assert made("--mask-fraction", "0.3") == (40, MaskSettings("token", 0.3, 40))
    assert made(*FALLING) == (55, MaskSettings("token", 0.1, 55))
    assert made("--final-mask-fraction", "0.3") == (40, MaskSettings("token", 0.3, 40))
    assert made(*FALLING, "--eval-mask-fraction", "0.15") == (55, MaskSettings("token", 0.15))
    assert made("--max-predictions", "7", "--random-share", "0.2") == (
        7,
        MaskSettings("token", 0.15, 7),
    )


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six updates, with a checkpoint after three."""
    top = tmp_path_factory.mktemp("masks")
    shards = make_shards(top / "shards")
    train(
        shards, top / "run", *FALLING, "--steps", "6", "--save-interval", "3", "--dropout", "0.1",
        "--eval-interval", "3", "--zero-stage", "0", "--data-seed", "3",
    )  # fmt: skip
    return top / "run"


def fractions(lines: list[dict[str, Any]]) -> list[float]:
    return [line["mask_fraction"] for line in lines if "loss" in line]


def test_resumed_in_the_midst_of_the_change(reference: Path, tmp_path: Path) -> None:
    wanted = metrics(reference)
    assert fractions(wanted) == pytest.approx([0.4, 0.34, 0.28, 0.22, 0.16, 0.1])
    run = stopped(reference, tmp_path / "run", 3)
    lines = go_on(run, ranks=1)
    assert losses(lines) == losses(wanted)
    assert fractions(lines) == fractions(wanted)
    assert [line for line in lines if "loss" not in line] == [
        line for line in wanted if "loss" not in line
    ]
    last = "checkpoints/step-0000006"
    assert checkpoint_differences(run / last, reference / last) == []


def test_resumed_on_two_ranks(reference: Path, tmp_path: Path) -> None:
    run = stopped(reference, tmp_path / "run", 3)
    lines = go_on(run, "--zero-stage", "2", ranks=2)
    assert losses(lines) == pytest.approx(losses(metrics(reference)), rel=1e-5)
    assert fractions(lines) == fractions(metrics(reference))


def test_masks_reach_the_samples(reference: Path) -> None:
    settings = settings_of([*TINY, "--data", str(reference.parent / "shards"), *FALLING])
    inputs = open_inputs(settings)
    train = inputs.train
    assert train.masks == MaskSettings("token", 0.4, 15, 0.7, 0.1)  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "argv"),
    [
        (4, ["--tensor-parallel", "2", "--zero-stage", "1"]),
        (2, ["--zero-stage", "3"]),
        (1, ["--packing", "off", "--micro-batch-size", "4", "--zero-stage", "0"]),
    ],
)
def test_topologies_agree(ranks: int, argv: list[str], reference: Path, tmp_path: Path) -> None:
    lines = train(
        reference.parent / "shards", tmp_path / "run", *FALLING, "--steps", "6", "--dropout", "0.1",
        "--eval-interval", "3", "--data-seed", "3", *argv, ranks=ranks,
    )  # fmt: skip
    wanted = metrics(reference)
    assert losses(lines) == pytest.approx(losses(wanted), rel=1e-5)
    assert fractions(lines) == fractions(wanted)
    evaluations = [line["eval_mlm_loss"] for line in lines if "eval_mlm_loss" in line]
    assert evaluations == pytest.approx(
        [line["eval_mlm_loss"] for line in wanted if "eval_mlm_loss" in line], rel=1e-5
    )
