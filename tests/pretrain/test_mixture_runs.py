"""Whole runs over a mixture: the same on every topology, resumed bit for bit, evaluated by corpus."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from megabert.common.errors import UserError
from megabert.data.shards.manifest import SpecialIds, TokenizerInfo
from megabert.data.shards.writer import Document, write_corpus
from tests.helpers.distributed import run_ranks
from tests.helpers.kill_and_resume import kill_and_resume
from tests.helpers.resume_runs import go_on
from tests.helpers.training_runs import (
    TINY,
    _train,
    import_once,
    losses,
    make_shards,
    metrics,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("mixture")
    for number, name in enumerate("abc"):
        make_shards(top / name, seed=number)
    return top


def train(output: Path, *argv: object, ranks: int = 1) -> list[dict[str, Any]]:
    import_once()
    words = [*TINY, "--output", str(output), *map(str, argv)]
    run_ranks(_train, ranks, words, initialize=False, timeout=240.0)
    return metrics(output)


def mixed(folder: Path) -> Sequence[object]:
    return (
        *("--data", folder / "a", folder / "b", "--eval-data", folder / "c"),
        *("--stages", "1 0 for 1e2 samples", "0.25 0.75", "--steps", "60", "--log-interval", "20"),
        *("--eval-interval", "50", "--dropout", "0.1"),
        *("--global-batch-size", "16", "--micro-batch-size", "8", "--keep-best", "eval_mlm_loss/c"),
    )


@pytest.fixture(scope="module")
def reference(folder: Path) -> Path:
    """One rank; 960 samples: more than an epoch of the second corpus."""
    train(folder / "reference", *mixed(folder), "--zero-stage", "0")
    return folder / "reference"


def test_a_run_stopped_in_the_middle_continues_bit_for_bit(
    folder: Path, reference: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """From its own config.yaml; other weights are refused."""
    run = tmp_path / "run"
    same = [*mixed(folder), "--zero-stage", "0"]
    train(run, *same, "--stop-after", "20")
    printed = capfd.readouterr().err
    assert re.search(r"data +a: \S+a: [\d,]+ documents, [\d,]+ tokens, [\d,]+ samples per epoch; "
                     r"48.44 %, epochs 0.00 to 0.\d\d\n", printed)  # fmt: skip
    assert re.search(r"data +c: \S+c: 25 documents, [\d,]+ tokens, only evaluated\n", printed)
    other = [word if word != "0.25 0.75" else "0.5 0.5" for word in same]
    names = r"\(a 1, b 0 for 100 samples; a 0.25, b 0.75\) -> \(a 1, b 0 for 100 samples; a 0.5, b 0.5\)"
    with pytest.raises(UserError, match="made with other settings: mixture " + names):
        train(run, *other, "--resume", "auto")
    alone = [word for word in same if word != folder / "b"]
    alone[alone.index("1 0 for 1e2 samples")], alone[alone.index("0.25 0.75")] = (
        "1 for 8 samples",
        "1",
    )
    with pytest.raises(UserError, match=r"made with other settings: mixture .* -> one corpus"):
        train(run, *alone, "--resume", "auto")
    config = run / "config.yaml"
    recorded = yaml.safe_load(config.read_text())["data"]
    assert recorded["data"] == [str(folder / "a"), str(folder / "b")]
    assert recorded["stages"] == ["1 0 for 100 samples", "1 3"]
    lines = go_on(run, ranks=1)
    printed = capfd.readouterr().err
    wanted = metrics(reference)
    assert losses(lines) == losses(wanted)
    evaluations = [line for line in lines if "loss" not in line and line["step"] != 20]
    assert evaluations == [
        line for line in wanted if "loss" not in line
    ]  # and one where it stopped
    begun = re.findall(
        r"(\w): epoch (\d) begins with sample (\d+) of the run \(step (\d+)\)", printed
    )
    assert [(name, epoch) for name, epoch, _, _ in begun] == [("b", "2")]
    assert int(begun[0][2]) // 16 + 1 == int(begun[0][3])
    results = json.loads((run / "results.json").read_text())
    last = lines[-1]
    assert {results[f"eval_mlm_loss/{name}"] for name in "abc"} == {
        last[f"eval_mlm_loss/{name}"] for name in "abc"
    }
    shares = 315, 645  # of 960 samples: 100 and a quarter of 860; the rest
    both = sum(n * last[f"eval_mlm_loss/{name}"] for n, name in zip(shares, "ab")) / 960
    assert last["eval_mlm_loss"] == pytest.approx(both, rel=1e-12)
    assert last["eval_nsp_accuracy/b"] <= 1


def test_the_report_has_a_column_per_corpus(reference: Path, root: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(root / "launch" / "report.py"), str(reference)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("|")]
    assert [name.strip() for name in rows[0][-3:]] == ["MLM loss: a", "b", "c"]
    (evaluation, *_) = [line for line in metrics(reference) if "eval_mlm_loss" in line]
    assert rows[2][-1].strip() == f"{evaluation['eval_mlm_loss/c']:.3f}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "argv"),
    [
        (2, ["--zero-stage", "2"]),
        (2, ["--tensor-parallel", "2"]),
        (1, ["--packing", "off", "--micro-batch-size", "4"]),
    ],
)
def test_topologies_agree(
    ranks: int, argv: list[str], folder: Path, reference: Path, tmp_path: Path
) -> None:
    lines = train(tmp_path / "run", *mixed(folder), *argv, ranks=ranks)
    assert losses(lines) == pytest.approx(losses(metrics(reference)), rel=1e-5)
    for line, wanted in zip(lines, metrics(reference)):
        scores = {key: value for key, value in wanted.items() if key.startswith("eval_mlm_loss")}
        assert {key: line[key] for key in scores} == pytest.approx(scores, rel=1e-5)


@pytest.mark.slow
def test_kills(tmp_path: Path) -> None:
    report = kill_and_resume(tmp_path, kills=6, steps=60, seed=3, corpora=3)
    print(report.lines())
    assert report.faults == []
    assert len(report.kills) == 6


@pytest.mark.slow
@pytest.mark.parametrize("other", ["empty", "other"])
def test_the_command_ends_with_status_2_and_one_line(
    other: str, folder: Path, root: Path, tmp_path: Path
) -> None:
    info = TokenizerInfo("wordpiece", "ab" * 32, 397, True, SpecialIds(0, 1, 2, 3, 4))
    text = Document(1, [([9, 9], [True, True])])
    write_corpus(tmp_path / "empty", {"train": [], "eval": [[text, text]]}, info)
    words = make_shards(tmp_path / "other", sha256="cd" * 32) / "tokenizer" / "vocab.txt"
    words.write_text(words.read_text().replace("w7\n", "##w7\n"))
    command = [sys.executable, str(root / "launch" / "pretrain.py"), *TINY, "--output", "run"]
    command += ["--data", str(folder / "a"), str(tmp_path / other)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert str(tmp_path / other) in line
    assert not (tmp_path / "run").exists()
