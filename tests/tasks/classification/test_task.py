"""Classification: rows, metrics and answers against definitions; small trainings through the loop."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megabert.common.errors import UserError
from megabert.data.foreign.tfrecord import frame
from megabert.data.tokenizers.base import Tokenizer
from megabert.data.tokenizers.load import load_tokenizer
from megabert.tasks.classification import metrics
from megabert.tasks.classification.features import join_texts, truncated
from megabert.tasks.classification.glue import GLUE
from megabert.tasks.classification.settings import ClassificationSettings
from megabert.tasks.classification.task import Classification, class_weights
from megabert.tasks.classification.tnews import Tnews
from megabert.tasks.registry import make_task
from tests.finetune.test_loop import in_world, losses, make_inputs, weights
from tests.helpers.batch_rows import rows_of
from tests.helpers.distributed import run_ranks
from tests.helpers.foreign_shards import example
from tests.helpers.sums import without_sums

LETTERS = "abcdefgh"


def task(name: str, max_length: int = 16, **settings: Any) -> Classification:
    """A task by its name."""
    made = make_task(name, ClassificationSettings(**settings), max_length)
    assert isinstance(made, Classification)
    return made


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A vocabulary of letters."""
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS)]
    path.write_text("\n".join(words) + "\n", encoding="utf-8")
    return load_tokenizer(path)


def popped(first: list[int], second: list[int], room: int) -> tuple[list[int], list[int]]:
    """Truncation one token at a time, as published."""
    first, second = list(first), list(second)
    while len(first) + len(second) > room:
        (first if len(first) > len(second) else second).pop()
    return first, second


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(2, 30))
def test_truncation_is_that_of_popping_tokens(first: int, second: int, room: int) -> None:
    kept = truncated(np.array([first]), np.array([second]), np.array([room]))
    expected = popped([0] * first, [0] * second, room)
    assert [int(side[0]) for side in kept] == [len(side) for side in expected]


@settings(max_examples=50, deadline=None)
@given(
    pairs=st.lists(st.tuples(*[st.text(LETTERS + " .", max_size=12)] * 2), min_size=1, max_size=5),
    max_length=st.integers(5, 20),
    single=st.booleans(),
)
def test_rows_are_those_put_together_by_hand(
    tokenizer: Tokenizer, pairs: list[tuple[str, str]], max_length: int, single: bool
) -> None:
    firsts, seconds = map(list, zip(*pairs))
    rows, cut, empty = join_texts((firsts,) if single else (firsts, seconds), tokenizer, max_length)
    batch = rows_of(rows, np.arange(len(pairs)))
    cls, sep = tokenizer.special.cls, tokenizer.special.sep
    lost = bare = 0
    for number, texts in enumerate(pairs):
        a, b = (encoded.ids.tolist() for encoded in tokenizer.encode_sentences(texts))
        b = [] if single else b
        kept_a, kept_b = popped(a, b, max_length - (3 if b else 2))
        lost += len(kept_a) + len(kept_b) < len(a) + len(b)
        bare += not a or not (single or b)
        ids, types = [cls, *kept_a, sep], [0] * (len(kept_a) + 2)
        if b:
            ids, types = [*ids, *kept_b, sep], [*types, *[1] * (len(kept_b) + 1)]
        fill = batch["input_ids"].shape[1] - len(ids)
        assert batch["input_ids"][number].tolist() == ids + [tokenizer.special.pad] * fill
        assert batch["token_type_ids"][number].tolist() == types + [0] * fill
        assert batch["attention_mask"][number].tolist() == [1] * len(ids) + [0] * fill
    assert (cut, empty) == (lost, bare)
    assert rows.lengths.max() <= max_length


def test_a_length_without_room_is_refused(tokenizer: Tokenizer) -> None:
    for texts, length in ((["a"],), 2), ((["a"], ["b"]), 4):
        with pytest.raises(UserError, match=f"--max-length {length} leaves no room"):
            join_texts(texts, tokenizer, length)


def test_metrics_of_hand_made_values() -> None:
    truth, found = np.array([1, 1, 1, 0, 0, 1]), np.array([1, 1, 0, 0, 1, 1])
    # TP 3, FN 1, TN 1, FP 1
    assert metrics.accuracy(truth, found) == pytest.approx(4 / 6)
    assert metrics.binary_f1(truth, found) == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert metrics.matthews_correlation(truth, found) == pytest.approx(
        (3 * 1 - 1 * 1) / math.sqrt(4 * 4 * 2 * 2)
    )
    assert metrics.ranks(np.array([3.0, 1.0, 3.0, 2.0, 3.0])).tolist() == [4.0, 1.0, 4.0, 2.0, 4.0]
    # ranks 1 2 3 4 and 1.5 1.5 4 3: products of deviations add up to 3.5, their squares to 5 and 4.5
    assert metrics.spearmanr(np.array([1.0, 2, 3, 4]), np.array([0.0, 0, 9, 5])) == pytest.approx(
        3.5 / math.sqrt(5 * 4.5)
    )
    assert metrics.pearson(np.array([1.0, 2, 3]), np.array([1.0, 2, 4])) == pytest.approx(
        3 / math.sqrt(2 * 14 / 3)
    )
    for name in ("matthews_correlation", "pearson", "spearmanr"):
        assert getattr(metrics, name)(np.array([1, 0, 1]), np.array([1, 1, 1])) == 0.0
    assert metrics.binary_f1(np.array([0, 0]), np.array([0, 0])) == 0.0
    assert metrics.metric_scores(("score", "accuracy", "f1"), truth, found) == pytest.approx(
        {"accuracy": 100 * 4 / 6, "f1": 75.0, "score": 50 * (4 / 6 + 0.75)}
    )


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(2, 4), st.integers(2, 30))
def test_metrics_agree_with_other_definitions(
    data: st.DataObject, classes: int, count: int
) -> None:
    numbers = st.lists(st.integers(0, classes - 1), min_size=count, max_size=count)
    truth, found = np.array(data.draw(numbers)), np.array(data.draw(numbers))
    one_hot = [
        np.eye(classes)[side] - np.eye(classes)[side].mean(axis=0) for side in (truth, found)
    ]
    covariance = [(a * b).sum() for a, b in ((one_hot[0], one_hot[1]), *((x, x) for x in one_hot))]
    spread = math.sqrt(covariance[1] * covariance[2])
    expected = covariance[0] / spread if spread > 1e-12 else 0.0
    assert metrics.matthews_correlation(truth, found) == pytest.approx(expected, abs=1e-9)
    by_counting = [1 + (found < x).sum() + ((found == x).sum() - 1) / 2 for x in found]
    assert metrics.ranks(found).tolist() == by_counting
    if np.ptp(truth) and np.ptp(found):
        expected = np.corrcoef(truth, found)[0, 1]
        assert metrics.pearson(truth, found) == pytest.approx(expected, abs=1e-9)


def test_metrics_agree_with_scipy_and_scikit_learn() -> None:
    stats = pytest.importorskip("scipy.stats")
    learn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(0, 6, (2, 50))
        assert metrics.spearmanr(a, b) == pytest.approx(stats.spearmanr(a, b)[0], abs=1e-12)
        assert metrics.pearson(a, b) == pytest.approx(stats.pearsonr(a, b)[0], abs=1e-12)
        assert metrics.matthews_correlation(a, b) == pytest.approx(learn.matthews_corrcoef(a, b))
        a, b = a % 2, b % 2
        assert metrics.binary_f1(a, b) == pytest.approx(learn.f1_score(a, b))


def write(path: Path, text: str) -> Path:
    """A text file."""
    path.write_text(text, encoding="utf-8")
    return path


def test_balanced_weights_have_the_mean_1(tmp_path: Path, tokenizer: Tokenizer) -> None:
    assert class_weights(np.array([1, 3, 0])).tolist() == pytest.approx([2.0, 2 / 3, 0.0])
    path = write(tmp_path / "train.tsv", "sentence\tlabel\na\t1\nb\t1\nc\t1\nd\t0\n")
    plain, weighted = task("sst2"), task("sst2", class_weights="balanced")
    assert "row_weights" not in rows_of(
        plain.train_features(path, tokenizer, None, 0), np.arange(4)
    )
    features = weighted.train_features(path, tokenizer, None, 0)
    batch = rows_of(features, np.arange(4))
    assert batch["row_weights"].tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2.0])
    assert batch["row_weights"].mean() == pytest.approx(1.0)
    assert weighted.record()["class_weights"] == pytest.approx({"0": 2.0, "1": 2 / 3})
    assert weighted.record()["label_counts"] == {"0": 1, "1": 3}
    logits = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    tensors = features.batch(np.arange(4), 16).map(torch.from_numpy)
    parts = -torch.log_softmax(logits, 1)[torch.arange(4), tensors.labels["targets"]]
    loss = weighted.loss(lambda _: logits, tensors)
    assert float(loss) == pytest.approx(float((parts * tensors.labels["row_weights"]).mean()))
    with pytest.raises(UserError, match="--class-weights balanced: stsb has no classes"):
        task("stsb", class_weights="balanced")


def test_a_drawn_part_keeps_texts_and_labels_together(tmp_path: Path, tokenizer: Tokenizer) -> None:
    lines = "".join(f"{letter}\t{number % 2}\n" for number, letter in enumerate(LETTERS))
    path = write(tmp_path / "train.tsv", "sentence\tlabel\n" + lines)
    features = task("sst2").train_features(path, tokenizer, 5, 3)
    batch = rows_of(features, np.arange(5))
    letters = [int(i) - 5 for i in batch["input_ids"][:, 1]]
    assert batch["targets"].tolist() == [letter % 2 for letter in letters]
    assert features.ids == letters
    assert features.sizes() == {"examples": 5, "tokens": 15, "cut": 0, "empty": 0, "left_out": 0}
    assert "5 examples, 15 tokens, 0: " in features.describe()


def test_items_take_the_names_of_the_files(tokenizer: Tokenizer) -> None:
    single, pair = task("cola"), task("qnli")
    same = [{"sentence": "a b"}, {"text": "a b", "more": 1}]
    batch = rows_of(single.item_features(same, tokenizer), np.arange(2))
    assert batch["input_ids"][0].tolist() == batch["input_ids"][1].tolist()
    for names in (("sentence1", "sentence2"), ("question", "sentence"), ("premise", "hypothesis")):
        features = pair.item_features([dict(zip(names, "ab"))], tokenizer)
        found = rows_of(features, np.arange(1))
        assert found["token_type_ids"].tolist() == [[0, 0, 0, 1, 1]]
    with pytest.raises(UserError, match=r"item 2 has no 'sentence2' \(or .*\): sentence1"):
        pair.item_features([{"sentence1": "a", "sentence2": "b"}, {"sentence1": "a"}], tokenizer)
    with pytest.raises(UserError, match=r"item 1: 'text' is not a text"):
        single.item_features([{"text": 3}], tokenizer)


def test_answers_are_probabilities_in_the_checkpoints_order(tokenizer: Tokenizer) -> None:
    mnli = task("mnli")
    mnli.load_labels(("neutral", "entailment", "contradiction"), {})
    features = mnli.item_features([{"premise": "a", "hypothesis": "b"}] * 2, tokenizer)
    logits = np.array([[1.0, 3.0, -2.0], [500.0, 0.0, -500.0]], np.float32)
    first, second = mnli.answers(features, {"logits": logits})
    expected = torch.softmax(torch.from_numpy(logits[0]), 0).tolist()
    assert list(first["scores"]) == ["neutral", "entailment", "contradiction"]
    assert list(first["scores"].values()) == pytest.approx(expected, rel=1e-6)
    assert (first["label"], first["score"]) == ("entailment", first["scores"]["entailment"])
    assert second["scores"] == pytest.approx({"neutral": 1, "entailment": 0, "contradiction": 0})
    scores = task("stsb").answers(features, {"logits": np.array([[2.5], [7.0]], np.float32)})
    assert scores == [{"score": 2.5}, {"score": 7.0}]


def test_scores_follow_the_order_of_an_adopted_head(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write(tmp_path / "dev_mismatched.tsv", (
        "index\tpairID\tsentence1\tsentence2\tgold_label\n"
        "0\tx\ta\tb\tentailment\n1\tx\ta\tb\tneutral\n2\tx\ta\tb\tneutral\n"
    ))  # fmt: skip
    mnli = task("mnli")
    mnli.load_labels(
        ("entailment", "neutral", "contradiction"),
        {"label_counts": {"neutral": 5, "entailment": 4}},
    )
    features = mnli.eval_features(path, tokenizer)
    outputs = {"logits": np.array([[9, 0, 0], [9, 0, 0], [0, 9, 0]], np.float32)}
    scores = mnli.score(features, outputs, tmp_path)
    assert scores == pytest.approx({"accuracy": 200 / 3, "majority_accuracy": 200 / 3})
    lines = (tmp_path / "MNLI-mm.tsv").read_text(encoding="utf-8").splitlines()
    assert lines == ["index\tprediction", "0\tentailment", "1\tentailment", "2\tneutral"]


@pytest.mark.parametrize("name", ["mnli", "stsb", "tnews"])
def test_features_of_run_classifier_are_the_rows_of_the_text(
    tmp_path: Path, tokenizer: Tokenizer, name: str
) -> None:
    texts = {
        "mnli": "index\tsentence1\tsentence2\tlabel\n0\ta b\tc\tneutral\n1\td\te f\tcontradiction\n",
        "stsb": "sentence1\tsentence2\tscore\na b\tc\t2.5\nd\te f\t4\n",
        "tnews": '{"sentence": "a", "label": "5"}\n{"sentence": "b c", "label": "1"}\n',
    }
    path = write(tmp_path / "train.txt", texts[name])
    expected = task(name).train_features(path, tokenizer, None, 0)
    batch = rows_of(expected, np.arange(2))
    width = batch["input_ids"].shape[1]
    records = []
    for row in range(2):
        records.append({
            "input_ids": [*batch["input_ids"][row], *[0] * (16 - width)],
            "input_mask": [*batch["attention_mask"][row], *[0] * (16 - width)],
            "segment_ids": [*batch["token_type_ids"][row], *[0] * (16 - width)],
            "label_ids": [float(batch["targets"][row]) if name == "stsb" else batch["targets"][row]],
            "is_real_example": [1],
        })  # fmt: skip
    filler = {key: [0] * len(values) for key, values in records[0].items()}
    if name == "stsb":
        filler["label_ids"] = [0.0]  # type: ignore[list-item]
    packed = tmp_path / "train.tf_record"
    packed.write_bytes(b"".join(frame(example(record)) for record in [*records, filler]))
    write(tmp_path / "labels.json", '{"label": "1"}\n{"label": "5"}\n')
    found = task(name).train_features(packed, tokenizer, None, 0)
    for key, values in rows_of(found, np.arange(2)).items():
        np.testing.assert_array_equal(values, batch[key], err_msg=key)
    assert found.labels == expected.labels
    assert "1 x record that is not a real example (first: record 2)" in found.describe()
    assert len(task(name).train_features(packed, tokenizer, 1, 0).lengths) == 1


def test_labels_that_nobody_names_are_an_error(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write(tmp_path / "dev.json", '{"sentence": "a", "label": "5"}\n')
    with pytest.raises(UserError, match=r"the labels of tnews are unknown: .*; give --train"):
        task("tnews").eval_features(path, tokenizer)
    trained = task("tnews")
    trained.train_features(path, tokenizer, None, 0)
    write(path, '{"sentence": "a", "label": "5"}\n\n{"sentence": "a", "label": "6"}\n')
    with pytest.raises(UserError, match=f"{path} line 3: unknown label: '6', not one of 5"):
        trained.eval_features(path, tokenizer)
    kept = task("tnews")
    kept.bad_lines = "skip"
    kept.load_labels(("5",), trained.record())
    assert "1 x unknown label (first: line 3)" in kept.eval_features(path, tokenizer).describe()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint ``start``, one without a pooler, and small files of some tasks."""
    folder = tmp_path_factory.mktemp("classification")
    run_ranks(make_inputs, 1, folder, initialize=False)
    from safetensors.numpy import load_file, save_file

    shutil.copytree(folder / "start", folder / "poolerless")
    without_sums(folder / "poolerless")
    tensors = load_file(folder / "start" / "model.safetensors")
    kept = {k: v for k, v in tensors.items() if not k.startswith(("bert.pooler.", "nsp."))}
    save_file(kept, folder / "poolerless" / "model.safetensors", {"format": "pt"})
    rows = list(enumerate(LETTERS))
    files = {
        "sst2.tsv": ["sentence\tlabel", *(f"{c} x {c}\t{int(n > 2)}" for n, c in rows)],
        "sst2-test.tsv": ["index\tsentence", *(f"{n}\t{c} x {c}" for n, c in rows)],
        "bad.tsv": ["sentence\tlabel", "a\t1", "b\tyes"],
        "mrpc.tsv": [
            "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
            *(f"{n % 2}\t0\t0\t{c} x\t{c} y" for n, c in rows),
        ],
        "stsb.tsv": ["index\tsentence1\tsentence2\tscore", *(f"{n}\t{c}\t{c} x\t{n / 2}" for n, c in rows)],
        "ax.tsv": ["index\tsentence1\tsentence2", "0\ta\tb", "1\tc\td"],
        "tnews.json": [f'{{"sentence": "{c} x", "label": "{100 + n % 3}"}}' for n, c in rows],
    }  # fmt: skip
    for name, lines in files.items():
        write(folder / name, "\n".join(lines) + "\n")
    return folder


def given_values(
    folder: Path, output: str, name: str, train: str | None, evaluate: str, **more: Any
) -> Any:
    """Settings of a run."""
    sections: dict[str, dict[str, Any]] = {
        "task": {
            "task": name,
            "checkpoint": str(folder / "start"),
            "train": train and str(folder / train),
            "eval": str(folder / evaluate),
            "output": str(folder / output),
            "log_interval": 1,
            "max_length": 16,
            "dropout": 0.0,
        },
        "batch": {"global_batch_size": 8, "micro_batch_size": 2, "eval_batch_size": 3},
        "optimizer": {"lr": 4e-3, "steps": 40},
    }
    for section, changes in more.items():
        sections[section] = {**sections.get(section, {}), **changes}
    return sections


SHORT = {"optimizer": {"steps": 4}, "classification": {"class_weights": "balanced"}}


@pytest.fixture(scope="module")
def runs(place: Path) -> list[Any]:
    """One world of one rank: all trainings, and what is made of their checkpoints."""
    poolerless = {"task": {"checkpoint": str(place / "poolerless")}}
    longer = {"optimizer": {"steps": 120}}
    trained = {"task": {"checkpoint": str(place / "sst2" / "final")}}
    return in_world(
        1,
        given_values(place, "sst2", "sst2", "sst2.tsv", "sst2.tsv", **poolerless),
        given_values(place, "again", "sst2", None, "sst2-test.tsv", **trained),
        given_values(place, "mrpc", "mrpc", "mrpc.tsv", "mrpc.tsv"),
        given_values(place, "stsb", "stsb", "stsb.tsv", "stsb.tsv", **longer),
        given_values(place, "tnews", "tnews", "tnews.json", "tnews.json", **longer),
        given_values(place, "one", "sst2", "sst2.tsv", "sst2.tsv", **SHORT),
        given_values(place, "wrong", "sst2", "sst2.tsv", "bad.tsv"),
        given_values(place, "wrong", "sst2", "sst2-test.tsv", "sst2.tsv"),
        given_values(place, "wrong", "tnews", None, "tnews.json"),
        given_values(place, "wrong", "stsb", "stsb.tsv", "stsb.tsv", classification={"class_weights": "balanced"}),
        given_values(place, "wrong", "mnli", None, "ax.tsv"),
    )  # fmt: skip


def test_small_trainings_reach_full_scores(place: Path, runs: list[Any]) -> None:
    sst2, again, mrpc, stsb, tnews = runs[:5]
    assert sst2["accuracy"] == 100.0
    assert sst2["majority_accuracy"] == 62.5
    assert mrpc["accuracy"] == mrpc["f1"] == mrpc["score"] == 100.0
    assert mrpc["majority_f1"] == 0.0
    assert stsb["pearson"] > 95
    assert stsb["score"] == pytest.approx((stsb["pearson"] + stsb["spearmanr"]) / 2)
    assert tnews["accuracy"] == 100.0
    predicted = (place / "sst2" / "SST-2.tsv").read_text(encoding="utf-8").splitlines()
    assert predicted == ["index\tprediction", *(f"{n}\t{int(n > 2)}" for n in range(8))]
    assert (place / "again" / "SST-2.tsv").read_text(encoding="utf-8").splitlines() == predicted
    assert not [name for name in again if "accuracy" in name]
    lines = (place / "tnews" / "tnews_predict.json").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[4]) == {"id": 4, "label": "101", "label_desc": "101"}
    assert "bert.pooler.dense.weight" in weights(place / "sst2")


def test_wrong_inputs_leave_nothing(place: Path, runs: list[Any]) -> None:
    messages = (
        "bad.tsv line 3: unknown label: 'yes', not one of 0, 1",
        "sst2-test.tsv has no labels to train on",
        "no head for --task tnews",
        "stsb has no classes",
        "no head for --task mnli",
    )
    for expected, message in zip(messages, runs[6:], strict=True):
        assert isinstance(message, str), message
        assert expected in message
        assert "\n" not in message
    assert not (place / "wrong").exists()


@pytest.mark.parametrize(
    ("ranks", "parallel", "batch"),
    [
        (2, {"zero_stage": 1}, {}),
        (2, {"tensor_parallel": 2, "zero_stage": 0}, {"micro_batch_size": 8}),
    ],
)
def test_any_division_gives_the_same_run(
    place: Path, runs: list[Any], ranks: int, parallel: dict[str, Any], batch: dict[str, Any]
) -> None:
    assert isinstance(runs[5], dict)
    name = f"divided-{'-'.join(parallel)}"
    more = {**SHORT, "parallel": parallel, "batch": batch}
    result = in_world(ranks, given_values(place, name, "sst2", "sst2.tsv", "sst2.tsv", **more))[0]
    assert result["accuracy"] == runs[5]["accuracy"]
    assert losses(place / name) == pytest.approx(losses(place / "one"), rel=2e-6)


def test_sources_answer_for_every_task() -> None:
    for source in (*GLUE.values(), Tnews()):
        made = task(source.name)
        assert made.metric == source.metrics[0]
        assert made.labels == source.labels
        assert set(source.metrics) <= {"score", *metrics._METRICS}
