"""A user's DeepSpeed JSON as one layer of the settings: below flags and ``--config``, above the recipe.

Its batch, precision, clipping, ZeRO and optimizer sections set ours. ``megabert.engine.config`` makes
the configuration that DeepSpeed gets.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from megabert.common.json_text import read_json_object
from megabert.config.flags import SettingsLayer
from megabert.config.optimizers import OPTIMIZERS
from megabert.config.trackers import TRACKERS
from megabert.config.values import suggestion

# Top-level sections of DeepSpeed 0.19.8 that a training run may use. DeepSpeed itself silently accepts
# any misspelt name.
PASSED_THROUGH = {
    "zero_optimization", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer",
    "fp16", "bf16", "data_types", "communication_data_type", "prescale_gradients",
    "gradient_predivide_factor", "steps_per_print", "wall_clock_breakdown",
    "memory_breakdown", "dump_state", "flops_profiler", "comms_logger", "activation_checkpointing",
    "checkpoint", "aio", "tensorboard", "csv_monitor", "wandb", "comet", "seed",
    "use_node_local_storage", "disable_allgather", "compile", "timers",
    "use_data_before_expert_parallelism", "torch_autocast",
}  # fmt: skip
_TRANSLATED = {
    "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps",
    "gradient_clipping", "optimizer",
}  # fmt: skip
_REFUSED = {
    "scheduler": "give --schedule, --lr, --warmup-fraction and --steps instead",
    "amp": "NVIDIA's apex.amp is retired; use the bf16 or fp16 section",
    "sequence_parallel_size": "not supported; use --tensor-parallel",
    "tensor_parallel": "use --tensor-parallel: megabert splits its own layers",
    "autotuning": "not supported; set the batch sizes by hand",
    "elasticity": "not supported; resume on another world size instead",
    "sparse_gradients": "DeepSpeed has removed it; remove it here too",
    "graph_harvesting": "DeepSpeed has removed it; remove it here too",
    "nebula": "DeepSpeed has removed it; remove it here too",
    "monitor_config": "DeepSpeed ignores it; remove it, and give --tracker",
}
_MONITORS = {"tensorboard": "tensorboard", "csv_monitor": "csv", "wandb": "wandb", "comet": None}
"""DeepSpeed's monitors -> the tracker to use instead."""
_BATCH_NAMES = {
    "train_batch_size": "global_batch_size",
    "train_micro_batch_size_per_gpu": "micro_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
}
_OPTIMIZER_PARAMS = {
    "lr": "lr",
    "eps": "eps",
    "weight_decay": "weight_decay",
    "bias_correction": "bias_correction",
    "max_coeff": "max_trust_ratio",
    "min_coeff": "min_trust_ratio",
}


def read_deepspeed_config(path: Path) -> dict[str, Any]:
    """A DeepSpeed JSON file, checked, without its ``"auto"`` values: they set nothing.

    Raises:
        UserError: it cannot be read; a section or key is misspelt or not supported; a value that
            megabert or DeepSpeed reads has another type.
    """
    from megabert.config.deepspeed_schema import deepspeed_fault

    try:
        content = read_json_object(path)
    except OSError as error:
        raise UserError(f"--deepspeed_config {path}: {error.strerror}; see ds_configs/") from error
    except UserError as error:
        raise UserError(f"--deepspeed_config {error}") from error
    content = _without_auto(content)
    problems = []
    for key in content:
        if key in _REFUSED:
            problems.append(f"{key!r}: {_REFUSED[key]}")
        elif key in _MONITORS and _is_on(content[key]):
            problems.append(
                f"{key!r}: DeepSpeed would log the learning rate and no loss; remove the section, and give "
                f"--tracker {_MONITORS[key] or '/'.join(TRACKERS.names())}"
            )
        elif key not in PASSED_THROUGH | _TRANSLATED:
            problems.append(
                f"unknown section {key!r}{suggestion(key, sorted(PASSED_THROUGH | _TRANSLATED))}"
            )
    if problems:
        raise UserError(f"--deepspeed_config {path}: {'; '.join(problems)}")
    fault = deepspeed_fault(content)
    if fault is not None:
        raise UserError(f"--deepspeed_config {path}: {fault}")
    return content


def _is_on(monitor: Any) -> bool:
    return isinstance(monitor, dict) and bool(monitor.get("enabled", False))


def _without_auto(section: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_auto(value) if isinstance(value, dict) else value
        for key, value in section.items()
        if value != "auto"
    }


def deepspeed_layer(raw: dict[str, Any], path: Path) -> SettingsLayer:
    """The settings that a DeepSpeed file sets; a value that is not in it sets nothing."""
    batch: dict[str, Any] = {}
    optimizer: dict[str, Any] = {}
    parallel: dict[str, Any] = {}
    for key, name in _BATCH_NAMES.items():
        if raw.get(key) is not None:
            batch[name] = raw[key]
    if "gradient_clipping" in raw:
        optimizer["gradient_clipping"] = raw["gradient_clipping"]
    optimizer.update(_optimizer_values(raw.get("optimizer"), path))
    if "stage" in raw.get("zero_optimization", {}):
        parallel["zero_stage"] = raw["zero_optimization"]["stage"]
    stated = [kind for kind in ("bf16", "fp16") if "enabled" in raw.get(kind, {})]
    half = [kind for kind in stated if raw[kind]["enabled"]]
    if len(half) > 1:
        raise UserError(f"--deepspeed_config {path}: bf16 and fp16 are both on; keep one")
    if stated:
        parallel["precision"] = half[0] if half else "fp32"
    names = {("batch", name): key for key, name in _BATCH_NAMES.items()}
    names |= {
        ("optimizer", name): f"optimizer.params.{key}" for key, name in _OPTIMIZER_PARAMS.items()
    }
    names |= {
        ("optimizer", "beta1"): "optimizer.params.betas",
        ("optimizer", "beta2"): "optimizer.params.betas",
        ("optimizer", "gradient_clipping"): "gradient_clipping",
        ("parallel", "zero_stage"): "zero_optimization.stage",
    }
    values = {"batch": batch, "optimizer": optimizer, "parallel": parallel}
    return SettingsLayer(values, str(path), names)


def _optimizer_values(section: Any, path: Path) -> dict[str, Any]:
    if section is None:
        return {}
    kind = str(section.get("type", "")).lower() if isinstance(section, dict) else ""
    types = {
        name: deepspeed_types
        for name in OPTIMIZERS.names()
        if (deepspeed_types := getattr(OPTIMIZERS.get(name), "deepspeed_types", ()))
    }
    names = {word.lower(): name for name, words in types.items() for word in words}
    if kind not in names:
        raise UserError(
            f"--deepspeed_config {path}: optimizer type must be "
            f"{' or '.join(words[0] for words in types.values())}, not {section!r}"
        )
    values: dict[str, Any] = {"optimizer": names[kind]}
    for key, value in section.get("params", {}).items():
        if key == "betas":
            values["beta1"], values["beta2"] = value
        elif key in _OPTIMIZER_PARAMS:
            values[_OPTIMIZER_PARAMS[key]] = value
        else:
            raise UserError(
                f"--deepspeed_config {path}: optimizer.params.{key} is not known; "
                f"known are betas, {', '.join(_OPTIMIZER_PARAMS)}"
            )
    return values
