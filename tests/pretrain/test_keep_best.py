"""``--keep-best`` and ``--keep-every``: which checkpoints stay, through resumes, kills and rollbacks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megabert.checkpoint import retention
from megabert.checkpoint.record import read_checkpoint_record, write_checkpoint_record
from megabert.checkpoint.retention import Retention, add_evaluation
from megabert.common.errors import UserError
from megabert.common.names import checkpoint_tag
from megabert.config.checkpoint_path import named_checkpoint
from tests.helpers.training_runs import TINY, make_shards, metrics, settings_of, train

LOSS = Retention(1, best="eval_mlm_loss")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


def _save(base: Path, step: int, loss: float | None = None, **more: float) -> Path:
    """A checkpoint without files."""
    folder = base / checkpoint_tag(step)
    folder.mkdir(parents=True)
    values = more if loss is None else {"eval_mlm_loss": loss, **more}
    record = {"step": step, "consumed_samples": 0, "files": {}, "model": {}, "evaluation": values}
    write_checkpoint_record(folder, record)
    return folder


def _kept(base: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in base.glob("step-*"))


def _best(base: Path) -> int:
    return read_checkpoint_record(named_checkpoint(base / "best")).step


def test_the_best_is_kept_beyond_the_newest(tmp_path: Path) -> None:
    expected = {10: 10, 20: 20, 30: 20, 40: 20, 50: 50}
    for (step, best), loss in zip(expected.items(), (3.0, 2.0, 2.0, None, 1.5)):
        _save(tmp_path, step, loss)
        LOSS.apply(tmp_path)
        assert (_kept(tmp_path), _best(tmp_path)) == (sorted({best, step}), best)


def test_higher_is_better_for_accuracies_and_corpora_have_their_own(tmp_path: Path) -> None:
    for step, (loss, accuracy) in enumerate([(3.0, 0.2), (2.0, 0.1), (4.0, 0.2)], start=1):
        _save(tmp_path, step, **{"eval_mlm_loss/news": loss, "eval_mlm_accuracy": accuracy})
    for metric, best in (("eval_mlm_accuracy", 1), ("eval_mlm_loss/news", 2)):
        Retention(9, best=metric).apply(tmp_path)
        assert _best(tmp_path) == best


def test_every_nth_is_kept(tmp_path: Path) -> None:
    for step in (10, 15, 20, 25, 30, 35):
        _save(tmp_path, step)
        Retention(1, every=10).apply(tmp_path)
    assert _kept(tmp_path) == [10, 20, 30, 35]
    assert Retention(2, every=10, best="eval_mlm_loss").most(35) == 6


@pytest.mark.parametrize("killed_at", ["write_text", "remove_folder"])
def test_a_kill_at_any_moment(
    killed_at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``best`` names a whole checkpoint, before and after the next start, which ends with exactly one."""
    for step, loss in ((1, 3.0), (2, None)):
        _save(tmp_path, step, loss)
        LOSS.apply(tmp_path)
    _save(tmp_path, 3, 2.0)

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(retention, killed_at, kill)
        with pytest.raises(KeyboardInterrupt):
            LOSS.apply(tmp_path)
    assert _best(tmp_path) == (1 if killed_at == "write_text" else 3)
    _save(tmp_path, 4)
    LOSS.apply(tmp_path)
    assert (_best(tmp_path), _kept(tmp_path)) == (3, [3, 4])


def test_a_job_without_the_flag_leaves_the_mark(tmp_path: Path) -> None:
    _save(tmp_path, 1, 1.0)
    LOSS.apply(tmp_path)
    _save(tmp_path, 2, 2.0)
    Retention(1).apply(tmp_path)
    assert (_best(tmp_path), _kept(tmp_path)) == (1, [1, 2])
    (tmp_path / checkpoint_tag(1)).rename(tmp_path / "moved")
    Retention(1).apply(tmp_path)
    assert not (tmp_path / "best").exists()


def test_an_evaluation_is_added_to_a_saved_checkpoint(tmp_path: Path) -> None:
    folder = _save(tmp_path, 1)
    add_evaluation(folder, {"eval_mlm_loss": 2.5, "eval_nsp_accuracy": None})
    assert read_checkpoint_record(folder).record["evaluation"] == {"eval_mlm_loss": 2.5}


def test_a_run_keeps_its_best_through_a_resume(shards: Path, tmp_path: Path) -> None:
    """At a rate of 0 all evaluations are equal, and the first one stays the best."""
    from megabert.checkpoint.save_load import newest_checkpoint

    run = tmp_path / "run"
    frozen = ["--lr", "0", "--steps", "8", "--eval-interval", "2", "--keep-last", "1"]
    frozen += ["--keep-best", "eval_mlm_loss"]
    train(shards, run, *frozen, "--stop-after", "5")
    base = run / "checkpoints"
    assert (_kept(base), _best(base)) == ([2, 5], 2)
    train(shards, run, *frozen, "--resume", "auto")
    assert (_kept(base), _best(base)) == ([2, 8], 2)
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    [first] = [line for line in metrics(run) if line["step"] == 2 and "eval_mlm_loss" in line]
    assert results["best"] == {
        "metric": "eval_mlm_loss", "value": first["eval_mlm_loss"], "step": 2,
        "checkpoint": "checkpoints/step-0000002",
    }  # fmt: skip
    assert [newest_checkpoint(path).step for path in (base / "best", run)] == [2, 8]


def test_a_better_evaluation_saves_a_checkpoint(shards: Path, tmp_path: Path) -> None:
    """Without any other save; on two ranks; and after going back, the mark is that of the run's past."""
    run = tmp_path / "run"
    every = ["--steps", "9", "--eval-interval", "2", "--keep-best", "eval_mlm_loss"]
    train(shards, run, *every, "--keep-last", "9", ranks=2)
    values = {s["step"]: s["eval_mlm_loss"] for s in metrics(run) if "eval_mlm_loss" in s}
    assert len(values) == 5
    better = [s for s, v in values.items() if all(v < w for t, w in values.items() if t < s)]
    base = run / "checkpoints"
    assert _kept(base) == sorted({*better, 9})
    assert _best(base) == min(values, key=lambda step: values[step])
    first = better[0]
    train(
        shards, run, *every, "--keep-last", "1", "--resume", checkpoint_tag(first), "--stop-after",
        str(first + 1), ranks=2,
    )  # fmt: skip
    assert (_kept(base), _best(base)) == ([first, first + 1], first)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--keep-best", "f1"], "eval_mlm_loss, eval_mlm_accuracy, eval_nsp_accuracy"),
        (["--keep-best", "eval_mlm_loss", "--eval-interval", "0"], "--eval-interval is 0"),
        (["--keep-best", "eval_nsp_accuracy", "--sentence-task", "none"], "--sentence-task none leaves out"),
    ],
)  # fmt: skip
def test_wrong_metrics(arguments: list[str], message: str) -> None:
    given = [*TINY, "--eval-interval", "2", *arguments]
    with pytest.raises(UserError, match=message):
        settings_of(given)
