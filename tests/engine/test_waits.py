"""How often an update makes the host wait for the device, counted on a CPU."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from tests.helpers.distributed import run_ranks
from tests.helpers.training_runs import TINY, import_once, last_given, make_shards, settings_of

_COUNTED_FROM = 4
"""The first update that counts; DeepSpeed's timer begins with its third."""


class _ScalarsRead(TorchDispatchMode):
    """Counts values that DeepSpeed's code reads from tensors."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name == "aten::_local_scalar_dense":
            frames = (frame.filename for frame in reversed(traceback.extract_stack()))
            caller = next((f for f in frames if "/deepspeed/" in f or "/megabert/" in f), "")
            self.count += "/deepspeed/" in caller
        return func(*args, **(kwargs or {}))


def _waits(rank: int, world_size: int, argv: list[str]) -> tuple[int, int]:
    """Synchronisations, and scalars that DeepSpeed reads, in the last two of five updates."""
    from deepspeed.accelerator import get_accelerator

    from megabert.pretrain.command import pretrain
    from megabert.pretrain.loop import Loop

    accelerator, update = get_accelerator(), Loop._update
    plain, synchronised, scalars = accelerator.synchronize, 0, _ScalarsRead()

    def counted(*given: Any) -> Any:
        nonlocal synchronised
        synchronised += 1
        return plain(*given)

    def counted_update(loop: Loop) -> bool:
        if loop.engine.steps_done + 1 < _COUNTED_FROM:
            return update(loop)
        accelerator.synchronize = counted
        try:
            with scalars:
                return update(loop)
        finally:
            accelerator.synchronize = plain

    Loop._update = counted_update  # type: ignore[method-assign]
    pretrain(settings_of(argv))
    return synchronised, scalars.count


@pytest.mark.parametrize(
    ("stage", "precision", "scalars"),
    [
        (1, "bf16", 2),  # is the norm finite; is it above the limit
        pytest.param(1, "fp32", 3, marks=pytest.mark.slow),
        (2, "bf16", 4),
        pytest.param(3, "bf16", 1, marks=pytest.mark.slow),
    ],
)
def test_an_update_waits_at_its_end_only(
    tmp_path: Path, stage: int, precision: str, scalars: int
) -> None:
    """Not in its two micro steps: at its end DeepSpeed reads the norm."""
    shards = make_shards(tmp_path / "shards")
    import_once()
    argv = last_given([
        *TINY, "--data", str(shards), "--output", str(tmp_path / "run"), "--steps", "5",
        "--log-interval", "100", "--zero-stage", str(stage), "--precision", precision,
    ])  # fmt: skip
    found = run_ranks(_waits, 2, argv, initialize=False, timeout=240.0)
    assert found == [(0, 2 * scalars)] * 2
