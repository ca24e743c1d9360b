"""DeepSpeed's loss scaler of fp16 at ZeRO 1 to 3: it never ends the process, and a run keeps its own settings."""

from __future__ import annotations

from typing import Any

_STATE = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
"""What training has made of a dynamic scaler; everything else is a setting."""


def do_not_raise(engine: Any) -> None:
    """Let updates at the least scale be skipped as others: the engine counts them, and ends the run by itself.

    DeepSpeed raises a bare ``Exception`` there, and has no setting for it.
    """
    scaler = scaler_of(engine)
    if scaler is not None and hasattr(scaler, "raise_error_at_min_scale"):
        scaler.raise_error_at_min_scale = False


def keep_settings(engine: Any, own: Any) -> None:
    """Put back the scaler that a run had before it loaded a checkpoint, with the checkpoint's state.

    DeepSpeed replaces it by the checkpoint's. A fixed scale stays that of the run; so do the minimum and the
    window of a dynamic one.

    Args:
        own: :func:`scaler_of` before the checkpoint was loaded.
    """
    if own is None:
        return
    loaded, wrapper = scaler_of(engine), engine.optimizer
    if own.dynamic and loaded.dynamic:
        for name in _STATE:
            setattr(own, name, getattr(loaded, name))
    wrapper.loss_scaler = own
    do_not_raise(engine)


def scaler_of(engine: Any) -> Any:
    """The scaler in force; None where there is none of this kind."""
    return getattr(engine.optimizer, "loss_scaler", None)
