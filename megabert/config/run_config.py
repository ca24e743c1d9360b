"""A run's own ``config.yaml`` as ``--config``: it means that run, wherever its folder is now."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from megabert.common.log import get_logger
from megabert.common.names import (
    RUN_CHECKPOINTS,
    RUN_CONFIG,
    RUN_DEEPSPEED_CONFIG,
    RUN_METRICS,
    RUN_RESULTS,
)
from megabert.config.flags import Given, SettingsLayer

_OF_A_RUN = (RUN_DEEPSPEED_CONFIG, RUN_CHECKPOINTS, RUN_METRICS, RUN_RESULTS)


def with_own_output(given: Given, section: str) -> Given:
    """``given``, with the folder of ``--config`` as its output if that is a run's folder.

    A run that was moved, or that was started in another working folder with a relative ``--output``, is
    thereby the run that its file belongs to. A flag ``--output`` names another folder as usual.

    Args:
        section: the section of the setting ``output``.
    """
    path = Path(given.file.file)
    if given.flags.sets(section, "output") or not _is_of_a_run(path):
        return given
    folder = path.parent
    recorded = given.file.values.get(section, {}).get("output")
    if recorded is not None and Path(str(recorded)).absolute() == folder.absolute():
        return given
    get_logger().info(
        "--config %s is the file of the run in %s: that is --output (the file says %s)",
        path,
        folder,
        recorded,
    )
    values = {**given.file.values, section: dict(given.file.values.get(section, {}))}
    values[section]["output"] = str(folder)
    return replace(given, file=SettingsLayer(values, given.file.file, given.file.names))


def batch_of_other_ranks(given: Given) -> bool:
    """Whether the division of the batch comes from a run's file: it is that of the run's number of ranks.

    On other ranks the global batch is divided again, as when that run is resumed on them.
    """
    return _is_of_a_run(Path(given.file.file)) and not divides_batch(given.flags)


def divides_batch(layer: SettingsLayer) -> bool:
    """Whether a layer says how the global batch is divided among ranks and micro steps."""
    return any(
        layer.sets("batch", name) for name in ("micro_batch_size", "gradient_accumulation_steps")
    )


def _is_of_a_run(path: Path) -> bool:
    if path.name != RUN_CONFIG:
        return False
    folder = path.parent
    several = folder.glob(f"*-seed-*/{RUN_CONFIG}")  # of a fine-tuning with seeds or rates
    return any((folder / name).exists() for name in _OF_A_RUN) or any(several)
