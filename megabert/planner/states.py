"""Memory of DeepSpeed 0.19.8 and the optimizer besides activations, by ZeRO stage and precision.

The figures are read from DeepSpeed's source, for the configuration that ``megabert.engine.config``
makes. N = a rank's parameters (after tensor parallelism), d = data parallel ranks, w = bytes of the
compute precision (fp32 4, bf16 2; fp8 has bf16 weights). Bytes per parameter with LAMB:

    stage, precision   its optimizer           weights  masters  moments  gradients
    0  fp32            the client's own        4        -        8        4 (.grad)
    0  half            FP16_UnfusedOptimizer   2        4        8        2 (.grad), 4 in the update
    1  bf16, fp32 sums BF16_Optimizer          2        4/d      8/d      4 always
    1  fp32, fp16      DeepSpeedZeroOptimizer  w        4/d      8/d      w (.grad), w/d twice in the update
    2  bf16, fp32 sums DeepSpeedZeroOptimizer  2        4/d      8/d      4/d
    2  fp32, fp16      DeepSpeedZeroOptimizer  w        4/d      8/d      w/d, twice while summing
    3                  ..._Stage3              w/d      4/d      8/d      w/d, and 4/d in the update

Stage 1 partitions neither the gradients nor, in bf16, their fp32 sums: 4 bytes per parameter, however
many ranks there are. In bf16 each gradient is added to its sum and freed at once (where a DeepSpeed file
sets ``bf16.immediate_grad_update`` false, 2 bytes per parameter stay). Stages 1 and 2 in fp32 hold
masters in addition to weights that equal them.

Communication buffers: stages 1 to 3 copy gradients into a bucket of ``reduce_bucket_size`` elements,
which they allocate whole when backward begins (two of them with ``overlap_comm``; stage 3 never frees
it). Stage 0 joins gradients into one tensor of at most 500 million elements at the end of the last
backward. Stage 1 (bf16) sends the sums where they lie; if it sends them in bf16 it casts one parameter
group at a time. On a CPU, memory that is allocated but never written does not count.

Stage 3 gathers the weights of a layer before it runs and keeps up to ``stage3_max_live_parameters``
elements. A model up to that size has all its weights from the end of forward to the end of backward.

Any of four instants can be the peak, so each is computed:

    loss              all activations, a chunk of logits, and the gradients of earlier micro steps
    backward begins   all activations and what the backward of one layer needs
    backward ends     no activations, all gradients, and the buffers of their reduction
    update            gradients in fp32, masters and moments
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from megabert.engine.config import sums_sent_in_fp32
from megabert.optim.registry import optimizer_spec
from megabert.planner.parameters import LocalParameters

LOSS, BEGINS, ENDS, UPDATE = "loss", "backward begins", "backward ends", "update"
INSTANTS = (LOSS, BEGINS, ENDS, UPDATE)
ALLREDUCE_ELEMENTS = 500_000_000
"""Elements that DeepSpeed joins for one all-reduce at stages 0 and 1 (its own constant)."""
FP32 = 4
Parts = dict[str, float]
"""Name of a part -> bytes per rank."""


def compute_bytes(precision: str) -> int:
    """w: bytes of a weight or an activation in the compute precision."""
    return FP32 if precision == "fp32" else 2


@dataclass(frozen=True)
class Buckets:
    """DeepSpeed's sizes, in elements (its defaults; ``ds_configs/`` has smaller ones).

    Attributes:
        sent: ``communication_data_type`` of a user's file; "" for megabert's choice.
        immediate: ``bf16.immediate_grad_update``.
        offloaded: masters, moments and averages are in the memory of the host.
    """

    reduce: int = 500_000_000
    double: bool = False
    prefetch: int = 50_000_000
    live: int = 1_000_000_000
    sub_group: int = 1_000_000_000
    sent: str = ""
    immediate: bool = True
    offloaded: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Buckets:
        """The sizes of a DeepSpeed file, as ``read_deepspeed_config`` returns it."""
        zero = config.get("zero_optimization") or {}
        names = {
            "reduce_bucket_size": "reduce",
            "stage3_prefetch_bucket_size": "prefetch",
            "stage3_max_live_parameters": "live",
            "sub_group_size": "sub_group",
        }
        given = {ours: int(zero[theirs]) for theirs, ours in names.items() if theirs in zero}
        made = cls(
            double=bool(zero.get("overlap_comm", False)),
            sent=str(config.get("communication_data_type") or "").lower(),
            immediate=bool((config.get("bf16") or {}).get("immediate_grad_update", True)),
            offloaded=(zero.get("offload_optimizer") or {}).get("device", "none") != "none",
        )
        return replace(made, **given)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Sharding:
    """How the optimizer's state is divided.

    Attributes:
        stage: of ZeRO.
        precision: "fp32", "bf16", "fp16" or "fp8".
        ranks: d, data parallel ranks.
        buckets: DeepSpeed's sizes.
        on_cpu: the ranks are processes of one machine without accelerators.
        optimizer: its name, which gives the bytes of its state.
        average: the state includes the moving average of the weights.
    """

    stage: int
    precision: str
    ranks: int
    buckets: Buckets = Buckets()
    on_cpu: bool = False
    optimizer: str = "lamb"
    average: bool = False

    @property
    def fp32_sums(self) -> bool:
        """Whether gradients of a half precision are summed in fp32 (megabert's choice for bf16)."""
        return self.precision in ("bf16", "fp8") and self.stage in (1, 2)

    def sent_bytes(self, micro_steps: int) -> int:
        """Bytes of a gradient that is sent between data parallel ranks; ``micro_steps`` of an update."""
        if self.buckets.sent:
            return FP32 if self.buckets.sent == "fp32" else 2
        if self.stage == 1 and self.fp32_sums and sums_sent_in_fp32(micro_steps, self.ranks):
            return FP32
        return compute_bytes(self.precision)


def state_bytes(n: LocalParameters, sharding: Sharding, *, micro_steps: int) -> dict[str, Parts]:
    """Bytes of every part at each instant, without activations; ``micro_steps`` of an update."""
    held = _held(n, sharding)
    others = {
        0: _unpartitioned,
        1: _summed_whole if sharding.fp32_sums else _stage_one,
        2: _stage_two,
        3: _stage_three,
    }[sharding.stage](n, sharding, micro_steps)
    loss = dict(others[BEGINS])
    if sharding.stage < 3:
        loss.pop("communication buckets", None)  # allocated when backward begins
    return {instant: _sum(held, part) for instant, part in {LOSS: loss, **others}.items()}


def _sum(*parts: Parts) -> Parts:
    total: Parts = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + value
    return total


def _held(n: LocalParameters, s: Sharding) -> Parts:
    """What exists from the first update to the last."""
    own = n.total / (s.ranks if s.stage else 1)
    has_masters = s.stage > 0 or s.precision != "fp32"
    on_device = own if s.on_cpu or not s.buckets.offloaded else 0.0
    moments = optimizer_spec(s.optimizer).mean_state_bytes(n.matrices / n.total)
    return {
        "weights": compute_bytes(s.precision) * (own if s.stage == 3 else n.total),
        "masters": FP32 * on_device if has_masters else 0.0,
        "averaged weights": FP32 * on_device if s.average else 0.0,
        "moments": moments * on_device,
    }


def small_tensors(n: LocalParameters, width: int, limit: float) -> float:
    """Bytes of all parameters, ``width`` bytes each, in tensors below ``limit`` bytes."""
    return width * (n.total - (n.largest if width * n.largest >= limit else 0))


def _unpartitioned(n: LocalParameters, s: Sharding, micro_steps: int) -> dict[str, Parts]:
    gradients = compute_bytes(s.precision) * n.total
    joined = min(n.total, ALLREDUCE_ELEMENTS + n.largest)
    in_update = FP32 * n.total if s.precision != "fp32" else 0.0
    return {
        BEGINS: {"gradients": gradients if micro_steps > 1 else 0.0},
        ENDS: {
            "gradients": gradients,
            "communication buckets": compute_bytes(s.precision) * joined,
        },
        UPDATE: {"gradients": gradients + in_update},
    }


def _summed_whole(n: LocalParameters, s: Sharding, micro_steps: int) -> dict[str, Parts]:
    """BF16_Optimizer: fp32 sums of all gradients on every rank."""
    sums, width = FP32 * n.total, compute_bytes(s.precision)
    own = 0.0 if s.buckets.immediate else width * n.total
    cast = 0.0 if s.sent_bytes(micro_steps) == FP32 else width * n.weights
    return {
        BEGINS: {"gradient sums": sums, "gradients": own if micro_steps > 1 else 0.0},
        ENDS: {"gradient sums": sums, "gradients": own, "communication buckets": cast},
        UPDATE: {"gradient sums": sums, "gradients": own},
    }


def _bucket(n: LocalParameters, s: Sharding) -> tuple[float, float]:
    """Bytes of the reduction buckets: (allocated when backward begins, filled at its end)."""
    width = compute_bytes(s.precision)
    filled = width * min(n.total, s.buckets.reduce)
    allocated = width * s.buckets.reduce
    count = 2 if s.buckets.double else 1
    return (0.0, filled) if s.on_cpu else (count * allocated, count * allocated)


def _stage_one(n: LocalParameters, s: Sharding, micro_steps: int) -> dict[str, Parts]:
    """Gradients stay in ``.grad`` until each moves into the bucket, from which its partition is copied."""
    width = compute_bytes(s.precision)
    gradients, own = width * n.total, width * n.total / s.ranks
    begin, end = _bucket(n, s)
    moved = width * min(n.total, s.buckets.reduce)
    flat = moved if s.ranks > 1 else 0.0  # partitions of several ranks are joined once more
    cast = FP32 * n.total / s.ranks if width < FP32 else 0.0
    return {
        BEGINS: {
            "gradients": gradients if micro_steps > 1 else 0.0,
            "communication buckets": begin,
        },
        ENDS: {
            "gradients": gradients - moved,
            "communication buckets": end + max(flat, own),
        },
        UPDATE: {"gradient slices": 2 * own + cast},
    }


def _stage_two(n: LocalParameters, s: Sharding, micro_steps: int) -> dict[str, Parts]:
    width = FP32 if s.fp32_sums else compute_bytes(s.precision)
    own = width * n.total / s.ranks
    begin, end = _bucket(n, s)
    flat = compute_bytes(s.precision) * min(n.total, s.buckets.reduce) if s.ranks > 1 else 0.0
    twice = 1 if s.fp32_sums or micro_steps == 1 else 2
    cast = FP32 * n.total / s.ranks if width < FP32 else 0.0
    return {
        BEGINS: {
            "gradient slices": own if micro_steps > 1 else 0.0,
            "communication buckets": begin,
        },
        ENDS: {"gradient slices": twice * own, "communication buckets": end + flat},
        UPDATE: {"gradient slices": (1 if s.fp32_sums else 2) * own + cast},
    }


def _stage_three(n: LocalParameters, s: Sharding, micro_steps: int) -> dict[str, Parts]:
    width = compute_bytes(s.precision)
    own = width * n.total / s.ranks
    bucket = width * (min(n.total, s.buckets.reduce) if s.on_cpu else s.buckets.reduce)
    live = width * min(n.total, s.buckets.live + s.buckets.prefetch)
    in_update = FP32 * min(n.total / s.ranks, s.buckets.sub_group)
    backward = {
        "gradient slices": own,
        "gathered weights": live,
        "communication buckets": bucket,
    }
    del micro_steps  # the partition of the gradients exists from the start
    # gradients of layers that are not reduced yet
    waiting = width * min(n.total, s.buckets.reduce + n.largest)
    return {
        BEGINS: backward,
        ENDS: _sum(backward, {"gradients": waiting}),
        UPDATE: {"gradient slices": own + in_update, "communication buckets": bucket},
    }
