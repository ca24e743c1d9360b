"""All communication between ranks: bytes sent, number of messages and time, by ring formulas.

n ranks, B bytes of the whole tensor, b bytes/s each way, a seconds per hop (Thakur et al. 2005):

    all-reduce       2 (n-1)/n B / b  +  2 min(n-1, log2 n) a
    reduce-scatter     (n-1)/n B / b  +      (n-1) a
    all-gather         (n-1)/n B / b  +      (n-1) a

The hops of an all-reduce are those of two binary trees (Sanders et al. 2009), which NCCL uses instead
of rings where many ranks and short messages make them faster.

A ring over several hosts is as fast as its slowest link. With k of the group's ranks on a host, k rings
use k network cards: b = min(link, k x network). Tensor parallel ranks are neighbours, so a data
parallel group has per_host / t ranks on each host. The formulas assume that communication does not
overlap with computation: ``overlap_comm`` is off by default, and tensor parallelism waits for its
results.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from megabert.common.errors import UserError
from megabert.config.model import ModelConfig
from megabert.optim.muon.ownership import BUCKET
from megabert.optim.registry import optimizer_spec
from megabert.planner.activations import Division, MicroBatch
from megabert.planner.machine import LINK_EFFICIENCY, Machine
from megabert.planner.matrices import WholeMatrices
from megabert.planner.parameters import LocalParameters
from megabert.planner.states import ALLREDUCE_ELEMENTS, FP32, Sharding, compute_bytes

Kind = Literal["all-reduce", "reduce-scatter", "all-gather", "all-to-all"]
PASSES: dict[str, int] = {"all-reduce": 2, "reduce-scatter": 1, "all-gather": 1, "all-to-all": 1}


@dataclass(frozen=True)
class Ring:
    """The links of one group: ``ranks``, bytes/s each way per rank, seconds per hop."""

    ranks: int
    bandwidth: float
    latency: float

    def wire_bytes(self, kind: Kind, size: float) -> float:
        """Bytes that a rank sends for one tensor of ``size`` bytes."""
        return PASSES[kind] * (self.ranks - 1) / self.ranks * size

    def seconds(self, kind: Kind, size: float, messages: float = 1) -> float:
        """Time of ``messages`` operations of ``size`` bytes in total."""
        if self.ranks == 1:
            return 0.0
        hops = self.ranks - 1
        if kind == "all-reduce":
            hops = 2 * min(hops, math.ceil(math.log2(self.ranks)))
        return self.wire_bytes(kind, size) / self.bandwidth + messages * hops * self.latency


def make_ring(machine: Machine, ranks: int, stride: int) -> Ring:
    """The ring of a group whose ranks are ``stride`` apart.

    Raises:
        UserError: it spans several hosts, and the network's bandwidth is not known.
    """
    on_host = max(1, min(ranks, machine.per_host // stride))
    if ranks <= on_host:
        return Ring(ranks, LINK_EFFICIENCY * machine.link_bandwidth, machine.latency["host"])
    if machine.network_bandwidth is None:
        raise UserError(
            f"{ranks * stride} ranks of {machine.name} do not fit on one host of {machine.per_host}, and "
            "the network's bandwidth is not known: give --network-bandwidth, in GB/s each way per device"
        )
    bandwidth = min(machine.link_bandwidth, on_host * machine.network_bandwidth)
    return Ring(ranks, LINK_EFFICIENCY * bandwidth, machine.latency["network"])


@dataclass(frozen=True)
class Exchange:
    """One kind of communication in an update.

    Attributes:
        what: its purpose.
        group: "data" or "tensor".
        kind: "all-reduce", "reduce-scatter", "all-gather" or "all-to-all".
        ranks: of the group.
        times: operations per update.
        size: bytes of the tensors, summed over one update.
        wire: bytes that a rank sends in one update.
        seconds: time in one update.
    """

    what: str
    group: str
    kind: Kind
    ranks: int
    times: int
    size: float
    wire: float
    seconds: float


def _exchange(
    what: str, group: str, kind: Kind, ring: Ring, times: int, size: float
) -> list[Exchange]:
    """``times`` operations, ``size`` bytes in total; none for a group of one rank."""
    if ring.ranks == 1 or not size:
        return []
    wire, seconds = ring.wire_bytes(kind, size), ring.seconds(kind, size, times)
    return [Exchange(what, group, kind, ring.ranks, times, size, wire, seconds)]


def data_exchanges(n: LocalParameters, s: Sharding, ring: Ring, micro_steps: int) -> list[Exchange]:
    """What data parallel ranks exchange in one update.

    Gradients are sent in the compute precision, or fp32 sums as such (``communication_data_type``): once
    per update at stages 0 and 1, and in every micro step at stages 2 and 3, where no rank holds all of
    them. Stages 1 and 2 use all-reduce, although each rank needs only its partition
    (``use_multi_rank_bucket_allreduce``).
    """
    whole = compute_bytes(s.precision) * n.total
    gradients = s.sent_bytes(micro_steps) * n.total
    norms = 2 * 8 * n.tensors

    def messages(bucket: int) -> int:
        return math.ceil(n.total / bucket)

    found: list[Exchange] = []
    if s.stage in (0, 1):
        bucket = ALLREDUCE_ELEMENTS if s.stage == 0 else s.buckets.reduce
        times = 2 if s.stage == 1 and s.fp32_sums else messages(bucket)  # the optimizer's groups
        found += _exchange("gradients", "data", "all-reduce", ring, times, gradients)
    elif s.stage == 2:
        times = messages(s.buckets.reduce) * micro_steps
        found += _exchange("gradients", "data", "all-reduce", ring, times, gradients * micro_steps)
    else:
        layers = math.ceil(n.total / n.layer)
        passes = 1 if n.total <= s.buckets.live else 2
        times = layers * passes * micro_steps
        size = whole * passes * micro_steps
        found += _exchange("weights of a layer", "data", "all-gather", ring, times, size)
        times = messages(min(s.buckets.reduce, n.total)) * micro_steps
        size = gradients * micro_steps
        found += _exchange("gradients", "data", "reduce-scatter", ring, times, size)
    if s.stage in (1, 2):
        found += _exchange("weights", "data", "all-gather", ring, 2, whole)
    if optimizer_spec(s.optimizer).sums_norms:
        what = f"norms of {s.optimizer.upper()}"
        found += _exchange(what, "data", "all-reduce", ring, 2, norms)
    return found


def matrix_exchanges(
    matrices: WholeMatrices, s: Sharding, ring: Ring, degree: int, width: int
) -> list[Exchange]:
    """What an optimizer sends that updates whole matrices; ``width``: bytes of an element."""
    if ring.ranks == 1 or not matrices.number:
        return []
    wire = width * matrices.sent(s.stage, s.ranks, degree)
    times = matrices.messages(s.ranks, degree, BUCKET)
    seconds = wire / ring.bandwidth + times * (ring.ranks - 1) * ring.latency
    what, size = f"matrices of {s.optimizer.upper()}", width * matrices.elements
    group = "data" if s.ranks > 1 else "tensor"
    return (
        [Exchange(what, group, "all-to-all", ring.ranks, times, size, wire, seconds)]
        if wire
        else []
    )


def tensor_exchanges(
    config: ModelConfig,
    batch: MicroBatch,
    precision: str,
    ring: Ring,
    micro_steps: int,
    division: Division,
) -> list[Exchange]:
    """What tensor parallel ranks exchange in one update.

    A layer has two split regions; each needs an all-reduce in forward and one in backward. Recomputing
    a layer repeats the one in forward. Sequence parallelism replaces each all-reduce by a
    reduce-scatter and an all-gather, which send the same bytes, and gathers each region's input once
    more in backward.
    """
    width = compute_bytes(precision)
    layers, h = config.num_hidden_layers, config.hidden_size
    passes = 2 + 2 + (2 if division.checkpointing else 0)
    regions = passes * layers * micro_steps
    size = regions * batch.tokens * h * width
    found: list[Exchange] = []
    if division.sequence_parallel:
        found += _exchange(
            "split regions of the layers", "tensor", "reduce-scatter", ring, regions, size
        )
        again = 2 * layers * micro_steps
        size += again * batch.tokens * h * width
        regions += again
        found += _exchange(
            "split regions of the layers", "tensor", "all-gather", ring, regions, size
        )
    else:
        found += _exchange(
            "split regions of the layers", "tensor", "all-reduce", ring, regions, size
        )
    rows = batch.tokens * h * width * micro_steps
    found += _exchange("word embeddings", "tensor", "all-reduce", ring, micro_steps, rows)
    rows = batch.predicted * h * width * micro_steps
    found += _exchange("MLM head", "tensor", "all-reduce", ring, micro_steps, rows)
    rows = batch.predicted * 4 * FP32 * ring.ranks * micro_steps
    return found + _exchange("cross-entropy", "tensor", "all-gather", ring, micro_steps, rows)
