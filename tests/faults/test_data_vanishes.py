"""Shards that change or go while a run reads them: all ranks save, end together, and can resume."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megabert.checkpoint.record import whole_checkpoints
from megabert.common.errors import AgreedStop, UserError
from megabert.data.shards.corpus import Corpus
from megabert.data.shards.manifest import ShardError
from tests.helpers.distributed import run_ranks
from tests.helpers.kill_and_resume import checkpoint_differences
from tests.helpers.launched_runs import launched, pretraining, trained_steps
from tests.helpers.training_runs import (
    TINY,
    _train,
    import_once,
    last_given,
    losses,
    make_shards,
    metrics,
    train,
)

STEPS = 600
SECONDS = 30.0


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"))


def flip_tokens(shards: Path) -> None:
    """One bit of every token of the first shard, in place."""
    path = min(shards.glob("train-*"))
    offset, size = Corpus.open(shards, "train")._shards.file(0).preamble.arrays["tokens"]
    with path.open("r+b") as file:
        file.seek(offset)
        content = np.frombuffer(file.read(size), np.uint8) ^ 1
        file.seek(offset)
        file.write(content.tobytes())


def delete(shards: Path) -> None:
    min(shards.glob("train-*")).unlink()


FAULTS: dict[Callable[[Path], None], str] = {
    flip_tokens: ": damaged: ",
    delete: ": the file was deleted or replaced while it was in use; ",
}


@pytest.mark.parametrize(
    ("fault", "words", "more"),
    [
        (flip_tokens, FAULTS[flip_tokens], []),
        pytest.param(delete, FAULTS[delete], [], marks=pytest.mark.slow),
        pytest.param(delete, FAULTS[delete], ["--loader-workers", "1"], marks=pytest.mark.slow),
        pytest.param(flip_tokens, FAULTS[flip_tokens], ["--loader-workers", "1"], marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_run_saves_and_ends(
    fault: Callable[[Path], None], words: str, more: list[str], shards: Path, tmp_path: Path
) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(shards, data)
    arguments = pretraining(data, run, STEPS, "--log-interval", "1", *more)
    with launched(tmp_path, "bare", arguments) as job:
        job.wait_for_step(run, 2)
        fault(data)
        job.wait_until_gone(SECONDS)
        assert job.statuses() == [1, 1]
        errors = [line for line in job.output.splitlines() if "error: " in line]
        assert len(errors) == 1, job.output[-3000:]
        assert errors[0] == job.output.splitlines()[-1]
        assert "Traceback" not in job.output
    (newest, *_) = whole_checkpoints(run / "checkpoints")
    assert f"{data}/train-00000-of-00002.h5{words}" in errors[0]
    assert f"{newest.folder.name} is saved: put this right" in errors[0]
    assert newest.step == trained_steps(run)[-1] < STEPS


# ---------------------------------------------------------------- faults of one rank alone


def _train_with_fault(
    rank: int, world_size: int, argv: list[str], at: int, split: str, delayed: bool
) -> dict[str, Any]:
    """A run whose second rank cannot read the samples from ``at`` on (or of the evaluation)."""
    from megabert.data.samples.source import SampleSource
    from megabert.engine import agreement
    from megabert.pretrain import batches

    if delayed:  # as on GPUs
        for module in (agreement, batches):
            module.read_later = lambda world: True  # type: ignore[attr-defined]
    read = SampleSource.samples

    def samples(self: SampleSource, numbers: np.ndarray) -> Any:
        if rank == 1 and self.corpus.split == split and numbers.max() >= at:
            raise ShardError("x.h5: this shard cannot be read: Stale file handle")
        return read(self, numbers)

    SampleSource.samples = samples  # type: ignore[method-assign]
    return _train(rank, world_size, argv)


def faulty(
    shards: Path, run: Path, *more: str, at: int = 0, split: str = "train", delayed: bool = False
) -> None:
    import_once()
    argv = last_given(
        [*TINY, "--data", str(shards), "--output", str(run), "--zero-stage", "1", *more]
    )
    arguments = (argv, at, split, delayed)
    run_ranks(_train_with_fault, 2, *arguments, initialize=False, timeout=120.0)


@pytest.mark.parametrize("delayed", [False, True])
def test_one_rank_cannot_read(delayed: bool, shards: Path, tmp_path: Path) -> None:
    """All ranks end after the same update, and the run goes on bit for bit."""
    run, wanted = tmp_path / "run", tmp_path / "wanted"
    with pytest.raises(AgreedStop) as caught:
        faulty(shards, run, "--steps", "6", at=24, delayed=delayed)
    (newest, *_) = whole_checkpoints(run / "checkpoints")
    assert (newest.step, newest.consumed_samples) == (3, 24)
    assert str(caught.value).startswith("x.h5: this shard cannot be read: Stale file handle; ")
    assert "step-0000003 is saved" in str(caught.value)
    options = ["--steps", "6", "--zero-stage", "1"]
    train(shards, run, *options, "--resume", "auto", ranks=2)
    train(shards, wanted, *options, ranks=2)
    assert losses(metrics(run)) == losses(metrics(wanted))
    (mine, *_), (theirs, *_) = (whole_checkpoints(one / "checkpoints") for one in (run, wanted))
    assert mine.step == theirs.step == 6
    assert checkpoint_differences(mine.folder, theirs.folder) == []


@pytest.mark.parametrize("delayed", [False, True])
def test_nothing_to_save(delayed: bool, shards: Path, tmp_path: Path) -> None:
    """Before the first update: a wrong input, and no folder is left."""
    with pytest.raises(UserError, match="Stale file handle"):
        faulty(shards, tmp_path / "run", at=0, delayed=delayed)
    assert not os.path.lexists(tmp_path / "run")


@pytest.mark.parametrize("interval", ["2", "0"])
def test_evaluation_cannot_be_read(interval: str, shards: Path, tmp_path: Path) -> None:
    """In the midst of a run, and at its end: the updates before it are saved."""
    run = tmp_path / "run"
    with pytest.raises(AgreedStop, match="Stale file handle"):
        faulty(shards, run, "--eval-interval", interval, split="eval")
    (newest, *_) = whole_checkpoints(run / "checkpoints")
    assert newest.step == (2 if interval == "2" else 4)


def test_batches_that_are_not_needed_are_not_read(shards: Path, tmp_path: Path) -> None:
    """Reading ahead stops at the last update."""
    run = tmp_path / "run"
    faulty(shards, run, "--steps", "3", at=24, delayed=True)
    assert [checkpoint.step for checkpoint in whole_checkpoints(run / "checkpoints")] == [3]
