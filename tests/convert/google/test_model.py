"""Google BERT's TensorFlow checkpoints: the real toy one, every head, NEZHA, and what is refused."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from megabert.common.errors import UserError
from megabert.config.model import ModelConfig
from megabert.convert.check import our_side
from megabert.convert.google import model as google_tf
from megabert.convert.google.tensor_bundle import Bundle, write_bundle
from megabert.convert.google.tensor_bundle.table import table_bytes
from megabert.convert.probe_inputs import id_batch
from megabert.convert.read_back import same_tensors
from megabert.convert.run import ConversionRequest, convert
from megabert.convert.whole_model import ENCODER_ONLY, WholeModel, empty_model, loaded_model
from megabert.model.head_registry import Head
from megabert.model.heads import MASKED_LM, PRETRAINING
from megabert.model.modules import activation
from megabert.model.task_heads import (
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
)

transformers = pytest.importorskip("transformers")

CONFIG = ModelConfig(
    name="small",
    vocab_size=30,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=12,
)
HEADS = [PRETRAINING, MASKED_LM, QUESTION_ANSWERING, SEQUENCE_CLASSIFICATION, ENCODER_ONLY]
SLOTS = re.compile(r"/adam_[mv]$|^global_step$")


@pytest.fixture(scope="module")
def toy(shared_data: Path) -> Path:
    return shared_data / "checkpoints" / "google_tf_toy"


def arrays(folder: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint as they are stored, without what the optimizer left."""
    bundle = Bundle(folder / "bert_model.ckpt")
    return {name: bundle.read(name) for name in bundle.names if not SLOTS.search(name)}


def whole(head: Head, config: ModelConfig = CONFIG, pooler: bool = True) -> WholeModel:
    """A model with random weights of a size that every output depends on."""
    torch.manual_seed(3)
    model = empty_model(config, head, pooler, 3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return WholeModel(config, tensors, None, config.max_position_embeddings, "made up")


def written(folder: Path, model: WholeModel) -> Path:
    folder.mkdir()
    google_tf.write(folder, model)
    return folder


def their_name(name: str) -> str:
    """The Google name of a parameter of transformers' BertForPreTraining."""
    if name == "cls.predictions.bias":
        return "cls/predictions/output_bias"
    if name.startswith("cls.seq_relationship."):
        return "cls/seq_relationship/output_" + ("weights" if name.endswith("weight") else "bias")
    path = re.sub(r"layer\.(\d+)", r"layer_\1", name).replace(".", "/")
    if "LayerNorm" in path:
        return path.replace("weight", "gamma").replace("/bias", "/beta")
    if "_embeddings/" in path:
        return path.removesuffix("/weight")
    return path.replace("weight", "kernel")


def by_transformers(values: dict[str, Tensor], config: Path) -> torch.nn.Module:
    """transformers' model with the arrays of a checkpoint, by :func:`their_name` alone."""
    theirs = transformers.BertForPreTraining(transformers.BertConfig.from_json_file(config)).eval()
    used = set()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            array = values[their_name(name)]
            used.add(their_name(name))
            parameter.copy_(array.T if their_name(name).endswith("/kernel") else array)
    assert used == values.keys()
    return theirs


def assert_same_model(folder: Path) -> None:
    """Hidden states and logits of the converted model are those of transformers, within 1e-5."""
    theirs = by_transformers(arrays(folder), folder / "bert_config.json")
    model = google_tf.read(folder)
    batch = id_batch(15, 16, 2)
    batch.attention_mask[:, 11:] = 0
    with torch.no_grad():
        expected = theirs(**batch.as_dict(), output_hidden_states=True)
        logits = our_side(model)(batch)
        hidden = loaded_model(model).bert(batch.padded()).unflatten(0, batch.input_ids.shape)
    real = batch.attention_mask.bool()
    pairs = (
        (hidden[real], expected.hidden_states[-1][real]),
        (logits["MLM logits"][real], expected.prediction_logits[real]),
        (logits["NSP logits"], expected.seq_relationship_logits),
    )
    for ours, other in pairs:
        assert (ours - other).abs().max() <= 1e-5


def test_the_real_checkpoint_is_read(toy: Path) -> None:
    model = google_tf.read(toy)
    assert model.head == PRETRAINING
    assert len(model.tensors) == 46
    assert (model.config.hidden_size, model.config.vocab_size) == (4, 15)
    assert model.config.layer_norm_eps == 1e-12
    assert model.tokenizer == toy
    reasons = [reason for _, reason in model.left_out]
    assert reasons.count("optimizer slot") == 92
    assert ("global_step", "number of updates") in model.left_out
    assert len(reasons) == 93
    stored = arrays(toy)
    up = model.tensors["bert.layers.1.mlp.up.weight"]
    assert torch.equal(up, stored["bert/encoder/layer_1/intermediate/dense/kernel"].T)
    assert torch.equal(
        model.tensors["nsp.classifier.weight"], stored["cls/seq_relationship/output_weights"]
    )


def test_the_real_checkpoint_computes_the_same(toy: Path) -> None:
    assert_same_model(toy)


def test_the_real_checkpoint_with_large_weights(toy: Path, tmp_path: Path) -> None:
    """The toy's own weights barely change a logit; 30 times larger, each of them matters."""
    values = arrays(toy)
    write_bundle(
        tmp_path / "bert_model.ckpt",
        {name: value * (1 if "LayerNorm" in name else 30) for name, value in values.items()},
    )
    (tmp_path / "bert_config.json").write_bytes((toy / "bert_config.json").read_bytes())
    assert_same_model(tmp_path)


def test_the_real_checkpoint_goes_round(toy: Path, tmp_path: Path) -> None:
    """google-tf -> huggingface -> megabert -> google-tf: every tensor bit for bit."""
    road = [("google-tf", toy)]
    for target in ("huggingface", "megabert", "google-tf"):
        source, folder = road[-1]
        result = convert(ConversionRequest(source, folder, target, tmp_path / target))
        assert result.comparison is not None
        assert not result.comparison.failures
        road.append((target, result.output))
    before, after = arrays(toy), arrays(tmp_path / "google-tf")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    old, new = (
        json.loads((f / "bert_config.json").read_text()) for f in (toy, tmp_path / "google-tf")
    )
    assert new.items() <= old.items()
    assert (tmp_path / "google-tf" / "vocab.txt").read_text().split() == (
        toy / "vocab.txt"
    ).read_text().split()
    record = json.loads((tmp_path / "huggingface" / "conversion.json").read_text())
    assert record["left_out"]["bert/pooler/dense/kernel/adam_m"] == "optimizer slot"


@pytest.mark.parametrize("head", HEADS, ids=str)
@pytest.mark.parametrize("positions", ["absolute", "relative"])
def test_every_head_there_and_back(tmp_path: Path, head: Head, positions: str) -> None:
    model = whole(head, replace(CONFIG, position_embeddings=positions))
    folder = written(tmp_path / "google", model)
    again = google_tf.read(folder)
    assert again.head == head
    assert same_tensors(model, again) == len(model.tensors)
    assert not again.left_out
    names = set(Bundle(folder / "bert_model.ckpt").names)
    assert ("bert/embeddings/position_embeddings" in names) == (positions == "absolute")
    values = json.loads((folder / "bert_config.json").read_text())
    assert values.get("use_relative_position", False) == (positions == "relative")


def test_names_of_the_fine_tuned_heads(tmp_path: Path) -> None:
    """As run_squad and run_classifier store them: [outputs, hidden], under no layer."""
    answers = arrays(written(tmp_path / "qa", whole(QUESTION_ANSWERING)))
    assert answers["cls/squad/output_weights"].shape == (2, 8)
    assert answers["cls/squad/output_bias"].shape == (2,)
    assert "bert/pooler/dense/kernel" not in answers
    labels = arrays(written(tmp_path / "classes", whole(SEQUENCE_CLASSIFICATION)))
    assert labels["output_weights"].shape == (3, 8)
    assert labels["output_bias"].shape == (3,)
    assert labels["bert/pooler/dense/kernel"].shape == (8, 8)


def test_a_fine_tuned_checkpoint_of_an_estimator(tmp_path: Path) -> None:
    """run_squad leaves an unused pooler, slots, and several checkpoints; the state file names one."""
    folder = written(tmp_path / "run", whole(QUESTION_ANSWERING))
    values = arrays(folder)
    values |= {
        "bert/pooler/dense/kernel": torch.zeros(8, 8),
        "bert/pooler/dense/bias": torch.zeros(8),
        "cls/squad/output_bias/adam_v": torch.zeros(2),
        "cls/squad/output_bias/lamb_m": torch.zeros(2),
        "beta1_power": torch.tensor(0.5),
        "loss_scale": torch.tensor(1.0),
        "global_step": torch.tensor(90),
    }
    for name in ("bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001", "checkpoint"):
        (folder / name).unlink()
    write_bundle(folder / "model.ckpt-80", values)
    write_bundle(folder / "model.ckpt-90", values)
    with pytest.raises(UserError, match="2 checkpoints, and no file checkpoint"):
        google_tf.read(folder)
    (folder / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/run/model.ckpt-90"\n')
    model = google_tf.read(folder)
    assert model.head == QUESTION_ANSWERING
    assert "model.ckpt-90" in model.origin
    assert len(model.left_out) == 7
    (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-70"\n')
    with pytest.raises(UserError, match="that names one of them"):
        google_tf.read(folder)
    by_prefix = google_tf.read(folder / "model.ckpt-80")
    by_index = google_tf.read(folder / "model.ckpt-80.index")
    assert same_tensors(by_prefix, by_index) == len(model.tensors)


def test_half_precision_becomes_fp32(tmp_path: Path) -> None:
    folder = written(tmp_path / "x", whole(PRETRAINING))
    values = {name: tensor.bfloat16() for name, tensor in arrays(folder).items()}
    write_bundle(folder / "bert_model.ckpt", values)
    model = google_tf.read(folder)
    assert "bfloat16" in model.origin
    words = model.tensors["bert.embeddings.word_embeddings.weight"]
    assert words.dtype == torch.float32
    assert torch.equal(words, values["bert/embeddings/word_embeddings"].float())


def test_padded_vocabulary(tmp_path: Path) -> None:
    """Rows past the tokenizer's last word are cut, and said so; without a tokenizer they stay."""
    folder = written(tmp_path / "x", whole(PRETRAINING, replace(CONFIG, vocab_size=32)))
    model = google_tf.read(folder, 30)
    assert model.config.vocab_size == 30
    assert model.tensors["bert.embeddings.word_embeddings.weight"].shape == (30, 8)
    assert model.tensors["mlm.bias"].shape == (30,)
    assert len(model.left_out) == 2
    assert google_tf.read(folder).config.vocab_size == 32


def test_gelu_is_the_exact_one() -> None:
    """Google's later code computes an approximation under the same name: less than 5e-4 apart."""
    x = torch.linspace(-6, 6, 100_001, dtype=torch.float64)
    exact = 0.5 * x * (1 + torch.erf(x / 2**0.5))
    later = 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
    assert torch.allclose(activation("gelu")(x), exact, rtol=0, atol=1e-12)
    assert 4e-4 < (exact - later).abs().max() < 5e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": "pre"}, r"norm 'pre' \(it has no name for bert"),
        ({"hidden_act": "gelu_new"}, "hidden_act 'gelu_new'"),
        ({"layer_norm_eps": 1e-5}, r"layer_norm_eps 1e-05 \(it uses 1e-12"),
        (
            {"position_embeddings": "relative", "max_relative_position": 32},
            r"max_relative_position 32 \(it uses 64",
        ),
    ],
)
def test_settings_that_cannot_be_written(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    model = whole(PRETRAINING, replace(CONFIG, **change))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        google_tf.write(tmp_path, model)
    assert not list(tmp_path.iterdir())


def test_heads_that_cannot_be_written(tmp_path: Path) -> None:
    model = whole(TOKEN_CLASSIFICATION)
    model.tensors["crf.start"] = torch.zeros(3)
    with pytest.raises(
        UserError, match=r"no name .*token classification.*crf.start, token.classif"
    ):
        google_tf.write(tmp_path, model)
    assert not list(tmp_path.iterdir())


def _without(name: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda values: values.__delitem__(name)


def _with(name: str, tensor: Tensor) -> Callable[[dict[str, Tensor]], None]:
    return lambda values: values.update({name: tensor})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _without("bert/encoder/layer_1/output/dense/kernel"),
            "missing.*layer_1/output/dense/kernel",
        ),
        (_without("cls/predictions/output_bias"), "missing.*cls/predictions/output_bias"),
        (
            _with("bert/encoder/layer_2/output/dense/bias", torch.zeros(8)),
            "unexpected.*layer_2/output",
        ),
        (_with("bert/embeddings/adam", torch.zeros(8)), "unexpected.*bert/embeddings/adam"),
        (_with("counts", torch.zeros(8, dtype=torch.int32)), "unexpected tensor counts without"),
        (_with("bert/pooler/dense/bias", torch.zeros(9)), r"pooler.dense.bias has shape \[9\]"),
        (
            _with("a/.ATTRIBUTES/VARIABLE_VALUE", torch.zeros(8)),
            "object-based checkpoint of TensorFlow 2",
        ),
    ],
)
def test_checkpoints_that_are_not_this_bert(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    folder = written(tmp_path / "x", whole(PRETRAINING))
    values = arrays(folder)
    change(values)
    write_bundle(folder / "bert_model.ckpt", values)
    with pytest.raises(UserError, match=message):
        google_tf.read(folder)


def test_a_position_table_is_not_part_of_nezha(tmp_path: Path) -> None:
    folder = written(tmp_path / "x", whole(PRETRAINING))
    config = folder / "bert_config.json"
    values = json.loads(config.read_text()) | {"use_relative_position": True}
    config.write_text(json.dumps(values))
    with pytest.raises(
        UserError, match=r"unexpected.*position_embeddings.*not a NEZHA|not a NEZHA.*unexp"
    ):
        google_tf.read(folder)


def test_the_old_format(tmp_path: Path) -> None:
    """A checkpoint in one file, which is a table too."""
    path = tmp_path / "bert_model.ckpt"
    path.write_bytes(table_bytes([(b"", b"\x0a\x00")]))
    for given in (path, tmp_path):
        with pytest.raises(UserError, match=r"bert_model.ckpt is .*old format \(V1\).*Saver"):
            google_tf.read(given)


def test_where_the_configuration_is_found(tmp_path: Path) -> None:
    folder = written(tmp_path / "x", whole(ENCODER_ONLY))
    elsewhere = (folder / "bert_config.json").rename(tmp_path / "my_config.json")
    with pytest.raises(UserError, match=r"bert_config.json is not a file.*--model-config"):
        google_tf.read(folder)
    assert google_tf.read(folder, model_config=elsewhere).head == ENCODER_ONLY


@pytest.mark.parametrize("name", ["nothing", "bert_model.ckpt.data-00000-of-00001", "x.index"])
def test_paths_without_a_checkpoint(tmp_path: Path, name: str) -> None:
    (tmp_path / "bert_model.ckpt.data-00000-of-00001").write_bytes(struct.pack("<f", 1))
    with pytest.raises(UserError, match=r"index does not exist; --input takes"):
        google_tf.read(tmp_path / name)
    with pytest.raises(UserError, match=r"has no \*.index file"):
        google_tf.read(tmp_path)


def test_damage_stops_a_conversion(tmp_path: Path) -> None:
    """The tensor is named, and no output appears."""
    folder = written(tmp_path / "x", whole(PRETRAINING))
    data = folder / "bert_model.ckpt.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[100] ^= 4
    data.write_bytes(content)
    with pytest.raises(
        UserError, match=r"data-00000-of-00001: damaged.*bert/embeddings/position_emb"
    ):
        convert(ConversionRequest("google-tf", folder, "huggingface", tmp_path / "out"))
    assert not (tmp_path / "out").exists()
