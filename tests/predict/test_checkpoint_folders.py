"""Folders that are no single model, and models of tasks and encoders that are not installed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from megabert.common.errors import UserError
from megabert.config.model import ModelConfig
from megabert.finetune.resume import finished
from megabert.finetune.starting_weights import read_weights
from megabert.model.init import initialize_weights
from megabert.model.weights import save_weights
from megabert.parallel.layers import TensorParallel
from megabert.predict.predictor import AnswerOptions, open_predictor
from megabert.tasks.registry import make_task
from tests.helpers.sums import without_sums
from tests.helpers.tagging_files import write_vocabulary


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A megabert folder of a model that was fine-tuned for sst2."""
    root = tmp_path_factory.mktemp("model")
    words = write_vocabulary(root / "words")
    size = len((words / "vocab.txt").read_text(encoding="utf-8").split("\n")) - 1
    config = ModelConfig(
        name="test", vocab_size=size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32, vocab_multiple=8,
    )  # fmt: skip
    built = make_task("sst2").build_model(config, TensorParallel(), None, False)
    initialize_weights(built, config, seed=1)
    tensors = {name: parameter.detach() for name, parameter in built.named_parameters()}
    save_weights(root / "sst2", config, tensors, words, task="sst2", labels=["0", "1"])
    other = {name.replace("sequence.", "tally."): tensor for name, tensor in tensors.items()}
    save_weights(root / "tallies", config, other, words, task="tallies", labels=[])
    return root


def changed(source: Path, folder: Path, **record: Any) -> Path:
    """A copy of the folder whose record has other values."""
    shutil.copytree(source / "sst2", folder)
    without_sums(folder)
    file = folder / "megabert.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["model"] |= record.pop("model", {})
    file.write_text(json.dumps(content | record), encoding="utf-8")
    return folder


def sweep(model: Path, folder: Path, results: dict[str, Any] | None) -> Path:
    """A folder as --seeds leaves it."""
    for name in ("2e-5-seed-1", "2e-5-seed-2"):
        shutil.copytree(model / "sst2", folder / name / "final")
    (folder / "config.yaml").write_text("task: {}\n", encoding="utf-8")
    if results is not None:
        (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return folder


def test_a_folder_of_several_runs_names_the_best(model: Path, tmp_path: Path) -> None:
    done = sweep(model, tmp_path / "done", {"best_run": "2e-5-seed-2", "runs": []})
    for read in (read_weights, lambda path: open_predictor(path, AnswerOptions())):
        with pytest.raises(
            UserError, match=rf"is a folder of 2 runs: .* such as {done}/2e-5-seed-2 \(the best\)$"
        ):
            read(done)
    cut = sweep(model, tmp_path / "cut", None)
    with pytest.raises(UserError, match=rf"give one of them, such as {cut}/2e-5-seed-1$"):
        read_weights(cut)
    assert read_weights(done / "2e-5-seed-2")[0].task == "sst2"
    with pytest.raises(UserError, match="holds no model"):
        read_weights(tmp_path)


def test_a_task_that_is_not_installed_is_named(model: Path, tmp_path: Path) -> None:
    foreign = changed(model, tmp_path / "foreign", task="colours")
    with pytest.raises(
        UserError,
        match=r"'colours', which is not known here: install .* or give --task, one of cola",
    ):
        open_predictor(foreign, AnswerOptions())
    assert open_predictor(foreign, AnswerOptions(task="sst2")).task.name == "sst2"
    with pytest.raises(UserError, match=r"'tallies', which is not known here: install the package"):
        open_predictor(model / "tallies", AnswerOptions())
    wrong = changed(model, tmp_path / "wrong", task="squad")
    with pytest.raises(UserError, match=r"fine-tuned for squad, whose head is question answering"):
        open_predictor(wrong, AnswerOptions())
    shaped = changed(model, tmp_path / "shaped", model={"encoder": "spiral"})
    with pytest.raises(
        UserError, match=r"megabert.json: unknown encoder 'spiral'; .* the package that"
    ):
        open_predictor(shaped, AnswerOptions())


def test_results_of_something_else_are_not_reused(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("megabert.finetune.resume.is_this_run", lambda *_: True)
    settings: Any = None
    (tmp_path / "results.json").write_text("[]", encoding="utf-8")
    with pytest.raises(UserError, match=r"does not hold the results of a run; choose another"):
        finished(tmp_path, settings)


def test_a_finished_run_says_that_nothing_is_done_again(
    tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("megabert.finetune.resume.is_this_run", lambda *_: True)
    settings: Any = None
    (tmp_path / "results.json").write_text(json.dumps({"scores": {"f1": 12.5}}), encoding="utf-8")
    assert finished(tmp_path, settings) == {"scores": {"f1": 12.5}}
    said = capsys.readouterr().err
    assert "nothing is trained or scored again; its results are used (f1 12.50)" in said
    assert "choose another --output or remove the folder" in said
