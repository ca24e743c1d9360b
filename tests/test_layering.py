"""Each layer of the house imports only what stands below it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

# name of a part -> parts it may import
ALLOWED = {
    "log": set(),
    "naming": set(),
    "hardware": set(),
    "flags": {"log"},
    "config": {"flags", "log", "naming"},
    "task_config": {"config", "flags", "log", "naming"},
    "kernels": {"log"},
    "parallel": {"kernels", "config", "log", "naming"},
    "optim": {"config", "log", "naming"},
    "data": {"config", "log", "naming", "flags"},
    "model": {"kernels", "parallel", "config", "log", "naming"},
    "tasks": {"task_config", "model", "parallel", "data", "config", "log", "naming"},
    "convert": {"engine", "model", "parallel", "data", "config", "log", "naming", "flags"},
    "engine": {"kernels", "model", "parallel", "optim", "data", "config", "hardware", "log", "naming", "flags"},
    "pretrain_inputs": {"engine", "data", "config", "flags", "log", "naming"},
    "planner": {"engine", "model", "parallel", "config", "hardware", "flags", "log"},
    "guards": {"config", "log"},
    "pretrain_batches": {"pretrain_inputs", "engine", "data", "config", "log"},
    "evaluation": {"pretrain_batches", "pretrain_inputs", "guards", "engine", "config"},
    "pretrain": {
        "evaluation", "pretrain_batches", "pretrain_inputs", "guards", "engine", "model", "parallel", "optim", "data", "config", "flags", "log", "naming"},
    "finetune_selection": {"task_config", "log"},
    "finetune_summary": set(),
    "finetune_evaluation": {"engine", "tasks", "log"},
    "finetune_inputs": {
        "task_config", "engine", "tasks", "convert", "model", "parallel", "data", "config", "flags", "log", "naming",
    },
    "finetune_model": {
        "finetune_inputs", "task_config", "engine", "tasks", "model", "parallel", "config", "log",
    },
    "finetune_resume": {"finetune_inputs", "task_config", "engine", "flags", "log", "naming"},
    "finetune_run": {
        "finetune_selection", "finetune_evaluation", "finetune_inputs", "finetune_model", "task_config",
        "engine", "tasks", "config", "flags", "log", "naming",
    },
    "finetune_seeds": {
        "finetune_inputs", "finetune_resume", "finetune_run", "finetune_summary", "task_config", "engine",
        "tasks", "flags", "log", "naming",
    },
    "finetune": {
        "finetune_selection", "finetune_inputs", "finetune_resume", "finetune_run", "finetune_seeds",
        "task_config", "engine", "flags", "log",
    },
    "predict_fill_mask": {"tasks", "model", "parallel", "data", "config", "log"},
    "predict_inputs": {"tasks", "log"},
    "predict_model": {
        "predict_fill_mask", "finetune_inputs", "task_config", "tasks", "convert", "model", "parallel", "data",
        "config", "log",
    },
    "predict": {"predict_inputs", "predict_model", "tasks", "log"},
}  # fmt: skip
TORCH = {"torch", "deepspeed", "transformers", "safetensors"}


def _imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def _files(root: Path) -> list[tuple[str, Path]]:
    package = root / "megabert"
    found = []
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package)
        if inside != Path("__init__.py"):
            found.append((inside.parts[0].removesuffix(".py"), path))
    return found


def test_layers(root: Path) -> None:
    wrong = []
    for part, path in _files(root):
        used = {name.split(".")[1] for name in _imports(path) if name.startswith("megabert.")}
        for other in used - {part, "__version__"} - ALLOWED[part]:
            wrong.append(f"{path.relative_to(root)} imports megabert.{other}")
    assert not wrong, "\n".join(wrong)


def test_only_the_engine_knows_deepspeed(root: Path) -> None:
    wrong = []
    for part, path in _files(root):
        if any(name.split(".")[0] == "deepspeed" for name in _imports(path)) and part != "engine":
            wrong.append(str(path.relative_to(root)))
    assert not wrong, wrong


@pytest.mark.parametrize(
    "tool",
    ["shard_wiki", "train_tokenizer", "inspect_shards", "import_shards", "make_sample_wiki"],
)
def test_data_tools_need_no_torch(tool: str, root: Path) -> None:
    """Follow the imports of a data tool through the package."""
    todo, seen = [root / "data_tools" / f"{tool}.py"], set()
    while todo:
        path = todo.pop()
        seen.add(path)
        for name in _imports(path):
            assert name.split(".")[0] not in TORCH, f"{path} imports {name}"
            if name.startswith("megabert"):
                target = root / Path(*name.split("."))
                for file in (target.with_suffix(".py"), target / "__init__.py"):
                    if file.is_file() and file not in seen:
                        todo.append(file)
