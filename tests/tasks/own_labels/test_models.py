"""Losses, scores and answers of the tasks, and their models in Hugging Face folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from megabert.common.packed_batch import PackedBatch
from megabert.config.model import ModelConfig
from megabert.convert.run import ConversionRequest, convert
from megabert.model.init import initialize_weights
from megabert.model.weights import save_weights
from megabert.parallel.layers import TensorParallel
from megabert.predict.predictor import AnswerOptions, open_predictor
from megabert.tasks.base import Task
from megabert.tasks.classification import metrics
from megabert.tasks.classification.features import ClassificationFeatures
from megabert.tasks.classification.settings import ClassificationSettings
from megabert.tasks.registry import make_task
from tests.helpers.tagging_files import tokenizer as small_tokenizer

FILES = {
    "classify": [{"text": "a b", "label": "x"}, {"text": "c", "label": "y"}],
    "several": [{"text": "a b", "labels": ["x", "z"]}, {"text": "c", "labels": ["y"]}],
    "regress": [{"text": "a b", "label": 1000}, {"text": "c", "label": 1400.5}],
    "tag": [{"text": "a b", "entities": [[0, 1, "X"]]}, {"text": "c", "entities": []}],
}
ITEMS: list[dict[str, Any]] = [{"text": "a b c"}, {"text": "c-b"}, {"text": "a"}]


def saved(folder: Path, form: str) -> tuple[Task, Path]:
    """A task that has read a file, and the folder of a drawn model of it."""
    words = small_tokenizer(folder)
    path = folder / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, FILES[form])) + "\n")
    task = make_task("classify" if form == "several" else form, None, 16)
    task.train_features(path, words, None, 0)
    config = ModelConfig(
        name="test", vocab_size=words.vocab_size, hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=16, max_position_embeddings=16, vocab_multiple=8,
    )  # fmt: skip
    model = task.build_model(config, TensorParallel(), None, False)
    initialize_weights(model, config, seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("sequence.", "token.")):
                parameter.normal_(std=0.5)
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    save_weights(
        folder / "final", config, tensors, folder / "vocabulary", task=task.name,
        labels=list(task.labels), task_record=task.record(),
    )  # fmt: skip
    return task, folder / "final"


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        ("classify", "single_label_classification"),
        ("several", "multi_label_classification"),
        ("regress", "regression"),
        ("tag", None),
    ],
)
def test_hugging_face_folders_answer_alike(tmp_path: Path, form: str, kind: str | None) -> None:
    """Written with names and kind, compared with transformers' logits by the conversion, and read back."""
    task, final = saved(tmp_path, form)
    result = convert(ConversionRequest("megabert", final, "huggingface", tmp_path / "hf"))
    assert result.comparison is not None
    assert "transformers" in result.comparison.note
    values = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert values.get("problem_type") == kind
    if task.labels:
        assert [values["id2label"][str(n)] for n in range(len(task.labels))] == list(task.labels)
    named = task.name if form in ("regress", "tag") else None
    sides = []
    for folder, options in (
        (final, AnswerOptions()),
        (tmp_path / "hf", AnswerOptions(task=named)),
    ):
        predictor = open_predictor(folder, options)
        assert predictor.task.name == task.name
        sides.append(predictor.answers(predictor.features(ITEMS)))
    ours, theirs = sides
    for mine, other in zip(ours, theirs, strict=True):
        if form == "tag":
            spans = [
                [(e["type"], e["start"], e["end"]) for e in one["entities"]]
                for one in (mine, other)
            ]
            assert spans[0] == spans[1]  # pieces are words here
            continue
        assert mine.get("label") == other.get("label")
        assert mine.get("labels") == other.get("labels")
        for key in {"score", "scores"} & mine.keys():
            assert other[key] == pytest.approx(mine[key], rel=1e-5)
    if form == "regress":
        assert all(500 < answer["score"] < 2000 for answer in ours)


def test_the_loss_of_several_labels(tmp_path: Path) -> None:
    task = make_task("classify", ClassificationSettings(class_weights="balanced"), 16)
    path = tmp_path / "f.jsonl"
    path.write_text("\n".join(map(json.dumps, [*FILES["several"], {"text": "a", "labels": []}])))
    found = task.train_features(path, small_tokenizer(tmp_path), None, 0)
    assert isinstance(found, ClassificationFeatures)
    assert found.weights is not None
    assert found.weights.sum(axis=0) == pytest.approx(np.full(3, 3.0))
    logits = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0], [2.0, 0.0, -1.0]])
    batch: PackedBatch[torch.Tensor] = found.batch(np.arange(3), 16).map(torch.from_numpy)
    targets = batch.labels["targets"]
    each = -(targets * F.logsigmoid(logits) + (1 - targets) * F.logsigmoid(-logits))
    expected = (each * torch.from_numpy(found.weights)).mean()
    assert float(task.loss(lambda _: logits, batch)) == pytest.approx(float(expected), rel=1e-6)
    outputs = {"logits": logits.numpy()}
    strict = make_task("classify", ClassificationSettings(threshold=0.9), 16)
    strict.load_labels(task.labels, task.record())
    assert [one["labels"] for one in task.answers(found, outputs)] == [
        ["x", "z"], ["x", "y", "z"], ["x", "y"],
    ]  # fmt: skip
    assert [one["labels"] for one in strict.answers(found, outputs)] == [[], ["y"], []]


def test_scores_are_those_of_scikit_learn() -> None:
    learn = pytest.importorskip("sklearn.metrics")
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(3)
    for classes in (2, 5):
        truth, found = rng.integers(0, classes, (2, 40))
        assert metrics.macro_f1(truth, found) == pytest.approx(
            learn.f1_score(truth, found, average="macro")
        )
        assert metrics.micro_f1(truth, found) == pytest.approx(
            learn.f1_score(truth, found, average="micro")
        )
        assert metrics.matthews_correlation(truth, found) == pytest.approx(
            learn.matthews_corrcoef(truth, found)
        )
    truth, found = rng.random((2, 40, 4)) < 0.4
    for average, own in (("macro", metrics.macro_f1), ("micro", metrics.micro_f1)):
        assert own(truth, found) == pytest.approx(learn.f1_score(truth, found, average=average))
    assert metrics.subset_accuracy(truth, found) == pytest.approx(
        learn.accuracy_score(truth, found)
    )
    numbers = rng.normal(size=(2, 30))
    scores = metrics.metric_scores(("pearson", "spearmanr", "mse", "mae"), *numbers)
    assert scores["pearson"] == pytest.approx(100 * stats.pearsonr(*numbers).statistic)
    assert scores["spearmanr"] == pytest.approx(100 * stats.spearmanr(*numbers).statistic)
    assert scores["mse"] == pytest.approx(learn.mean_squared_error(*numbers))
    assert scores["mae"] == pytest.approx(learn.mean_absolute_error(*numbers))


def test_a_record_of_class_weights_does_not_stop_predictions(tmp_path: Path) -> None:
    task, _ = saved(tmp_path, "classify")
    record = {**task.record(), "class_weights": {"x": 1.0, "y": 1.0}}
    settings = type(task).answer_settings(record, {}, 16)
    assert settings.class_weights == "none"
