"""Settings: flags, YAML, DeepSpeed files and recipes, joined and checked."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.config import flags
from megabert.config.deepspeed_file import deepspeed_layer, read_deepspeed_config
from megabert.config.deepspeed_schema import deepspeed_fault
from megabert.config.model import model_config
from megabert.config.recipes import RECIPES
from megabert.config.sections.shape import ModelSettings
from megabert.config.training import (
    BatchSettings,
    OptimizerSettings,
    ParallelSettings,
    PretrainSettings,
    ResolvedSettings,
)
from megabert.engine.config import make_deepspeed_config, resolve_batch
from megabert.engine.launch import fill_environment
from megabert.finetune.settings import (
    ResolvedFinetuning,
    finetune_settings,
    resolve_finetuning,
)
from megabert.pretrain.inputs import divide_batch
from megabert.pretrain.settings import resolve_pretraining


def settings(*argv: str) -> ResolvedSettings:
    return resolve_pretraining(flags.parse(PretrainSettings, list(argv), "pretrain.py", ""))


@pytest.mark.parametrize("phase", [1, 2])
def test_a_phase_fills_in_its_recipe(phase: int) -> None:
    made, recipe = settings("--phase", str(phase)), RECIPES[phase]
    assert made.data.seq_length == recipe.seq_length
    assert made.data.max_predictions == recipe.max_predictions
    assert made.batch.global_batch_size == recipe.global_batch_size
    assert made.optimizer.steps == recipe.steps
    assert made.optimizer.lr == recipe.lr
    assert made.optimizer.warmup_fraction == recipe.warmup_fraction
    assert str(made.run.output) == f"runs/bert-large-phase{phase}"
    assert made.data.data == (Path("data/wiki"),)


def test_precedence(tmp_path: Path) -> None:
    """Flag > --config > DeepSpeed file > recipe."""
    ds = tmp_path / "ds.json"
    ds.write_text(
        json.dumps(
            {
                "train_batch_size": 64,
                "train_micro_batch_size_per_gpu": "auto",
                "optimizer": {"type": "Lamb", "params": {"lr": 1e-4, "eps": 1e-7}},
                "zero_optimization": {"stage": 2},
                "bf16": {"enabled": True},
            }
        )
    )
    config = tmp_path / "run.yaml"
    # PyYAML reads 2e-3 as a string; the types make it a number
    config.write_text("optimizer:\n  lr: 2e-3\n  steps: 30\nbatch:\n  micro_batch_size: 4\n")
    made = settings("--deepspeed_config", str(ds), "--config", str(config), "--steps", "50")
    assert made.optimizer.steps == 50
    assert made.optimizer.lr == 2e-3
    assert made.optimizer.eps == 1e-7
    assert made.batch.global_batch_size == 64
    assert made.parallel.zero_stage == 2
    assert made.parallel.precision == "bf16"
    assert made.optimizer.warmup_fraction == RECIPES[1].warmup_fraction


def test_every_flag_is_a_setting_with_help() -> None:
    seen = set()
    for section in dataclasses.fields(PretrainSettings):
        kind = flags.sections(PretrainSettings)[section.name]
        for field in dataclasses.fields(kind):
            assert field.name not in seen, "two settings would share a flag"
            seen.add(field.name)
            assert field.metadata["help"]
    text = flags.make_parser(PretrainSettings, "pretrain.py", "").format_help()
    assert "--tensor-parallel" in text
    assert "--deepspeed_config" in text


def test_choices_of_a_registry_are_read_when_they_are_needed(tmp_path: Path) -> None:
    names = ["one"]

    @dataclasses.dataclass(frozen=True)
    class Section:
        rule: str = flags.setting("one", "rule", choices=lambda: names)

    @dataclasses.dataclass(frozen=True)
    class Whole:
        section: Section

    with patch.dict(globals(), Section=Section):
        names.append("two")
        assert "rule: one, two" in flags.make_parser(Whole, "x", "").format_help()
        assert (
            flags.build(Whole, flags.SettingsLayer({"section": {"rule": "two"}})).section.rule
            == "two"
        )
        with pytest.raises(UserError, match=r"three.*expected one of one, two"):
            flags.build(Whole, flags.SettingsLayer({"section": {"rule": "three"}}))


def test_launchers_local_rank_is_taken() -> None:
    for argument in ("--local_rank=3", "--local-rank=3"):
        assert settings(argument, "--model", "bert-base").model.model == "bert-base"


def test_yaml_round_trip(tmp_path: Path) -> None:
    made = settings("--phase", "2", "--dropout", "0", "--bias-correction", "off")
    path = tmp_path / "config.yaml"
    path.write_text(flags.to_yaml(made))
    assert settings("--config", str(path)) == made


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizer:\n  learning_rate: 1\n", "unknown setting optimizer.learning_rate"),
        (
            "run:\n  lr: 1\n",
            "unknown setting run.lr; it belongs to the section 'optimizer'",
        ),
        ("optimiser:\n  lr: 1\n", "unknown section 'optimiser'"),
        ("- a\n", "expected sections"),
        ("a: [", "not YAML"),
        (
            "run:\n  phase: 3\nbatch:\n  micro_batch_size: 0\n",
            "config.yaml: batch.micro_batch_size 0: expected a whole number from 1 to 2,147,483,647; "
            ".*config.yaml: run.phase 3: expected one of 1, 2, continue",
        ),
    ],
)
def test_wrong_yaml(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        settings("--config", str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"zero_optimisation": {"stage": 2}}, "unknown section 'zero_optimisation'"),
        ({"scheduler": {}}, "give --schedule"),
        ({"optimizer": {"type": "SGD"}}, "must be Lamb or AdamW"),
        (
            {"optimizer": {"type": "Lamb", "params": {"momentum": 1}}},
            "params.momentum is not known",
        ),
        ({"bf16": {"enabled": True}, "fp16": {"enabled": True}}, "both on"),
        ([], "expected a JSON object"),
        (
            {"fp16": {"enabled": "yes"}},
            r"fp16.enabled: expected true, false or \"auto\", not 'yes'",
        ),
        ({"fp16": {"enabled": 1}}, "fp16.enabled: expected true, false"),
        ({"fp16": True}, "fp16: input should be a valid dictionary, not True"),
        ({"bf16": None}, "bf16: input should be a valid dictionary"),
        ({"zero_optimization": 2}, "zero_optimization: input should be a valid dictionary"),
        ({"zero_optimization": {"stage": True}}, "zero_optimization.stage: expected 0, 1, 2 or 3"),
        ({"zero_optimization": {"stage": "2"}}, "zero_optimization.stage: expected 0, 1, 2 or 3"),
        (
            {"zero_optimization": {"offload_optimizer": "cpu"}},
            "zero_optimization.offload_optimizer: input should be a valid dictionary",
        ),
        (
            {"zero_optimization": {"reduce_bucket_size": [1]}},
            "zero_optimization.reduce_bucket_size: expected a whole number",
        ),
        ({"optimizer": {"type": "Lamb", "params": []}}, "optimizer.params: input should be"),
        (
            {"optimizer": {"type": "Lamb", "params": {"betas": 0.9}}},
            "optimizer.params.betas: expected a list of two numbers",
        ),
        ({"optimizer": {"type": ["Lamb"]}}, "optimizer.type: input should be a valid string"),
        (
            {"optimizer": {"type": "Lamb", "params": {"lr": "high"}}},
            "optimizer.params.lr: expected",
        ),
        ({"gradient_clipping": [1]}, "gradient_clipping: expected a number"),
        ({"train_batch_size": {}}, "train_batch_size: expected a whole number"),
        ({"comms_logger": []}, "comms_logger: input should be a valid dictionary"),
        (
            {"communication_data_type": "fp8"},
            "communication_data_type: expected fp32, bf16 or fp16, not 'fp8'",
        ),
        (
            {"data_types": {"grad_accum_dtype": "fp8"}},
            "data_types.grad_accum_dtype: expected fp32, bf16 or fp16, not 'fp8'",
        ),
        ({"data_types": {"param_dtype": "bf16"}}, "param_dtype: expected nothing .*--precision"),
        ({"bf16": {"immediate_grad_update": "no"}}, "immediate_grad_update: expected true, false"),
        ({"bf16": {"immediate_update": True}}, "bf16.immediate_update: unknown key$"),
        ({"zero_optimization": {"reduce_bucket_size": 0.5}}, "size: expected a whole number"),
        ({"zero_optimization": {"reduce_bucket_size": 0}}, "size: expected a number of 1 or more"),
        ({"zero_optimization": {"cpu_offload": False}}, "cpu_offload: expected nothing .an old"),
        ({"checkpoint": {"tag_validation": "no"}}, "expected ignore, warn or fail, not 'no'"),
        ({"compile": {"passes": ["z2"]}}, "compile.passes.*: expected z1, z3, autosp or autotp"),
        ({"steps_per_print": 0}, "steps_per_print: expected a number of 1 or more"),
        ({"sparse_gradients": False}, "'sparse_gradients': DeepSpeed has removed it"),
    ],
)
def test_wrong_deepspeed_files(content: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        settings("--deepspeed_config", str(path))


def test_auto_in_a_deepspeed_file_sets_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    content = {
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "train_batch_size": "auto",
        "zero_optimization": {"stage": "auto", "overlap_comm": "auto"},
        "gradient_predivide_factor": "auto",
    }
    path.write_text(json.dumps(content))
    made = settings("--phase", "1", "--deepspeed_config", str(path))
    assert made.deepspeed_sections == {"bf16": {}, "fp16": {}, "zero_optimization": {}}
    assert made.parallel.zero_stage == settings("--phase", "1").parallel.zero_stage
    assert made.parallel.precision == settings("--phase", "1").parallel.precision
    assert made.batch.global_batch_size == RECIPES[1].global_batch_size


def test_shipped_deepspeed_files(root: Path) -> None:
    """One file per ZeRO stage and precision; the recipe of the phase stays in force with each."""
    files = sorted((root / "ds_configs").glob("*.json"))
    assert len(files) == 12
    table = (root / "ds_configs" / "README.md").read_text(encoding="utf-8")
    for path, phase in itertools.product(files, (1, 2)):
        stage, precision = path.stem.removeprefix("zero").split("-")
        made = settings("--phase", str(phase), "--deepspeed_config", str(path))
        assert f"`{path.name}`" in table
        assert made.parallel.zero_stage == int(stage)
        assert made.parallel.precision == precision
        assert made.batch.global_batch_size == RECIPES[phase].global_batch_size
        assert made.optimizer.lr == RECIPES[phase].lr
        for ranks in (1, 8):
            batch = resolve_batch(made.batch, ranks, 64)
            raw = read_deepspeed_config(path)
            config = make_deepspeed_config(raw, batch, made.optimizer, made.parallel, precision)
            assert config["train_batch_size"] == made.batch.global_batch_size
            assert config["zero_optimization"]["stage"] == int(stage)
            assert [name for name in ("bf16", "fp16") if config[name]["enabled"]] == [
                name for name in ("bf16", "fp16") if name == precision
            ]
            assert "optimizer" not in config


@given(st.integers(1, 64), st.integers(1, 16), st.integers(1, 8), st.integers(0, 3))
def test_batch_arithmetic(micro: int, accumulation: int, ranks: int, left_out: int) -> None:
    total = micro * accumulation * ranks
    given_values = {
        "global_batch_size": total,
        "micro_batch_size": micro,
        "gradient_accumulation_steps": accumulation,
    }
    for name in list(given_values)[:left_out] if left_out < 3 else ["micro_batch_size"]:
        if name != "micro_batch_size" or left_out == 3:
            given_values.pop(name, None)
    batch = resolve_batch(BatchSettings(**given_values), ranks, 64)
    assert batch.micro_size * batch.accumulation * ranks == batch.global_size
    assert batch.global_size == total


def test_accumulation_alone_gives_the_micro_batch() -> None:
    """Above the limit too, which is for sizes that nobody gave."""
    batch = resolve_batch(BatchSettings(256, None, 1), 2, 64)
    assert (batch.micro_size, batch.accumulation) == (128, 1)


@pytest.mark.parametrize("types", [{}, {"grad_accum_dtype": None}, {"buffer_dtype": "bf16"}, None])
def test_gradients_are_summed_in_fp32_unless_a_file_says_otherwise(types: Any) -> None:
    batch = resolve_batch(BatchSettings(8, 1, 8), 1, 64)
    parallel = replace(ParallelSettings(), zero_stage=1)
    file = {} if types is None else {"data_types": types}
    made = make_deepspeed_config(file, batch, OptimizerSettings(), parallel, "bf16")
    assert made["data_types"]["grad_accum_dtype"] == "fp32"
    file = {"data_types": {**(types or {}), "grad_accum_dtype": "bf16"}}
    made = make_deepspeed_config(file, batch, OptimizerSettings(), parallel, "bf16")
    assert made["data_types"]["grad_accum_dtype"] == "bf16"


def test_batch_that_does_not_multiply_out() -> None:
    with pytest.raises(
        UserError, match=r"99 is not micro batch 8 x accumulation 4 x .*ranks 3 = 96"
    ):
        resolve_batch(BatchSettings(99, 8, None), 3, 64)
    with pytest.raises(UserError, match=r"100 cannot be divided among 3 .*number of ranks that"):
        resolve_batch(BatchSettings(100, None, None), 3, 64)


def test_a_rate_by_a_flag_replaces_the_rates_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text("selection: {lrs: [1.0e-5, 2.0e-5], seeds: 2}\n")
    argv = [
        "--task",
        "rte",
        "--checkpoint",
        "x",
        "--train",
        "t",
        "--eval",
        "e",
        "--config",
        str(path),
    ]

    def made(*more: str) -> ResolvedFinetuning:
        given = flags.parse(finetune_settings(), [*argv, *more], "finetune.py", "")
        return resolve_finetuning(given)

    assert made().selection.lrs == (1e-5, 2e-5)
    by_flag = made("--lr", "1e-4")
    assert (by_flag.selection.lrs, by_flag.selection.seeds, by_flag.optimizer.lr) == ((), 2, 1e-4)


def test_an_empty_name_of_a_file() -> None:
    """As of an unset variable."""
    with pytest.raises(UserError, match="--config is empty"):
        settings("--config", "")


def test_a_limit_of_predictions_of_another_length_or_fraction(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of a file is not used if flags change what it was made for; one that is too low is said."""
    monkeypatch.setattr(get_logger(), "propagate", True)
    path = tmp_path / "run.yaml"
    path.write_text("data: {seq_length: 128, mask_fraction: 0.15, max_predictions: 21}\n")
    config = ("--config", str(path))
    for flags_, limit in (
        ((), 21),
        (("--mask-fraction", "0.15"), 21),
        (("--mask-fraction", "0.3"), 40),
        (("--seq-length", "512"), 80),
        (("--final-mask-fraction", "0.3"), 40),
    ):
        assert settings(*config, *flags_).data.max_predictions == limit, flags_
    assert "max_predictions 21 of" in caplog.text
    assert "fewer tokens are predicted" not in caplog.text
    made = settings(*config, "--mask-fraction", "0.4", "--max-predictions", "21")
    assert made.data.max_predictions == 21
    assert "16.4 % of --seq-length 128: fewer tokens are predicted" in caplog.text


def test_a_run_that_began_with_a_model_resumes_by_its_own_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("run: {init_from: gone, output: runs/p2, phase: continue}\n")
    assert settings("--config", str(path), "--resume", "best").run.resume == "best"
    with pytest.raises(UserError, match="give one of them"):
        settings("--config", str(path), "--resume", "best", "--init-from", "other")


def test_the_file_of_a_run_on_another_number_of_ranks(tmp_path: Path) -> None:
    """The global batch is divided again, unless a flag says how; a copy of the file elsewhere is taken as it is."""
    run, copy = tmp_path / "run" / "config.yaml", tmp_path / "copy.yaml"
    run.parent.mkdir()
    (run.parent / "metrics.jsonl").touch()
    for path in (run, copy):
        path.write_text(
            "batch: {global_batch_size: 32, micro_batch_size: 16, gradient_accumulation_steps: 1}\n"
        )
    own, copied = settings("--config", str(run)), settings("--config", str(copy))
    for ranks, division in ((1, (16, 2)), (2, (16, 1)), (4, (8, 1))):
        _, sizes = divide_batch(own, ranks, 64)
        assert (sizes.global_size, sizes.micro_size, sizes.accumulation) == (32, *division)
    for one in (copied, settings("--config", str(run), "--micro-batch-size", "16")):
        with pytest.raises(
            UserError, match=r"32 is not micro batch 16 x accumulation 1 x .* 4 = 64"
        ):
            divide_batch(one, 4, 64)


def test_deepspeed_values_without_sections() -> None:
    values = deepspeed_layer({}, Path("x")).values
    assert values == {"batch": {}, "optimizer": {}, "parallel": {}}


@pytest.mark.parametrize(
    ("file", "precision", "key"),
    [
        ({"communication_data_type": "fp16"}, "bf16", "communication_data_type"),
        ({"communication_data_type": "FP16"}, "fp32", "communication_data_type"),
        ({"data_types": {"grad_accum_dtype": "fp16"}}, "bf16", "data_types.grad_accum_dtype"),
    ],
)
def test_fp16_sums_are_for_fp16_runs(file: dict[str, Any], precision: str, key: str) -> None:
    batch = resolve_batch(BatchSettings(8, 8, 1), 1, 64)
    parallel = replace(ParallelSettings(), zero_stage=1)
    make_deepspeed_config(file, batch, OptimizerSettings(), parallel, "fp16")
    with pytest.raises(UserError, match=f"{key} fp16 is only for fp16 runs"):
        make_deepspeed_config(file, batch, OptimizerSettings(), parallel, precision)


def _accepts(check: Callable[[], object]) -> bool:
    try:
        check()
    except (ValueError, TypeError):
        return False
    return True


def test_what_deepspeed_refuses_is_refused_when_its_file_is_read() -> None:
    """Values of each kind, for each key of the sections that DeepSpeed itself checks."""
    from deepspeed.comm.config import CommsLoggerConfig
    from deepspeed.compile.config import CompileConfig
    from deepspeed.monitor.config import CometConfig, CSVConfig, TensorBoardConfig, WandbConfig
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    sections = {
        "zero_optimization": DeepSpeedZeroConfig, "bf16": DeepSpeedBF16Config,
        "fp16": DeepSpeedFP16Config, "comms_logger": CommsLoggerConfig, "compile": CompileConfig,
        "tensorboard": TensorBoardConfig, "csv_monitor": CSVConfig, "wandb": WandbConfig,
        "comet": CometConfig,
    }  # fmt: skip
    for section, model in sections.items():
        for name, field in model.model_fields.items():
            key = field.alias or name
            for value in ("no-such-word", -7, 1.5, None, [1], {"no_such_key": 1}):
                fault = deepspeed_fault({section: {key: value}})
                taken = _accepts(partial(model, **{key: value}))
                assert taken or fault, f"{section}.{key}: {value!r}"
            if field.default is not None and not key.startswith("stage3_gather_fp16"):
                default = field.get_default(call_default_factory=True)
                default = default if isinstance(default, bool | int | str | float | list) else {}
                assert deepspeed_fault({section: {key: default}}) is None, f"{section}.{key}"
        assert "unknown key" in str(deepspeed_fault({section: {"no_such_key": 1}}))


@pytest.mark.parametrize("section", ["tensorboard", "csv_monitor", "wandb", "comet"])
def test_deepspeeds_monitors_are_refused(section: str, tmp_path: Path) -> None:
    """A section that is off does nothing, and may stay."""
    file = tmp_path / "ds.json"
    file.write_text(json.dumps({section: {"enabled": True}}), encoding="utf-8")
    with pytest.raises(UserError, match=f"{section}.*--tracker"):
        read_deepspeed_config(file)
    file.write_text(json.dumps({section: {"enabled": False}}), encoding="utf-8")
    assert read_deepspeed_config(file) == {section: {"enabled": False}}


def test_models() -> None:
    assert model_config("bert-large").head_size == 64
    assert model_config("bert-base", vocab_size=101).padded_vocab_size == 128
    assert model_config("bert-base").padded_vocab_size == 30592
    with pytest.raises(UserError, match="unknown model 'bert-huge'"):
        model_config("bert-huge")


def test_environment_of_other_launchers() -> None:
    alone: dict[str, str] = {}
    fill_environment(alone)
    assert (alone["RANK"], alone["WORLD_SIZE"], alone["MASTER_ADDR"]) == ("0", "1", "127.0.0.1")
    slurm = {
        "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "4",
        "MASTER_ADDR": "host0", "MASTER_PORT": "29500",
    }  # fmt: skip
    fill_environment(slurm)
    assert (slurm["RANK"], slurm["LOCAL_RANK"], slurm["WORLD_SIZE"]) == ("3", "1", "4")
    pmi2 = {
        "PMI_RANK": "9", "PMI_SIZE": "16", "SLURM_LOCALID": "1", "MASTER_ADDR": "h", "MASTER_PORT": "1",
    }  # fmt: skip
    fill_environment(pmi2)
    assert (pmi2["RANK"], pmi2["LOCAL_RANK"], pmi2["WORLD_SIZE"]) == ("9", "1", "16")
    batch_script = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}
    fill_environment(batch_script)
    assert batch_script["WORLD_SIZE"] == "1"
    with pytest.raises(UserError, match="MASTER_ADDR and MASTER_PORT are not set"):
        fill_environment({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"})


def test_a_key_twice_in_a_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("run: {seed: 42, seed: 43}\nbatch: {}\nrun: {seed: 1}\n")
    with pytest.raises(UserError, match=r"run\.seed is given twice; keep one; run is given twice"):
        settings("--config", str(path))


def test_continuing_has_its_own_recipe_and_place(tmp_path: Path) -> None:
    source = tmp_path / "bert-of-mine"
    source.mkdir()
    made = settings("--phase", "continue", "--init-from", str(source))
    assert made.run.output == Path("runs/bert-of-mine-continue")
    assert made.run.eval_at_start
    assert (made.batch.global_batch_size, made.optimizer.steps) == (2048, 12500)
    assert (made.optimizer.optimizer, made.optimizer.beta2) == ("adamw", 0.98)
    assert (made.optimizer.schedule, made.data.masking) == ("linear", "whole-word")
    assert (made.data.seq_length, made.data.max_predictions) == (512, 80)
    one = source / "checkpoints" / "step-0000500"
    assert settings("--phase", "continue", "--init-from", str(one)).run.output.name == (
        "bert-of-mine-continue"
    )
    other = settings("--phase", "continue", "--init-from", str(source), "--model", "bert-mini")
    assert other.run.output == Path("runs/bert-mini-continue")
    assert not settings().run.eval_at_start
    with pytest.raises(UserError, match="--phase continue continues a model: name it with --init"):
        settings("--phase", "continue")


@pytest.mark.parametrize("name", ["bert-base-zh", "nezha-tiny", "bert-1.3b"])
def test_a_model_can_be_described_without_a_preset(name: str) -> None:
    config = model_config(name, hidden_act="relu", attention_probs_dropout_prob=0.0)
    described = ModelSettings.of(config)
    assert described.model is None
    assert replace(described.resolve(config.vocab_size), name=name) == config
