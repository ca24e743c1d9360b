"""Whole pretraining runs: the same under every topology, resumed bit for bit, handed to phase 2."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from megabert.common.errors import TrainingStopped, UserError
from tests.helpers.training_runs import (
    TINY,
    last_given,
    losses,
    make_shards,
    metrics,
    train,
    whole_weights,
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="module")
def reference(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One rank, no ZeRO, no dropout."""
    run = tmp_path_factory.mktemp("reference") / "run"
    train(shards, run, "--dropout", "0.1", "--zero-stage", "0", "--micro-batch-size", "8")
    return run


TOPOLOGIES = [
    (1, ["--zero-stage", "1", "--micro-batch-size", "1"]),
    (2, ["--zero-stage", "2", "--packing", "off"]),
    (2, ["--zero-stage", "1", "--tensor-parallel", "2", "--activation-checkpointing", "on"]),
    (2, ["--zero-stage", "0"]),
    (4, ["--zero-stage", "3", "--tensor-parallel", "2"]),
    (1, ["--zero-stage", "0", "--packing", "off", "--micro-batch-size", "2"]),
    (2, ["--micro-batch-size", "1"]),
    (2, ["--zero-stage", "3", "--micro-batch-size", "4"]),
    (2, ["--tensor-parallel", "2", "--sequence-parallel", "on"]),
    (4, ["--tensor-parallel", "2", "--sequence-parallel", "on", "--packing", "off"]),
]


@pytest.mark.parametrize(("ranks", "arguments"), TOPOLOGIES)
def test_topologies_agree(
    ranks: int, arguments: list[str], shards: Path, reference: Path, tmp_path: Path
) -> None:
    """With dropout, too: its masks belong to samples and positions."""
    lines = train(shards, tmp_path / "run", "--dropout", "0.1", *arguments, ranks=ranks)
    expected = metrics(reference)
    assert len(losses(lines)) == 4
    assert losses(lines) == pytest.approx(losses(expected), rel=1e-5)
    assert [line["grad_norm"] for line in lines if "loss" in line] == pytest.approx(
        [line["grad_norm"] for line in expected if "loss" in line], rel=1e-5
    )
    assert lines[-1]["eval_mlm_loss"] == pytest.approx(expected[-1]["eval_mlm_loss"], rel=1e-5)
    wanted = whole_weights(reference)
    for name, values in whole_weights(tmp_path / "run").items():
        difference = (values["weight"] - wanted[name]["weight"]).abs().max().item()
        assert difference < 1e-5, f"{name} differs by {difference}"


def test_run_folder(reference: Path, shards: Path, tmp_path: Path) -> None:
    names = {path.name for path in reference.iterdir()}
    assert names >= {
        "config.yaml", "ds_config.json", "metrics.jsonl", "tensorboard", "checkpoints",
        "results.json", "tokenizer",
    }  # fmt: skip
    line = metrics(reference)[0]
    assert set(line) >= {
        "step", "loss", "mlm_loss", "nsp_loss", "lr", "grad_norm", "tokens_per_second",
        "consumed_samples", "elapsed_seconds",
    }  # fmt: skip
    assert metrics(reference)[-1].keys() == {
        "step", "eval_mlm_loss", "eval_mlm_accuracy", "eval_nsp_accuracy",
    }  # fmt: skip
    results = json.loads((reference / "results.json").read_text())
    assert results["step"] == 4
    assert results["finished"]
    assert results["consumed_samples"] == 32
    # the resolved file is itself a --config, and repeats the run
    config = yaml.safe_load((reference / "config.yaml").read_text())
    assert config["batch"]["gradient_accumulation_steps"] == 1
    again = tmp_path / "again"
    train(shards, again, "--config", str(reference / "config.yaml"), "--micro-batch-size", "8")
    assert losses(metrics(again)) == losses(metrics(reference))


def test_resume_is_exact(shards: Path, tmp_path: Path) -> None:
    """With dropout on and ZeRO 2 on two ranks: 4 updates = 2, a stop, and 2 more, bit for bit."""
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    train(shards, whole, "--zero-stage", "2", ranks=2)
    train(shards, halves, "--zero-stage", "2", "--stop-after", "2", ranks=2)
    assert metrics(halves)[-1]["step"] == 2
    lines = train(shards, halves, "--zero-stage", "2", "--resume", "auto", ranks=2)
    assert losses(lines) == losses(metrics(whole))
    assert [line["lr"] for line in lines if "lr" in line] == [
        line["lr"] for line in metrics(whole) if "lr" in line
    ]
    expected = whole_weights(whole)
    for name, values in whole_weights(halves).items():
        for key, tensor in values.items():
            assert torch.equal(tensor, expected[name][key]), f"{name} {key}"


def test_packing_and_resume(shards: Path, reference: Path, tmp_path: Path) -> None:
    """Packed, a run is resumed bit for bit; and packing may change at any checkpoint."""
    packed = ["--packing", "on", "--micro-batch-size", "4"]
    whole, halves, mixed = tmp_path / "whole", tmp_path / "halves", tmp_path / "mixed"
    expected = train(shards, whole, *packed, ranks=2)
    train(shards, halves, *packed, "--stop-after", "2", ranks=2)
    lines = train(shards, halves, *packed, "--resume", "auto", ranks=2)
    assert losses(lines) == losses(expected)
    paddings = [line["padding_fraction"] for line in lines if "loss" in line]
    assert paddings == [line["padding_fraction"] for line in expected if "loss" in line]
    weights = whole_weights(whole)
    for name, values in whole_weights(halves).items():
        for key, tensor in values.items():
            assert torch.equal(tensor, weights[name][key]), f"{name} {key}"
    off = ["--dropout", "0.1", "--zero-stage", "0", "--packing", "off"]
    train(shards, mixed, *off, "--stop-after", "2")
    lines = train(shards, mixed, *off, *packed, "--resume", "auto", ranks=2)
    assert losses(lines) == pytest.approx(losses(metrics(reference)), rel=1e-5)


def test_padding_is_measured(shards: Path, reference: Path, tmp_path: Path) -> None:
    """Over all ranks; with packing there is none, while samples and tokens stay the same."""
    options = ["--dropout", "0", "--global-batch-size", "16", "--log-interval", "2"]
    options += ["--micro-batch-size", "4", "--short-sequence-fraction", "0.9", "--steps", "2"]
    found = {}
    for packing in ("off", "on"):
        lines = train(shards, tmp_path / packing, *options, "--packing", packing, ranks=2)
        found[packing] = lines[0]
    off, on = found["off"], found["on"]
    assert on["loss"] == pytest.approx(off["loss"], rel=1e-5)
    assert on["tokens"] == off["tokens"]
    assert off["padding_fraction"] == pytest.approx(1 - off["tokens"] / (2 * 16 * 32))
    assert on["padding_fraction"] == 0
    for line in (off, on):  # the main rank's share may be a sample more or less
        tokens, samples = line["tokens_per_second"], line["samples_per_second"]
        assert tokens / samples == pytest.approx(line["tokens"] / (2 * 16), rel=0.3)


def test_kill_and_resume(shards: Path, reference: Path, root: Path, tmp_path: Path) -> None:
    """kill -9 after a checkpoint, then --resume auto: the weights of an undisturbed run."""
    run = tmp_path / "run"
    long = ["--steps", "9000", "--save-interval", "5", "--keep-last", "9"]
    command = [
        sys.executable, "-X", "importtime", str(root / "launch" / "pretrain.py"),
        *last_given([*TINY, *long]), "--data", str(shards), "--output", str(run), "--loader-workers", "1",
    ]  # fmt: skip
    with (tmp_path / "errors").open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
    latest = run / "checkpoints" / "latest"
    deadline = time.monotonic() + 120
    while not latest.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert latest.exists()
    stop = int(latest.read_text().strip()[-7:]) + 3
    train(shards, run, *long, "--resume", "auto", "--stop-after", str(stop))
    train(shards, tmp_path / "undisturbed", *long, "--stop-after", str(stop))
    expected = whole_weights(tmp_path / "undisturbed")
    for name, values in whole_weights(run).items():
        assert torch.equal(values["weight"], expected[name]["weight"]), name
    steps = [line["step"] for line in metrics(run) if "loss" in line]
    assert steps == list(range(1, stop + 1))
    _check_imports((tmp_path / "errors").read_text())


def _check_imports(errors: str) -> None:
    """A run does without the libraries that take seconds to import and that it does not use."""
    imported = {line.rpartition("|")[2].strip() for line in errors.splitlines()}
    assert "deepspeed.runtime.engine" in imported
    assert not imported & {"mlflow", "torch._dynamo", "torch._inductor", "sympy"}


def test_phase_change_between_topologies(shards: Path, tmp_path: Path) -> None:
    """Weights and moments pass from TP 2, ZeRO 1 to DP 2, ZeRO 2 with longer sequences."""
    first, second = tmp_path / "p1", tmp_path / "p2"
    train(shards, first, "--tensor-parallel", "2", ranks=2)
    arguments = [
        "--phase",
        "2",
        "--init-from",
        str(first),
        "--seq-length",
        "64",
        "--zero-stage",
        "2",
    ]
    lines = train(shards, second, *arguments, "--lr", "0", "--steps", "1", ranks=2)
    assert [line["step"] for line in lines if "eval_mlm_loss" in line] == [0, 1]
    before, after = whole_weights(first), whole_weights(second)
    for name, values in after.items():
        assert torch.equal(values["weight"], before[name]["weight"]), name
        assert (values["exp_avg_sq"] >= 0.9989 * before[name]["exp_avg_sq"]).all(), name
    record = json.loads((second / "checkpoints" / "step-0000001" / "megabert.json").read_text())
    assert record["trained_positions"] == 64
    fresh = tmp_path / "weights-only"
    train(shards, fresh, *arguments, "--lr", "0", "--steps", "1", "--init-moments", "off", ranks=2)
    name = "bert.layers.0.mlp.up.weight"
    assert whole_weights(fresh)[name]["exp_avg_sq"].mean() < 0.5 * after[name]["exp_avg_sq"].mean()


def test_bf16_trains(shards: Path, tmp_path: Path) -> None:
    lines = train(
        shards,
        tmp_path / "run",
        "--precision",
        "bf16",
        "--zero-stage",
        "1",
        "--dropout",
        "0",
        ranks=2,
    )
    assert losses(lines)[-1] < losses(lines)[0]


def test_damaged_checkpoint_is_skipped(
    shards: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(shards, run, "--save-interval", "2", "--zero-stage", "0")
    expected = losses(metrics(run))
    newest = run / "checkpoints" / "step-0000004"
    path = sorted(newest.glob("*.pt"))[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match="has changed since it was written"):
        train(shards, run, "--zero-stage", "0", "--resume", "step-0000004")
    lines = train(shards, run, "--zero-stage", "0", "--resume", "auto")
    assert "step-0000004 is damaged" in capfd.readouterr().err
    assert losses(lines) == expected


def _fail_on_full_disk(rank: int, world_size: int, argv: list[str]) -> None:
    import errno

    from megabert.checkpoint import save_load
    from tests.helpers.training_runs import _train

    real = save_load.torch.save
    calls = 0

    def save(state: object, file: object) -> None:
        nonlocal calls
        calls += 1
        if rank == 1 and calls > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(state, file)

    save_load.torch.save = save
    _train(rank, world_size, argv)


def test_full_disk_keeps_the_last_checkpoint(shards: Path, tmp_path: Path) -> None:
    from tests.helpers.distributed import run_ranks

    run = tmp_path / "run"
    argv = [*TINY, "--data", str(shards), "--output", str(run), "--save-interval", "1"]
    with pytest.raises(TrainingStopped, match=r"step-0000001 is kept\).*No space left"):
        run_ranks(_fail_on_full_disk, 2, argv, initialize=False)
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["latest", "step-0000001"]


def test_nan_stops_the_run(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped, match=r"is (nan|inf) at step"):
        train(
            shards, tmp_path / "run", "--lr", "1e37", "--schedule", "constant", "--zero-stage", "0"
        )
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_weights_that_are_not_finite_are_not_saved(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["--lr", "1e37", "--schedule", "constant", "--save-interval", "1"]
    arguments += ["--optimizer", "adamw", "--weight-decay", "1e30"]
    with pytest.raises(TrainingStopped, match="the weights are not finite after step 1"):
        train(shards, run, *arguments)
    assert not list((run / "checkpoints").iterdir())


def test_trust_ratios_are_logged(shards: Path, tmp_path: Path) -> None:
    """From two ranks as from one; and how often gradients were clipped."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = ["--dropout", "0", "--trust-ratio-interval", "2", "--gradient-clipping", "1e-3"]
    options += ["--max-trust-ratio", "0.5", "--log-interval", "3"]
    found = []
    for ranks, stage in ((1, "0"), (2, "1"), (2, "3")):
        run = tmp_path / stage
        lines = train(shards, run, *options, "--zero-stage", stage, ranks=ranks)
        found.append([line for line in lines if "trust_ratio" in line])
        assert [line["step"] for line in found[-1]] == [2, 4]
        assert [line["clip_hits"] for line in lines if "loss" in line] == [3, 1]
    for line, *others in zip(*found):
        assert line["clamped"] == sum(ratio >= 0.5 for ratio in line["trust_ratio"].values()) > 0
        names = set(line["trust_ratio"])
        assert "bert.layers.0.attention.query.weight" in names
        assert not any("norm" in name or "bias" in name for name in names)
        for other in others:
            for key in ("trust_ratio", "weight_norm", "update_norm"):
                assert other[key] == pytest.approx(line[key], rel=1e-4)
    board = EventAccumulator(str(tmp_path / "1" / "tensorboard"), {"scalars": 0})
    board.Reload()
    name = "bert.embeddings.word_embeddings.weight"
    points = [(point.step, point.value) for point in board.Scalars(f"trust_ratio/{name}")]
    assert points == [(line["step"], pytest.approx(line["trust_ratio"][name])) for line in found[1]]


def test_own_parameter_groups(shards: Path, tmp_path: Path) -> None:
    """Same losses on every topology; resumed elsewhere, and with the groups changed, by name."""
    groups = tmp_path / "groups.yaml"
    groups.write_text(
        '- {match: "^bert.embeddings", lr_scale: 0.5}\n- {match: "bias$", adapt: on}\n'
    )
    own = ["--dropout", "0", "--parameter-groups", str(groups)]
    expected = losses(train(shards, tmp_path / "one", *own, "--zero-stage", "0"))
    plain = losses(train(shards, tmp_path / "plain", "--dropout", "0", "--zero-stage", "0"))
    assert expected[0] == plain[0]
    assert expected[-1] != pytest.approx(plain[-1], rel=1e-3)
    run = tmp_path / "run"
    train(shards, run, *own, "--zero-stage", "1", "--stop-after", "2", ranks=2)
    other = shutil.copytree(run, tmp_path / "other")
    lines = train(shards, run, *own, "--zero-stage", "3", "--resume", "auto")
    assert losses(lines) == pytest.approx(expected, rel=1e-5)
    lines = train(shards, other, "--dropout", "0", "--zero-stage", "1", "--resume", "auto", ranks=2)
    assert losses(lines)[:3] == pytest.approx(expected[:3], rel=1e-5)
    assert losses(lines)[3] != pytest.approx(expected[3], rel=1e-5)


WRONG = [
    ((["--data", "nowhere"]), "no such folder.*shard_wiki.py"),
    ((["--seq-length", "128"]), "longer than the position table of 64"),
    ((["--global-batch-size", "7"]), "don't multiply out: global batch 7"),
    ((["--data", __file__]), "is a file of another kind than shards.*shard_wiki"),
    ((["--output", __file__]), "is a file; name a new folder"),
    ((["--precision", "fp16"]), "not support fp16 on CPU"),
    ((["--resume", "step-0000009"]), "no such checkpoint|not a run folder"),
    ((["--init-from", "nowhere"]), "--init-from nowhere does not exist"),
    ((["--parameter-groups", "nowhere.yaml"]), "nowhere.yaml: No such file"),
    ((["--lamb-backend", "triton"]), "triton"),
    ((["--lamb-backend", "apex"]), "apex"),
    ((["--lr", "fast"]), "--lr fast: expected a number of 0 or more"),
    ((["--no-such-flag"]), "unknown flag --no-such-flag"),
    ((["--sequence-parallel", "on"]), "set it to 2 or more"),
    (
        ["--sequence-parallel", "on", "--tensor-parallel", "3", "--packing", "off"],
        "--seq-length 32 is not divisible by --tensor-parallel 3",
    ),
    ((["--hidden-size", "33"]), "hidden_size 33 is not a multiple"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_inputs(arguments: list[str], message: str, shards: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available() and "fp16" in arguments:
        pytest.skip("a GPU has fp16")
    with pytest.raises(UserError, match=message):
        train(shards, tmp_path / "run", *arguments)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_topology_errors(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be split into tensor-parallel groups"):
        train(shards, tmp_path / "run", "--tensor-parallel", "2", ranks=3)
    with pytest.raises(UserError, match="not divisible by the tensor parallel degree"):
        train(
            shards,
            tmp_path / "run",
            "--tensor-parallel",
            "2",
            "--num-attention-heads",
            "1",
            ranks=2,
        )
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_folder_of_another_run(shards: Path, reference: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="may belong to another run"):
        train(shards, reference)
    with pytest.raises(UserError, match="other settings: seed 42 -> 7; data_seed 42 -> 7; give"):
        train(
            shards, reference, "--resume", "auto", "--seed", "7", "--weight-seed", "42", "--dropout", "0.1",
            "--zero-stage", "0", "--micro-batch-size", "8",
        )  # fmt: skip
    other = make_shards(tmp_path / "other", sha256="cd" * 32)
    train(other, tmp_path / "same", "--init-from", str(reference))  # one vocabulary in other files
    vocabulary = other / "tokenizer" / "vocab.txt"
    vocabulary.write_text(vocabulary.read_text().replace("w7\n", "other\n"))
    with pytest.raises(UserError, match=r"its tokenizer is not .* id 12 is 'w7' and 'other'"):
        train(other, tmp_path / "p2", "--init-from", str(reference))
    copy = shutil.copytree(shards, tmp_path / "truncated")
    path = next(copy.glob("train-00000*"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="train-00000"):
        train(copy, tmp_path / "p3")
