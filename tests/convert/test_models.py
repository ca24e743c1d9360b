"""Models of unusual shape, and configurations of other models without their name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from megabert.common.errors import UserError
from megabert.common.packed_batch import PackedBatch
from megabert.convert.huggingface import model as huggingface
from megabert.convert.huggingface.config import config_from
from megabert.convert.run import ConversionRequest, convert
from megabert.data.tokenizers.load import load_tokenizer
from megabert.model.weights import load_weights
from megabert.predict.predictor import AnswerOptions, open_predictor
from tests.helpers.convert_folders import SIZES, copy_of, make

transformers = pytest.importorskip("transformers")


def round_trip(source: Path, folder: Path, through: str) -> Path:
    """Converted to another format and back; the tensors must be the same."""
    convert(ConversionRequest("huggingface", source, through, folder / through))
    back = folder / f"{through}-back"
    result = convert(ConversionRequest(through, folder / through, "huggingface", back))
    assert not result.left_out()
    one, other = (load_file(path / "model.safetensors") for path in (source, back))
    shared = one.keys() & other.keys()
    assert all(torch.equal(one[name], other[name]) for name in shared)
    assert other.keys() <= one.keys()
    return back


@pytest.mark.parametrize("through", ["megabert", "google-tf"])
@pytest.mark.parametrize("kind", ["BertForPreTraining", "BertForSequenceClassification"])
def test_one_token_type(tmp_path: Path, through: str, kind: str) -> None:
    source = make(tmp_path / "hf", kind, type_vocab_size=1, hidden_act="gelu")
    round_trip(source, tmp_path, through)
    # text of a second segment has the only token type
    model = huggingface.read(source)
    ours = model.head.build(model.config, model.outputs)
    ids = torch.arange(5, 17)[None].numpy()
    given = [ids * 0, (ids > 9).astype(ids.dtype)]
    found = [
        ours.bert(PackedBatch.from_padded(ids, t, ids * 0 + 1).map(torch.from_numpy)) for t in given
    ]
    assert torch.equal(*found)


@pytest.mark.parametrize("through", ["megabert", "google-tf"])
@pytest.mark.parametrize(
    ("kind", "head", "outputs"),
    [
        ("BertForNextSentencePrediction", "next sentence", {"NSP logits"}),
        ("BertModel", "encoder", {"hidden states", "pooler"}),
        ("BertForMaskedLM", "masked language model", {"MLM logits"}),
    ],
)
def test_one_head_alone(
    tmp_path: Path, through: str, kind: str, head: str, outputs: set[str]
) -> None:
    """A checkpoint keeps the only head that it has, or its pooler."""
    source = make(tmp_path / "hf", kind, hidden_act="gelu")
    result = convert(ConversionRequest("huggingface", source, "huggingface", tmp_path / "same"))
    assert str(result.model.head) == head
    assert result.comparison is not None
    assert result.comparison.differences.keys() == outputs
    back = round_trip(source, tmp_path, through)
    assert json.loads((back / "config.json").read_text())["architectures"] == [kind]


def test_a_next_sentence_head_answers_nothing(tmp_path: Path) -> None:
    source = make(tmp_path / "hf", "MegatronBertForNextSentencePrediction")
    convert(ConversionRequest("huggingface", source, "megabert", tmp_path / "ours"))
    assert "nsp.classifier.weight" in load_weights(tmp_path / "ours")[1]
    with pytest.raises(UserError, match="has only a head for next sentence"):
        open_predictor(tmp_path / "ours", AnswerOptions(device="cpu"))


def bare(folder: Path, prefix: str) -> Path:
    """The folder without model_type and architectures, its encoder's tensors without their prefix."""
    path = folder / "config.json"
    values = json.loads(path.read_text())
    for name in ("model_type", "architectures"):
        values.pop(name, None)
    path.write_text(json.dumps(values))
    tensors = load_file(folder / "model.safetensors")
    named = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    save_file(named, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("Roberta", "pad_token_id 1, bos_token_id 0, eos_token_id 2, as RoBERTa does"),
        ("XLMRoberta", "as RoBERTa does"),
        ("Electra", "embedding_size, a field of ELECTRA"),
        ("Albert", "num_hidden_groups, a field of ALBERT"),
        ("DistilBert", "n_heads, a field of DistilBERT"),
        ("ConvBert", "head_ratio, a field of ConvBERT"),
        ("MobileBert", "trigram_input, a field of MobileBERT"),
    ],
)
def test_a_bare_configuration_of_another_model(tmp_path: Path, family: str, said: str) -> None:
    config = getattr(transformers, f"{family}Config")(**SIZES)
    config.architectures = None
    config.save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("")
    values = json.loads((tmp_path / "config.json").read_text())
    path = tmp_path / "config.json"
    with pytest.raises(UserError, match=r"model_type .* is not supported"):
        config_from(values, path)
    del values["model_type"]
    with pytest.raises(UserError, match="not the configuration of a BERT: ") as caught:
        config_from(values, path)
    assert said in str(caught.value)
    with pytest.raises(UserError, match=f"a class of {family}"):
        config_from({**SIZES, "architectures": [f"{family}ForMaskedLM"]}, path)


def test_bare_weights_of_roberta(tmp_path: Path) -> None:
    """Its tensors have BERT's names and shapes, but its positions begin at 2."""
    torch.manual_seed(1)
    config = transformers.RobertaConfig(**SIZES)
    transformers.RobertaModel(config).save_pretrained(tmp_path / "in")
    folder = bare(tmp_path / "in", "roberta.")
    with pytest.raises(UserError, match=r"in/config\.json: not the configuration of a BERT"):
        convert(ConversionRequest("huggingface", folder, "megabert", tmp_path / "out"))
    with pytest.raises(UserError, match="max_position_embeddings is 514"):
        config_from({**SIZES, "max_position_embeddings": 514}, folder)
    assert config_from({**SIZES, "max_position_embeddings": 512}, folder).hidden_size == 32


def test_a_bare_configuration_of_bert(tmp_path: Path) -> None:
    source = make(tmp_path / "hf")
    folder = bare(source, "")
    result = convert(ConversionRequest("huggingface", folder, "megabert", tmp_path / "ours"))
    assert str(result.model.head) == "pretraining"


def chinese(folder: Path, shared_data: Path) -> Path:
    """A small model with the vocabulary of bert-base-chinese, as transformers saves both."""
    made = make(folder, "BertForMaskedLM", vocab_size=21128, hidden_act="gelu")
    vocabulary = shared_data / "vocab" / "bert-base-chinese-vocab.txt"
    (made / "vocab.txt").write_bytes(vocabulary.read_bytes())
    (made / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    theirs = transformers.AutoTokenizer.from_pretrained(made)
    (made / "vocab.txt").unlink()
    theirs.save_pretrained(made)
    return made


@pytest.mark.parametrize("with_vocabulary", [True, False])
@pytest.mark.parametrize("target", ["huggingface", "megabert", "google-tf"])
def test_a_folder_of_bert_base_chinese_saved_by_transformers(
    tmp_path: Path, shared_data: Path, target: str, with_vocabulary: bool
) -> None:
    """U+2028 is an entry of vocab.txt and an empty one of tokenizer.json."""
    source = chinese(tmp_path / "hf", shared_data)
    vocabulary = shared_data / "vocab" / "bert-base-chinese-vocab.txt"
    if with_vocabulary:
        (source / "vocab.txt").write_bytes(vocabulary.read_bytes())
    convert(ConversionRequest("huggingface", source, target, tmp_path / "out"))
    ours = load_tokenizer(tmp_path / "out")
    assert (ours.sha256 == load_tokenizer(vocabulary).sha256) == with_vocabulary
    lines = (tmp_path / "out" / "vocab.txt").read_text(encoding="utf-8").split("\n")
    assert lines[343] == ("\u2028" if with_vocabulary else "")
    assert len(lines) == 21129


@pytest.mark.parametrize("where", ["added_tokens.json", "tokenizer_config.json", "tokenizer.json"])
def test_added_tokens_are_checked(tmp_path: Path, where: str) -> None:
    """Each is encoded by both sides: it converts with transformers' ids, wherever it is stated."""
    source, _ = copy_of(make(tmp_path / "hf", vocab_size=104, hidden_act="gelu"), tmp_path / "in")
    tokens = ["covid", "New York", "C++"]
    ids = {token: 101 + i for i, token in enumerate(tokens)}
    if where == "tokenizer.json":
        theirs = transformers.AutoTokenizer.from_pretrained(source)
        theirs.add_tokens(tokens)
        theirs.save_pretrained(source)
    elif where == "added_tokens.json":
        (source / where).write_text(json.dumps(ids))
    else:
        entries: dict[str, Any] = {str(i): {"content": token} for token, i in ids.items()}
        (source / where).write_text(json.dumps({"added_tokens_decoder": entries}))
    for target in ("huggingface", "megabert", "google-tf"):
        result = convert(ConversionRequest("huggingface", source, target, tmp_path / target))
        assert result.model.config.vocab_size == 104
        ours = load_tokenizer(tmp_path / target)
        assert ours.added_tokens == ids
        again = transformers.AutoTokenizer.from_pretrained(tmp_path / target)
        text = "covid in New York covids C++."
        found = ours.encode_sentences([text])[0].ids.tolist()
        assert found == again(text, add_special_tokens=False)["input_ids"]
        assert set(ids.values()) <= set(found)
