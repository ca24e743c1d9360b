"""The time of one update, as a sum of its parts. Only the host's work is assumed to overlap.

forward and backward   model FLOPs of the computed tokens / (t x peak x efficiency)
recomputation          the layers' forward once more, with activation checkpointing
casts to fp8           bytes that casting the operands of the encoder's products reads and writes: megabert's
                       casts are kernels of their own
summing gradients      bytes that adding a micro step's gradients to the sums reads and writes
whole matrices         floating-point operations of Muon's iteration, shared by all ranks, at the same efficiency
optimizer              the bytes per parameter that the optimizer declares (LAMB: 40), and 4 + w for
                       the weights' copy in a half precision
relative positions     bytes that NEZHA's attention writes and reads in its scratch on a GPU
                       (``kernels.triton.relative``), as if no cache held them: more than it takes
tensor, data exchanges see ``collectives``
waiting for the host   by how much the host's own work (Python, DeepSpeed, the start of every operator) is
                       longer than all of the above, on a GPU: it runs ahead of the device
waiting for data       without worker processes the time of making the samples; with them (the default on a
                       GPU) by how much they are slower than all of the above
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from megabert.data.samples.packing import choose_window
from megabert.engine.config import BatchSizes
from megabert.model.encoder import variant_of
from megabert.optim.registry import optimizer_spec
from megabert.planner.collectives import Exchange
from megabert.planner.machine import MEMORY_EFFICIENCY, Machine
from megabert.planner.rank import Rank
from megabert.planner.recipe import PlannedRun
from megabert.planner.states import FP32, compute_bytes

HOST_SECONDS = {"forward": 0.36e-3, "backward": 0.50e-3, "update": 0.39e-3}
"""CPU time per layer: of a micro step's forward and backward, and of an update's end. Measured on an AMD
EPYC with 24 layers, embeddings and heads included (benchmarks/host_time.py); a faster host needs less."""


HOST, DATA = "waiting for the host", "waiting for data"
CAST_BYTES = {"input or weight": 5, "gradient": 6}
"""That a cast of one element to fp8 moves: read for the largest magnitude and again, written (a gradient in
both orders; inputs and weights are cast again in backward)."""


class SamplesPerSecond(NamedTuple):
    """What one core makes: padded samples, packed ones, and lengths of a window's samples."""

    padded: float
    packed: float
    lengths: float


LOADER = {
    128: SamplesPerSecond(27_500, 54_400, 156_400),
    512: SamplesPerSecond(8_300, 20_300, 86_600),
}
"""At these numbers of tokens (docs/results/2026-11/loader.md)."""


def loader_seconds(length: int, batch: BatchSizes, *, packed: bool) -> float:
    """Seconds in which one core makes a rank's samples of one update."""
    speed = LOADER[128 if length <= 256 else 512]
    sequences = batch.micro_size * batch.accumulation
    if not packed:
        return sequences / speed.padded
    window = choose_window(batch.micro_size, batch.accumulation, batch.data_parallel)
    looked_up = sequences * window.ranks if window.ranks > 1 else 0
    return sequences / speed.packed + looked_up / speed.lengths


def host_seconds(rank: Rank, micro_steps: int) -> float:
    """The host's own work for one update, of a GPU's rank."""
    forwards = 2 if rank.division.checkpointing else 1
    micro_step = forwards * HOST_SECONDS["forward"] + HOST_SECONDS["backward"]
    return rank.model.num_hidden_layers * (micro_steps * micro_step + HOST_SECONDS["update"])


def cast_bytes(rank: Rank, tokens: float, micro_steps: int) -> float:
    """Bytes that casts to fp8 move in one update of ``tokens`` (docs/reference/precision.md)."""
    model, t = rank.model, rank.division.degree
    h, inner = model.hidden_size, model.intermediate_size
    inputs = 2 * h + (h + inner) / t
    gradients = 2 * h + (3 * h + inner) / t
    weights = (4 * h * h + 2 * h * inner) / t
    passes = 3 if rank.division.checkpointing else 2
    once = CAST_BYTES["input or weight"] * (tokens * inputs + micro_steps * weights)
    return model.num_hidden_layers * (passes * once + CAST_BYTES["gradient"] * tokens * gradients)


def update_times(
    machine: Machine,
    rank: Rank,
    recipe: PlannedRun,
    batch: BatchSizes,
    exchanges: Sequence[Exchange],
    *,
    packed: bool,
) -> dict[str, float]:
    """Part -> seconds of one update; ``packed``: no padding is computed."""
    model, n, sharding, degree = rank.model, rank.parameters, rank.sharding, rank.division.degree
    precision, width = sharding.precision, compute_bytes(sharding.precision)
    speed = machine.peak[precision] * machine.efficiency[precision]
    memory = machine.memory_bandwidth * MEMORY_EFFICIENCY
    sequences = batch.micro_size * batch.accumulation
    flops = recipe.flops(model, sequences, real=packed) / degree
    # read gradient and sum, write sum
    per_sum = width + 2 * (FP32 if sharding.fp32_sums else width)
    sums = batch.accumulation if sharding.fp32_sums else batch.accumulation - 1
    per_update = optimizer_spec(sharding.optimizer).moved_bytes
    traffic = per_update + (FP32 + width if width < FP32 else 0)
    own = n.total / (sharding.ranks if sharding.stage else 1)
    times = {
        "forward and backward": flops / speed,
        "recomputation": flops / 3 / speed if rank.division.checkpointing else 0.0,
        "summing gradients": sums * per_sum * n.total / memory,
        "optimizer": traffic * own / memory,
        "tensor-parallel exchanges": sum(e.seconds for e in exchanges if e.group == "tensor"),
        "data-parallel exchanges": sum(e.seconds for e in exchanges if e.group == "data"),
    }
    if rank.matrices.flops:
        iteration = "bf16" if rank.matrices.in_bf16 and "bf16" in machine.peak else "fp32"
        if iteration not in machine.peak:
            iteration = precision
        fast = machine.peak[iteration] * machine.efficiency[iteration]
        times["whole matrices"] = rank.matrices.flops / (sharding.ranks * degree) / fast
    if precision == "fp8":
        tokens = sequences * recipe.length * (recipe.fill if packed else 1.0)
        times["casts to fp8"] = cast_bytes(rank, tokens, batch.accumulation) / memory
    scratch = variant_of(model).gpu_scratch
    if scratch is not None and not machine.is_cpu:
        pairs = sequences * recipe.length * min(recipe.length, scratch.most_keys)
        heads = model.num_hidden_layers * model.num_attention_heads / degree
        times[scratch.name] = scratch.bytes_per_pair * pairs * heads / memory
    if not machine.is_cpu:
        host = host_seconds(rank, batch.accumulation)
        times[HOST] = max(0.0, host - sum(times.values()))
    loading = loader_seconds(recipe.length, batch, packed=packed)
    if recipe.workers:
        loading = max(0.0, loading / recipe.workers - sum(times.values()))
    times[DATA] = loading
    return times
