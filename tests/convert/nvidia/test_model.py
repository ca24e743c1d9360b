"""NVIDIA DeepLearningExamples' checkpoints: names, versions, padding, and what is refused."""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from megabert.common.errors import UserError
from megabert.convert.nvidia import model as nvidia
from megabert.convert.run import ConversionRequest, convert
from tests.helpers.foreign_models import (
    CONFIG,
    LAYERS,
    PADDED,
    WORDS,
    difference,
    outputs,
    reference,
)

pytest.importorskip("transformers")

TOLERANCE = 1e-5
# NVIDIA's name -> transformers' name, {i} being a layer
SAME = (
    "bert.embeddings.word_embeddings.weight",
    "bert.embeddings.position_embeddings.weight",
    "bert.embeddings.token_type_embeddings.weight",
    "bert.embeddings.LayerNorm.weight",
    "bert.embeddings.LayerNorm.bias",
    "bert.encoder.layer.{i}.attention.self.query.weight",
    "bert.encoder.layer.{i}.attention.self.query.bias",
    "bert.encoder.layer.{i}.attention.self.key.weight",
    "bert.encoder.layer.{i}.attention.self.key.bias",
    "bert.encoder.layer.{i}.attention.self.value.weight",
    "bert.encoder.layer.{i}.attention.self.value.bias",
    "bert.encoder.layer.{i}.attention.output.dense.weight",
    "bert.encoder.layer.{i}.attention.output.dense.bias",
    "bert.encoder.layer.{i}.attention.output.LayerNorm.weight",
    "bert.encoder.layer.{i}.attention.output.LayerNorm.bias",
    "bert.encoder.layer.{i}.output.dense.weight",
    "bert.encoder.layer.{i}.output.dense.bias",
    "bert.encoder.layer.{i}.output.LayerNorm.weight",
    "bert.encoder.layer.{i}.output.LayerNorm.bias",
    "cls.predictions.bias",
    "cls.predictions.transform.LayerNorm.weight",
    "cls.predictions.transform.LayerNorm.bias",
    "cls.seq_relationship.weight",
    "cls.seq_relationship.bias",
    "qa_outputs.weight",
    "qa_outputs.bias",
    "classifier.weight",
    "classifier.bias",
)
OTHER = {
    "bert.encoder.layer.{i}.intermediate.dense_act.weight": (
        "bert.encoder.layer.{i}.intermediate.dense.weight"
    ),
    "bert.encoder.layer.{i}.intermediate.dense_act.bias": (
        "bert.encoder.layer.{i}.intermediate.dense.bias"
    ),
    "bert.pooler.dense_act.weight": "bert.pooler.dense.weight",
    "bert.pooler.dense_act.bias": "bert.pooler.dense.bias",
    "cls.predictions.transform.dense_act.weight": "cls.predictions.transform.dense.weight",
    "cls.predictions.transform.dense_act.bias": "cls.predictions.transform.dense.bias",
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
}


def state_of(model: Any) -> dict[str, Tensor]:
    """The model's tensors under NVIDIA's names; the decoder repeats the word embeddings."""
    theirs = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    table = {name: name for name in SAME} | OTHER
    if "cls.predictions.bias" not in theirs:
        del table["cls.predictions.decoder.weight"]
    lines = [
        (ours.replace("{i}", str(i)), name.replace("{i}", str(i)))
        for ours, name in table.items()
        for i in range(LAYERS)
    ]
    return {ours: theirs[name] for ours, name in lines if name in theirs}


def checkpoint(
    state: dict[str, Tensor], *, version: int = 2022, prefix: str = ""
) -> dict[str, Any]:
    """What run_pretraining.py of a year writes."""
    model = {prefix + name: tensor for name, tensor in state.items()}
    moments = {0: {"step": 7, "exp_avg": torch.ones(3), "exp_avg_sq": torch.ones(3)}}
    optimizer = {"state": moments, "param_groups": [{"lr": torch.tensor(1.0), "params": [0]}]}
    if version == 2022:
        scaler = {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 3}
        return {"model": model, "optimizer": optimizer, "grad_scaler": scaler, "epoch": 1}
    return {
        "model": model,
        "optimizer": optimizer,
        "master params": [torch.ones(3)],
        "files": [3, "shard_3.hdf5"],
    }


@pytest.fixture(scope="module")
def pretrained() -> dict[str, Tensor]:
    """Tensors of a pretraining model under NVIDIA's names."""
    return state_of(reference())


@pytest.fixture
def file(tmp_path: Path, pretrained: dict[str, Tensor]) -> Path:
    """A pretraining checkpoint of 2022."""
    path = tmp_path / "ckpt_7038.pt"
    torch.save(checkpoint(pretrained), path)
    return path


@pytest.mark.parametrize(
    ("version", "act", "zipped"),
    [(2022, "gelu_new", True), (2020, "gelu", True), (2020, "gelu", False)],
)
def test_pretraining(tmp_path: Path, version: int, act: str, zipped: bool) -> None:
    """Shape, GELU and padding are read off the file; the outputs are those of transformers."""
    model = reference(hidden_act=act)
    path = tmp_path / "ckpt_7038.pt"
    torch.save(
        checkpoint(state_of(model), version=version, prefix="module."),
        path,
        _use_new_zipfile_serialization=zipped,
    )
    read = nvidia.read(path, WORDS)
    assert (read.config.vocab_size, read.config.hidden_act) == (WORDS, act)
    assert read.config.layer_norm_eps == 1e-12
    assert (read.config.num_hidden_layers, read.config.num_attention_heads) == (LAYERS, 2)
    assert (read.config.intermediate_size, read.config.max_position_embeddings) == (160, 40)
    expected = outputs(model, "prediction_logits", "seq_relationship_logits")
    assert difference(read, expected) <= TOLERANCE * max(t.abs().max() for t in expected)
    told = dict(read.left_out)
    assert told["optimizer"] == "state of training"
    assert told["rows 101 to 103 of mlm.bias"] == "padding of the vocabulary"
    other = reference(hidden_act="gelu" if act == "gelu_new" else "gelu_new")
    assert difference(read, outputs(other, "prediction_logits", "seq_relationship_logits")) > 1e-4


@pytest.mark.parametrize(
    ("class_name", "names"),
    [
        ("BertForQuestionAnswering", ("start_logits", "end_logits")),
        ("BertForSequenceClassification", ("logits",)),
        ("BertForTokenClassification", ("logits",)),
    ],
)
def test_fine_tuned(tmp_path: Path, class_name: str, names: tuple[str, ...]) -> None:
    """pytorch_model.bin in a folder with its bert_config.json, in fp16, the table of tensors bare."""
    model = reference(class_name, num_labels=2)
    halves = {name: tensor.half() for name, tensor in model.state_dict().items()}
    model.load_state_dict(halves)
    state = {name: tensor.half() for name, tensor in state_of(model).items()}
    torch.save(state, tmp_path / "pytorch_model.bin")
    values = CONFIG | {"hidden_act": "gelu_python", "architectures": [class_name]}
    (tmp_path / "bert_config.json").write_text(json.dumps(values))
    read = nvidia.read(tmp_path)
    assert all(tensor.dtype == torch.float32 for tensor in read.tensors.values())
    assert read.config.vocab_size == PADDED
    expected = outputs(model, *names)
    assert difference(read, expected) <= TOLERANCE * max(t.abs().max() for t in expected)


def test_first_version(pretrained: dict[str, Tensor], tmp_path: Path) -> None:
    """Until August 2019 the layers with an activation were called dense, norms had gamma and beta."""
    old = {
        name.replace("dense_act", "dense")
        .replace("LayerNorm.weight", "LayerNorm.gamma")
        .replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in pretrained.items()
    }
    torch.save({"model": old, "optimizer": {}, "files": [0]}, tmp_path / "ckpt_1.pt")
    torch.save({"model": pretrained, "optimizer": {}, "files": [0]}, tmp_path / "ckpt_2.pt")
    first, second = (nvidia.read(tmp_path / f"ckpt_{i}.pt") for i in (1, 2))
    assert first.tensors.keys() == second.tensors.keys()
    assert all(torch.equal(first.tensors[n], t) for n, t in second.tensors.items())
    with pytest.raises(UserError, match=r"2 \(ckpt_1\.pt, ckpt_2\.pt\)"):
        nvidia.read(tmp_path)


def test_true_vocabulary_of_the_configuration(file: Path) -> None:
    """bert_configs/large.json states 30,522 words for tables of 30,528 rows; so here, smaller."""
    given_file = file.with_name("large.json")
    given_file.write_text(json.dumps(CONFIG | {"vocab_size": WORDS}))
    assert nvidia.read(file, None, given_file).config.vocab_size == WORDS
    assert nvidia.read(file).config.vocab_size == PADDED
    given_file.write_text(json.dumps(CONFIG | {"vocab_size": 57}))
    with pytest.raises(UserError, match=r"word_embeddings\.weight has shape \[104, 128\]"):
        nvidia.read(file, None, given_file)


def test_a_missing_gelu_is_reported(
    tmp_path: Path, pretrained: dict[str, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    """A file with nothing but weights says nothing of its version."""
    torch.save({"model": pretrained}, tmp_path / "pytorch_model.bin")
    assert nvidia.read(tmp_path / "pytorch_model.bin").config.hidden_act == "gelu"
    assert "gelu_new in --model-config" in capsys.readouterr().err


def test_convert(file: Path, tmp_path: Path) -> None:
    """The whole command: to transformers, and to megabert, with a vocabulary file."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(WORDS - 5))]
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(words) + "\n")
    for target in ("huggingface", "megabert"):
        result = convert(
            ConversionRequest("nvidia", file, target, tmp_path / target, tokenizer=vocabulary)
        )
        assert result.comparison is not None
        assert not result.comparison.failures
        assert any("state of training" in line for line in result.left_out())
    config = json.loads((tmp_path / "huggingface" / "config.json").read_text())
    assert (config["vocab_size"], config["hidden_act"]) == (WORDS, "gelu_new")


def _change(state: dict[str, Tensor], how: str) -> dict[str, Tensor]:
    up = "bert.encoder.layer.1.intermediate.dense_act.weight"
    state = dict(state)
    if how == "missing":
        del state[up]
    elif how == "extra":
        state["bert.encoder.layer.1.attention.self.qkv._extra_state"] = torch.zeros(1)
    elif how == "shape":
        state[up] = torch.zeros(128, 160)
    elif how == "integers":
        state[up] = torch.zeros(160, 128, dtype=torch.int8)
    elif how == "untied":
        state["cls.predictions.decoder.weight"] = torch.zeros(PADDED, 128)
    elif how == "strange":
        state = {"tower.0.weight": torch.zeros(2)}
    return state


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("missing", r"missing tensors: 1 .*layer\.1\.intermediate\.dense_act\.weight"),
        ("extra", r"unexpected tensors: 1 .*qkv\._extra_state"),
        ("shape", r"bert\.layers\.1\.mlp\.up\.weight has shape \[128, 160\]"),
        ("integers", r"mlp\.up\.weight holds torch\.int8"),
        ("untied", r"decoder\.weight differs"),
        ("strange", r"no name is that of a layer's tensor: 1 \(tower\.0\.weight\)"),
    ],
)
def test_wrong_tensors_are_named(
    tmp_path: Path, pretrained: dict[str, Tensor], how: str, words: str
) -> None:
    """Missing, extra (as Transformer Engine writes), misshapen, untied tensors."""
    path = tmp_path / "ckpt_1.pt"
    torch.save(checkpoint(_change(pretrained, how)), path)
    with pytest.raises(UserError, match=words) as caught:
        nvidia.read(path)
    assert "\n" not in str(caught.value)
    assert "ckpt_1.pt" in str(caught.value)


class _Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return (os.mkdir, (str(self.witness),))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_does_not_run(tmp_path: Path, pretrained: dict[str, Tensor], zipped: bool) -> None:
    """A pickle with code, or with any object, is refused by the object's name."""
    path, witness = tmp_path / "ckpt_1.pt", tmp_path / "ran"
    cases = [
        ("data_loader", _Evil(witness), r"posix\.mkdir.*run code"),
        ("args", argparse.Namespace(lr=1), r"argparse\.Namespace"),
        ("sampler", random.Random(1), r"random\.Random"),
    ]
    for key, value, words in cases:
        content = checkpoint(pretrained) | {key: value}
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(UserError, match=words) as caught:
            nvidia.read(path)
        assert "docs/reference/conversion.md" in str(caught.value)
    assert not witness.exists()


def test_saved_again(tmp_path: Path, pretrained: dict[str, Tensor]) -> None:
    """The two lines of docs/reference/conversion.md make a file that is read and still shows its version."""
    path, weights = tmp_path / "ckpt_7038.pt", tmp_path / "weights.pt"
    torch.save(checkpoint(pretrained) | {"args": argparse.Namespace(lr=1)}, path)
    content = torch.load(path, map_location="cpu", weights_only=False)
    torch.save({k: v if k == "model" else None for k, v in content.items()}, weights)
    read = nvidia.read(weights)
    assert read.config.hidden_act == "gelu_new"
    assert ("args", "state of training") in read.left_out


def test_other_files(tmp_path: Path) -> None:
    """A file that is not a checkpoint of this kind gives a one-line error."""
    path = tmp_path / "ckpt_1.pt"
    for content, words in (
        ([torch.zeros(1)], "holds a list"),
        (
            {"state_dict": {"a": torch.zeros(1)}},
            r"no entry 'model' and holds entries that are not tensors",
        ),
        ({"model": {"a": 3}}, r"not tensors: 1 \(a\)"),
        ({"model": {}}, "not a table of tensors"),
    ):
        torch.save(content, path)
        with pytest.raises(UserError, match=words):
            nvidia.read(path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match=r"ckpt_1\.pt"):
        nvidia.read(path)
    with pytest.raises(UserError, match="does not exist"):
        nvidia.read(tmp_path / "absent.pt")


def test_unknown_heads(tmp_path: Path) -> None:
    """A width that is not a multiple of 64 needs a configuration."""
    model = reference(hidden_size=96, num_attention_heads=4)
    torch.save(checkpoint(state_of(model)), tmp_path / "ckpt_1.pt")
    with pytest.raises(UserError, match=r"width 96 .* --model-config"):
        nvidia.read(tmp_path / "ckpt_1.pt")


def test_flipped_bit_in_a_tensor(tmp_path: Path) -> None:
    """torch does not look at the checksums of its archives; the reader does."""
    path = tmp_path / "ckpt_1.pt"
    tensor = torch.arange(40.0)
    torch.save({"model": {"a": tensor}}, path)
    raw = bytearray(path.read_bytes())
    raw[raw.index(tensor.numpy().tobytes()) + 17] ^= 4
    path.write_bytes(raw)
    with pytest.raises(UserError, match=r"ckpt_1\.pt is damaged: .*data/0 does not match"):
        nvidia.read(path)


@settings(max_examples=25, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_damage_is_found(
    tmp_path_factory: pytest.TempPathFactory, where: float, bit: int, cut: bool
) -> None:
    """A file cut anywhere, or with a bit flipped in a record, is refused by its name, or reads the same.

    The archive itself has bytes that say nothing (times, padding): a flip there changes no tensor.
    """
    folder = tmp_path_factory.mktemp("damage")
    state = {f"bert.w{i}": torch.arange(40.0) + i for i in range(3)}
    path = folder / "ckpt_1.pt"
    torch.save({"model": state}, path)
    raw = bytearray(path.read_bytes())
    place = int(where * len(raw))
    if cut:
        raw = raw[:place]
    else:
        raw[place] ^= 1 << bit
    path.write_bytes(raw)
    read, said = _outcome(path)
    if said:
        assert "ckpt_1.pt" in said
        assert "\n" not in said
        return
    assert not cut
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())


def _outcome(path: Path) -> tuple[dict[str, Tensor], str]:
    try:
        return dict(nvidia._load(path)["model"]), ""
    except UserError as error:
        return {}, str(error)
