"""Fine-tuned checkpoints as a start: their head and labels are taken over, or a new head is drawn."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.distributed import run_ranks
from tests.helpers.finetune_runs import in_world, make_inputs, values, weights
from tests.helpers.sums import without_sums

SENTENCES = ["a b c", "d e f", "a b d", "x y z", "c c c", "f d e", "b a a", "z y y"]
HEAD = "sequence.classifier.weight"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained checkpoint, small files of GLUE tasks, and a model fine-tuned for CoLA."""
    folder = tmp_path_factory.mktemp("heads")
    run_ranks(make_inputs, 1, folder, initialize=False)
    labels = [1 if text[0] in "abc" else 0 for text in SENTENCES]
    cola = [f"x\t{label}\t\t{text}" for text, label in zip(SENTENCES, labels)]
    (folder / "cola.tsv").write_text("\n".join(cola) + "\n", encoding="utf-8")
    sst2 = ["sentence\tlabel", *(f"{text}\t{label}" for text, label in zip(SENTENCES, labels))]
    (folder / "sst2.tsv").write_text("\n".join(sst2) + "\n", encoding="utf-8")
    rte = ["index\tsentence1\tsentence2\tlabel"]
    names = {1: "entailment", 0: "not_entailment"}
    rte += [f"{n}\t{t}\t{t}\t{names[label]}" for n, (t, label) in enumerate(zip(SENTENCES, labels))]
    (folder / "rte.tsv").write_text("\n".join(rte) + "\n", encoding="utf-8")
    mnli = ["index\tsentence1\tsentence2\tgold_label"]
    mnli += [f"{n}\t{t}\t{t}\tneutral" for n, t in enumerate(SENTENCES)]
    (folder / "mnli.tsv").write_text("\n".join(mnli) + "\n", encoding="utf-8")
    test = ["index\tsentence", *(f"{n}\t{text}" for n, text in enumerate(SENTENCES))]
    (folder / "test.tsv").write_text("\n".join(test) + "\n", encoding="utf-8")
    end = {"eval_interval": "end"}
    fine = task(folder, "cola", "cola-run", "start", selection=end, optimizer={"steps": 40})
    assert in_world(1, fine)[0]["matthews_correlation"] == 100.0
    return folder


def task(
    place: Path, name: str, output: str, checkpoint: str = "cola-run", **sections: Any
) -> dict[str, Any]:
    """Settings of a run on a GLUE task's small file, training and scored."""
    file = str(place / f"{name}.tsv")
    own = {"task": name, "train": file, "eval": file, "checkpoint": str(place / checkpoint)}
    sections["task"] = {**own, **sections.get("task", {})}
    return values(place, output, **sections)


def record(folder: Path) -> dict[str, Any]:
    """What is said of the model in a run's ``final``."""
    return dict(json.loads((folder / "final" / "megabert.json").read_text(encoding="utf-8")))


def test_what_is_scored_again_is_what_was_trained(place: Path) -> None:
    saved = record(place / "cola-run")
    assert (saved["task"], saved["labels"]) == ("cola", ["0", "1"])
    assert saved["task_record"]["label_counts"] == {"0": 4, "1": 4}
    unlabelled = {"train": None, "eval": str(place / "test.tsv")}
    tested = {"train": None, "eval": None, "test": str(place / "cola.tsv")}
    scored, blind, test = in_world(
        1,
        task(place, "cola", "scored", task={"train": None}),
        task(place, "cola", "blind", task=unlabelled),
        task(place, "cola", "test-only", task=tested),
    )
    assert scored["scores"]["matthews_correlation"] == 100.0
    assert blind["scores"] == {}
    answers = (place / "blind" / "CoLA.tsv").read_text(encoding="utf-8").splitlines()
    assert answers[0] == "index\tprediction"
    assert len(answers) == 1 + len(SENTENCES)
    assert test["test_matthews_correlation"] == test["scores"]["test_matthews_correlation"] == 100.0
    assert (place / "test-only" / "test" / "CoLA.tsv").is_file()
    assert not (place / "scored" / "final").exists()


def test_training_continues_with_the_same_head_or_a_new_one(place: Path) -> None:
    still = {"lr": 0.0, "steps": 1}
    cases = [("cola", {}), ("cola", {"new_head": True}), ("sst2", {}), ("mnli", {})]
    runs = [
        task(place, name, f"on-{number}", task=more, optimizer=still)
        for number, (name, more) in enumerate(cases)
    ]
    unfit = {"train": None, "eval": str(place / "missing")}
    results = in_world(
        1,
        *runs,
        task(place, "squad", "no-qa", task=unfit),
        task(place, "sst2", "bare", "start", task=unfit),
        task(place, "sst2", "no", task={"train": None}),
    )
    first = weights(place / "cola-run")
    for number, kept in enumerate((True, False, False, False)):
        found = weights(place / f"on-{number}")
        assert np.array_equal(found[HEAD], first[HEAD]) is kept, number
        for name in ("bert.pooler.dense.weight", "bert.layers.1.mlp.up.weight"):
            assert np.array_equal(found[name], first[name])
    assert record(place / "on-3")["labels"] == ["contradiction", "entailment", "neutral"]
    assert weights(place / "on-3")[HEAD].shape[0] == 3
    assert "has no head for --task squad (its head: cola)" in results[-3]
    assert "has no head for --task sst2 (its head: pretraining)" in results[-2]
    assert "was fine-tuned for cola, not for sst2: give --task cola" in results[-1]
    assert "\n" not in results[-1]


def test_labels_in_another_order_or_of_another_task(place: Path) -> None:
    """Foreign models say their labels, but no task."""
    for name, labels in (
        ("turned", ["not_entailment", "entailment"]), ("others", ["good", "bad"]), ("unnamed", None),
    ):  # fmt: skip
        folder = place / name
        shutil.copytree(place / "cola-run" / "final", folder)
        without_sums(folder)
        saved = json.loads((folder / "megabert.json").read_text(encoding="utf-8"))
        saved |= {"labels": labels, "task": None, "task_record": {}}
        (folder / "megabert.json").write_text(json.dumps(saved), encoding="utf-8")
    still = {"lr": 0.0, "steps": 1}
    results = in_world(
        1,
        task(place, "rte", "rte-turned", "turned", optimizer=still),
        task(place, "rte", "rte-others", "others", optimizer=still),
        task(place, "rte", "rte-scored", "others", task={"train": None}),
        task(place, "sst2", "own-scored", "unnamed", task={"train": None, "task": "classify"}),
    )
    assert results[3]["accuracy"] == 100.0  # labels 0 and 1 are the numbers of the outputs
    first = weights(place / "cola-run")[HEAD]
    assert record(place / "rte-turned")["labels"] == ["not_entailment", "entailment"]
    assert np.array_equal(weights(place / "rte-turned")[HEAD], first)
    assert record(place / "rte-others")["labels"] == ["entailment", "not_entailment"]
    assert not np.array_equal(weights(place / "rte-others")[HEAD], first)
    assert "are not those of rte" in results[2]
