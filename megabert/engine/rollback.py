"""Back to a checkpoint while a run is going: the engine keeps living, its state is replaced."""

from __future__ import annotations

from pathlib import Path

from megabert.engine import phases
from megabert.engine.build import TrainingEngine
from megabert.engine.checkpoint import find_checkpoint
from megabert.engine.checkpoint_record import Checkpoint, whole_checkpoints
from megabert.engine.exchange import from_main
from megabert.log import UserError, get_logger
from megabert.naming import RUN_CHECKPOINTS


def return_to_checkpoint(engine: TrainingEngine, run: Path, step: int) -> Checkpoint | None:
    """Put the newest undamaged checkpoint of the run, of ``step`` or before, into its live engine.

    Call it between two updates, on all ranks. None, and nothing is changed, if there is none.
    Checkpoints after ``step`` are left alone: a run that was resumed from an older one may still
    have them, and they are not its own.
    """
    base = run / RUN_CHECKPOINTS
    tags = from_main(
        engine.world, lambda: [c.folder.name for c in whole_checkpoints(base) if c.step <= step]
    )
    for tag in tags:
        try:
            checkpoint = find_checkpoint(run, tag, engine.world)
        except UserError as error:
            get_logger().warning("passed over: %s", error)
            continue
        if checkpoint is not None:
            phases.resume(engine, checkpoint)
            return checkpoint
    return None
