"""Every model through every task: ``launch/probe.py``.

    find       runs and folders -> models, each with a sum over its content (models)
    export     a model whose results are not complete -> a megabert folder of whole weights in DIR/work
    probe      each task and seed on that folder, in this process, one after the other; results are kept at once
    report     table, probe.json, probe.csv, probe.png (results, plot)

Fine-tunings are those of ``launch/finetune.py``, in this process: each has a run folder of its own in DIR/work,
which is removed as soon as its scores are kept, and its engine is freed. So a probe starts torch and DeepSpeed
once, and needs the space of one model.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megabert.common.errors import StoppedOnRequest, TrainingStopped, UserError
from megabert.common.log import get_logger, human_duration
from megabert.common.storage import StorageFault, named_storage_errors
from megabert.engine.config import resolve_precision
from megabert.engine.launch import World, start
from megabert.engine.run_lock import run_folder_locked
from megabert.finetune.command import prepare_run
from megabert.finetune.settings import ResolvedFinetuning
from megabert.probe.models import Export, Found, ProbedModel, export_model, find_models
from megabert.probe.plot import write_probe_plot
from megabert.probe.pseudo_perplexity import pseudo_perplexity
from megabert.probe.results import (
    PERPLEXITY_METRIC,
    PLOT,
    WORK,
    ResultStore,
    Row,
    Score,
    probe_table,
    require_probe_folder,
    write_report,
)
from megabert.probe.task_file import FinetuneProbe, PerplexityProbe, Probe, content_sum

log = get_logger()


@dataclass(frozen=True)
class ProbeRequest:
    """What to probe.

    Attributes:
        paths: runs, checkpoints, folders with weights.
        tasks: the probes.
        output: folder of the results.
        with_random: also probe random weights of each run's shape, drawn as that run's initial weights.
        over: horizontal axis of the plot, ``tokens`` or ``updates``.
    """

    paths: list[Path]
    tasks: list[Probe]
    output: Path
    with_random: bool = False
    over: str = "tokens"


def probe(request: ProbeRequest) -> list[Row]:
    """Run ``launch/probe.py``; the rows of its table, which it prints.

    Raises:
        UserError: a wrong input.
        TrainingStopped: after all others, if a model is damaged or a fine-tuning diverged.
        StoppedOnRequest: the same command continues.
    """
    for task in request.tasks:
        if isinstance(task, FinetuneProbe):
            resolve_precision(task.settings.parallel.precision, torch.cuda.is_available())
    found = find_models(request.paths)
    with named_storage_errors(request.output, "cannot be read"):
        require_probe_folder(request.output)
    world = start(1)
    with world.closed_at_the_end(), run_folder_locked(request.output, world):
        if world.topology.world_size > 1:
            raise UserError(
                "launch/probe.py runs as one process: start it without a launcher, once per GPU with its own "
                "--output"
            )
        with named_storage_errors(request.output):
            return _Prober(request, found, world).run()


class _Prober:
    """One command.

    Attributes:
        problems: model and reason of what has no result.
    """

    def __init__(self, request: ProbeRequest, found: Found, world: World) -> None:
        self.request, self.world = request, world
        self.models = found.models
        self.problems = {name: f"damaged: {fault}" for name, fault in found.damaged.items()}
        self.store = ResultStore(request.output)
        self.work = request.output / WORK
        sums = {path: content_sum(path) for t in request.tasks for path in t.files.values()}
        self.definitions = {
            task.name: task.definition() | {key: sums[p] for key, p in task.files.items()}
            for task in request.tasks
        }
        self.units = sum(len(task.seeds) for task in request.tasks)
        firsts = {model.run: model for model in reversed(found.models)}
        self.baselines = list(firsts.values()) if request.with_random else []
        self.total = self.units * (len(self.models) + len(self.baselines))
        self.done = 0

    def run(self) -> list[Row]:
        self.store.open()
        self._report()
        for model in self.models:
            try:
                with self._empty_work():
                    self._probe(model)
            except StoppedOnRequest as error:
                raise StoppedOnRequest(
                    f"{str(error).partition(':')[0]}: the results of {self.request.output} are kept; the same "
                    "command continues"
                ) from error
        rows = self._report()
        write_probe_plot(self.request.output / PLOT, rows, self.request.tasks, self.request.over)
        print(probe_table(rows, self.request.tasks), flush=True)
        log.info("results: %s", self.request.output)
        if self.problems:
            name, reason = next(iter(self.problems.items()))
            raise TrainingStopped(
                f"{len(self.problems)} of the probes have no result, the first is {name}: {reason}; the others are "
                f"in {self.request.output}"
            )
        return rows

    @contextlib.contextmanager
    def _empty_work(self) -> Iterator[None]:
        shutil.rmtree(self.work, ignore_errors=True)
        try:
            yield
        finally:
            shutil.rmtree(self.work, ignore_errors=True)

    # ------------------------------------------------------------ one model

    def _probe(self, model: ProbedModel) -> None:
        """All that is not done yet of a model, and of random weights if it is the first of its run."""
        turns = [False, True] if model in self.baselines else [False]
        missing = [
            (task, seed, random)
            for random in turns
            for task in self.request.tasks
            for seed in task.seeds
            if self._result(model, task, seed, random) is None
        ]
        known = self.units * len(turns) - len(missing)
        self.done += known
        if not missing:
            return
        try:
            with _warnings_only():
                export = export_model(model, self.work / "model")
        except UserError as error:
            self.done += len(missing)
            if not model.folder.exists():
                log.warning("%s was removed meanwhile and is skipped", model.name)
                return
            log.warning("%s cannot be read and is skipped: %s", model.name, error)
            self.problems[model.name] = str(error)
            return
        self.store.write_shape(model.identity, export.shape)
        for task, seed, random in missing:
            self.done += 1
            if self._result(model, task, seed, random) is not None:
                continue  # random weights of the same shape as those of another run
            began = time.monotonic()
            result = self._scores(task, export, seed, random)
            key = self._key(model, task, seed, random)
            assert key is not None
            self.store.write(key, result)
            self._report()
            what = result.get("problem") or _shown(result)
            log.info(
                "%d/%d  %s%s  %s, seed %d: %s (%s)",
                self.done, self.total, model.name, " (random weights)" if random else "",
                task.name, seed, what, human_duration(time.monotonic() - began),
            )  # fmt: skip

    def _key(self, model: ProbedModel, task: Probe, seed: int, random: bool) -> str | None:
        """None: not known before the model is read."""
        who = self.store.shape(model.identity) if random else model.identity
        if who is None:
            return None
        kind = f"random {who}" if random else who
        return self.store.key(kind, self.definitions[task.name], seed)

    def _result(
        self, model: ProbedModel, task: Probe, seed: int, random: bool
    ) -> dict[str, Any] | None:
        key = self._key(model, task, seed, random)
        return None if key is None else self.store.read(key)

    def _scores(self, task: Probe, export: Export, seed: int, random: bool) -> dict[str, Any]:
        """A result to keep: the scores, or why there are none and never will be."""
        try:
            if isinstance(task, PerplexityProbe):
                if not export.predicts_masks:
                    return {"problem": "no MLM head", "expected": True}
                drawn = (seed, export.initial) if random else None
                scores = pseudo_perplexity(task, export.folder, drawn)
                return {"metric": PERPLEXITY_METRIC, "scores": scores}
            assert isinstance(task, FinetuneProbe)
            folder = self.work / "run"
            shutil.rmtree(folder, ignore_errors=True)
            settings = task.of_model(export.folder, folder, seed)
            if random:
                settings = settings.with_random_weights(export.initial)
            with _warnings_only():
                found = self._finetuned(settings)
            if found["metric"] not in found["scores"]:
                raise UserError(
                    "its --eval has no labels, and is not scored; name a file with labels"
                )
            return found
        except StorageFault:
            raise
        except TrainingStopped as error:
            return {"problem": str(error)}
        except UserError as error:
            raise UserError(f"{task.name}: {error}") from error

    def _finetuned(self, settings: ResolvedFinetuning) -> dict[str, Any]:
        """The scores of one fine-tuning, and the metric that decides; its engine is freed."""
        loop = prepare_run(settings, self.world)
        try:
            results = loop.run()
        finally:
            loop.release()
        return {"metric": results["metric"], "scores": results["scores"]}

    # ------------------------------------------------------------ all models

    def _report(self) -> list[Row]:
        """The results so far, which are also written."""
        rows = []
        for random, models in ((True, self.baselines), (False, self.models)):
            for model in models:
                scores = {
                    task.name: self._score(model, task, random) for task in self.request.tasks
                }
                if any(score.scores or score.problem for score in scores.values()):
                    rows.append(Row(model, scores, random))
        write_report(self.request.output, rows, self.request.tasks)
        return rows

    def _score(self, model: ProbedModel, task: Probe, random: bool) -> Score:
        metric, problem, expected = "", "", False
        scores: dict[int, dict[str, float]] = {}
        for seed in task.seeds:
            result = self._result(model, task, seed, random)
            if result is None:
                continue
            if "scores" in result:
                metric, scores[seed] = result["metric"], result["scores"]
                continue
            problem, expected = str(result.get("problem")), bool(result.get("expected"))
            if not expected:
                self.problems[f"{model.name}, {task.name}, seed {seed}"] = problem
        return Score(metric, scores, problem, expected)


def _shown(result: dict[str, Any]) -> str:
    metric = result["metric"]
    return f"{metric} {result['scores'][metric]:.2f}"


@contextlib.contextmanager
def _warnings_only() -> Iterator[None]:
    """The log of a single fine-tuning is left out."""
    level = log.level
    log.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        log.setLevel(level)
