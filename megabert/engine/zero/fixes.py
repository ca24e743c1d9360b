"""Make a new DeepSpeed engine exact: the optimizer's table of partitions, and DeepSpeed's bugs.

These faults of DeepSpeed 0.19.8 are worked around here, each with a test in
tests/engine/zero/test_lamb_zero.py:

    stage 0, half precision      applies an update during setup; leaves split gradients out of the
                                 norm; divides gradients by fp16's loss scale although they were not
                                 multiplied by it, and by the wrong scale where it grows
    stage 0, fp32                has no gradient norm; applies gradients that are not finite
    stages 1 and 2, offloaded,   keeps the sums of a skipped update, so that every later update
      fp32 sums                  overflows too
    all                          copies a recovery script next to each checkpoint that does not know
                                 tensor parallelism
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from megabert.common.errors import UserError
from megabert.engine.launch import check_versions
from megabert.engine.zero.exchange import WorldExchange
from megabert.engine.zero.partitions import (
    FlatPartition,
    is_split,
    partitions_of,
    private,
    sum_over_holders,
)
from megabert.engine.zero.sums import prepare_sums
from megabert.optim.base import ShardedOptimizer
from megabert.optim.flat_segments import PartitionTable, squared_norms
from megabert.parallel.topology import TensorParallel

_UNSCALED_STAGE_0 = "0.19.8"
"""The DeepSpeed release whose fp16 stage 0 :func:`_scale_loss_once` works around."""


def spare_compiler() -> None:
    """Keep torch's compiler, whose import takes 3 s and which no run uses, from being imported.

    DeepSpeed's engine imports a Muon of its own, which compiles its functions where they are defined;
    and methods of torch's optimizers import the compiler only so that it ignores them.
    """
    for method in (Optimizer.add_param_group, Optimizer.state_dict, Optimizer.load_state_dict):
        function = inspect.unwrap(method)
        setattr(function, "__dynamo_disable", function)
    from deepspeed.runtime import compiler

    compile_function, compiler.compile = compiler.compile, lambda: lambda function: function
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.original_muon")
    finally:
        compiler.compile = compile_function


def prepare_engine(engine: Any, tp: TensorParallel) -> None:
    """Make a new engine exact: call it once, directly after ``deepspeed.initialize``.

    It gives a :class:`~megabert.optim.base.ShardedOptimizer` its table of partitions and its
    collective; undoes the update that DeepSpeed makes during setup at stage 0 in half precision
    (weights restored, no state); and corrects stage 0's gradient norm. In fp32 stage 0 then also skips
    an update whose gradient is not finite, as all other modes do. All but the table serves torch's own
    optimizers too.

    Raises:
        UserError: a DeepSpeed release that is too old or has changed; a topology under which an update
            would not be exact; an optimizer backend that cannot be used here.
    """
    check_versions()
    raise_no_scale_error(engine)
    optimizer, base = engine.optimizer, engine.basic_optimizer
    world_size = dist.get_world_size()
    if engine.dp_world_size * tp.size != world_size:
        raise UserError(
            f"{engine.dp_world_size} data-parallel x {tp.size} tensor-parallel ranks are not the "
            f"{world_size} ranks of the run: was the mpu given to DeepSpeed?"
        )
    partitions = partitions_of(engine)
    for item in partitions:
        if item.flat.dtype != torch.float32:
            raise UserError(
                f"the weights that the optimizer updates are {item.flat.dtype}, not fp32: remove the "
                "setting of half-precision masters from the DeepSpeed configuration"
            )
    if isinstance(base, ShardedOptimizer):
        # DeepSpeed drops the gradients as soon as the step is done
        base.overwrite_gradients = True
        table = [(item.flat, item.partition) for item in partitions]
        listed = {id(flat) for flat, _ in table}
        if not all(id(p) in listed for group in base.param_groups for p in group["params"]):
            raise UserError(
                f"DeepSpeed {version('deepspeed')} updates tensors that its partition tables do "
                "not list; install the tested release: pip install deepspeed==0.19.8"
            )
        base.attach(
            PartitionTable(
                table,
                sum_over_holders(engine, tp),
                tp.rank == 0,
                flat=engine.zero_optimization_stage() > 0,
                exchange=WorldExchange(engine, tp),
            )
        )
    if type(optimizer).__name__ == "FP16_UnfusedOptimizer" and engine.global_steps == 0:
        base.state.clear()
        for item in partitions:
            item.flat.data.copy_(item.parameters[0].data)
    if engine.zero_optimization_stage() == 0:
        _measure_norm(engine, tp, partitions)
    elif getattr(optimizer, "cpu_offload", False):
        _forget_overflow(optimizer)
    prepare_sums(engine)
    _sum_products_in_fp32()
    # DeepSpeed copies a script next to each checkpoint that does not know tensor parallelism;
    # launch/convert.py replaces it.
    engine._copy_recovery_script = lambda _: None


def _sum_products_in_fp32() -> None:
    """Keep cuBLAS from adding up parts of a half-precision product in that precision."""
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False


def _forget_overflow(optimizer: Any) -> None:
    """Stages 1 and 2 with ZeRO-Offload: drop the summed gradients of a skipped update.

    DeepSpeed 0.19.8 keeps those that are summed in fp32, so that one NaN makes every later update
    overflow. DeepSpeed calls the method wrapped here at the end of each update, skipped or not.
    """
    reset, sums = (
        private(optimizer, "reset_cpu_buffers"),
        private(optimizer, "averaged_gradients"),
    )

    def reset_all() -> None:
        reset()
        for group in sums:
            sums[group] = None

    optimizer.reset_cpu_buffers = reset_all


def _measure_norm(engine: Any, tp: TensorParallel, partitions: Sequence[FlatPartition]) -> None:
    """Stage 0: measure the norm before clipping, and clip by it.

    In fp32 DeepSpeed 0.19.8 stores no norm and applies a gradient that is not finite (its engine reads
    the optimizer's ``overflow``). In half precision it leaves out the split tensors of all
    tensor-parallel ranks except the first (it looks for their mark on the gradients), and reports the
    fp16 norm multiplied by the loss scale.
    """
    all_reduce = sum_over_holders(engine, tp)
    optimizer = engine.optimizer
    max_norm = float(engine.gradient_clipping())

    def norm() -> Tensor:
        counted = [
            item.flat.grad
            for item in partitions
            if item.flat.grad is not None and (is_split(item.parameters[0]) or tp.rank == 0)
        ]
        square = torch.zeros((), dtype=torch.float64, device=engine.device)
        if counted:
            square += squared_norms(counted).sum()
        if all_reduce is not None:
            all_reduce(square)
        return square.sqrt()

    def measure_and_clip_fp32(*_: Any) -> None:
        engine._global_grad_norm = norm()
        optimizer.overflow = not bool(torch.isfinite(engine._global_grad_norm))
        if optimizer.overflow:
            engine._global_grad_norm = math.inf
            return
        gradients = [item.flat.grad for item in partitions if item.flat.grad is not None]
        if max_norm > 0.0 and gradients:
            scale = (max_norm / (engine._global_grad_norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(gradients, scale.to(gradients[0].dtype))

    if optimizer is not engine.basic_optimizer:
        _scale_loss_once(engine, norm)
        return
    step = optimizer.step

    def step_unless_overflow(closure: Any = None) -> Any:
        if max_norm <= 0.0:
            measure_and_clip_fp32()
        return None if optimizer.overflow else step(closure)

    private(engine, "clip_fp32_gradients")
    engine.clip_fp32_gradients = measure_and_clip_fp32
    optimizer.step = step_unless_overflow


def _scale_loss_once(engine: Any, norm: Callable[[], Tensor]) -> None:
    """Stage 0 in half precision: multiply the loss by the scale that the gradients are divided by.

    DeepSpeed 0.19.8 divides the gradients by fp16's loss scale here, but its ``backward`` multiplies
    the loss by it only under ZeRO; and where the scale grows, it divides by that of the *next* update.

    Raises:
        UserError: fp16 with another DeepSpeed release, which may have fixed this.
    """
    optimizer = engine.optimizer
    scales = private(optimizer, "loss_scale_config")
    clip = private(optimizer, "unscale_and_clip_grads")
    used = [float(scales.cur_scale)]
    if scales.use_grad_scaling:
        if version("deepspeed") != _UNSCALED_STAGE_0:
            raise UserError(
                f"fp16 at ZeRO stage 0 was tested only with DeepSpeed {_UNSCALED_STAGE_0}, and this "
                f"is {version('deepspeed')}: use --zero-stage 1, or bf16"
            )
        backward = engine.backward

        def backward_scaled(loss: Tensor, **named: Any) -> Any:
            used[0] = float(scales.cur_scale)
            return backward(loss.float() * used[0], **named)

        engine.backward = backward_scaled

    def measure_and_clip(_: Any, apply_scale: bool = True) -> Any:
        scaled = norm()
        optimizer._global_grad_norm = scaled / used[0]
        next_scale, scales.cur_scale = scales.cur_scale, used[0]
        try:
            return clip(scaled, apply_scale)
        finally:
            scales.cur_scale = next_scale

    optimizer.unscale_and_clip_grads = measure_and_clip


def grad_norm(engine: Any) -> float:
    """Global norm of the last step's gradients before clipping, at every stage.

    Split tensors count whole, copies count once. inf after a skipped step; nan before the first one.
    Waits for the device, so call it only on logging steps.
    """
    norm = engine.get_global_grad_norm()
    return float("nan") if norm is None else float(norm)


_SCALER_STATE = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
"""What training has made of a dynamic scaler; everything else is a setting."""


def raise_no_scale_error(engine: Any) -> None:
    """Let updates at the least scale be skipped as others: the engine counts them, and ends the run by itself.

    DeepSpeed raises a bare ``Exception`` there, and has no setting for it.
    """
    scaler = scaler_of(engine)
    if scaler is not None and hasattr(scaler, "raise_error_at_min_scale"):
        scaler.raise_error_at_min_scale = False


def keep_scaler_settings(engine: Any, own: Any) -> None:
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
        for name in _SCALER_STATE:
            setattr(own, name, getattr(loaded, name))
    wrapper.loss_scaler = own
    raise_no_scale_error(engine)


def scaler_of(engine: Any) -> Any:
    """The scaler in force; None where there is none of this kind."""
    return getattr(engine.optimizer, "loss_scaler", None)
