"""MindSpore's checkpoints, written here with the protocol-buffer runtime and names spelled out."""

from __future__ import annotations

import json
import math
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from megabert.common.errors import UserError
from megabert.convert.mindspore import model as mindspore
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
from tests.helpers.mindspore_writer import write

pytest.importorskip("transformers")
descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2")

TOLERANCE = 1e-5
PRETRAINING = ("prediction_logits", "seq_relationship_logits")
# MindSpore's name -> transformers' name, {i} being a layer
NAMES = {
    "bert.bert.bert_embedding_lookup.embedding_table": (
        "bert.embeddings.word_embeddings.weight"
    ),
    "bert.bert.bert_embedding_postprocessor.token_type_embedding.embedding_table": (
        "bert.embeddings.token_type_embeddings.weight"
    ),
    "bert.bert.bert_embedding_postprocessor.full_position_embedding.embedding_table": (
        "bert.embeddings.position_embeddings.weight"
    ),
    "bert.bert.bert_embedding_postprocessor.layernorm.gamma": "bert.embeddings.LayerNorm.weight",
    "bert.bert.bert_embedding_postprocessor.layernorm.beta": "bert.embeddings.LayerNorm.bias",
    "bert.bert.bert_encoder.layers.{i}.attention.attention.query_layer.weight": (
        "bert.encoder.layer.{i}.attention.self.query.weight"
    ),
    "bert.bert.bert_encoder.layers.{i}.attention.attention.query_layer.bias": (
        "bert.encoder.layer.{i}.attention.self.query.bias"
    ),
    "bert.bert.bert_encoder.layers.{i}.attention.attention.key_layer.weight": (
        "bert.encoder.layer.{i}.attention.self.key.weight"
    ),
    "bert.bert.bert_encoder.layers.{i}.attention.attention.key_layer.bias": (
        "bert.encoder.layer.{i}.attention.self.key.bias"
    ),
    "bert.bert.bert_encoder.layers.{i}.attention.attention.value_layer.weight": (
        "bert.encoder.layer.{i}.attention.self.value.weight"
    ),
    "bert.bert.bert_encoder.layers.{i}.attention.attention.value_layer.bias": (
        "bert.encoder.layer.{i}.attention.self.value.bias"
    ),
    "bert.bert.bert_encoder.layers.{i}.attention.output.dense.weight": (
        "bert.encoder.layer.{i}.attention.output.dense.weight"
    ),
    "bert.bert.bert_encoder.layers.{i}.attention.output.dense.bias": (
        "bert.encoder.layer.{i}.attention.output.dense.bias"
    ),
    "bert.bert.bert_encoder.layers.{i}.attention.output.layernorm.gamma": (
        "bert.encoder.layer.{i}.attention.output.LayerNorm.weight"
    ),
    "bert.bert.bert_encoder.layers.{i}.attention.output.layernorm.beta": (
        "bert.encoder.layer.{i}.attention.output.LayerNorm.bias"
    ),
    "bert.bert.bert_encoder.layers.{i}.intermediate.weight": (
        "bert.encoder.layer.{i}.intermediate.dense.weight"
    ),
    "bert.bert.bert_encoder.layers.{i}.intermediate.bias": (
        "bert.encoder.layer.{i}.intermediate.dense.bias"
    ),
    "bert.bert.bert_encoder.layers.{i}.output.dense.weight": (
        "bert.encoder.layer.{i}.output.dense.weight"
    ),
    "bert.bert.bert_encoder.layers.{i}.output.dense.bias": (
        "bert.encoder.layer.{i}.output.dense.bias"
    ),
    "bert.bert.bert_encoder.layers.{i}.output.layernorm.gamma": (
        "bert.encoder.layer.{i}.output.LayerNorm.weight"
    ),
    "bert.bert.bert_encoder.layers.{i}.output.layernorm.beta": (
        "bert.encoder.layer.{i}.output.LayerNorm.bias"
    ),
    "bert.bert.dense.weight": "bert.pooler.dense.weight",
    "bert.bert.dense.bias": "bert.pooler.dense.bias",
    "bert.cls1.dense.weight": "cls.predictions.transform.dense.weight",
    "bert.cls1.dense.bias": "cls.predictions.transform.dense.bias",
    "bert.cls1.layernorm.gamma": "cls.predictions.transform.LayerNorm.weight",
    "bert.cls1.layernorm.beta": "cls.predictions.transform.LayerNorm.bias",
    "bert.cls1.output_bias": "cls.predictions.bias",
    "bert.cls2.dense.weight": "cls.seq_relationship.weight",
    "bert.cls2.dense.bias": "cls.seq_relationship.bias",
    "bert.dense1.weight": "qa_outputs.weight",
    "bert.dense1.bias": "qa_outputs.bias",
    "bert.dense_1.weight": "classifier.weight",
    "bert.dense_1.bias": "classifier.bias",
}  # fmt: skip
QUERY = "bert.bert.bert_encoder.layers.1.attention.attention.query_layer.weight"


def parameters_of(model: Any) -> dict[str, Tensor]:
    """The model's tensors under MindSpore's names."""
    theirs = model.state_dict()
    lines = [
        (ours.replace("{i}", str(i)), name.replace("{i}", str(i)))
        for ours, name in NAMES.items()
        for i in range(LAYERS)
    ]
    return {ours: theirs[name].detach().clone() for ours, name in lines if name in theirs}


def training_state(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """What an optimizer and a loop add."""
    slots = {f"lamb_{k}.{name}": torch.ones_like(t) for k in "mv" for name, t in parameters.items()}
    return slots | {
        "global_step": torch.ones(1, dtype=torch.int32),
        "learning_rate": torch.tensor(0.1),
        "scale_sense": torch.tensor(65536.0),
        "current_iterator_step": torch.tensor(3, dtype=torch.int32),
        "last_overflow_iterator_step": torch.tensor(0, dtype=torch.int32),
    }


@pytest.fixture(scope="module")
def pretrained() -> dict[str, Tensor]:
    """Parameters of a pretraining model."""
    return parameters_of(reference(hidden_act="gelu_new", layer_norm_eps=1e-7))


def assert_same(model: Any, expected: list[Tensor]) -> None:
    largest = max(1.0, *(t.abs().max().item() for t in expected))
    assert difference(model, expected) <= TOLERANCE * largest


@pytest.mark.parametrize(("checksum", "pieces"), [(False, 1), (True, 3)])
def test_pretraining(tmp_path: Path, checksum: bool, pieces: int) -> None:
    """Shape and padding are read off the file; GELU and epsilon are MindSpore's."""
    model = reference(hidden_act="gelu_new", layer_norm_eps=1e-7)
    parameters = parameters_of(model)
    path = tmp_path / "checkpoint_bert-40_10000.ckpt"
    write(path, parameters | training_state(parameters), checksum=checksum, pieces=pieces)
    read = mindspore.read(tmp_path, WORDS)
    assert (read.config.hidden_act, read.config.layer_norm_eps) == ("gelu_new", 1e-7)
    assert (read.config.vocab_size, read.config.num_hidden_layers) == (WORDS, LAYERS)
    assert (read.config.num_attention_heads, read.config.intermediate_size) == (2, 160)
    assert_same(read, outputs(model, *PRETRAINING))
    reasons = [reason for _, reason in read.left_out]
    assert reasons.count("optimizer slot") == 2 * len(parameters)
    assert reasons.count("training state") == 5
    exact = reference(hidden_act="gelu", layer_norm_eps=1e-7)
    assert difference(read, outputs(exact, *PRETRAINING)) > 1e-4


def test_epsilon_counts(tmp_path: Path) -> None:
    """With another epsilon the outputs differ: the conversion preserves it."""
    model = reference(hidden_act="gelu_new", layer_norm_eps=0.3)
    path = write(tmp_path / "a.ckpt", parameters_of(model))
    said = tmp_path / "bert_config.json"
    said.write_text(json.dumps(CONFIG | {"layer_norm_eps": 0.3}))
    read = mindspore.read(path)
    assert read.config.layer_norm_eps == 0.3
    assert_same(read, outputs(model, *PRETRAINING))
    said.write_text(json.dumps(CONFIG))
    assert mindspore.read(path).config.layer_norm_eps == 1e-7


@pytest.mark.parametrize(
    ("class_name", "names", "description"),
    [
        ("BertForQuestionAnswering", ("start_logits", "end_logits"), "run_squad"),
        ("BertForSequenceClassification", ("logits",), "run_classifier"),
        ("BertForTokenClassification", ("logits",), "run_ner"),
    ],
)
def test_fine_tuned(
    tmp_path: Path, class_name: str, names: tuple[str, ...], description: str
) -> None:
    """Half precision, with the YAML of MindSpore's scripts, whose help follows the settings."""
    model = reference(class_name, num_labels=2, hidden_act="gelu_new", layer_norm_eps=1e-7)
    model.load_state_dict({name: tensor.half() for name, tensor in model.state_dict().items()})
    parameters = {name: tensor.half() for name, tensor in parameters_of(model).items()}
    if "BertForToken" in class_name:  # trained with the pooler that its network has
        parameters["bert.bert.dense.weight"] = torch.zeros(128, 128)
        parameters["bert.bert.dense.bias"] = torch.zeros(128)
    counters = {"total_num": torch.zeros(1), "start_num": torch.zeros(1)}
    path = write(tmp_path / "task.ckpt", parameters | counters)
    network = CONFIG | {
        "seq_length": 40,
        "use_relative_positions": False,
        "dtype": "mstype.float32",
        "compute_type": "mstype.float16",
    }
    text = yaml.safe_dump({"description": description, "bert_net_cfg": network})
    (tmp_path / "task_config.yaml").write_text(text + "\n---\ndescription: 'what it is'\n")
    read = mindspore.read(path)
    assert all(tensor.dtype == torch.float32 for tensor in read.tensors.values())
    assert_same(read, outputs(model, *names))


def test_older_and_shorter_names(tmp_path: Path, pretrained: dict[str, Tensor]) -> None:
    """Tables were parameters of their own until 2021; an encoder saved alone has fewer prefixes."""
    new = mindspore.read(write(tmp_path / "new.ckpt", pretrained))
    old = {
        name.replace(
            "postprocessor.token_type_embedding.embedding_table", "postprocessor.embedding_table"
        ).replace("full_position_embedding.embedding_table", "full_position_embeddings"): tensor
        for name, tensor in pretrained.items()
    }
    assert old.keys() != pretrained.keys()
    read = mindspore.read(write(tmp_path / "old.ckpt", old))
    assert all(torch.equal(read.tensors[n], t) for n, t in new.tensors.items())
    for prefix in ("", "bert."):
        bare = {
            prefix + name.removeprefix("bert.bert."): tensor
            for name, tensor in old.items()
            if name.startswith("bert.bert.")
        }
        read = mindspore.read(write(tmp_path / "bare.ckpt", bare))
        assert read.head.name == "encoder"
        assert read.has_pooler
        assert all(torch.equal(t, new.tensors[n]) for n, t in read.tensors.items())


def test_convert(tmp_path: Path, pretrained: dict[str, Tensor]) -> None:
    """The whole command: to transformers, and to megabert."""
    path = write(tmp_path / "bert.ckpt", pretrained | training_state(pretrained))
    for target in ("huggingface", "megabert"):
        result = convert(ConversionRequest("mindspore", path, target, tmp_path / target))
        assert result.comparison is not None
        assert not result.comparison.failures
    config = json.loads((tmp_path / "huggingface" / "config.json").read_text())
    assert (config["vocab_size"], config["layer_norm_eps"]) == (PADDED, 1e-7)
    assert config["hidden_act"] == "gelu_new"


def _sinusoids(most: int, width: int) -> Tensor:
    """NEZHA's table, value by value, by the formula of its authors' code."""
    rows = [
        [
            (math.sin if k % 2 == 0 else math.cos)(row / 10000 ** (2 * (k // 2) / width))
            for k in range(width)
        ]
        for row in range(2 * most + 1)
    ]
    return torch.tensor(rows)


def test_relative_positions(tmp_path: Path, pretrained: dict[str, Tensor]) -> None:
    """Tables of NEZHA's sinusoids are taken as such; trained tables are refused by name."""
    tables = {
        f"bert.bert.bert_encoder.layers.{i}.attention.attention."
        "_generate_relative_positions_embeddings.embeddings_table": _sinusoids(16, 64)
        for i in range(LAYERS)
    }
    slots = {f"adam_m.{name}": tensor for name, tensor in tables.items()}
    path = write(tmp_path / "nezha.ckpt", pretrained | tables | slots)
    said = tmp_path / "config.yaml"
    said.write_text(
        yaml.safe_dump(
            {"bert_network": "nezha", "nezha_net_cfg": CONFIG | {"use_relative_positions": True}}
        )
    )
    for config in (None, said):
        read = mindspore.read(path, model_config=config)
        assert read.config.position_embeddings == "relative"
        assert read.config.max_relative_position == 16
        assert "bert.embeddings.position_embeddings.weight" not in read.tensors
        assert sum("which the model does not use" in reason for _, reason in read.left_out) == 1
        assert sum("sinusoids" in reason for _, reason in read.left_out) == LAYERS
    trained = dict(tables)
    trained[min(tables)] = tables[min(tables)] + 0.01
    with pytest.raises(UserError, match=r"layers\.0\..*embeddings_table is a trained table"):
        mindspore.read(write(path, pretrained | trained))
    with pytest.raises(UserError, match="has no tables of them"):
        mindspore.read(write(path, pretrained), None, said)


def _likelihood(score: Any, words: int, labels: int, path: tuple[int, ...]) -> float:
    """log p(path) by the sum over all paths."""
    total = torch.logsumexp(
        torch.stack([score(other) for other in product(range(labels), repeat=words)]), 0
    )
    return float(score(path) - total)


def test_conditional_random_field(tmp_path: Path) -> None:
    """Paths have the same probability with and without START and STOP among the labels."""
    labels, words = 3, 3
    model = reference("BertForTokenClassification", num_labels=labels + 2)
    transitions = torch.randn(labels + 2, labels + 2, generator=torch.Generator().manual_seed(1))
    transitions[labels, :] = -10000.0  # to START
    transitions[:, labels + 1] = -10000.0  # from STOP
    parameters = parameters_of(model) | {"loss.transitions": transitions}
    read = mindspore.read(write(tmp_path / "ner.ckpt", parameters))
    assert (read.head.name, read.has_crf, read.outputs) == ("token classification", True, labels)
    assert sum("START and STOP" in reason for _, reason in read.left_out) == 2
    hidden = torch.randn(words, 128, generator=torch.Generator().manual_seed(2))
    theirs = hidden @ parameters["bert.dense_1.weight"].T + parameters["bert.dense_1.bias"]
    ours = (
        hidden @ read.tensors["token.classifier.weight"].T + read.tensors["token.classifier.bias"]
    )
    start, end, moves = (read.tensors[f"crf.{n}"] for n in ("start", "end", "transitions"))

    def score_theirs(path: tuple[int, ...]) -> Tensor:
        steps = [labels, *path, labels + 1]  # from START to STOP, transitions[to, from]
        moved = sum(transitions[b, a] for a, b in pairwise(steps))
        return moved + sum(theirs[place, label] for place, label in enumerate(path))

    def score_ours(path: tuple[int, ...]) -> Tensor:
        moved = sum((moves[a, b] for a, b in pairwise(path)), start[path[0]] + end[path[-1]])
        return moved + sum(ours[place, label] for place, label in enumerate(path))

    for path in product(range(labels), repeat=words):
        assert _likelihood(score_ours, words, labels, path) == pytest.approx(
            _likelihood(score_theirs, words, labels + 2, path), abs=1e-3
        )
    wrong = parameters | {"loss.transitions": transitions[:-1, :-1]}
    with pytest.raises(UserError, match=r"loss\.transitions has shape \[4, 4\]"):
        mindspore.read(write(tmp_path / "ner.ckpt", wrong))


def _change(parameters: dict[str, Tensor], how: str) -> dict[str, Tensor]:
    changed = dict(parameters)
    if how == "missing":
        del changed[QUERY]
    elif how == "extra":
        changed["bert.lstm.weight_ih_l0"] = torch.zeros(4, 4)
    elif how == "shape":
        changed[QUERY] = torch.zeros(128, 64)
    elif how == "integers":
        changed[QUERY] = torch.zeros(128, 128, dtype=torch.int8)
    elif how == "one layer more":
        changed["bert.bert.bert_encoder.layers.2.output.dense.bias"] = torch.zeros(128)
    return changed


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("missing", r"missing tensors: 1 .*layers\.1\.attention\.attention\.query_layer\.weight"),
        ("extra", r"unexpected tensors: 1 .*bert\.lstm\.weight_ih_l0"),
        ("shape", r"bert\.layers\.1\.attention\.query\.weight has shape \[128, 64\]"),
        ("integers", r"attention\.query\.weight holds torch\.int8"),
        ("one layer more", r"missing tensors: 15 .*layers\.2"),
    ],
)
def test_wrong_tensors_are_named(
    tmp_path: Path, pretrained: dict[str, Tensor], how: str, words: str
) -> None:
    """Missing, extra (a network that megabert has not), misshapen, of integers."""
    path = write(tmp_path / "bert.ckpt", _change(pretrained, how))
    with pytest.raises(UserError, match=words) as caught:
        mindspore.read(path)
    assert "\n" not in str(caught.value)
    assert "bert.ckpt" in str(caught.value)


def test_configurations_that_do_not_fit(tmp_path: Path, pretrained: dict[str, Tensor]) -> None:
    """fast_gelu, a YAML without a network, several YAML files, another shape."""
    path = write(tmp_path / "bert.ckpt", pretrained)
    said = tmp_path / "one.yaml"
    boost = CONFIG | {"hidden_act": "fast_gelu"}
    said.write_text(yaml.safe_dump({"bert_network": "large_boost", "large_boost_net_cfg": boost}))
    with pytest.raises(UserError, match=r"hidden_act is 'fast_gelu'"):
        mindspore.read(path)
    (tmp_path / "two.yaml").write_text("bert_net_cfg: {}\n")
    with pytest.raises(UserError, match=r"several configurations \(one\.yaml, two\.yaml\)"):
        mindspore.read(path)
    said.write_text("description: run_squad\n")
    with pytest.raises(UserError, match="no section bert_net_cfg"):
        mindspore.read(path, model_config=said)
    said.write_text("a: [1\n")
    with pytest.raises(UserError, match="cannot be read as YAML"):
        mindspore.read(path, model_config=said)
    other = tmp_path / "other.json"
    other.write_text(json.dumps(CONFIG | {"intermediate_size": 256}))
    with pytest.raises(UserError, match=r"mlp\.up\.weight has shape \[160, 128\]"):
        mindspore.read(path, model_config=other)
