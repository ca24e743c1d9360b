"""Fine-tuning runs on a model and a file small enough for a test."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import numpy as np

from megabert.common.errors import TrainingStopped, UserError
from megabert.config.model import ModelConfig
from tests.helpers.distributed import run_ranks
from tests.helpers.squad_files import qa, write_squad
from tests.helpers.training_runs import import_once

WORDS = ["Ann", "Bob", "Cid", "Dan", "Eve", "Fay", "Gus", "Hal"]


def make_inputs(rank: int, world_size: int, folder: Path) -> None:
    """Write the inputs (in a process of its own: it imports the model)."""
    from megabert.model.heads import BertForPreTraining
    from megabert.model.init import initialize_weights
    from megabert.model.weights import save_weights

    characters = string.ascii_lowercase + string.digits + ".,?"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters]
    vocabulary += ["##" + character for character in characters]
    (folder / "vocab").mkdir()
    (folder / "vocab" / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    config = ModelConfig(
        name="test",
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        vocab_multiple=8,
    )
    model = BertForPreTraining(config)
    initialize_weights(model, config, seed=1)
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    save_weights(folder / "start", config, tensors, folder / "vocab", trained_positions=40)
    save_weights(folder / "no-tokenizer", config, tensors, None)
    del tensors["bert.layers.1.mlp.up.weight"]
    save_weights(folder / "truncated", config, tensors, folder / "vocab")
    prefixed = {f"module.{name}": tensor for name, tensor in tensors.items()}
    save_weights(folder / "prefixed", config, prefixed, folder / "vocab")
    write_squad(folder / "train.json", *(paragraph(number) for number in range(8)))
    (folder / "wrong.json").write_text('{"rows": []}', encoding="utf-8")


def paragraph(number: int) -> tuple[str, list[dict[str, Any]]]:
    """A context whose answer is the name after "met"; the last ones need two windows."""
    name, other = WORDS[number], WORDS[(number + 3) % 8]
    context = f"{other} met {name}." + " x y z" * (number % 3 * 6)
    return context, [qa(f"q{number}", "Met?", (name, context.index("met ") + 4))]


def values(folder: Path, output: str, **sections: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings of a run on the test's inputs, as flags would give them."""
    base: dict[str, dict[str, Any]] = {
        "task": {
            "checkpoint": str(folder / "start"),
            "train": str(folder / "train.json"),
            "eval": str(folder / "train.json"),
            "output": str(folder / output),
            "log_interval": 1,
            "max_length": 40,
        },
        "squad": {"max_query_length": 8, "doc_stride": 12, "n_best": 4},
        "batch": {"global_batch_size": 8, "micro_batch_size": 2, "eval_batch_size": 3},
        "optimizer": {"lr": 2e-3, "steps": 4},
    }
    for section, changes in sections.items():
        base[section] = {**base.get(section, {}), **changes}
    return base


def run(rank: int, world_size: int, runs: list[dict[str, Any]]) -> list[Any]:
    """Several runs in one world; a wrong input, or a run that stopped, gives its message."""
    from megabert.config import flags
    from megabert.engine.launch import start
    from megabert.finetune.command import run_all
    from megabert.finetune.settings import resolve_finetuning

    tensor_parallel = runs[0].get("parallel", {}).get("tensor_parallel", 1)
    world = start(tensor_parallel)
    results: list[Any] = []
    for given in runs:
        try:
            settings = resolve_finetuning(flags.Given(flags.SettingsLayer(given)))
            results.append(run_all(settings, world))
        except (UserError, TrainingStopped) as error:
            results.append(str(error))
    world.close()
    return results


def make_run(folder: Path) -> Path:
    """The inputs, a fine-tuned ``run`` of one step, and a file for predictions with it; the folder."""
    run_ranks(make_inputs, 1, folder, initialize=False)
    in_world(1, values(folder, "run", optimizer={"steps": 1}))
    questions = [{"question": "Met?", "context": f"Ann met {name}."} for name in WORDS]
    lines = "".join(json.dumps(question) + "\n" for question in questions)
    (folder / "questions.jsonl").write_text(lines, encoding="utf-8")
    return folder


FINETUNE, PREDICT = "launch/finetune.py", "launch/predict.py"
CONVERT, REPORT = "launch/convert.py", "launch/report.py"


def arguments(tool: str, folder: Path, checkpoint: Path, output: Path) -> list[object]:
    """What a command needs to write ``output`` from a checkpoint and the files of :func:`make_run`."""
    train = folder / "train.json"
    given: dict[str, list[object]] = {
        FINETUNE: [
            "--task", "squad", "--checkpoint", checkpoint, "--train", train, "--eval", train,
            "--max-length", "40", "--max-query-length", "8", "--doc-stride", "12",
            "--batch-size", "8", "--micro-batch-size", "2", "--log-interval", "1", "--steps", "1",
        ],
        PREDICT: ["--checkpoint", checkpoint, "--input", folder / "questions.jsonl"],
        CONVERT: ["--from", "megabert", "--input", checkpoint, "--to", "huggingface"],
        REPORT: [checkpoint],
    }  # fmt: skip
    return [*given[tool], "--output", output]


def in_world(ranks: int, *runs: dict[str, Any]) -> list[Any]:
    """The main rank's results of ``run`` on ``ranks`` ranks."""
    import_once()
    return run_ranks(run, ranks, list(runs), initialize=False, timeout=240)[0]


def losses(output: Path) -> list[float]:
    """Losses of metrics.jsonl."""
    lines = map(json.loads, (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def weights(output: Path) -> dict[str, np.ndarray]:
    """Tensors of the fine-tuned model."""
    from safetensors.numpy import load_file

    return load_file(output / "final" / "model.safetensors")
