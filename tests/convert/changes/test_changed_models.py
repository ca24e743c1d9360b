"""Models after a change: exact rows, the same outputs where they must be, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from launch import convert as command
from megabert.common.errors import UserError
from megabert.common.names import RUN_CHECKPOINTS
from megabert.convert.changes.average import mean_of
from megabert.convert.changes.request import ModelChanges
from megabert.convert.changes.row_sources import row_sources
from megabert.convert.check import our_side
from megabert.convert.format import ModelSource
from megabert.convert.formats import find_format
from megabert.convert.probe_inputs import ProbeInputs
from megabert.convert.run import ConversionRequest, ConversionResult, convert
from megabert.convert.whole_model import WholeModel
from megabert.data.tokenizers.base import SPECIAL_NAMES
from megabert.data.tokenizers.load import load_tokenizer
from tests.helpers.convert_folders import VOCABULARY, make
from tests.helpers.model_cases import tiny_config

pytest.importorskip("transformers")
WORDS, BIAS = "bert.embeddings.word_embeddings.weight", "mlm.bias"
POSITIONS = "bert.embeddings.position_embeddings.weight"
NEW = [
    "<pad>",
    "<unk>",
    "<s>",
    "</s>",
    "<mask>",
    "river",
    "riverbed",
    "riverstone",
    "Stone",
    "xyz",
    "the",
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder whose vocabulary has continuations."""
    folder = make(tmp_path_factory.mktemp("source") / "hf")
    words = [*VOCABULARY, "##stone", "##bed", "##b", "##ed", "##s"]
    words += [f"w{i}" for i in range(101 - len(words))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cased vocabulary of eleven entries, whose special tokens are spelled otherwise."""
    folder = tmp_path_factory.mktemp("new")
    (folder / "vocab.txt").write_text("\n".join(NEW) + "\n", encoding="utf-8")
    names = {f"{role}_token": name for role, name in zip(SPECIAL_NAMES, NEW)}
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": False, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def moved(
    source: Path, output: Path, target: str = "megabert", **changes: object
) -> ConversionResult:
    return convert(
        ConversionRequest("huggingface", source, target, output, changes=ModelChanges(**changes))  # type: ignore[arg-type]
    )


def read(folder: Path, kind: str = "megabert") -> WholeModel:
    return find_format(kind).read(ModelSource(folder))


def exact_mean(values: list[float]) -> np.float32:
    """The mean of float32 numbers, rounded once."""
    return np.float32(float(sum(map(Fraction, values)) / len(values)))


def test_rows_of_another_vocabulary(source: Path, tokens: Path, tmp_path: Path) -> None:
    result = moved(source, tmp_path / "out", new_tokenizer=tokens, seed=3)
    before, after = read(source, "huggingface"), read(tmp_path / "out")
    assert after.config.vocab_size == len(NEW)
    old, new = load_tokenizer(source), load_tokenizer(tokens)
    found = row_sources(old, new)
    assert (found.copied.keys(), found.drawn) == ({0, 1, 2, 3, 4, 5, 10}, [9])
    assert [[found.old_names[k] for k in found.averaged[i]] for i in (6, 7, 8)] == [
        ["river", "##bed"], ["river", "##stone"], ["stone"],
    ]  # fmt: skip
    for name in (WORDS, BIAS):
        rows = before.tensors[name].reshape(101, -1), after.tensors[name].reshape(len(NEW), -1)
        for number, k in found.copied.items():
            assert torch.equal(rows[1][number], rows[0][k])
        for number, pieces in found.averaged.items():
            for column, value in enumerate(rows[1][number].tolist()):
                parts = [rows[0][k, column].item() for k in pieces]
                assert np.float32(value) == exact_mean(parts)
    same = after.tensors.keys() - {WORDS, BIAS}
    assert all(torch.equal(before.tensors[name], after.tensors[name]) for name in same)
    assert after.tensors[BIAS][9].item() == exact_mean(before.tensors[BIAS].tolist())
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())["changes"]["vocabulary"]
    assert {n: record[n] for n in ("copied", "averaged", "drawn", "dropped")} == {
        "copied": 7, "averaged": 3, "drawn": 1, "dropped": 94,
    }  # fmt: skip
    assert "averaged 3, over their old pieces: riverbed from river ##bed" in "\n".join(
        result.changed()
    )


def test_an_extended_vocabulary_keeps_all_rows(source: Path, tmp_path: Path) -> None:
    words = [*(source / "vocab.txt").read_text().splitlines(), "riverbed", "bridges"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    result = moved(source, tmp_path / "out", new_tokenizer=tmp_path / "vocab.txt")
    before, after = read(source, "huggingface"), read(tmp_path / "out")
    for name in (WORDS, BIAS):
        assert torch.equal(after.tensors[name][:101], before.tensors[name])
    assert {n: result.changes["vocabulary"][n] for n in ("copied", "averaged", "drawn", "dropped")} == {
        "copied": 101, "averaged": 2, "drawn": 0, "dropped": 0,
    }  # fmt: skip


def test_drawn_rows_depend_on_seed_and_id_alone(source: Path, tmp_path: Path) -> None:
    """The standard deviation is initializer_range."""
    for name, more in (("a", ["zq"]), ("b", ["river", "zq"])):
        words = [*NEW[:5], *(f"q{i}z" for i in range(300)), *more]
        (tmp_path / f"{name}.txt").write_text("\n".join(words) + "\n")
    drawn = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        tokens = tmp_path / ("a.txt" if name == "c" else f"{name}.txt")
        moved(source, tmp_path / name, new_tokenizer=tokens, seed=seed)
        drawn[name] = read(tmp_path / name).tensors[WORDS][5:305]
    assert torch.equal(drawn["a"], drawn["b"])
    assert not torch.isclose(drawn["a"], drawn["c"]).any()
    assert abs(drawn["a"].std().item() / 0.02 - 1) < 0.03
    assert abs(drawn["a"].mean().item()) < 0.001


def test_outputs_of_common_tokens_are_the_same(source: Path, tokens: Path, tmp_path: Path) -> None:
    """Text that both vocabularies have, into Hugging Face's format; more positions change nothing."""
    moved(source, tmp_path / "out", "huggingface", new_tokenizer=tokens, position_rows=90)
    pair = [(read(source, "huggingface"), source), (read(tmp_path / "out", "huggingface"), tokens)]
    common = [load_tokenizer(tokens).special.mask, 5, 10]
    outputs = []
    for model, place in pair:
        tokenizer = load_tokenizer(place)
        special = tokenizer.special
        (text,) = tokenizer.encode_sentences(["the river the"])
        ids = torch.tensor([[special.cls, *text.ids.tolist(), special.mask, special.sep]])
        with torch.no_grad():
            found = our_side(model)(ProbeInputs(ids, torch.zeros_like(ids), torch.ones_like(ids)))
        outputs.append(found)
    old_common = [
        row_sources(load_tokenizer(source), load_tokenizer(tokens)).copied[i] for i in common
    ]
    left, right = outputs[0]["MLM logits"][..., old_common], outputs[1]["MLM logits"][..., common]
    torch.testing.assert_close(left, right, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        outputs[0]["NSP logits"], outputs[1]["NSP logits"], rtol=0, atol=1e-6
    )


def test_more_positions(source: Path, tmp_path: Path) -> None:
    moved(source, tmp_path / "out", position_rows=100)
    before, after = read(source, "huggingface"), read(tmp_path / "out")
    assert after.config.max_position_embeddings == 100
    assert after.trained_positions == 40
    table = before.tensors[POSITIONS]
    assert torch.equal(after.tensors[POSITIONS], torch.cat([table, table, table[:20]]))
    with pytest.raises(
        UserError, match=r"--position-rows 30: .* has 40 positions already; give more"
    ):
        moved(source, tmp_path / "fewer", position_rows=30)


def test_a_model_without_mlm_head_and_nezha(tokens: Path, tmp_path: Path) -> None:
    source = make(tmp_path / "bare", "BertModel")
    moved(source, tmp_path / "out", new_tokenizer=tokens)
    assert BIAS not in read(tmp_path / "out").tensors
    config = json.loads((tmp_path / "out" / "megabert.json").read_text())["model"]
    assert config["vocab_size"] == len(NEW)
    tensors = load_file(source / "model.safetensors")
    tensors.pop("embeddings.position_embeddings.weight")
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    values = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(values | {"model_type": "nezha"}))
    result = moved(source, tmp_path / "nezha", position_rows=200)
    assert read(tmp_path / "nezha").config.max_position_embeddings == 200
    assert result.changed() == ["positions 40 -> 200: no table to extend, only the limit changes"]


def test_mean_of_checkpoints_of_two_topologies(root: Path, tmp_path: Path) -> None:
    """A run of one rank with ZeRO 0, and one of two ranks with ZeRO 1; each element rounded once."""
    fixtures = root / "tests" / "fixtures"
    run = shutil.copytree(fixtures / "run_zero0", tmp_path / "run")
    folders = [run / RUN_CHECKPOINTS / "step-0000004", run / RUN_CHECKPOINTS / "step-0000005"]
    shutil.copytree(fixtures / "run_zero1_dp2" / RUN_CHECKPOINTS / folders[0].name, folders[1])
    one, two = (read(folder) for folder in folders)
    request = ConversionRequest(
        "megabert", run, "megabert", tmp_path / "out", changes=ModelChanges(average=2)
    )
    assert "step-0000005" in convert(request).changed()[0]
    mean = read(tmp_path / "out")
    for name, tensor in mean.tensors.items():
        both = zip(one.tensors[name].flatten().tolist(), two.tensors[name].flatten().tolist())
        for value, pair in zip(tensor.flatten().tolist()[:50], both):
            assert np.float32(value) == exact_mean(list(pair)), name
    with pytest.raises(UserError, match="has 2 complete checkpoints, fewer than the 3 to average"):
        ModelChanges(average=3).places(run)
    with pytest.raises(UserError, match="out is not a run"):
        ModelChanges(average=2).places(tmp_path / "out")
    with pytest.raises(UserError, match="at least 2 models"):
        ModelChanges(average=1).places(run)
    with pytest.raises(UserError, match="named twice"):
        ModelChanges(average=0, more_inputs=(run,)).places(run)
    with pytest.raises(UserError, match="--average 3, but 2 inputs"):
        ModelChanges(average=3, more_inputs=(tmp_path,)).places(run)


CHANGES: dict[str, Callable[[WholeModel], object]] = {
    "the shape of mlm.bias": lambda model: model.tensors.update({BIAS: torch.zeros(3)}),
    r"the shape of nsp.classifier.bias: \[2\] and none": lambda model: model.tensors.pop(
        "nsp.classifier.bias"
    ),
    "tokenizer": lambda model: setattr(model, "tokenizer", None),
    "labels": lambda model: setattr(model, "labels", ("yes",)),
    "task": lambda model: setattr(model, "task", "squad"),
    "tag_scheme": lambda model: setattr(model, "task_record", {"tag_scheme": "bio"}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_mean_of_different_models_is_refused(source: Path, what: str) -> None:
    one, two = read(source, "huggingface"), read(source, "huggingface")
    CHANGES[what](two)
    with pytest.raises(UserError, match=f"--average: .* differ in {what}"):
        mean_of([one, two])


def test_thresholds_of_the_seeds_of_a_sweep_may_differ(source: Path) -> None:
    one, two = read(source, "huggingface"), read(source, "huggingface")
    one.task_record, two.task_record = {"threshold": 0.4}, {"threshold": 0.6}
    assert mean_of([one, two]).task_record == {"threshold": 0.4}


def test_the_mean_of_regressions_is_of_labels_in_their_own_units() -> None:
    """Each run has its own mean and scale, which go into the head before the mean."""
    weight, bias = "sequence.classifier.weight", "sequence.classifier.bias"
    models = []
    for mean, scale in ((1.0, 2.0), (5.0, 4.0)):
        config = tiny_config()
        tensors = {weight: torch.ones(1, config.hidden_size), bias: torch.zeros(1)}
        record = {"output_mean": mean, "output_scale": scale, "max_length": 64}
        models.append(WholeModel(config, tensors, None, 8, "a run", task_record=record))
    found = mean_of(models)
    assert found.tensors[weight].unique().tolist() == [3.0]
    assert found.tensors[bias].tolist() == [3.0]
    assert found.task_record == {"max_length": 64}


def test_wrong_commands(
    source: Path, tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = ["--from", "huggingface", "--to", "megabert", "--output", str(tmp_path / "out")]

    def refused(match: str, *more: object) -> None:
        with pytest.raises(UserError, match=match):
            command.main([*plain, *map(str, more)])
        assert not (tmp_path / "out").exists()

    refused("names 2 models: set --average", "--input", source, source)
    refused("is the tokenizer that .* has already", "--input", source, "--new-tokenizer", source)
    words = tmp_path / "words.txt"
    words.write_text("a\nb\n")
    refused(r"not a BERT vocabulary: \[PAD\]", "--input", source, "--new-tokenizer", words)
    refused("--new-tokenizer", "--input", source, "--new-tokenizer", tmp_path / "nowhere")
    bare = shutil.copytree(source, tmp_path / "bare")
    (bare / "vocab.txt").unlink()
    refused("has no tokenizer files.*--tokenizer", "--input", bare, "--new-tokenizer", tokens)
    assert command.main([*plain, "--input", str(source), "--new-tokenizer", str(tokens)]) == 0
    assert "copied 7, bit for bit" in capsys.readouterr().out
