"""The machine of a plan: an accelerator's published figures, or this machine's measured ones.

Efficiency is the fraction of the precision's own peak that forward and backward reach on real work:

    bf16, fp16   0.44    NVIDIA's published BERT-large phase 1 on 8 x A100: 574 sequences/s per GPU, of
                         128 tokens and 20 predictions, are 138 TFLOP/s of 312
    fp8          0.255   MLPerf Training, BERT on 8 x H200: 1,031 sequences/s per GPU, of 254 real
                         tokens, are 51 % of the bf16 peak, which is half the fp8 peak; with that
                         program's casts. megabert's are a part of their own (``timing``)
    fp32         0.44    the figure of bf16, because none was published
    on a CPU     0.80    of what one large matrix product reaches on the same cores; measured with
                         bert-base: 0.83 at 128 tokens, 0.78 at 512 (docs/results/2026-11.md)

They are assumed for devices without such a figure (H100, B200). ``--efficiency`` replaces them.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path

from megabert.common.errors import UserError
from megabert.common.hardware import ACCELERATORS, GIGA
from megabert.engine.metrics.devices import measured_flops
from megabert.parallel.products import cpu_has_bf16_instructions
from megabert.planner.settings import CPU, MachineSettings

EFFICIENCY = {"bf16": 0.44, "fp16": 0.44, "fp8": 0.255, "fp32": 0.44}
CPU_EFFICIENCY = 0.8
LINK_EFFICIENCY = 0.8
"""Fraction of a link's bandwidth that large collectives reach (NCCL's bus bandwidth; assumed)."""
MEMORY_EFFICIENCY = 0.8
"""Fraction of the memory bandwidth that elementwise kernels reach (assumed)."""
LATENCY = {"host": 3e-6, "network": 10e-6, CPU: 50e-6}
"""Seconds of one hop of a ring: inside a host, between hosts, between processes by TCP (assumed)."""
FRAMEWORK_GPU = 2.0 * GIGA
"""Bytes of the CUDA context, NCCL's and cuBLAS's buffers and compiled kernels (assumed)."""
IMPORTS_CPU = 0.475 * GIGA
"""Resident bytes of a process after its imports, DeepSpeed included (measured)."""
RUN_CPU = 0.08 * GIGA
"""Bytes of a run besides model and batches: loader, process groups, compiled operators (measured)."""
CPU_LINK = 1.0 * GIGA
"""Bytes/s each way between two processes of one host, by gloo over TCP (assumed)."""


@dataclass(frozen=True)
class Machine:
    """What a plan needs to know of its devices; bytes, bytes/s and FLOP/s of one device.

    Attributes:
        peak: FLOP/s of matrix products, by precision; a missing precision is not supported.
        network_bandwidth: between hosts, each way; None if it is not known.
    """

    name: str
    memory_bytes: float
    memory_bandwidth: float
    peak: dict[str, float]
    efficiency: dict[str, float]
    link_bandwidth: float
    network_bandwidth: float | None
    per_host: int
    framework_bytes: float
    latency: dict[str, float] = field(default_factory=lambda: dict(LATENCY))

    @property
    def is_cpu(self) -> bool:
        """Whether the ranks are processes that share this machine's processor and memory."""
        return self.name == CPU


def make_machine(settings: MachineSettings) -> Machine:
    """The machine that the settings name.

    Raises:
        UserError: an unknown device.
    """
    if settings.gpu == CPU:
        return measured_machine(settings)
    if settings.gpu not in ACCELERATORS:
        raise UserError(
            f"--gpu {settings.gpu}: unknown device; use cpu or one of {', '.join(ACCELERATORS)}"
        )
    device = ACCELERATORS[settings.gpu]
    peak = {p: value for p in EFFICIENCY if (value := device.peak_flops(p)) is not None}
    network = device.network_bandwidth
    if settings.network_bandwidth is not None:
        network = settings.network_bandwidth * GIGA
    return Machine(
        name=device.name,
        memory_bytes=device.memory_bytes,
        memory_bandwidth=device.memory_bandwidth,
        peak=peak,
        efficiency={p: settings.efficiency or EFFICIENCY[p] for p in peak},
        link_bandwidth=device.link_bandwidth,
        network_bandwidth=network,
        per_host=settings.gpus_per_node,
        framework_bytes=FRAMEWORK_GPU,
    )


def own_gpu(memory_bytes: float) -> Machine:
    """The GPU of a run, for what depends on its memory only; nothing is known of its speed."""
    unknown = math.nan
    return Machine(
        name="gpu",
        memory_bytes=memory_bytes,
        memory_bandwidth=unknown,
        peak=dict.fromkeys(EFFICIENCY, unknown),
        efficiency=EFFICIENCY,
        link_bandwidth=unknown,
        network_bandwidth=None,
        per_host=1,
        framework_bytes=FRAMEWORK_GPU,
    )


def memory_total(meminfo: Path = Path("/proc/meminfo")) -> float:
    """Bytes of this machine's memory.

    Raises:
        UserError: the system does not report it.
    """
    try:
        text = meminfo.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{meminfo}: {error.strerror}; --gpu cpu needs Linux") from error
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if name == "MemTotal":
            return float(rest.split()[0]) * 1024
    raise UserError(f"{meminfo} has no line MemTotal; --gpu cpu needs Linux")


def _copied_bytes(rounds: int = 4) -> float:
    """Bytes/s, read and written, of the fastest of several copies of 64 MiB."""
    import torch

    source = torch.zeros(1 << 24)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        target.copy_(source)
        seconds.append(time.perf_counter() - began)
    return 2 * source.nbytes / min(seconds)


def measured_machine(settings: MachineSettings) -> Machine:
    """This machine, shared by ``gpus`` ranks: matrix products and memory copies are timed (1 s).

    A processor without bf16 instructions multiplies bf16 as fp32 (``megabert.parallel.products``), so
    both have the same peak.
    """
    import torch

    fp32 = measured_flops(torch.float32) / settings.gpus
    peak = {"fp32": fp32, "bf16": fp32}
    if cpu_has_bf16_instructions():
        peak["bf16"] = measured_flops(torch.bfloat16) / settings.gpus
    return Machine(
        name=CPU,
        memory_bytes=memory_total() / settings.gpus,
        memory_bandwidth=_copied_bytes() / settings.gpus,
        peak=peak,
        efficiency=dict.fromkeys(peak, settings.efficiency or CPU_EFFICIENCY),
        link_bandwidth=CPU_LINK,
        network_bandwidth=None,
        per_host=settings.gpus,
        framework_bytes=IMPORTS_CPU + RUN_CPU,
        latency={"host": LATENCY[CPU], "network": LATENCY[CPU]},
    )
