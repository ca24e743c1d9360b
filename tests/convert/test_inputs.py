"""What conversions are given: padded vocabularies, odd files, formats by name, repeated calls."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from launch.convert import parser
from megabert.common.errors import UserError
from megabert.config.model import ModelConfig
from megabert.convert import foreign_files, vocabulary
from megabert.convert.formats import find_format, read_formats, written_formats
from megabert.convert.huggingface import config as bert_config
from megabert.convert.huggingface import model as huggingface
from megabert.convert.read_back import same_tensors
from megabert.convert.run import ConversionRequest, convert
from megabert.model.weights import load_weights
from tests.helpers.convert_folders import SIZES, copy_of, make

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def pretraining(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BertForPreTraining folder (do not change it)."""
    return make(tmp_path_factory.mktemp("source") / "hf")


def padded(folder: Path, rows: int) -> Path:
    """A folder whose vocabulary has ``rows`` rows, of which its tokenizer knows 101."""
    return make(folder, vocab_size=rows)


@pytest.mark.parametrize("target", ["megabert", "huggingface"])
def test_padding_rows_are_taken_off(tmp_path: Path, target: str) -> None:
    """101 words in 104 rows: 101 rows are written, and the report names what was left out."""
    source = padded(tmp_path / "hf", 104)
    result = convert(ConversionRequest("huggingface", source, target, tmp_path / "out"))
    assert result.model.config.vocab_size == 101
    assert result.comparison is not None
    assert result.comparison.differences["MLM logits"][1] > 1
    told = "\n".join(result.left_out())
    assert "rows 101 to 103 of bert.embeddings.word_embeddings.weight" in told
    assert "rows 101 to 103 of mlm.bias" in told
    before = load_file(source / "model.safetensors")["cls.predictions.bias"]
    after = load_file(tmp_path / "out" / "model.safetensors")
    name = "mlm.bias" if target == "megabert" else "cls.predictions.bias"
    assert torch.equal(after[name], before[:101])


def test_other_surplus_rows_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """103 rows are not 101 words rounded up: all are kept, and the log says so."""
    result = convert(
        ConversionRequest("huggingface", padded(tmp_path / "hf", 103), "megabert", tmp_path / "o")
    )
    assert result.model.config.vocab_size == 103
    assert not result.model.left_out
    assert "103 words, but its tokenizer has 101" in "".join(capsys.readouterr())


@pytest.mark.parametrize("where", ["added_tokens.json", "tokenizer_config.json"])
def test_rows_of_added_tokens_are_not_padding(tmp_path: Path, where: str) -> None:
    """Three added tokens fill the rows up to 104: they stay."""
    source = padded(tmp_path / "hf", 104)
    ids = {f"[extra{i}]": 101 + i for i in range(3)}
    content: dict[str, Any] = ids
    if where == "tokenizer_config.json":
        content = {"added_tokens_decoder": {str(i): {"content": n} for n, i in ids.items()}}
    (source / where).write_text(json.dumps(content))
    model = huggingface.read(source)
    assert model.config.vocab_size == 104
    assert not model.left_out


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 60_000), st.sampled_from([8, 64, 128, 1024]))
def test_what_padding_is(words: int, multiple: int) -> None:
    """Only rounding up to a multiple is padding; a larger surplus is not."""
    rows = -(-words // multiple) * multiple
    assert vocabulary.is_padding(rows, words) == (rows > words)
    assert not vocabulary.is_padding(rows + 1025, words)
    assert not vocabulary.is_padding(words, words)


def test_a_vocabulary_file_given_by_hand(pretraining: Path, tmp_path: Path) -> None:
    """--tokenizer FILE: for a folder without one; the output gets its files."""
    folder, _ = copy_of(pretraining, tmp_path / "bare")
    words = tmp_path / "words.txt"
    (folder / "vocab.txt").rename(words)
    request = ConversionRequest(
        "huggingface", folder, "huggingface", tmp_path / "out", tokenizer=words
    )
    result = convert(request)
    assert result.comparison is not None
    assert result.comparison.predictions
    assert (tmp_path / "out" / "vocab.txt").read_bytes() == words.read_bytes()
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_the_older_name_of_the_configuration(pretraining: Path, tmp_path: Path) -> None:
    """bert_config.json replaces a missing config.json; --model-config replaces both."""
    good = huggingface.read(pretraining)
    folder, _ = copy_of(pretraining, tmp_path / "old")
    values = {n: getattr(good.config, n) for n in bert_config.SHARED_FIELDS}
    values.pop("layer_norm_eps")
    (folder / "config.json").unlink()
    (folder / "bert_config.json").write_text(json.dumps(values))
    result = convert(ConversionRequest("huggingface", folder, "megabert", tmp_path / "ours"))
    assert result.comparison is not None
    assert "input run by transformers" in result.comparison.note
    assert result.comparison.tensors == len(good.tensors)
    assert load_weights(tmp_path / "ours")[0].layer_norm_eps == 1e-12
    elsewhere = tmp_path / "shape.json"
    (folder / "bert_config.json").rename(elsewhere)
    request = ConversionRequest("huggingface", folder, "megabert", tmp_path / "again")
    with pytest.raises(UserError, match=r"no config\.json and no bert_config\.json"):
        convert(request)
    arguments = ["--from", "huggingface", "--input", str(folder), "--to", "megabert"]
    given = parser().parse_args([*arguments, "--output", "x", "--model-config", str(elsewhere)])
    convert(
        ConversionRequest(
            "huggingface", folder, "megabert", tmp_path / "a", model_config=given.model_config
        )
    )
    with pytest.raises(UserError, match="nowhere is not a file"):
        huggingface.read(folder, model_config=tmp_path / "nowhere")


def test_formats_by_name(tmp_path: Path) -> None:
    """The command takes exactly the registered formats; one that is only read is not a target."""
    exports = ("sentence-transformers", "onnx")
    assert read_formats() == (
        *("megabert", "huggingface", "google-tf", "nvidia", "mindspore"),
        exports[0],
    )
    assert set(written_formats()) == {"megabert", "huggingface", "google-tf", *exports}
    for name in {*read_formats(), *exports}:  # the registry states it too, without an import
        assert (find_format(name).write is not None) == (name in written_formats())
        assert find_format(name).reads_back == (name in read_formats())
    choices = {action.dest: action.choices for action in parser()._actions}
    assert (choices["source"], choices["target"]) == (read_formats(), written_formats())
    with pytest.raises(
        UserError, match="nvidia can be read but not written; --to takes one of mega"
    ):
        convert(ConversionRequest("megabert", tmp_path, "nvidia", tmp_path / "out"))
    with pytest.raises(UserError, match="unknown format 'tflite'"):
        convert(ConversionRequest("tflite", tmp_path, "megabert", tmp_path / "out"))
    with pytest.raises(UserError, match="onnx can be written but not read"):
        convert(ConversionRequest("onnx", tmp_path, "megabert", tmp_path / "out"))
    for name in ("google-tf", "nvidia", "mindspore"):
        with pytest.raises(UserError, match="does not exist"):
            convert(ConversionRequest(name, tmp_path / "none", "megabert", tmp_path / "out"))


class Touch:
    """Something whose unpickling writes a file."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return (Path.touch, (self.witness,))


@pytest.mark.parametrize("file", ["pytorch_model.bin", "pytorch_model-00001-of-00001.bin"])
@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_pickle_does_not_run(
    pretraining: Path, tmp_path: Path, file: str, legacy: bool
) -> None:
    """Whole and sharded, in both of torch's file formats."""
    folder, tensors = copy_of(pretraining, tmp_path / "evil")
    (folder / "model.safetensors").unlink()
    witness = tmp_path / "ran"
    content: dict[str, Any] = {**tensors, "x": Touch(witness)}
    if legacy:
        (folder / file).write_bytes(pickle.dumps(content))
    else:
        torch.save(content, folder / file)
    if "of" in file:
        index = {"weight_map": dict.fromkeys(content, file)}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=file) as caught:
        huggingface.read(folder)
    assert "\n" not in str(caught.value)
    assert not witness.exists()


def sharded(source: Path, folder: Path) -> tuple[Path, dict[str, str]]:
    """A folder with its weights in two shards, and its index."""
    folder, tensors = copy_of(source, folder)
    (folder / "model.safetensors").unlink()
    where = {n: f"model-{1 + i % 2}.safetensors" for i, n in enumerate(sorted(tensors))}
    for file in set(where.values()):
        save_file({n: t for n, t in tensors.items() if where[n] == file}, folder / file)
    return folder, where


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("partial", "model-1.safetensors holds tensors that .* does not list there: 1"),
        ("unknown", "model-2.safetensors lacks nowhere, which"),
        ("absent", "names model-3.safetensors, which does not exist"),
        ("empty", "has no weight_map"),
        ("numbers", "is not a file name"),
        ("text", "cannot be read as JSON"),
    ],
)
def test_a_wrong_index(pretraining: Path, tmp_path: Path, fault: str, words: str) -> None:
    """An index that does not describe its shards is named with the tensor or the file."""
    folder, where = sharded(pretraining, tmp_path / "sharded")
    if fault == "partial":
        del where[min(where)]
    elif fault == "unknown":
        where["nowhere"] = "model-2.safetensors"
    elif fault == "absent":
        where["nowhere"] = "model-3.safetensors"
    index: Any = {"weight_map": {"empty": {}, "numbers": {"a": 1}}.get(fault, where)}
    text = "{" if fault == "text" else json.dumps(index)
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        foreign_files.read_weight_files(folder)
    assert "\n" not in str(caught.value)


def test_reading_back_is_exact(pretraining: Path) -> None:
    """One bit, a sign of zero, a field of the configuration: each is seen and named."""
    model = huggingface.read(pretraining)
    again = huggingface.read(pretraining)
    assert same_tensors(model, again) == len(model.tensors)
    name = "bert.layers.1.mlp.up.bias"
    for index, value in ((0, float(model.tensors[name][0]) * (1 + 2**-23)), (1, -0.0)):
        model.tensors[name][1] = 0.0
        again.tensors[name] = model.tensors[name].clone()
        again.tensors[name][index] = value
        with pytest.raises(UserError, match="the tensor " + name):
            same_tensors(model, again)
    again = huggingface.read(pretraining)
    again.config = ModelConfig(**{**again.config.to_dict(), "layer_norm_eps": 1e-5})
    with pytest.raises(UserError, match="layer_norm_eps 1e-12 -> 1e-05"):
        same_tensors(model, again)


@settings(deadline=None, max_examples=100)
@given(
    st.dictionaries(
        st.sampled_from([*bert_config.SHARED_FIELDS, "use_relative_position"]),
        st.one_of(
            st.none(),
            st.integers(-2, 64),
            st.floats(),
            st.text(max_size=5),
            st.lists(st.integers()),
        ),
    )
)
def test_any_configuration_is_read_or_refused_in_a_line(given_values: dict[str, Any]) -> None:
    """Whatever the fields hold, the result is a model or a one-line error that names the file."""
    message = "x/config.json: "
    try:
        bert_config.config_from({**SIZES, **given_values}, Path("x/config.json"))
    except UserError as error:
        message = str(error)
    assert message.startswith("x/config.json: ")
    assert "\n" not in message
