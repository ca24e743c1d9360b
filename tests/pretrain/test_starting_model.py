"""Runs that start from a model of another kind: same loss, same weights, one line for what does not fit."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from megabert.common.errors import UserError
from megabert.config.model import ModelConfig
from megabert.convert.run import ConversionRequest, convert
from megabert.data.tokenizers.load import load_tokenizer
from megabert.model.init import initial_tensor
from megabert.pretrain import starting_model
from megabert.pretrain.settings import check_files
from tests.helpers.distributed import run_ranks
from tests.helpers.starting_models import (
    shards_of,
    start_from,
    transformers_folder,
    transformers_mlm_loss,
)
from tests.helpers.training_runs import (
    VOCAB,
    _train,
    import_once,
    metrics,
    settings_of,
    whole_weights,
)

ONE: tuple[int, list[str]] = (1, ["--zero-stage", "1"])
DATA_PARALLEL: tuple[int, list[str]] = (2, ["--zero-stage", "2"])
SPLIT: tuple[int, list[str]] = (2, ["--tensor-parallel", "2"])


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("data")
    (base / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    return shards_of(load_tokenizer(base / "vocab.txt"), base / "shards")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of each class, written by transformers with their tokenizers."""
    base = tmp_path_factory.mktemp("sources")
    for name in ("BertForPreTraining", "BertForMaskedLM", "BertModel"):
        transformers_folder(base / name, name, VOCAB)
    return base


def check_start(
    source: Path, shards: Path, run: Path, topology: tuple[int, list[str]], *arguments: str
) -> tuple[float, dict[str, torch.Tensor]]:
    """A run's first evaluation is transformers', and its weights are the source's, bit for bit.

    Returns:
        the difference of the losses, and the tensors of the run converted back.
    """
    ranks, division = topology
    lines = start_from(source, shards, run, *division, *arguments, ranks=ranks)
    assert lines[0]["step"] == 0
    back = run.parent / f"{run.name}-back"
    result = convert(ConversionRequest("megabert", run, "huggingface", back))
    expected = transformers_mlm_loss(back, shards, *arguments)
    difference = abs(lines[0]["eval_mlm_loss"] - expected)
    assert difference < 1e-5
    after = load_file(back / "model.safetensors")
    if (source / "model.safetensors").is_file():
        before = load_file(source / "model.safetensors")
        plain = "bert." if not any(name.startswith("bert.") for name in before) else ""
        before.pop("embeddings.position_ids", None)
        for name, tensor in before.items():
            assert torch.equal(after[plain + name], tensor), name
    assert result.comparison is not None
    return difference, after


@pytest.mark.parametrize("topology", [ONE, SPLIT])
def test_a_run_starts_from_a_hugging_face_folder(
    topology: tuple[int, list[str]], folders: Path, shards: Path, tmp_path: Path
) -> None:
    source, run = folders / "BertForPreTraining", tmp_path / "run"
    _, after = check_start(source, shards, run, topology)
    assert after.keys() == load_file(source / "model.safetensors").keys()


def test_missing_heads_are_drawn_by_the_seed(
    folders: Path, shards: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The same on every topology, and named."""
    run = tmp_path / "run"
    check_start(folders / "BertModel", shards, run, DATA_PARALLEL, "--weight-seed", "7")
    said = capfd.readouterr().err
    assert "drawn by --weight-seed 7, not found there: mlm (5 tensors), nsp (2 tensors)\n" in said
    assert "moments start at zero" in said
    weights = whole_weights(run)
    config = model_of(run)
    for name in ("mlm.dense.weight", "nsp.classifier.weight"):
        found = weights[name]["weight"]
        assert torch.equal(found, initial_tensor(name, tuple(found.shape), config, 7))


def test_heads_that_are_not_trained_are_left_out(
    folders: Path, shards: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    alone = ["--sentence-task", "none"]
    source = folders / "BertForMaskedLM"
    _, after = check_start(source, shards, tmp_path / "mlm", ONE, *alone)
    assert after.keys() == load_file(source / "model.safetensors").keys()
    assert "left out" not in capfd.readouterr().err
    start_from(folders / "BertForPreTraining", shards, tmp_path / "both", *alone)
    said = capfd.readouterr().err
    assert "left out: bert.pooler (2 tensors), nsp (2 tensors) (not trained by this run)" in said


def model_of(run: Path) -> ModelConfig:
    record = json.loads((run / "checkpoints" / "step-0000001" / "megabert.json").read_text())
    return ModelConfig.from_dict(record["model"])


def test_a_run_resumes_when_its_source_is_gone(shards: Path, tmp_path: Path) -> None:
    """Shape, activation and epsilon come from the source, and are in config.yaml."""
    odd = {
        "hidden_act": "relu",
        "layer_norm_eps": 1e-5,
        "hidden_dropout_prob": 0.2,
        "attention_probs_dropout_prob": 0.0,
    }
    source = transformers_folder(tmp_path / "odd", "BertForPreTraining", VOCAB, **odd)
    run = tmp_path / "run"
    start_from(source, shards, run, "--steps", "3", "--lr", "1e-3", "--stop-after", "1")
    settings = yaml.safe_load((run / "config.yaml").read_text())
    described = settings["model"]
    assert (described["hidden_size"], described["hidden_act"]) == (32, "relu")
    assert (described["layer_norm_eps"], described["dropout"]) == (1e-5, 0.2)
    assert described["attention_dropout"] == 0.0
    shutil.rmtree(source)
    flags = ["--steps", "3", "--lr", "1e-3", "--resume", "auto"]
    lines = start_from(source, shards, run, *flags, "--stop-after", "2")
    assert [line["step"] for line in lines if "loss" in line] == [1, 2]
    lines = resume_by_config(run)
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3]
    assert next(line["step"] for line in lines if "eval_mlm_loss" in line) == 0


def resume_by_config(run: Path) -> list[dict[str, Any]]:
    import_once()
    argv = ["--config", str(run / "config.yaml"), "--resume", "auto"]
    settings = settings_of(argv)
    check_files(settings)
    run_ranks(_train, 1, argv, initialize=False, timeout=240.0)
    return metrics(run)


def damaged(source: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def _zero(tensors: dict[str, torch.Tensor]) -> None:
    for tensor in tensors.values():
        tensor.zero_()


def _zero_layer(tensors: dict[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        if ".layer.1." in name:
            tensor.zero_()


def _not_finite(tensors: dict[str, torch.Tensor]) -> None:
    tensors["bert.encoder.layer.0.output.dense.weight"][3, 3] = float("nan")


def _missing(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["bert.encoder.layer.1.output.dense.weight"]


def _narrow(tensors: dict[str, torch.Tensor]) -> None:
    name = "bert.encoder.layer.1.output.dense.weight"
    tensors[name] = tensors[name][:, :-1].contiguous()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_zero, r"tensors of zeros: 1 \(bert.embeddings.word_embeddings.weight\)"),
        (_zero_layer, r"tensors of zeros: 6 \(bert.layers.1.*\): these weights were never written"),
        (_not_finite, r"NaN or infinite values in 1 \(bert.layers.0.mlp.down.weight\)"),
        (_missing, r"missing tensors: 1 \(bert.encoder.layer.1.output.dense.weight\)"),
        (_narrow, r"bert.layers.1.mlp.down.weight has shape \[32, 47\].* requires \[32, 48\]"),
    ],
)
def test_damaged_weights(
    change: Callable[[dict[str, torch.Tensor]], None],
    message: str,
    folders: Path,
    shards: Path,
    tmp_path: Path,
) -> None:
    source = damaged(folders / "BertForPreTraining", tmp_path / "damaged", change)
    refused(source, shards, tmp_path / "run", message)


def refused(source: Path, shards: Path, run: Path, message: str, *arguments: str) -> None:
    """One line that names the source, and nothing is left."""
    with pytest.raises(UserError, match=message) as error:
        start_from(source, shards, run, *arguments)
    line = str(error.value).splitlines()[0]  # the helper adds where a rank raised it
    assert line.startswith("--init-from ")
    assert str(source) in line
    assert not run.exists()


def test_a_shape_that_differs_is_named(folders: Path, shards: Path, tmp_path: Path) -> None:
    source, run = folders / "BertForPreTraining", tmp_path / "run"
    refused(source, shards, run, r"\(hidden_size 32 -> 64\); leave out", "--hidden-size", "64")
    longer = r"max_position_embeddings 64 -> 128\).*--position-rows"
    refused(source, shards, run, longer, "--max-position-embeddings", "128")
    refused(source, shards, run, "num_hidden_layers 2 -> 4", "--model", "bert-mini")
    with pytest.raises(
        UserError, match=r"--seq-length 128 is longer .* set it to 64 or less.*--position-rows"
    ):
        start_from(source, shards, run, "--seq-length", "128")


def test_a_folder_that_may_not_be_read(
    folders: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read any folder, so the system's answer is a stand-in."""

    def denied(path: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path / "checkpoints"))

    monkeypatch.setattr(starting_model, "is_run", denied)
    source = folders / "BertForPreTraining"
    refused(source, shards, tmp_path / "run", "cannot be read: Permission denied")


def test_too_few_rows_for_the_tokenizer_of_the_folder(
    folders: Path, shards: Path, tmp_path: Path
) -> None:
    source = transformers_folder(tmp_path / "few", "BertForPreTraining", None, vocab_size=90)
    (source / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    refused(source, shards, tmp_path / "run", "the tokenizer does not belong to these weights")


@pytest.mark.parametrize("kind", ["roberta", "modernbert"])
def test_other_models(kind: str, folders: Path, shards: Path, tmp_path: Path) -> None:
    source = shutil.copytree(folders / "BertForMaskedLM", tmp_path / kind)
    values = json.loads((source / "config.json").read_text()) | {"model_type": kind}
    (source / "config.json").write_text(json.dumps(values))
    refused(source, shards, tmp_path / "run", f"model_type '{kind}' is not supported")
    (source / "config.json").unlink()
    refused(source, shards, tmp_path / "run", "model.safetensors and no config.json")


def test_another_tokenizer(folders: Path, shards: Path, tmp_path: Path) -> None:
    """What differs, and the command that makes shards that fit."""
    other = [*VOCAB[:100], "new", *VOCAB[101:]]
    source = transformers_folder(tmp_path / "other", "BertForPreTraining", other)
    command = f"python data_tools/shard_wiki.py --input TEXT --tokenizer {source}"
    said = rf"1 ids have other entries: id 100 is 'new' and 'w95'\).*{command}"
    refused(source, shards, tmp_path / "run", said)
    cased = shutil.copytree(folders / "BertForPreTraining", tmp_path / "cased")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (cased / name).read_text()
        (cased / name).write_text(
            text.replace('"lowercase": true', '"lowercase": false').replace(
                '"do_lower_case": true', '"do_lower_case": false'
            )
        )
    refused(cased, shards, tmp_path / "run", "it keeps capitals, the other lower-cases")


def test_a_source_without_tokenizer(
    shards: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Only the size is compared; padding of the vocabulary is not trained on."""
    padded = transformers_folder(tmp_path / "padded", "BertForMaskedLM", None, vocab_size=400)
    start_from(padded, shards, tmp_path / "run", "--sentence-task", "none")
    said = capfd.readouterr().err
    assert "has no tokenizer: only the size of the vocabulary was compared" in said
    assert "rows 397 to 399 of mlm.bias (no entries of the tokenizer)" in said
    before = load_file(padded / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    after = whole_weights(tmp_path / "run")["bert.embeddings.word_embeddings.weight"]["weight"]
    assert torch.equal(after[:397], before[:397])
    assert not after[397:].any()
    other = transformers_folder(tmp_path / "other", "BertForMaskedLM", None, vocab_size=411)
    refused(other, shards, tmp_path / "run2", "its vocabulary has 411 entries, the shards' 397")
