"""Several fine-tuning runs in one process: seeds and learning rates, their mean and deviation.

Checkpoint and files are read once. Each run is what ``launch/finetune.py`` with its seed and rate
alone would do, bit for bit, in its own run folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from megabert.common.errors import TrainingStopped
from megabert.common.files import write_json, write_text
from megabert.common.log import get_logger
from megabert.common.names import RUN_CONFIG, RUN_RESULTS
from megabert.common.storage import StorageFault
from megabert.config import flags
from megabert.engine.broadcast import broadcast_object
from megabert.engine.launch import World
from megabert.engine.run_lock import run_folder_locked
from megabert.finetune.inputs import (
    FinetuneInputs,
    check_free,
    claim_output,
    divide_rows,
    make_task_of,
    open_checkpoint,
    read_features,
)
from megabert.finetune.loop import build_loop
from megabert.finetune.resume import finished, is_this_run
from megabert.finetune.settings import DividedFinetuning, ResolvedFinetuning, held_out_share
from megabert.finetune.summary import collect, table
from megabert.tasks.base import Task

log = get_logger()


@dataclass(frozen=True)
class Combination:
    """One run: its learning rate, seed, and the name of its folder."""

    lr: float
    seed: int

    @property
    def name(self) -> str:
        """As ``2e-5-seed-42``."""
        return f"{self.lr!r}".replace("e-0", "e-") + f"-seed-{self.seed}"

    def settings(self, whole: DividedFinetuning) -> DividedFinetuning:
        """The settings of this run alone."""
        return replace(
            whole,
            task=replace(whole.task, seed=self.seed, output=whole.task.output / self.name),
            optimizer=replace(whole.optimizer, lr=self.lr),
            selection=replace(whole.selection, seeds=1, lrs=()),
        )


def combinations(settings: ResolvedFinetuning) -> list[Combination]:
    """Every rate with every seed; [] if the command asks for one run only."""
    rates = settings.selection.lrs
    if not rates and settings.selection.seeds == 1:
        return []
    first = settings.task.seed
    seeds = range(first, first + settings.selection.seeds)
    return [Combination(lr, seed) for lr in rates or [settings.optimizer.lr] for seed in seeds]


def sweep(given: ResolvedFinetuning, world: World) -> dict[str, Any]:
    """Do every run of the settings; the results, which are also in ``results.json``.

    Raises:
        UserError: a wrong input, before anything is written.
        TrainingStopped: after all runs, if one of them diverged.
    """
    settings, _ = divide_rows(given, world)
    output = settings.task.output
    chosen = {one: one.settings(settings) for one in combinations(settings)}
    done = broadcast_object(world, partial(_finished_runs, settings, chosen))
    results: dict[Combination, Any] = {one: _entry(one, found) for one, found in done.items()}
    todo = {one: own for one, own in chosen.items() if one not in done}
    if todo:
        reader = _InputReader(settings, world)
        if not (output / RUN_CONFIG).is_file():
            claim_output(output, world)
        broadcast_object(
            world, lambda: write_text(output / RUN_CONFIG, flags.to_yaml(settings, absolute=True))
        )
    for number, one in enumerate(sorted(todo, key=lambda run: run.seed), start=1):
        own = todo[one]
        log.info("run %d of %d: %s", number, len(todo), own.task.output)
        results[one] = _run(one, own, world, *reader.read(own))
    together = {
        "task": settings.task.task,
        "checkpoint": str(settings.task.checkpoint),
        **collect(_metric(settings, results), [results[one] for one in chosen]),
        "settings": flags.to_values(settings),
    }
    broadcast_object(world, lambda: write_json(output / RUN_RESULTS, together))
    if world.is_main:
        print(table(together), flush=True)
    failed = [run for run in together["runs"] if "failed" in run]
    if failed:
        raise TrainingStopped(
            f"{len(failed)} of {len(chosen)} runs failed, the first is {failed[0]['run']}: "
            f"{failed[0]['failed']}; the others are in {output / RUN_RESULTS}"
        )
    return together


def _metric(settings: DividedFinetuning, results: Mapping[Combination, Any]) -> str:
    """The score that decides, which may depend on the labels that were found."""
    decided = [entry.pop("metric", None) for entry in results.values()]
    return next((name for name in decided if name), make_task_of(settings).metric)


def _finished_runs(
    settings: DividedFinetuning, chosen: Mapping[Combination, DividedFinetuning]
) -> dict[Combination, dict[str, Any]]:
    """Results of the runs that ``--resume auto`` finds; without the flag the output must be free."""
    output = settings.task.output
    if settings.selection.resume == "never":
        check_free(output)
        return {}
    if not is_this_run(output, settings):
        return {}
    found = {one: finished(own.task.output, own) for one, own in chosen.items()}
    return {one: results for one, results in found.items() if results is not None}


class _InputReader:
    """Checkpoint and files, read once; again only where the seed draws other training examples."""

    def __init__(self, settings: DividedFinetuning, world: World) -> None:
        self._world = world
        self._task = make_task_of(settings)
        self._checkpoint = open_checkpoint(settings, self._task, world)
        self._read: tuple[Task, FinetuneInputs] | None = None
        self._seed: int | None = None
        self.read(settings)

    def read(self, settings: DividedFinetuning) -> tuple[Task, FinetuneInputs]:
        """The task with the labels found in the files, and the inputs of a run."""
        place = settings.task
        drawn = place.max_train_examples or held_out_share(place)
        if self._read is None or (drawn and place.seed != self._seed):
            task = deepcopy(self._task)
            self._read = task, read_features(settings, task, self._checkpoint, self._world)
            self._seed = place.seed
        return self._read


def _run(
    one: Combination,
    settings: DividedFinetuning,
    world: World,
    task: Task,
    inputs: FinetuneInputs,
) -> dict[str, Any]:
    """One run; its engine is freed. If it diverges, the result says so; no error is raised."""
    with run_folder_locked(settings.task.output, world):
        loop = build_loop(settings, world, task, inputs)
        try:
            entry = _entry(one, loop.run())
        except StorageFault:
            raise  # it would end the other runs too
        except TrainingStopped as error:
            if world.is_main:
                log.warning("%s failed: %s", one.name, error)
            entry = {"run": one.name, "lr": one.lr, "seed": one.seed, "failed": str(error)}
        loop.release()
    return entry


def _entry(one: Combination, results: Mapping[str, Any]) -> dict[str, Any]:
    """A run's entry in the common results."""
    entry = {"run": one.name, "lr": one.lr, "seed": one.seed, "scores": results["scores"]}
    copied: Iterable[str] = (
        "metric",
        "best",
        "last",
        "steps",
        "train_loss",
        "train_seconds",
        "elapsed_seconds",
    )
    return entry | {name: results[name] for name in copied if name in results}
