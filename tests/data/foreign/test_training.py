"""Foreign shards through launch/pretrain.py: the losses of the same samples in our own shards."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from megabert.common.errors import UserError
from megabert.data.foreign.files import open_foreign
from megabert.data.samples.index import SampleSettings
from megabert.data.samples.masking import MaskSettings
from megabert.data.samples.source import SampleSource
from megabert.data.shards.corpus import Corpus
from megabert.data.tokenizers.load import load_tokenizer
from megabert.pretrain.inputs import open_inputs
from tests.helpers.batch_rows import samples_from
from tests.helpers.foreign_shards import LAYOUTS, samples_of, write_fixed, write_variable
from tests.helpers.training_runs import TINY, losses, make_shards, metrics, settings_of, train

SEED = 42
SAMPLES = 48


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="module")
def reference(ours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four updates over our own shards."""
    run = tmp_path_factory.mktemp("reference") / "run"
    train(ours, run)
    return run


@pytest.fixture(scope="module")
def theirs(ours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first samples of that run in each foreign layout, and one evaluation file."""
    folder = tmp_path_factory.mktemp("foreign")
    source = SampleSource(
        Corpus.open(ours, "train"), SampleSettings(32, seed=SEED), MaskSettings(max_predictions=5)
    )
    samples = samples_of(source, SAMPLES)
    for layout, (name, writer) in LAYOUTS.items():
        (folder / layout).mkdir()
        writer(folder / layout / name, samples, 32)
    write_fixed(folder / "fixed" / "part_test_0.hdf5", samples[:20], 32)
    return folder


def vocabulary(ours: Path) -> list[str]:
    return ["--tokenizer", str(ours / "tokenizer" / "vocab.txt")]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_losses_are_those_of_our_shards(
    layout: str, ours: Path, theirs: Path, reference: Path, tmp_path: Path
) -> None:
    """To the last bit, dropout included."""
    run = tmp_path / "run"
    lines = train(theirs / layout, run, *vocabulary(ours))
    assert losses(lines) == losses(metrics(reference))
    assert [line["grad_norm"] for line in lines if "loss" in line] == [
        line["grad_norm"] for line in metrics(reference) if "loss" in line
    ]
    assert ("eval_mlm_loss" in lines[-1]) == (layout == "fixed")
    saved = load_tokenizer(run / "tokenizer")
    assert saved.sha256 == load_tokenizer(ours / "tokenizer").sha256
    record = json.loads((run / "checkpoints" / "step-0000004" / "megabert.json").read_text())
    assert record["tokenizer_sha256"] == saved.sha256


def test_stop_and_resume(ours: Path, theirs: Path, reference: Path, tmp_path: Path) -> None:
    """On two ranks: other data is refused, and the run's own config is enough to resume."""
    run, words = tmp_path / "run", vocabulary(ours)
    train(theirs / "variable", run, *words, "--stop-after", "2", ranks=2)
    with pytest.raises(
        UserError, match="was made with other settings: the shards of --data: layout NVIDIA HDF5"
    ):
        train(theirs / "tfrecord", run, *words, "--resume", "auto", ranks=2)
    config = ["--config", str(run / "config.yaml"), "--resume", "auto"]
    lines = train(theirs / "variable", run, *config, ranks=2)
    expected = losses(metrics(reference))
    assert losses(lines)[0] == pytest.approx(expected[0], rel=1e-2)
    assert len(losses(lines)) == 4
    whole = tmp_path / "whole"
    assert losses(train(theirs / "variable", whole, *words, ranks=2)) == losses(lines)


def test_packing(ours: Path, theirs: Path, tmp_path: Path) -> None:
    """Packed foreign samples give the losses of padded ones."""
    still = ["--dropout", "0", "--micro-batch-size", "8", *vocabulary(ours)]
    padded = train(theirs / "fixed", tmp_path / "padded", *still)
    packed = train(theirs / "fixed", tmp_path / "packed", *still, "--packing", "on")
    assert losses(packed) == pytest.approx(losses(padded), rel=1e-5)


@pytest.mark.slow
def test_conversion(ours: Path, theirs: Path, root: Path, tmp_path: Path) -> None:
    """A run over foreign shards converts like any other, with its tokenizer."""
    run = tmp_path / "run"
    train(theirs / "tfrecord", run, *vocabulary(ours), "--steps", "1")
    command = [
        sys.executable, str(root / "launch" / "convert.py"), "--from", "megabert",
        "--input", str(run), "--to", "huggingface", "--output", str(tmp_path / "hf"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    sha256 = load_tokenizer(ours / "tokenizer").sha256
    assert load_tokenizer(tmp_path / "hf").sha256 == sha256


def test_real_records_train(shared_data: Path, tmp_path: Path) -> None:
    """Google's records as they are, and rewritten in both HDF5 layouts: one loss."""
    path = shared_data / "tfrecord" / "tf_examples.tfrecord"
    words = ["--tokenizer", str(shared_data / "vocab" / "bert-base-uncased-vocab.txt")]
    arguments = [*words, "--seq-length", "128", "--max-position-embeddings", "128"]
    (file,) = open_foreign([path]).train
    samples = [file.read(row) for row in range(file.samples)]
    fixed = write_fixed(tmp_path / "fixed.hdf5", samples, 128)
    variable = write_variable(tmp_path / "variable.hdf5", samples)
    found = [
        losses(train(data, tmp_path / f"run{number}", *arguments, "--steps", "2"))
        for number, data in enumerate((path, fixed, variable))
    ]
    assert found[0] == found[1] == found[2]
    assert 10 < found[0][0] < 12  # ln 30522 + ln 2 = 11.02


def opened(arguments: list[str]) -> Any:
    return open_inputs(settings_of([*TINY, *arguments]))


WRONG = [
    ([], "contain no vocabulary; give the tokenizer"),
    (["--tokenizer", "nowhere.txt"], "nowhere.txt: no such tokenizer"),
    (
        ["--final-mask-fraction", "0.1"],
        "--final-mask-fraction has no effect on .* already cut and masked",
    ),
    (["--masking", "whole-word"], "--masking has no effect on .* already cut and masked"),
    (["--mask-fraction", "0.15", "--max-predictions", "5"], "--mask-fraction, --max-predictions"),
    (["--short-sequence-fraction", "0"], "--short-sequence-fraction has no effect"),
    (["--sentence-task", "sop"], "sop is not possible"),
    (["--seq-length", "16"], "samples of 32 tokens are longer than --seq-length 16"),
    (["--seq-length", "128"], "longer than the position table of 64"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_flags(arguments: list[str], message: str, ours: Path, theirs: Path) -> None:
    words = [] if "vocabulary" in message else vocabulary(ours)
    with pytest.raises(UserError, match=message) as caught:
        opened(["--data", str(theirs / "fixed"), *words, *arguments])
    assert "\n" not in str(caught.value)


def test_settings_in_a_file(ours: Path, theirs: Path, tmp_path: Path) -> None:
    """Defaults in a file are ignored, since a run's own file names every setting."""
    data = ["--data", str(theirs / "fixed"), *vocabulary(ours)]
    file = tmp_path / "settings.yaml"
    file.write_text("data: {masking: token, mask_fraction: 0.15, max_predictions: 7}\n")
    (corpus,) = opened([*data, "--config", str(file)]).evaluated
    assert corpus.evaluation.samples_per_epoch == 20
    file.write_text("data: {masking: ngram}\n")
    with pytest.raises(UserError, match="--masking has no effect"):
        opened([*data, "--config", str(file)])


def test_without_sentence_labels(ours: Path, theirs: Path) -> None:
    data = ["--data", str(theirs / "variable"), *vocabulary(ours)]
    samples = samples_from(opened([*data, "--sentence-task", "none"]).train, 0, 4)
    assert samples.next_sentence_labels is None
    assert samples.token_type_ids.max() == 1


def test_tokenizer_of_our_own_shards(ours: Path) -> None:
    with pytest.raises(UserError, match="megabert's own shards contain their tokenizer"):
        opened(["--data", str(ours), *vocabulary(ours)])


def test_command_line(ours: Path, theirs: Path, root: Path, tmp_path: Path) -> None:
    """A damaged folder: exit status 2, one line, no run folder."""
    folder = shutil.copytree(theirs / "tfrecord", tmp_path / "cut")
    path = next(folder.iterdir())
    path.write_bytes(path.read_bytes()[:-3])
    run = tmp_path / "run"
    command = [
        sys.executable, str(root / "launch" / "pretrain.py"), *TINY, *vocabulary(ours),
        "--data", str(folder), "--output", str(run),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2, done.stderr
    assert len(errors) == 1
    assert "shard_0.tfrecord: cut off: record 47" in errors[0]
    assert not run.exists()
