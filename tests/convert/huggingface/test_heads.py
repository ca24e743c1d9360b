"""Classification heads between megabert and Hugging Face: class, labels, answers of pipelines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from megabert.common.errors import UserError
from megabert.convert import own_weights
from megabert.convert.huggingface import model as huggingface
from megabert.convert.run import ConversionRequest, convert
from megabert.convert.whole_model import WholeModel, check_tensors, loaded_model
from megabert.data.tokenizers.load import load_tokenizer
from megabert.model.head_registry import Head
from megabert.model.task_heads import SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION
from megabert.model.weights import save_weights
from tests.helpers.convert_folders import make
from tests.helpers.model_cases import batch_of

transformers = pytest.importorskip("transformers")

TOPICS = ("sport", "news", "体育")
TAGS = ("O", "B-LOC", "I-LOC")
TEXTS = ["The river flows east.", "Two eggs in the hills, built of stone and stone."]


def named(labels: tuple[str, ...]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(labels)), "label2id": {n: i for i, n in enumerate(labels)}}


def values_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))


def change(folder: Path, **values: Any) -> None:
    """Set values of a folder's config.json; None takes one out."""
    changed = {k: v for k, v in {**values_of(folder), **values}.items() if v is not None}
    (folder / "config.json").write_text(json.dumps(changed), encoding="utf-8")


@pytest.mark.parametrize("family", ["Bert", "MegatronBert"])
@pytest.mark.parametrize(
    ("suffix", "labels", "head"),
    [
        ("ForSequenceClassification", TOPICS, SEQUENCE_CLASSIFICATION),
        ("ForSequenceClassification", ("score",), SEQUENCE_CLASSIFICATION),
        ("ForTokenClassification", TAGS, TOKEN_CLASSIFICATION),
    ],
)
def test_there_and_back(
    tmp_path: Path, family: str, suffix: str, labels: tuple[str, ...], head: Head
) -> None:
    """Class, labels and every tensor come back; both ways compute the same logits."""
    source = make(tmp_path / "hf", family + suffix, **named(labels))
    there = convert(ConversionRequest("huggingface", source, "megabert", tmp_path / "ours"))
    assert there.model.head == head
    assert there.model.labels == labels
    assert there.comparison is not None
    assert f"{head.name.split()[0]} logits" in there.comparison.differences
    back = convert(
        ConversionRequest("megabert", tmp_path / "ours", "huggingface", tmp_path / "back")
    )
    assert back.comparison is not None
    before, after = (load_file(f / "model.safetensors") for f in (source, tmp_path / "back"))
    assert back.comparison.tensors == len(before)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    values = values_of(tmp_path / "back")
    assert values["architectures"] == [family + suffix]
    assert values["id2label"] == {str(i): name for i, name in enumerate(labels)}
    assert values["label2id"] == {name: i for i, name in enumerate(labels)}
    kind = "regression" if len(labels) == 1 else "single_label_classification"
    assert values.get("problem_type") == (kind if head == SEQUENCE_CLASSIFICATION else None)


def test_labels_without_names(tmp_path: Path) -> None:
    """LABEL_0, LABEL_1, ... do not count as names; they are written again as placeholders."""
    source = make(tmp_path / "hf", "BertForSequenceClassification", num_labels=4)
    result = convert(ConversionRequest("huggingface", source, "huggingface", tmp_path / "out"))
    assert result.model.labels == ()
    assert result.model.outputs == 4
    assert values_of(tmp_path / "out")["id2label"]["3"] == "LABEL_3"


@pytest.mark.parametrize(
    ("class_name", "head", "why"),
    [
        ("BertForSequenceClassification", SEQUENCE_CLASSIFICATION, "its pooler"),
        ("BertForTokenClassification", TOKEN_CLASSIFICATION, "the lack of a pooler"),
    ],
)
def test_a_head_without_a_class_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], class_name: str, head: Head, why: str
) -> None:
    """A pooler makes it a head on sequences; the log says which head it is, and why."""
    source = make(tmp_path / "hf", class_name, **named(TAGS))
    change(source, architectures=None)
    assert huggingface.read(source).head == head
    assert why in "".join(capsys.readouterr())
    change(source, architectures=["BertForMultipleChoice"])
    model = huggingface.read(source)
    assert model.head.name == "encoder"
    assert [n for n, reason in model.left_out if "does not have" in reason] == [
        "classifier.bias",
        "classifier.weight",
    ]


def test_settings_of_the_head_are_reported(tmp_path: Path) -> None:
    """Another dropout than the encoder's is left out; labels that do not exclude each other are kept."""
    source = make(
        tmp_path / "hf",
        "BertForSequenceClassification",
        classifier_dropout=0.3,
        problem_type="multi_label_classification",
        **named(TOPICS),
    )
    result = convert(ConversionRequest("huggingface", source, "megabert", tmp_path / "ours"))
    told = "\n".join(result.left_out())
    assert "classifier_dropout 0.3" in told
    assert "hidden_dropout_prob, 0.1" in told
    assert "multi_label" not in told
    assert result.model.task_record == {"multi_label": True}
    record = json.loads((tmp_path / "ours" / "conversion.json").read_text())
    assert record["labels"] == list(TOPICS)
    assert sum(record["left_out_counts"].values()) == len(record["left_out"]) == 1
    convert(ConversionRequest("megabert", tmp_path / "ours", "huggingface", tmp_path / "back"))
    assert values_of(tmp_path / "back")["problem_type"] == "multi_label_classification"


@pytest.mark.parametrize(
    ("id2label", "words"),
    [
        ({"0": "a", "1": "b"}, "it names 2 labels, but its head has 3 outputs"),
        ({"0": "a", "2": "b", "3": "c"}, "does not name the outputs 0 to 2"),
        ({"zero": "a"}, "not a table of ids"),
        (["a", "b", "c"], "not a table of ids"),
    ],
)
def test_wrong_labels(tmp_path: Path, id2label: Any, words: str) -> None:
    """Not as many as scores, or not numbered as scores are."""
    source = make(tmp_path / "hf", "BertForTokenClassification", **named(TAGS))
    change(source, id2label=id2label)
    with pytest.raises(UserError, match=words):
        huggingface.read(source)


def tagger_with_crf(source: Path, folder: Path) -> WholeModel:
    """A megabert folder of a token classifier with a conditional random field."""
    model = huggingface.read(source)
    model.tensors |= {
        "crf.start": torch.randn(3),
        "crf.end": torch.randn(3),
        "crf.transitions": torch.randn(3, 3),
    }
    save_weights(
        folder,
        model.config,
        model.tensors,
        source,
        labels=list(TAGS),
        task="conll",
        task_record={"scheme": "BIO", "crf": True},
    )
    return model


def test_a_conditional_random_field(tmp_path: Path) -> None:
    """It stays in megabert's own format, with the task's record; transformers has none."""
    source = make(tmp_path / "hf", "BertForTokenClassification", **named(TAGS))
    model = tagger_with_crf(source, tmp_path / "run")
    with pytest.raises(UserError, match=r"crf\.transitions.*--crf off"):
        convert(ConversionRequest("megabert", tmp_path / "run", "huggingface", tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    convert(ConversionRequest("megabert", tmp_path / "run", "megabert", tmp_path / "copy"))
    again = own_weights.read(tmp_path / "copy")
    assert (again.labels, again.task) == (TAGS, "conll")
    assert again.task_record == {"scheme": "BIO", "crf": True}
    assert torch.equal(again.tensors["crf.start"], model.tensors["crf.start"])
    model.tensors["crf.end"] = torch.zeros(4)
    with pytest.raises(UserError, match=r"crf\.end has shape \[4\].*\[3\]"):
        check_tensors(model)
    del model.tensors["crf.end"]
    with pytest.raises(UserError, match=r"missing tensors: 1 \(crf\.end\)"):
        check_tensors(model)


def converted(tmp_path: Path, class_name: str, **config: Any) -> tuple[Path, WholeModel]:
    """A folder written by the conversion from megabert, and the model in it."""
    source = make(tmp_path / "hf", class_name, **config)
    convert(ConversionRequest("huggingface", source, "megabert", tmp_path / "ours"))
    convert(ConversionRequest("megabert", tmp_path / "ours", "huggingface", tmp_path / "out"))
    return tmp_path / "out", own_weights.read(tmp_path / "ours")


def our_scores(model: WholeModel, text: str) -> tuple[torch.Tensor, list[int]]:
    """Probabilities of our own model on a text cut to its longest sequence, and the ids."""
    assert model.tokenizer is not None
    tokenizer = load_tokenizer(model.tokenizer)
    (encoded,) = tokenizer.encode_sentences([text])
    inner = encoded.ids.tolist()[: model.config.max_position_embeddings - 2]
    ids = [tokenizer.special.cls, *inner, tokenizer.special.sep]
    with torch.no_grad():
        logits = loaded_model(model)(batch_of(torch.tensor([ids]))).float()
    return torch.softmax(logits[0] if model.head.per_sequence else logits, -1), ids


def test_text_classification_pipeline(tmp_path: Path) -> None:
    """Labels and scores of transformers' pipeline are ours, also for text that must be cut."""
    folder, model = converted(tmp_path, "BertForSequenceClassification", **named(TOPICS))
    pipeline = transformers.pipeline("text-classification", str(folder), top_k=None)
    assert pipeline.tokenizer.model_max_length == 40
    for text in (*TEXTS, "the river flows " * 40):
        (answers,) = pipeline([text], truncation=True)
        ours, _ = our_scores(model, text)
        assert [a["label"] for a in answers] == [TOPICS[i] for i in ours.argsort(descending=True)]
        theirs = {a["label"]: a["score"] for a in answers}
        for label, score in zip(TOPICS, ours.tolist()):
            assert theirs[label] == pytest.approx(score, abs=1e-5)


def test_token_classification_pipeline(tmp_path: Path) -> None:
    """The same label and score for every token."""
    folder, model = converted(tmp_path, "BertForTokenClassification", **named(TAGS))
    pipeline = transformers.pipeline("token-classification", str(folder), ignore_labels=[])
    for text in TEXTS:
        answers = pipeline(text)
        ours, ids = our_scores(model, text)
        best = ours.max(-1)
        assert [a["index"] for a in answers] == list(range(1, len(ids) - 1))
        for answer in answers:
            place = answer["index"]
            assert answer["entity"] == TAGS[int(best.indices[place])]
            assert answer["score"] == pytest.approx(float(best.values[place]), abs=1e-5)


def test_fill_mask_and_spans(tmp_path: Path) -> None:
    """fill-mask gives the words that the conversion's own check printed; answer spans agree."""
    source = make(tmp_path / "hf", "BertForMaskedLM")
    convert(ConversionRequest("huggingface", source, "megabert", tmp_path / "ours"))
    done = convert(
        ConversionRequest("megabert", tmp_path / "ours", "huggingface", tmp_path / "out")
    )
    assert done.comparison is not None
    tokenizer = load_tokenizer(tmp_path / "out")
    pipeline = transformers.pipeline("fill-mask", str(tmp_path / "out"))
    model = own_weights.read(tmp_path / "ours")
    text = "the river [MASK] in the hills"
    (encoded,) = tokenizer.encode_sentences([text.replace("[MASK]", "and")])
    ids = [tokenizer.special.cls, *encoded.ids.tolist(), tokenizer.special.sep]
    ids[3] = tokenizer.special.mask
    ours: Any = loaded_model(model)
    logits, _ = ours.logits(batch_of(torch.tensor([ids])))
    best = torch.softmax(logits[3], -1).topk(5)
    answers = pipeline(text)
    assert [a["token"] for a in answers] == best.indices.tolist()
    assert [a["score"] for a in answers] == pytest.approx(best.values.tolist(), abs=1e-5)

    folder, qa = converted(tmp_path / "qa", "BertForQuestionAnswering")
    theirs = transformers.AutoModelForQuestionAnswering.from_pretrained(folder)
    inputs = transformers.AutoTokenizer.from_pretrained(folder)(
        "built there?", TEXTS[1], return_tensors="pt"
    )
    with torch.no_grad():
        output = theirs(**inputs)
        start, end = loaded_model(qa)(batch_of(**inputs))
    assert torch.allclose(output.start_logits, start, atol=1e-5)
    assert output.end_logits.argmax() == end.argmax()
