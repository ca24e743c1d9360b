"""Every update of a fine-tuning has the loss of transformers' model at the same settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.distributed import run_ranks
from tests.helpers.finetune_runs import in_world, losses, paragraph, values
from tests.helpers.squad_files import write_squad
from tests.helpers.training_runs import import_once

SENTENCES = ("a fine film", "a dull one", "bob ran", "what a plot", "no, no", "it is so good")


def tsv(path: Path) -> Path:
    lines = [f"{text}\t{number % 2}" for number, text in enumerate(SENTENCES)]
    path.write_text("\n".join(["sentence\tlabel", *lines]) + "\n", encoding="utf-8")
    return path


def entities(path: Path) -> Path:
    texts = ("ann met bob", "bob met", "so did eve", "dan", "hal saw gus", "ann ran")
    tags = ("B-PER O B-PER", "B-PER O", "O O B-PER", "B-PER", "B-PER O B-PER", "B-PER O")
    blocks = (
        "\n".join(f"{word} {tag}" for word, tag in zip(text.split(), own.split()))
        for text, own in zip(texts, tags)
    )
    path.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
    return path


def make_start(rank: int, world_size: int, folder: Path) -> None:
    """A Hugging Face folder that transformers wrote."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    characters = "abcdefghijklmnopqrstuvwxyz0123456789.,?"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters]
    words += ["##" + character for character in characters]
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertForMaskedLM(config).save_pretrained(folder / "hf")
    (folder / "hf" / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")


def theirs(rank: int, world_size: int, runs: list[list[str]]) -> None:
    """Runs of the benchmark."""
    from benchmarks.finetune_transformers import main

    for arguments in runs:
        main(arguments)


def flags_of(given: dict[str, dict[str, Any]], output: Path) -> list[str]:
    """The settings as the benchmark's flags."""
    named = {
        name: value
        for section in given.values()
        for name, value in section.items()
        if name not in ("output", "global_batch_size")
    }
    pairs = [(f"--{name.replace('_', '-')}", str(value)) for name, value in named.items()]
    return [
        part for pair in [*pairs, ("--batch-size", "4"), ("--output", str(output))] for part in pair
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where both sides have run each task."""
    folder = tmp_path_factory.mktemp("sides")
    import_once()
    run_ranks(make_start, 1, folder, initialize=False, timeout=120)
    write_squad(folder / "squad.json", *(paragraph(number) for number in range(8)))
    files = {
        "squad": folder / "squad.json",
        "sst2": tsv(folder / "sst2.tsv"),
        "conll": entities(folder / "conll.txt"),
    }
    runs = {
        task: values(
            folder,
            f"ours-{task}",
            task={
                "task": task,
                "checkpoint": str(folder / "hf"),
                "train": str(file),
                "eval": str(file),
                "dropout": 0.0,
            },
            batch={"global_batch_size": 4, "micro_batch_size": 2},
            optimizer={"steps": 6, "lr": 1e-3},
        )
        for task, file in files.items()
    }
    for result in in_world(1, *runs.values()):
        assert isinstance(result, dict), result
    commands = [flags_of(given, folder / f"theirs-{task}") for task, given in runs.items()]
    run_ranks(theirs, 1, commands, initialize=False, timeout=240)
    return folder


@pytest.mark.parametrize("task", ["squad", "sst2", "conll"])
def test_losses_and_scores_are_those_of_transformers(place: Path, task: str) -> None:
    other = json.loads((place / f"theirs-{task}" / "seed-42" / "results.json").read_text())
    ours = losses(place / f"ours-{task}")
    assert len(ours) == 6
    assert ours[0] != pytest.approx(ours[-1], rel=1e-3)
    assert ours == pytest.approx(other["losses"], rel=2e-5)
    results = json.loads((place / f"ours-{task}" / "results.json").read_text())
    assert results["scores"].keys() == other["scores"].keys()
