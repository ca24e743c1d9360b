"""Memory of a rank at each instant: states, activations, framework, and a CPU's allocator.

A GPU's allocator reuses freed memory for later tensors of any size. On a CPU megabert makes glibc keep
freed tensors (megabert/engine/machine/cores.py), so the process never returns the memory of its tensors and of
the gaps between them. These tensors are activations, gradients before they are joined, and the fp32
weights that a model has before DeepSpeed (stages 1 to 3) moves them into flat tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from megabert.planner.activations import (
    Block,
    MicroBatch,
    activation_blocks,
    parts_of,
    small_bytes,
)
from megabert.planner.machine import Machine
from megabert.planner.parameters import LocalParameters
from megabert.planner.rank import Rank
from megabert.planner.states import (
    FP32,
    INSTANTS,
    Parts,
    Sharding,
    compute_bytes,
    small_tensors,
    state_bytes,
)

LARGEST_FREED_BLOCK = math.inf
"""Bytes below which glibc keeps a freed tensor's memory (megabert/engine/machine/cores.py): all of them."""
GAPS = 1.15
"""Memory of freed tensors over their own bytes (measured: bert-mini, fp32 and bf16)."""


def rank_memory(
    machine: Machine, rank: Rank, batch: MicroBatch, micro_steps: int
) -> dict[str, Parts]:
    """Instant -> part -> bytes of one rank, whose updates have ``micro_steps``."""
    model, n, sharding = rank.model, rank.parameters, rank.sharding
    memory = state_bytes(n, sharding, micro_steps=micro_steps)
    blocks = activation_blocks(
        model, batch, sharding.precision, rank.division, widened=machine.is_cpu
    )
    for instant, found in blocks.items():
        memory[instant] |= parts_of(found)
    for instant in INSTANTS:
        memory[instant]["framework"] = machine.framework_bytes
    if machine.is_cpu:
        held = _held_back(memory, blocks, n, sharding, micro_steps)
        for instant, size in held.items():
            memory[instant]["held back by the allocator"] = size
    return memory


def _held_back(
    memory: Mapping[str, Parts],
    blocks: Mapping[str, Sequence[Block]],
    n: LocalParameters,
    sharding: Sharding,
    micro_steps: int,
) -> dict[str, float]:
    """Bytes of freed tensors that glibc keeps, at each instant.

    Up to stage 1 each ``.grad`` is a tensor of its own; from stage 2 on, and in bf16 at stage 1, it moves
    into a bucket or a sum at once.
    """
    width = compute_bytes(sharding.precision)
    moved = sharding.stage >= 2 or (sharding.fp32_sums and sharding.buckets.immediate)
    gradients = 0.0 if moved else small_tensors(n, width, LARGEST_FREED_BLOCK)
    initial = small_tensors(n, FP32, LARGEST_FREED_BLOCK) if sharding.stage else 0.0
    before = gradients if micro_steps > 1 else 0.0
    small = {
        instant: small_bytes(found, LARGEST_FREED_BLOCK) + before
        for instant, found in blocks.items()
    }
    largest = GAPS * max(gradients, initial, *small.values())
    here = {
        instant: small.get(instant, min(gradients, parts.get("gradients", 0.0)))
        for instant, parts in memory.items()
    }
    return {instant: max(0.0, largest - size) for instant, size in here.items()}
