"""The model with the moving average of its weights, for an evaluation, under every ZeRO stage.

The optimizer keeps the average as its state ``ema``, divided as the fp32 weights are. Within
:func:`averaged_weights` the model's own tensors hold it, rounded to what the model computes with. The
fp32 weights and all other state stay where they are; what the model held before comes back bit for bit
from a copy on the same device, without communication, also after an error on one rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from megabert.engine.zero.partitions import partitions_of, private
from megabert.engine.zero.whole_tensors import iterate_state
from megabert.optim.base import EMA, ShardedOptimizer
from megabert.parallel.layers import split_dim
from megabert.parallel.topology import TensorParallel


@contextmanager
def averaged_weights(engine: Any, tp: TensorParallel) -> Iterator[None]:
    """Within the block the model computes with the moving average of its weights (all ranks enter).

    To enter is a collective, below stage 3 one all-reduce per tensor; to leave is not.

    Raises:
        ValueError: the optimizer keeps no average.
    """
    base = engine.basic_optimizer
    if not (isinstance(base, ShardedOptimizer) and base.ema_decay):
        raise ValueError("the optimizer keeps no moving average of the weights")
    _release(engine)
    kept = [(tensor, tensor.clone()) for tensor in _computed_with(engine)]
    try:
        with torch.no_grad():
            _write(engine, tp, base)
        yield
    finally:
        _release(engine)
        for tensor, values in kept:
            tensor.copy_(values)


def _computed_with(engine: Any) -> Iterator[Tensor]:
    """What this rank's model computes with: its parameters, or at stage 3 its parts of them."""
    for item in partitions_of(engine):
        if item.compute_weights is not None:
            yield item.compute_weights.data
        else:
            yield from (parameter.data for parameter in item.parameters)


def _write(engine: Any, tp: TensorParallel, base: ShardedOptimizer) -> None:
    if engine.zero_optimization_stage() == 3:
        for item in partitions_of(engine):
            assert item.compute_weights is not None
            item.compute_weights.data.copy_(base.average_of(item.flat))
        return
    parameters = dict(engine.module.named_parameters())
    for name, values in iterate_state(engine, tp, (EMA,)):
        parameter = parameters[name]
        parameter.data.copy_(tp.cut(values[EMA], split_dim(parameter)))


def _release(engine: Any) -> None:
    """Stage 3: let go of every whole tensor; a forward pass gathers what it needs from the parts."""
    if engine.zero_optimization_stage() < 3:
        return
    coordinator = private(private(engine.optimizer, "parameter_offload"), "get_param_coordinator")()
    private(coordinator, "release_and_reset_all")(engine.module)
