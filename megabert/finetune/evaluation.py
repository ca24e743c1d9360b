"""Predictions and scores of a file, computed by all ranks of a run."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megabert.common.files import rename
from megabert.common.progress import Progress
from megabert.engine.agreement import StopAgreement
from megabert.engine.broadcast import broadcast_object, gather_rows, rank_batches
from megabert.engine.training_engine import TrainingEngine
from megabert.tasks.base import Features, Task
from megabert.tasks.batches import batch_on_device

TEST = "test"
"""Folder in a run folder with the predictions of ``--test``."""
SCORING = "scoring.tmp"
"""Folder in a run folder for predictions whose model may not be selected."""


@dataclass(frozen=True)
class Scored:
    """Outcome of scoring a file: scores by name ({} for a file without labels), and its time."""

    scores: dict[str, float]
    rows: int
    tokens: int
    seconds: float

    def rates(self, prefix: str) -> dict[str, float]:
        """Time and throughput as results.json has them."""
        return {
            f"{prefix}_seconds": round(self.seconds, 3),
            f"{prefix}_samples_per_second": self.rows / self.seconds,
            f"{prefix}_tokens_per_second": self.tokens / self.seconds,
        }


class EvaluationStopped(Exception):
    """Some rank was asked to stop; raised on all ranks, after the same batch."""


def predict_rows(
    engine: TrainingEngine,
    task: Task,
    features: Features,
    batch_size: int,
    agreement: StopAgreement | None = None,
) -> dict[str, np.ndarray]:
    """The task's output for every row, each computed once (a collective).

    Args:
        batch_size: rows that a data-parallel rank predicts at once.
        agreement: asked after each batch; None: only an interruption ends the predictions.

    Raises:
        EvaluationStopped: by the agreement.
    """
    world, topology, lengths = engine.world, engine.world.topology, features.lengths
    progress = Progress("score", len(lengths), interval=30.0)
    rows, outputs, seen = [], [], 0
    engine.module.eval()
    with torch.no_grad():
        for mine, counts in rank_batches(
            lengths, batch_size, topology.data_parallel_rank, topology.data_parallel
        ):
            batch = batch_on_device(features, mine, task.max_length, world.device)
            found = task.predict(engine, batch)
            if counts:
                rows.append(mine)
                outputs.append({name: value.cpu().numpy() for name, value in found.items()})
            seen += len(mine) * topology.data_parallel
            if world.is_main:
                progress.update(seen, f"{min(seen, len(lengths)):,} rows")
            if agreement is not None and agreement.ask():
                raise EvaluationStopped
    engine.module.train()
    return gather_rows(world, rows, outputs, len(lengths))


def score_file(
    engine: TrainingEngine,
    task: Task,
    features: Features,
    batch_size: int,
    folder: Path,
    agreement: StopAgreement | None = None,
) -> Scored:
    """Predict every row, write the predictions into ``folder``, and score them (a collective).

    The main rank scores; every rank gets the scores.

    Raises:
        EvaluationStopped: as :func:`predict_rows`; nothing is written.
    """
    began, world = time.monotonic(), engine.world
    whole = predict_rows(engine, task, features, batch_size, agreement)

    def on_main() -> dict[str, float]:
        folder.mkdir(parents=True, exist_ok=True)
        return {name: float(value) for name, value in task.score(features, whole, folder).items()}

    scores = broadcast_object(world, on_main)
    lengths = features.lengths
    return Scored(scores, len(lengths), int(lengths.sum()), time.monotonic() - began)


def publish(scoring: Path, folder: Path, selected: bool) -> None:
    """Move the files of ``scoring`` into ``folder``, over earlier ones, if ``selected``; delete ``scoring``."""
    for path in scoring.iterdir() if selected else ():
        rename(path, folder / path.name)
    shutil.rmtree(scoring)


def shown(scores: dict[str, Any]) -> str:
    """Scores in one line."""
    return "  ".join(f"{name} {value:.2f}" for name, value in scores.items())
