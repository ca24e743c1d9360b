"""One flipped bit in the model of a finished run, which leaves every number finite."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from megabert.common.errors import UserError
from tests.helpers.distributed import run_ranks
from tests.helpers.finetune_runs import in_world, make_inputs, values
from tests.helpers.planted import command
from tests.helpers.sums import without_sums

TEXT = ["--context", "Ann met Bob.", "--question", "Met?"]
COMMANDS: dict[str, Callable[[Path, Path], list[object]]] = {
    "launch/predict.py": lambda run, out: ["--checkpoint", run, *TEXT],
    "launch/convert.py": lambda run, out: [
        "--from", "megabert", "--input", run, "--to", "huggingface", "--output", out,
    ],
    "launch/finetune.py": lambda run, out: [
        "--task", "squad", "--checkpoint", run / "final", "--train", run.parent / "train.json",
        "--output", out,
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("inputs")
    run_ranks(make_inputs, 1, made, initialize=False)
    in_world(1, values(made, "run", optimizer={"steps": 1}))
    return made


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Path:
    shutil.copyfile(folder / "train.json", tmp_path / "train.json")
    return Path(shutil.copytree(folder / "run", tmp_path / "run"))


def _flip_last_bit(run: Path) -> Path:
    """Of the first value of the last tensor."""
    path = run / "final" / "model.safetensors"
    content = bytearray(path.read_bytes())
    before = np.frombuffer(bytes(content[-4:]), "<f4")[0]
    content[-4] ^= 1
    after = np.frombuffer(bytes(content[-4:]), "<f4")[0]
    assert np.isfinite(after)
    assert after != before
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "tool",
    [
        "launch/predict.py",
        pytest.param("launch/convert.py", marks=pytest.mark.slow),
        pytest.param("launch/finetune.py", marks=pytest.mark.slow),
    ],
)
def test_a_flipped_bit_of_a_weight(run: Path, tmp_path: Path, tool: str) -> None:
    path = _flip_last_bit(run)
    line = command(tool, *COMMANDS[tool](run, tmp_path / "out")).one_line(2)
    assert f"{path} has changed since it was written (SHA-256 differs)" in line
    assert not (tmp_path / "out").exists()


def test_a_changed_record(run: Path) -> None:
    from megabert.finetune.starting_weights import read_weights

    path = run / "final" / "megabert.json"
    text = path.read_text(encoding="utf-8")
    changed = text.replace('"trained_positions": 40', '"trained_positions": 41')
    assert changed != text
    path.write_text(changed, encoding="utf-8")
    with pytest.raises(UserError, match=r"megabert\.json has changed since it was written"):
        read_weights(run)


def test_a_folder_without_sums_is_read_as_before(run: Path) -> None:
    from megabert.finetune.starting_weights import read_weights

    before = read_weights(run)[0]
    _flip_last_bit(run)
    without_sums(run / "final")
    assert read_weights(run)[0].tensors.keys() == before.tensors.keys()
