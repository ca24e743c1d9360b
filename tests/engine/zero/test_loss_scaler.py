"""The loss scaler of fp16: no bare exception at its least scale, and its settings stay those of the run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import deepspeed
import pytest
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler

from megabert.engine.zero.fixes import keep_scaler_settings, raise_no_scale_error, scaler_of
from tests.helpers.distributed import run_ranks


def engine(scaler: Any) -> Any:
    return SimpleNamespace(optimizer=SimpleNamespace(loss_scaler=scaler))


def dynamic(scale: float = 2.0**16, least: float = 1.0, window: int = 1000) -> Any:
    return DynamicLossScaler(scale, window, least, 2, False)


def _overflows(rank: int, world_size: int) -> tuple[bool, float]:
    """Whether DeepSpeed's own scaler raises, and the scale of ours after 50 overflows in a row."""
    deepspeed.init_distributed("gloo")
    raised = False
    theirs, ours = dynamic(), dynamic()
    raise_no_scale_error(engine(ours))
    for _ in range(50):
        ours.update_scale(True)
        try:
            theirs.update_scale(True)
        except Exception as error:  # DeepSpeed raises no class of its own
            if "already at minimum" not in str(error):
                raise
            raised = True
    return raised, ours.cur_scale


def test_the_least_scale_is_kept_without_an_exception() -> None:
    assert run_ranks(_overflows, 1) == [(True, 1.0)]


def test_settings_are_those_of_the_run_and_the_state_is_that_of_the_checkpoint() -> None:
    made = engine(dynamic(least=4.0, window=7))
    own = scaler_of(made)
    made.optimizer.loss_scaler = dynamic(1024.0, least=1.0, window=1000)  # as DeepSpeed does
    made.optimizer.loss_scaler.cur_iter = 9
    keep_scaler_settings(made, own)
    found = scaler_of(made)
    assert (found.cur_scale, found.cur_iter) == (1024.0, 9)
    assert (found.min_scale, found.scale_window) == (4.0, 7)
    assert not found.raise_error_at_min_scale


@pytest.mark.parametrize("loaded", [dynamic(1024.0), LossScaler(8.0)])
def test_a_fixed_scale_is_that_of_the_run(loaded: Any) -> None:
    made = engine(LossScaler(32.0))
    own = scaler_of(made)
    made.optimizer.loss_scaler = loaded
    keep_scaler_settings(made, own)
    assert scaler_of(made).cur_scale == 32.0


def test_other_wrappers_have_none() -> None:
    made: Any = SimpleNamespace(optimizer=SimpleNamespace())
    raise_no_scale_error(made)
    keep_scaler_settings(made, scaler_of(made))
    assert not vars(made.optimizer)
