"""What a run resumes from: weights that are not finite, another version, other data. Each is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from megabert.checkpoint.record import read_checkpoint_record, write_checkpoint_record
from megabert.common.errors import UserError
from megabert.data.shards.manifest import load_manifest, save_manifest
from tests.helpers.planted_code import plant
from tests.helpers.resume_runs import go_on, stopped_runs, train
from tests.helpers.training_runs import make_shards

MODEL = "mp_rank_00_model_states.pt"
OPTIMIZER = "zero_pp_rank_1_mp_rank_00_optim_states.pt"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stopped_runs(tmp_path_factory.mktemp("runs"))


def copy_of(run: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of a run, and the folder of its only checkpoint."""
    shutil.copytree(run, tmp_path / "copy")
    (checkpoint,) = (tmp_path / "copy" / "checkpoints").glob("step-*")
    return tmp_path / "copy", checkpoint


def spoil(folder: Path, file: str, what: str, value: float) -> None:
    """Put a value into a weight or a moment of a checkpoint's file, and make the sums right."""
    content: dict[str, Any] = torch.load(folder / file, weights_only=False)
    if file == MODEL and what == "weight":
        content["module"]["bert.layers.1.mlp.up.weight"][3, 5] = value
    elif file == MODEL:
        content["optimizer"]["state"][0]["exp_avg"].view(-1)[7] = value
    elif what == "weight":
        content["optimizer_state_dict"]["single_partition_of_fp32_groups"][0].data[7] = value
    else:
        content["optimizer_state_dict"]["base_optimizer_state"]["state"][0]["exp_avg_sq"][7] = value
    torch.save(content, folder / "spoiled")
    plant(folder, file, (folder / "spoiled").read_bytes())
    (folder / "spoiled").unlink()


@pytest.mark.parametrize(
    ("stage", "file", "what", "ranks", "words"),
    [
        (0, MODEL, "weight", 1, "weight of bert.layers.1.mlp.up.weight"),
        (0, MODEL, "moment", 1, "exp_avg of "),
        (1, OPTIMIZER, "weight", 2, "weight of "),  # on the second rank alone
        (1, OPTIMIZER, "moment", 1, "exp_avg_sq of "),  # through whole tensors
    ],
)
@pytest.mark.parametrize(
    "value", [float("nan"), pytest.param(float("-inf"), marks=pytest.mark.slow)]
)
def test_weights_that_are_not_finite(
    stage: int,
    file: str,
    what: str,
    ranks: int,
    words: str,
    value: float,
    runs: Path,
    tmp_path: Path,
) -> None:
    run, checkpoint = copy_of(runs / f"stage{stage}", tmp_path)
    spoil(checkpoint, file, what, value)
    with pytest.raises(UserError) as caught:
        go_on(run, "--stop-after", "3", ranks=ranks)
    text = str(caught.value)
    assert text.startswith(f"{checkpoint}: {words}")
    assert "is NaN or infinite; the fault is in the checkpoint, not in the samples" in text
    assert "\n" not in text


def test_phase_change_from_weights_that_are_not_finite(runs: Path, tmp_path: Path) -> None:
    run, checkpoint = copy_of(runs / "stage0", tmp_path)
    spoil(checkpoint, MODEL, "weight", float("nan"))
    with pytest.raises(UserError, match="the fault is in the checkpoint") as caught:
        train(runs / "shards", tmp_path / "new", "--init-from", str(run), ranks=1)
    assert str(checkpoint) in str(caught.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["metrics.jsonl", "deepspeed.log", "merging.tmp"])
def test_links_out_of_a_run_folder_are_not_followed(name: str, runs: Path, tmp_path: Path) -> None:
    """A run folder of somebody else must not make a run write elsewhere."""
    run, _ = copy_of(runs / "stage1", tmp_path)
    outside = tmp_path / "outside"
    if name == "merging.tmp":
        outside.mkdir()
    else:
        outside.write_text("mine")
        (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(outside)
    with pytest.raises(UserError, match=f"{name} is a symbolic link"):
        go_on(run, "--stop-after", "3", ranks=1)
    assert not list(outside.iterdir()) if name == "merging.tmp" else outside.read_text() == "mine"


def test_another_version_is_said(
    runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, checkpoint = copy_of(runs / "stage0", tmp_path)
    go_on(run, "--stop-after", "2", ranks=1)
    assert "was written by" not in capfd.readouterr().err
    record = dict(read_checkpoint_record(checkpoint).record)
    del record["record_sha256"]
    ours = record["program"]
    write_checkpoint_record(checkpoint, {**record, "program": "megabert 0.0.9"})
    go_on(run, "--stop-after", "2", ranks=1)
    lines = [line for line in capfd.readouterr().err.splitlines() if "was written by" in line]
    assert len(lines) == 1
    assert f"step-0000002 was written by megabert 0.0.9; this is {ours}" in lines[0]


def _changed(shards: Path, folder: Path, change: str) -> Path:
    """A copy of the shards that differs in one respect."""
    if change == "counts":
        return make_shards(folder, seed=5)
    shutil.copytree(shards, folder)
    from dataclasses import replace

    manifest = load_manifest(folder)
    if change == "seed":
        manifest = replace(manifest, seed=9)
    elif change == "tokenizer":
        manifest = replace(manifest, tokenizer=replace(manifest.tokenizer, lower_case=False))
    elif change == "options":
        manifest = replace(manifest, options={"eval_fraction": 0.5})
    elif change == "text":
        manifest = replace(manifest, repeated_sentence_share=0.25)
    save_manifest(folder, manifest)
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("seed", "seed 0 -> 9"),
        (
            "tokenizer",
            "lower-cased (abababababab) -> wordpiece of 397 entries, cased (abababababab)",
        ),
        ("options", "eval_fraction none -> 0.5"),
        ("counts", "train split 120 documents, "),
        (
            "text",
            "the text of the shards of --data (seed, source, tokenizer and counts are the same)",
        ),
    ],
)
def test_other_data_is_described(change: str, words: str, runs: Path, tmp_path: Path) -> None:
    shards = _changed(runs / "shards", tmp_path / "shards", change)
    run, checkpoint = copy_of(runs / "stage0", tmp_path)
    with pytest.raises(UserError) as caught:
        go_on(run, "--data", str(shards), ranks=1)
    text = str(caught.value)
    assert words in text
    fingerprint = json.loads((checkpoint / "megabert.json").read_text())["data_fingerprint"]
    assert fingerprint not in text
    assert "\n" not in text
