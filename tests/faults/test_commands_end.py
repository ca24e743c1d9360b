"""Fine-tuning, predictions, conversions and reports: each fault ends in one line, with nothing half-written."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megabert.common.errors import UserError
from megabert.common.processes.locks import FolderLock, lock_beside
from tests.helpers.distributed import run_ranks
from tests.helpers.finetune_runs import in_world, make_inputs, values
from tests.helpers.planted import command, small_disk, start
from tests.helpers.training_runs import import_once

FINETUNE, PREDICT = "launch/finetune.py", "launch/predict.py"
CONVERT, REPORT = "launch/convert.py", "launch/report.py"
MANY = 10_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, a fine-tuned run of it, and task files."""
    made = tmp_path_factory.mktemp("inputs")
    run_ranks(make_inputs, 1, made, initialize=False)
    in_world(1, values(made, "run", optimizer={"steps": 1}))
    names = [json.dumps({"question": "Met?", "context": f"Ann met Bob {n}."}) for n in range(MANY)]
    (made / "many.jsonl").write_text("\n".join(names) + "\n", encoding="utf-8")
    return made


def _finetuning(folder: Path, output: Path, *more: str) -> list[object]:
    train = folder / "train.json"
    return [
        "--task", "squad", "--checkpoint", folder / "start", "--train", train, "--eval", train,
        "--max-length", "40", "--max-query-length", "8", "--doc-stride", "12", "--batch-size", "8",
        "--micro-batch-size", "2", "--log-interval", "1", "--output", output, *more,
    ]  # fmt: skip


# ---------------------------------------------------------------- signals


def _interrupt(
    process: subprocess.Popen[str], ready: Callable[[], Any], *numbers: signal.Signals
) -> tuple[int, str]:
    """Send signals, 2.2 s apart, once ``ready``; exit status and last line."""
    try:
        deadline = time.monotonic() + 60
        while not ready() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        for place, number in enumerate(numbers):
            time.sleep(2.2 if place else 0.0)
            process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "Traceback" not in errors
    return process.returncode, errors.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)]
)
def test_predictions_are_interrupted(folder: Path, tmp_path: Path, number: signal.Signals) -> None:
    given = ["--checkpoint", folder / "run", "--input", folder / "many.jsonl"]
    process = start(PREDICT, *given, "--output", tmp_path / "out")
    status, line = _interrupt(process, lambda: list(tmp_path.glob("*.tmp")), number)
    assert status == 128 + number
    assert line == f"error: {number.name} before the end; run the same command again"
    assert list(tmp_path.iterdir()) == []


def test_a_conversion_is_interrupted(folder: Path, tmp_path: Path) -> None:
    given = ["--from", "megabert", "--input", folder / "run", "--to", "huggingface", "--output"]
    process = start(CONVERT, *given, tmp_path / "out")
    status, _ = _interrupt(process, lambda: list(tmp_path.iterdir()), signal.SIGTERM)
    assert status == 143
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQuAD file of 4,000 questions."""
    file, questions = tmp_path_factory.mktemp("big") / "big.json", []
    for number in range(4000):
        answer = {"text": "Bob", "answer_start": 8}
        question = {"id": f"q{number}", "question": "Met?", "answers": [answer]}
        questions.append({"context": "Ann met Bob." + " x y z" * 6, "qas": [question]})
    file.write_text(json.dumps({"data": [{"title": "", "paragraphs": questions}]}))
    return file


def _seconds_after(file: Path, seconds: float, words: str = "") -> Callable[[], bool]:
    """Whether a file has had these words for so long."""
    seen: list[float] = []

    def ready() -> bool:
        if not seen and file.exists() and words in file.read_text():
            seen.append(time.monotonic())
        return bool(seen) and time.monotonic() > seen[0] + seconds

    return ready


def test_fine_tuning_is_stopped_before_it_begins(folder: Path, big: Path, tmp_path: Path) -> None:
    """While the task's file is read: nothing is left."""
    run = tmp_path / "run"
    arguments = _finetuning(folder, run, "--resume", "auto", "--steps", "4")
    arguments[arguments.index("--train") + 1] = big
    ready = _seconds_after(run / "in-use.json", 0.0)
    status, line = _interrupt(start(FINETUNE, *arguments), ready, signal.SIGTERM)
    assert (status, line) == (3, "stopped: SIGTERM before its end; run it again with --resume auto")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_second_signal_ends_fine_tuning_at_once(folder: Path, big: Path, tmp_path: Path) -> None:
    """In a long update; the lock that is left is taken over by the next run."""
    run = tmp_path / "run"
    arguments = _finetuning(folder, run, "--resume", "auto", "--steps", "2", "--eval-interval", "1")
    changed = ("--batch-size", 4000), ("--micro-batch-size", 1), ("--train", big), ("--eval", big)
    for flag, value in changed:
        arguments[arguments.index(flag) + 1] = value
    ready = _seconds_after(run / "metrics.jsonl", 0.5, "")
    status, line = _interrupt(start(FINETUNE, *arguments), ready, signal.SIGTERM, signal.SIGTERM)
    said = "SIGTERM after SIGTERM: stopped at once; run it again with --resume auto"
    assert (status, line) == (143, f"error: {said}")
    assert (run / "in-use.json").exists()
    assert not (run / "results.json").exists()
    again = command(FINETUNE, *arguments, timeout=300)
    assert again.status == 0, again.errors
    assert "taking over the lock of " in again.errors
    assert not (run / "in-use.json").exists()


@pytest.mark.slow
def test_fine_tuning_is_stopped_in_an_evaluation(folder: Path, big: Path, tmp_path: Path) -> None:
    """It stops within it, with status 3, and the next run is whole."""
    run = tmp_path / "run"
    arguments = _finetuning(folder, run, "--resume", "auto", "--steps", "4", "--eval-interval", "2")
    arguments[arguments.index("--eval") + 1] = big

    def evaluating() -> bool:
        metrics = run / "metrics.jsonl"
        return metrics.exists() and '"step": 2' in metrics.read_text()

    status, line = _interrupt(start(FINETUNE, *arguments), evaluating, signal.SIGTERM)
    assert status == 3
    assert line.startswith("stopped: SIGTERM: stopped after step 2 of 4; ")
    assert "eval_" not in (run / "metrics.jsonl").read_text()
    assert not (run / "results.json").exists()
    again = command(FINETUNE, *arguments)
    assert again.status == 0, again.errors
    assert json.loads((run / "results.json").read_text())["steps"] == 4


# ---------------------------------------------------------------- disks and folders


def test_a_full_disk_names_the_output(folder: Path, tmp_path: Path) -> None:
    """And how much of that disk is free, not of the one that is read."""
    sizes = {PREDICT: "60k", CONVERT: "100k", REPORT: "12k"}
    given = {
        PREDICT: ["--checkpoint", folder / "run", "--input", folder / "many.jsonl"],
        CONVERT: ["--from", "megabert", "--input", folder / "run", "--to", "huggingface"],
        REPORT: [folder / "run"],
    }
    for tool, size in sizes.items():
        with small_disk(tmp_path / "disk", size) as disk:
            line = command(tool, *given[tool], "--output", disk / "out").one_line(2)
            assert f"error: {disk}/out" in line
            assert (
                " cannot be written: No space left on device; free some space on that disk (0."
                in line
            )
            assert list(disk.iterdir()) == []


@pytest.mark.parametrize("size", ["12k", "44k", "130k"])
@pytest.mark.slow
def test_a_full_disk_while_fine_tuning(folder: Path, tmp_path: Path, size: str) -> None:
    """Full at its settings, its predictions, its model."""
    with small_disk(tmp_path / "disk", size) as disk:
        ended = command(FINETUNE, *_finetuning(folder, disk / "run", "--steps", "4"))
        line = ended.one_line(1)
        assert f"error: {disk}/run" in line
        assert " cannot be written: No space left on device" in line
        assert line.endswith("then run it again with --resume auto")
        assert not (disk / "run" / "final").exists()
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        again = command(
            FINETUNE, *_finetuning(folder, disk / "run", "--steps", "4", "--resume", "auto")
        )
        assert again.status == 0, again.errors


def test_an_output_that_is_in_use(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with FolderLock(lock_beside(output), output):
        given = ["--checkpoint", folder / "run", "--question", "Met?", "--context", "Ann met Bob."]
        line = command(PREDICT, *given, "--output", output).one_line(2)
    assert f"error: {output} is in use: another job is writing there: " in line
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- inputs


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (b"", "is empty: the run has logged nothing yet"),
        (b'{"st', "is empty: the run has logged nothing yet"),
        (b"[1, 2]\n", "line 1 has no metrics of a run"),
        (b'{"loss": 2.0}\n', "line 1 has no metrics of a run"),
        (
            b'{"step": 1, "loss": 1.0, "lr": 1}\n{"step": 2, "loss": "x", "lr": 1}\n',
            "line 2 has no",
        ),
        (b'{"step": 1, "eval_mlm_loss": 1.0}\n', "line 1 has no metrics of a run"),
        (b"\x00\xff\n", "is not a metrics file: "),
        (b"[" * 100_000 + b"\n", "is not a metrics file: "),
        (None, "does not exist; name a run folder"),
    ],
)
def test_metrics_of_something_else(tmp_path: Path, change: bytes | None, words: str) -> None:
    from launch.report import main

    file = tmp_path / "metrics.jsonl"
    if change is not None:
        file.write_bytes(change)
    with pytest.raises(UserError, match=words) as caught:
        main([str(tmp_path), "--output", str(tmp_path / "out.png")])
    assert str(file) in str(caught.value)
    assert not (tmp_path / "out.png").exists()


def test_half_a_line_of_metrics_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from launch.report import main

    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "eval_f1": 50.0}\n{"step": 2, "eval_f')
    assert main([str(tmp_path)]) == 0
    assert "| 1 | 0 | 50.00 |" in capsys.readouterr().out


def test_results_of_something_else(tmp_path: Path) -> None:
    from launch.report import main

    (tmp_path / "results.json").write_text('{"by_lr": 3}')
    with pytest.raises(UserError, match=r"results.json does not hold the results of several runs"):
        main([str(tmp_path)])


# ---------------------------------------------------------------- one rank alone


def _reads_alone(rank: int, world_size: int, given: dict[str, Any], how: str) -> str:
    """Fine-tuning whose second rank cannot read a task's file, or reads another content."""
    from megabert.config import flags
    from megabert.engine.launch import start
    from megabert.finetune import inputs
    from megabert.finetune.command import run_all
    from megabert.finetune.settings import resolve_finetuning

    read, facts = inputs._read_features, inputs._facts

    def refuse(*_: Any) -> Any:
        raise UserError("train.json: no such file")

    if rank == 1:
        inputs._read_features = refuse if how == "missing" else read
        inputs._facts = (lambda _: "7 rows") if how == "another" else facts
    world = start()
    try:
        run_all(resolve_finetuning(flags.Given(flags.SettingsLayer(given))), world)
    except UserError as error:
        return str(error)
    finally:
        world.close()
    return "trained"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("missing", "train.json: no such file (on rank 1)"),
        ("another", "rank 0 and rank 1 read different inputs (train: 12 rows, "),
    ],
)
def test_one_rank_reads_something_else(folder: Path, tmp_path: Path, how: str, words: str) -> None:
    """All ranks say the same, and nothing is written."""
    import_once()
    given = values(folder, str(tmp_path / "run"))
    said = run_ranks(_reads_alone, 2, given, how, initialize=False, timeout=120)
    assert said[0] == said[1]
    assert said[0].startswith(words)
    assert not (tmp_path / "run").exists()
