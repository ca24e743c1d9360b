"""Return to a checkpoint during a run: the engine stays, its state is replaced."""

from __future__ import annotations

from pathlib import Path

from megabert.checkpoint import resume
from megabert.checkpoint.record import Checkpoint, whole_checkpoints
from megabert.checkpoint.save_load import find_checkpoint
from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.common.names import RUN_CHECKPOINTS
from megabert.engine.broadcast import broadcast_object
from megabert.engine.training_engine import TrainingEngine


def return_to_checkpoint(engine: TrainingEngine, run: Path, step: int) -> Checkpoint | None:
    """Load the run's newest undamaged checkpoint of ``step`` or before into its live engine.

    Call it between two updates, on all ranks. Returns None and changes nothing if no such checkpoint
    exists. Checkpoints after ``step`` are not used: a run that was resumed from an older one may still
    have them, but they are not its own.
    """
    base = run / RUN_CHECKPOINTS
    tags = broadcast_object(
        engine.world, lambda: [c.folder.name for c in whole_checkpoints(base) if c.step <= step]
    )
    for tag in tags:
        try:
            checkpoint = find_checkpoint(run, tag, engine.world)
            if checkpoint is not None:
                resume.resume(engine, checkpoint)
                return checkpoint
        except UserError as error:
            get_logger().warning("skipped: %s", error)
    return None
