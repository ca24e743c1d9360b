"""The model card: a valid hub card that states what the records say, and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from megabert.common.names import RUN_FINAL
from megabert.common.yaml_text import read_yaml_value
from megabert.convert.changes.request import ModelChanges
from megabert.convert.exports import model_card
from megabert.convert.exports.history import checkpoint_history, folder_history
from megabert.convert.format import OutputOptions
from megabert.convert.huggingface import model as huggingface
from megabert.convert.run import ConversionRequest, convert
from megabert.model.weights import load_weights
from tests.helpers.convert_folders import make

hub = pytest.importorskip("huggingface_hub")
pytest.importorskip("transformers")

STAGES = [
    {"kind": "start", "name": "older"},
    {
        "kind": "pretraining",
        "step": 7038,
        "tokens": 12_345_678,
        "lr": 0.006,
        "data": {"source": "dump.xml.bz2", "train split": "9 documents, 1,000 tokens in 1 shards"},
        "evaluation": {"eval_mlm_loss": 1.25},
    },
]


def with_history(source: Path, folder: Path) -> Path:
    """A copy of a converted folder whose record lists stages."""
    shutil.copytree(source, folder)
    record = json.loads((folder / "conversion.json").read_text(encoding="utf-8"))
    record |= {"history": STAGES, "trained_positions": 24}
    (folder / "conversion.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card")
    source = make(folder / "hf", "BertForMaskedLM")
    convert(ConversionRequest("huggingface", source, "huggingface", folder / "plain"))
    return folder / "plain"


def test_what_is_known_travels(converted: Path, tmp_path: Path) -> None:
    """Hugging Face -> megabert -> Hugging Face: stages, trained positions, card, and its metadata."""
    source = with_history(converted, tmp_path / "in")
    convert(ConversionRequest("huggingface", source, "megabert", tmp_path / "ours"))
    assert load_weights(tmp_path / "ours")[2]["history"] == STAGES
    options = OutputOptions(license="mit", language=("en", "zh"), model_name="A: name")
    convert(
        ConversionRequest(
            "megabert", tmp_path / "ours", "huggingface", tmp_path / "out", options=options
        )
    )
    card = hub.ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "mit"
    assert card.data.language == ["en", "zh"]
    assert card.data.pipeline_tag == "fill-mask"
    assert card.data.model_name == "A: name"
    for part in ("# A: name", "older, whose training is unknown", "12,345,678", "dump.xml.bz2"):
        assert part in card.text
    for part in ("| evaluation: mlm_loss | 1.25 |", "trained positions: 24 of 40", "1,000 tokens"):
        assert part in card.text
    values = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert values["model_max_length"] == 24
    assert huggingface.read(tmp_path / "out").history == STAGES


def test_a_changed_model_says_so(converted: Path, tmp_path: Path) -> None:
    """Its training ends with the change."""
    changes = ModelChanges(position_rows=64)
    convert(
        ConversionRequest(
            "huggingface", converted, "huggingface", tmp_path / "out", changes=changes
        )
    )
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "## Stage 1: changed by a conversion\n\n- " in text
    assert "64" in text.split("changed by a conversion")[1]


def test_nothing_is_invented(converted: Path) -> None:
    card = hub.ModelCard.load(converted / "README.md")
    assert card.data.license is None
    assert card.data.language is None
    assert "license: unknown" in card.text
    assert "language: unknown" in card.text
    assert "training: unknown" in card.text
    assert "Stage" not in card.text


def test_an_edited_card_stays(converted: Path, tmp_path: Path) -> None:
    """The same conversion again leaves the folder as it is; other options make it another one."""
    request = ConversionRequest("huggingface", converted, "huggingface", tmp_path / "out")
    convert(request)
    card = tmp_path / "out" / "README.md"
    card.write_text("mine", encoding="utf-8")
    assert convert(request).unchanged
    assert card.read_text(encoding="utf-8") == "mine"


def test_other_weights_have_another_history(converted: Path, tmp_path: Path) -> None:
    """A record of a conversion says nothing about weights that were written over it."""
    folder = with_history(converted, tmp_path / "in")
    assert huggingface.read(folder).history == STAGES
    make(folder, "BertForMaskedLM", initializer_range=0.5, vocab_size=102)
    assert huggingface.read(folder).history == []


def test_corpora_of_a_mixture() -> None:
    """Each with its source, and the weights of each stage; a damaged record is left out."""
    stage = {
        "kind": "pretraining",
        "data": {"wiki: source": "a.xml", "wiki: shards": 3, "news/x: train split": "9 documents"},
        "mixture": {
            "corpora": ["wiki", "news/x"],
            "stages": [
                {"weights": [1, 0], "samples": 3000},
                {"weights": [1, 2], "samples": None},
                7,
            ],
        },
    }
    assert model_card._data_rows(stage) == [
        ("wiki: source", "a.xml"),
        ("news/x: train split", "9 documents"),
        ("weights", "wiki 1, news/x 0 for 3,000 samples"),
        ("weights", "wiki 1, news/x 2"),
    ]
    for damaged in (
        3,
        [],
        {"corpora": 1, "stages": 2},
        {"corpora": [], "stages": [{"weights": 1}]},
    ):
        assert model_card._data_rows({"mixture": damaged}) == []


def test_history_of_a_run(root: Path, tmp_path: Path) -> None:
    """Recipe, data and the evaluation of exactly this checkpoint; the run before it by its name."""
    run = tmp_path / "run"
    shutil.copytree(root / "tests" / "fixtures" / "run_zero1_dp2", run)
    (folder,) = (path for path in (run / "checkpoints").iterdir() if path.is_dir())
    record: dict[str, Any] = json.loads((folder / "megabert.json").read_text(encoding="utf-8"))
    record["data"] = {"source": "a.txt"}
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        at = {"step": record["step"], "eval_mlm_loss": 3.5, "eval_mlm_accuracy": 0.25}
        file.write(json.dumps(at) + "\n")
        file.write(json.dumps(at | {"step": record["step"] + 1, "eval_mlm_loss": 1.0}) + "\n")
        file.write('{"step": 1, "eval_ml')
    stages = checkpoint_history(folder, record)
    stage = stages[-1]
    optimizer = read_yaml_value(run / "config.yaml")["optimizer"]
    assert stage["kind"] == "pretraining"
    assert (stage["step"], stage["lr"]) == (record["step"], optimizer["lr"])
    assert stage["data"] == record["data"] == {"source": "a.txt"}
    assert stage["evaluation"] == {"eval_mlm_loss": 3.5, "eval_mlm_accuracy": 0.25}
    config = (run / "config.yaml").read_text(encoding="utf-8")
    assert "init_from: null" in config
    for start in (tmp_path / "gone" / "bert-x", run):  # a run that names itself ends too
        (run / "config.yaml").write_text(
            config.replace("init_from: null", f"init_from: {start}"), encoding="utf-8"
        )
        first = checkpoint_history(folder, record)[0]
        assert first == {"kind": "start", "name": "bert-x"} or start == run


def test_history_of_a_fine_tuning(tmp_path: Path) -> None:
    """The scores are those of the run around ``final``."""
    run = tmp_path / "run"
    (run / RUN_FINAL).mkdir(parents=True)
    results = {
        "task": "sst2",
        "steps": 7,
        "scores": {"accuracy": 81.5},
        "settings": {"optimizer": {"lr": 3e-5}, "task": {"train": "/secret/place/train.tsv"}},
    }
    (run / "results.json").write_text(json.dumps(results), encoding="utf-8")
    stages = folder_history(run / RUN_FINAL, {"history": STAGES})
    assert stages[:2] == STAGES
    assert stages[2]["scores"] == {"accuracy": 81.5}
    assert stages[2]["lr"] == 3e-5
    assert "secret" not in json.dumps(stages)
    assert folder_history(run, {"history": STAGES}) == STAGES
