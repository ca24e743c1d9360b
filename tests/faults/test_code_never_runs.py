"""Files from somebody else that would run code: on every path that reads them they are refused, unrun.

The planted code makes a file, ``witness``. Sums over the files are right, as their author makes them.
"""

from __future__ import annotations

import functools
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megabert.checkpoint.deepspeed_files import (
    check_content,
    only_checkpoint_content,
    read_deepspeed_file,
)
from megabert.checkpoint.save_load import require_readable_file
from megabert.common.errors import UserError
from megabert.config import flags
from megabert.config.training import PretrainSettings
from megabert.convert.mindspore.config import read_settings
from megabert.convert.run import ConversionRequest, convert
from megabert.finetune.starting_weights import read_weights
from megabert.optim.param_groups import read_parameter_groups
from megabert.predict.predictor import AnswerOptions, open_predictor
from tests.helpers.planted_code import KINDS, Touch, in_an_archive, plant_in_run
from tests.helpers.resume_runs import go_on, options, stopped_runs, train

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
MODEL = "mp_rank_00_model_states.pt"
OPTIMIZER = "zero_pp_rank_1_mp_rank_00_optim_states.pt"
"""The optimizer's file of the second rank."""


@pytest.fixture
def witness(tmp_path: Path) -> Path:
    return tmp_path / "witness"


def planted(source: Path, tmp_path: Path, file: str, witness: Path) -> Path:
    """A copy of a run with code in a file of its checkpoint."""
    run = tmp_path / "planted"
    shutil.copytree(source, run)
    plant_in_run(run, file, witness)
    return run


def assert_refused(error: UserError, witness: Path, *words: str) -> None:
    assert not witness.exists()
    assert "\n" not in str(error)
    for word in words:
        assert word in str(error)


def test_the_planted_code_works(witness: Path) -> None:
    """Otherwise no test here could fail."""
    pickle.loads(pickle.dumps(Touch(witness)))
    assert witness.exists()


# ---------------------------------------------------------------- the reader of DeepSpeed's files


@pytest.mark.parametrize(("make", "words"), KINDS.items(), ids=[kind.__name__ for kind in KINDS])
@pytest.mark.parametrize("mapped", [True, False])
def test_kinds_of_files(
    make: Callable[..., bytes], words: str, mapped: bool, tmp_path: Path, witness: Path
) -> None:
    path = tmp_path / MODEL
    path.write_bytes(make({"module": {"weight": torch.ones(2)}}, witness))
    with pytest.raises(UserError) as caught:
        read_deepspeed_file(path, mapped=mapped)
    assert_refused(caught.value, witness, str(path), words)


def test_deepspeeds_own_calls_run_nothing(tmp_path: Path, witness: Path) -> None:
    """Its converter passes ``weights_only=False``."""
    path = tmp_path / MODEL
    path.write_bytes(in_an_archive({}, witness))
    with only_checkpoint_content(), pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=False)
    assert not witness.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    torch.load(path, weights_only=False)
    assert witness.exists()  # torch is as before the block


@pytest.mark.parametrize(
    "name", ["../../outside", "/outside", "a/b", "..", ".", "a..b", "a\n", 7, "a\0"]
)
@pytest.mark.parametrize("place", ["module", "param_shapes", "param_slice_mappings"])
def test_names_of_parameters_are_not_paths(name: Any, place: str, tmp_path: Path) -> None:
    """DeepSpeed's converter makes folders of these names."""
    table = {name: torch.Size([2])}
    content: dict[str, Any] = {place: table}
    if place == "param_slice_mappings":
        content = {"optimizer_state_dict": {place: [table]}}
    torch.save(content, tmp_path / MODEL)
    with pytest.raises(UserError, match="is not the name of a parameter"):
        check_content(tmp_path)


def test_what_cannot_be_read_again_is_not_a_checkpoint(tmp_path: Path, witness: Path) -> None:
    """An optimizer of another package whose state holds an object."""
    (tmp_path / MODEL).write_bytes(in_an_archive({}, witness))
    with pytest.raises(RuntimeError, match="may hold only tensors and plain values") as caught:
        require_readable_file(tmp_path / MODEL)
    assert "exec" in str(caught.value)
    assert not witness.exists()
    torch.save({"module": {"weight": torch.ones(2)}}, tmp_path / MODEL)
    require_readable_file(tmp_path / MODEL)


# ---------------------------------------------------------------- paths that load a checkpoint

RUNS = [("run_zero0", MODEL), ("run_zero1_dp2", MODEL), ("run_zero1_dp2", OPTIMIZER)]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of today's program, which resume on their own layout."""
    return stopped_runs(tmp_path_factory.mktemp("fresh"))


@pytest.mark.parametrize(
    ("stage", "file", "ranks"),
    [
        (0, MODEL, 1),
        (1, OPTIMIZER, 2),
        (1, OPTIMIZER, 1),
        pytest.param(0, MODEL, 2, marks=pytest.mark.slow),
        pytest.param(1, MODEL, 2, marks=pytest.mark.slow),
        pytest.param(1, MODEL, 1, marks=pytest.mark.slow),
    ],
)
def test_resume(
    stage: int, file: str, ranks: int, fresh: Path, tmp_path: Path, witness: Path
) -> None:
    """On the layout that wrote the run, where DeepSpeed loads its own files, and on another."""
    run = planted(fresh / f"stage{stage}", tmp_path, file, witness)
    before = sorted(path.name for path in (run / "checkpoints").iterdir())
    with pytest.raises(UserError) as caught:
        go_on(run, "--stop-after", "3", ranks=ranks)
    assert_refused(caught.value, witness, file, "exec")
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == before


def test_deepspeeds_loading_runs_nothing(
    fresh: Path, tmp_path: Path, witness: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the check of the files before it: they may be replaced in between."""
    run = planted(fresh / "stage0", tmp_path, MODEL, witness)
    monkeypatch.setattr("megabert.checkpoint.resume.check_content", lambda *arguments: None)
    with pytest.raises(UserError) as caught:
        go_on(run, "--stop-after", "3", ranks=1)
    assert_refused(caught.value, witness, MODEL, "exec")


@pytest.mark.parametrize(
    ("name", "file"), [RUNS[0], pytest.param(*RUNS[2], marks=pytest.mark.slow)]
)
def test_phase_change(name: str, file: str, tmp_path: Path, witness: Path) -> None:
    run = planted(FIXTURES / name, tmp_path, file, witness)
    config = ["--config", str(run / "config.yaml"), "--init-from", str(run), *options(1, 0)]
    config += ["--gradient-accumulation-steps", "4"]
    with pytest.raises(UserError) as caught:
        train(FIXTURES / "shards", tmp_path / "new", *config, *_shape(run), ranks=1)
    assert_refused(caught.value, witness, file, "exec")
    assert not (tmp_path / "new").exists()


def _shape(run: Path) -> list[str]:
    """Flags of the fixtures' model, which the defaults of ``train`` would replace."""
    record = json.loads(next(run.glob("checkpoints/step-*/megabert.json")).read_text())["model"]
    names = ("hidden_size", "num_attention_heads", "intermediate_size", "max_position_embeddings")
    return [word for n in names for word in ("--" + n.replace("_", "-"), str(record[n]))]


@pytest.mark.parametrize(("name", "file"), RUNS)
@pytest.mark.parametrize("of", ["run", "checkpoint"])
def test_conversion_prediction_and_finetuning(
    name: str, file: str, of: str, tmp_path: Path, witness: Path
) -> None:
    """``read_weights`` is what fine-tuning starts from."""
    run = planted(FIXTURES / name, tmp_path, file, witness)
    path = run if of == "run" else next((run / "checkpoints").glob("step-*"))
    readers: list[Callable[[], Any]] = [
        lambda: convert(ConversionRequest("megabert", path, "huggingface", tmp_path / "out")),
        lambda: open_predictor(path, AnswerOptions()),
        lambda: read_weights(path),
    ]
    for read in readers:
        with pytest.raises(UserError) as caught:
            read()
        assert_refused(caught.value, witness, file, "exec")
    assert not (tmp_path / "out").exists()


FORMATS = {
    "huggingface": "pytorch_model.bin",
    "nvidia": "model.pt",
    "mindspore": "bert.ckpt",
    "google-tf": "bert_model.ckpt.index",
    "megabert": "model.safetensors",
}


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("make", KINDS, ids=[kind.__name__ for kind in KINDS])
def test_files_of_other_programs(
    source: str, make: Callable[..., bytes], tmp_path: Path, witness: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40}
    config = {**shape, "intermediate_size": 8, "model_type": "bert", "max_position_embeddings": 8}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "bert_config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    file = folder / FORMATS[source]
    file.write_bytes(make({"weight": torch.ones(2)}, witness))
    given = file if source in ("nvidia", "mindspore") else folder
    with pytest.raises(UserError) as caught:
        convert(
            ConversionRequest(
                source,
                given,
                "huggingface" if source != "huggingface" else "megabert",
                tmp_path / "out",
                tokenizer=folder / "vocab.txt",
                model_config=folder / "config.json",
            )
        )
    assert_refused(caught.value, witness)


# ---------------------------------------------------------------- other kinds of files


def test_yaml_makes_plain_values(tmp_path: Path, witness: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(f"run: !!python/object/apply:os.system ['touch {witness}']\n")
    readers = [
        functools.partial(flags.read_yaml, path, PretrainSettings),
        functools.partial(read_parameter_groups, path),
        functools.partial(read_settings, path),
    ]
    for read in readers:
        with pytest.raises(UserError) as caught:
            read()
        assert str(path) in str(caught.value)
        assert not witness.exists()


def test_arrays_of_objects_are_not_loaded(tmp_path: Path, witness: Path) -> None:
    """What the reader of a dump's table of blocks does with them."""
    path = tmp_path / "table.npy"
    np.save(path, np.array([Touch(witness)], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        np.load(path)
    assert not witness.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["launch/pretrain.py", "--config", "RUN/config.yaml", "--output", "RUN", "--data", "DATA",
         "--resume", "auto"],
        ["launch/convert.py", "--from", "megabert", "--input", "RUN", "--to", "huggingface",
         "--output", "OUT"],
        ["launch/predict.py", "--checkpoint", "RUN", "--text", "a [MASK]"],
        ["launch/finetune.py", "--task", "sst2", "--checkpoint", "RUN", "--train", "TSV", "--eval",
         "TSV", "--output", "OUT"],
    ],
    ids=lambda command: command[0],
)  # fmt: skip
def test_commands_say_it_in_one_line(command: list[str], tmp_path: Path, witness: Path) -> None:
    run = planted(FIXTURES / "run_zero0", tmp_path, MODEL, witness)
    table = tmp_path / "rows.tsv"
    table.write_text("sentence\tlabel\n" + "a b\t0\nc d\t1\n" * 8)
    places = {"RUN": run, "DATA": FIXTURES / "shards", "OUT": tmp_path / "out", "TSV": table}
    words = [
        functools.reduce(lambda w, place: w.replace(place[0], str(place[1])), places.items(), word)
        for word in command
    ]
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, input="", check=False
    )
    errors = [line for line in done.stderr.splitlines() if "error: " in line]
    assert (done.returncode, len(errors)) == (2, 1), done.stderr
    assert "exec" in errors[0]
    assert "Traceback" not in done.stderr
    assert not witness.exists()
