"""Sends DeepSpeed's own messages to a file of the run folder, not between a run's lines."""

from __future__ import annotations

import logging
from pathlib import Path

from megabert.engine.launch import World

_LIBRARY = "DeepSpeed"


def log_deepspeed_to(path: Path, world: World) -> None:
    """Send DeepSpeed's messages to ``path`` from now on, in place of the terminal and of an earlier file.

    The main rank writes everything from INFO up to ``path``. Another rank writes warnings, to a file of
    its own (``deepspeed-rank3.log``) that exists only if there is one.
    """
    if not world.is_main:
        path = path.with_name(f"{path.stem}-rank{world.topology.rank}{path.suffix}")
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(filename)s: %(message)s"))
    logger = logging.getLogger(_LIBRARY)
    for old in list(logger.handlers):
        logger.removeHandler(old)
        if isinstance(old, logging.FileHandler):
            old.close()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if world.is_main else logging.WARNING)
