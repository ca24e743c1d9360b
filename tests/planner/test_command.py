"""launch/plan.py: its output, wrong input, this machine, and real memory on this CPU."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from megabert.common.errors import UserError
from megabert.config import flags
from megabert.config.model import MODELS, ModelConfig, model_config
from megabert.config.training import BatchSettings, PretrainSettings
from megabert.planner import report, scale
from megabert.planner.machine import Machine, make_machine, memory_total
from megabert.planner.parameters import local_parameters
from megabert.planner.settings import MachineSettings
from megabert.pretrain.settings import resolve_pretraining
from tests.planner.test_plan import plan, planner


@pytest.fixture(scope="module")
def command(root: Path) -> ModuleType:
    """``launch/plan.py`` as a module."""
    spec = importlib.util.spec_from_file_location("launch_plan", root / "launch" / "plan.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_json(command: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    command.main(
        ["--model", "bert-large", "--gpus", "8", "--gpu", "h200", "--phase", "2", "--json"]
    )
    found = json.loads(capsys.readouterr().out)
    assert {
        "model", "machine", "layout", "recipe", "batch", "memory", "exchanges", "time", "real_tokens",
        "mfu", "recommended", "stages",
    } == set(found)  # fmt: skip
    assert found["recipe"] == {
        "phase": 2, "seq_length": 512, "global_batch_size": 32768, "steps": 1563,
    }  # fmt: skip
    assert found["memory"]["peak_bytes"] == max(
        sum(parts.values()) for parts in found["memory"]["instants"].values()
    )
    assert 0 < found["mfu"] < 0.6
    assert found["exchanges"][0]["what"] == "gradients"


def test_a_model_to_start_from_needs_a_shape(command: ModuleType) -> None:
    start = ["--phase", "continue", "--init-from", "model"]
    with pytest.raises(UserError, match="--init-from model: the planner reads no model; give its"):
        command.main(start)
    assert command.main([*start, "--model", "bert-mini"]) == 0


def test_a_decay_branch_needs_a_length(command: ModuleType, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("model: {model: bert-mini}\nschedule: {decay_from: runs/stable@20}\n")
    for branch in (["--decay-from", "runs/stable@20"], ["--config", str(config)]):
        with pytest.raises(UserError, match=r"runs/stable@20: the planner reads no run.* --steps"):
            command.main(branch)
    assert command.main(["--config", str(config), "--steps", "22"]) == 0


def test_only_a_recommendation_has_to_fit(
    command: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--model", "bert-3.9b", "--gpu", "t4", "--gpus", "1", "--precision", "fp32"]
    assert command.main(asked) == 0
    assert "DOES NOT FIT" in capsys.readouterr().out
    with pytest.raises(UserError, match="no layout"):
        command.main([*asked, "--recommend"])


def test_text_and_verbose(command: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    command.main(["--gpu", "b200", "--gpus", "2", "--recommend", "--verbose"])
    text = capsys.readouterr().out
    for part in (
        "memory per rank",
        "communication per update",
        "time per update",
        "MFU",
        "advice:",
        "574",
    ):
        assert part in text


def test_rows_of_the_tables() -> None:
    asked = planner().settings
    row = scale.row("h200", 8, scale.best_plan(asked, scale.MODELS["bert-large"], "h200", 8, 1))
    assert row.startswith("| h200 | 8 | Z1 | ")
    assert "does not fit" in scale.row("h100", 1, None)
    assert [report.number(value) for value in (0.01234, 45.67, 1234.5)] == [
        "0.0123",
        "45.7",
        "1,230",
    ]


def test_auto_precision_is_fp16_without_bf16_units(
    command: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    command.main(["--model", "bert-base", "--gpu", "t4", "--gpus", "1"])
    assert "1 x t4; ZeRO 1, gradients summed in fp16; fp16;" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--gpu", "h1000"], "--gpu h1000: expected one of cpu, .*did you mean 'h100'"),
        (["--gpu", "v100"], "did you mean 'v100-16' or 'v100-32'"),
        (["--model", "bert-huge"], "bert-huge.*bert-large"),
        (["--gpus", "0"], "--gpus 0: expected a whole number from 1 to 1,048,576"),
        (["--gpus", "6", "--tensor-parallel", "4"], "not a multiple"),
        (["--gpus", "7"], "don't multiply out"),
        (["--seq-length", "1024"], "position table"),
        (["--zero", "4"], "--zero"),
        (["--micro-batch-size", "7"], "don't multiply out"),
        (["--sequence-parallel", "on"], "--tensor-parallel"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line(command: ModuleType, argv: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        command.main(argv)
    assert "\n" not in str(error.value)


def test_a_command_of_pretraining_and_its_config_can_be_planned(
    command: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Flags that do not change the plan are accepted; a run's micro batch gives way to other ranks."""
    asked = [
        "--model",
        "bert-base",
        "--global-batch-size",
        "96",
        "--steps",
        "10",
        "--zero-stage",
        "2",
    ]
    run = resolve_pretraining(flags.parse(PretrainSettings, asked, "pretrain.py", ""))
    config = tmp_path / "config.yaml"
    config.write_text(flags.to_yaml(replace(run, batch=BatchSettings(96, 32, 3))))
    plans = []
    for source in ([*asked, "--lr", "1e-3", "--output", "x"], ["--config", str(config)]):
        command.main([*source, "--gpus", "2", "--gpu", "h100", "--json"])
        plans.append(json.loads(capsys.readouterr().out))
    assert plans[0] == plans[1]
    assert plans[0]["layout"]["zero"] == 2
    command.main(["--config", str(config), "--gpus", "16", "--zero", "1", "--json"])
    assert json.loads(capsys.readouterr().out)["layout"]["zero"] == 1
    command.main(["--config", str(config), "--gpus", "4", "--print-config"])
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    command.main(["--config", str(printed), "--gpus", "2", "--json"])


def test_a_flag_replaces_the_length_of_a_recipe(
    command: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--recipe", "crammed-24h", "--batch-ramp", "none", "--gpus", "1", "--json"]
    for more, steps in (([], 10_376), (["--steps", "100"], 100)):
        command.main([*asked, *more])
        assert json.loads(capsys.readouterr().out)["recipe"]["steps"] == steps
    with pytest.raises(UserError, match="the same in two ways"):
        command.main([*asked, "--steps", "100", "--train-tokens", "1e9"])


def test_exit_status(root: Path) -> None:
    script = str(root / "launch" / "plan.py")
    done = subprocess.run(
        [sys.executable, script, "--gpu", "none"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1


# ---------------------------------------------------------------------------- this machine


def test_this_machine(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       2048 kB\nMemFree: 1 kB\n", encoding="utf-8")
    assert memory_total(meminfo) == 2048 * 1024
    with pytest.raises(UserError, match="needs Linux"):
        memory_total(tmp_path / "none")
    machine: Machine = make_machine(MachineSettings(gpu="cpu", gpus=2))
    assert set(machine.peak) == {"fp32", "bf16"}
    assert machine.memory_bytes == pytest.approx(memory_total() / 2)
    assert machine.peak["fp32"] > 1e8


def test_every_preset_has_a_plan() -> None:
    for name in MODELS:
        config: ModelConfig = model_config(name)
        assert local_parameters(config).total > 1e6
        assert plan("--model", name, "--gpus", "1", "--gpu", "b200").hours > 0


def test_peak_memory_of_a_real_run(root: Path, tmp_path: Path) -> None:
    """Three updates of bert-mini with DeepSpeed, in a process of their own: the plan is near."""
    spec = importlib.util.spec_from_file_location(
        "plan_memory", root / "benchmarks" / "plan_memory.py"
    )
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = benchmark  # where its dataclasses look for their names
    spec.loader.exec_module(benchmark)
    case = benchmark.Case("bert-mini", 32)
    shards = benchmark.make_shards(tmp_path / "shards", documents=10)
    measured = benchmark.measure(case, shards, tmp_path / "run")
    planned, _ = benchmark.planned(case)
    assert 0.85 < planned / (measured["peak"] - measured["before"]) < 1.15
