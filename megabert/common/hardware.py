"""Published figures of accelerators: peak arithmetic, memory, links.

The peaks are those of dense matrix products (a data sheet's figure "with sparsity" is twice that), with
fp32 accumulation, at the boost clock.  Sources, all NVIDIA's: the data sheets of Tesla T4, V100, A10,
A30, A100, L4, L40S, H100, H200 and GH200, the data sheets of DGX-1, DGX A100, DGX H100, DGX H200 and
DGX B200 (links, network, B200), and the GA102, Ada and RTX Blackwell architecture papers (GeForce).

Units: FLOP/s (a multiplication and an addition are two), bytes, bytes/s.  One direction counts: a link
that is sold as 900 GB/s carries 450 GB/s each way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TERA, GIGA = 1e12, 1e9


@dataclass(frozen=True)
class Accelerator:
    """One model of accelerator.

    Attributes:
        name: short name, as a command line takes it (``h100``).
        words: words that a driver's name for the device holds ("NVIDIA H100 PCIe").
        memory_bytes: as published, 1 GB = 10^9 bytes (cards hold up to 7 % more).
        memory_bandwidth: bytes/s from and to that memory.
        bf16_flops: bf16 tensor cores; None where they do not know bf16.
        fp16_flops: fp16 tensor cores.
        fp8_flops: fp8 tensor cores; None where there is no fp8.
        tf32_flops: fp32 data through tensor cores in TF32; None where there is no TF32.
        fp32_flops: true fp32, outside tensor cores.
        link_bandwidth: bytes/s each way from one device to the others of its host (NVLink, or PCIe x16).
        network_bandwidth: bytes/s each way and device between hosts, in NVIDIA's own 8-device system
            (DGX); None if it has none.
    """

    name: str
    words: tuple[str, ...]
    memory_bytes: float
    memory_bandwidth: float
    bf16_flops: float | None
    fp16_flops: float
    fp8_flops: float | None
    tf32_flops: float | None
    fp32_flops: float
    link_bandwidth: float
    network_bandwidth: float | None

    def peak_flops(self, precision: str) -> float | None:
        """Peak of matrix products in "fp32", "bf16", "fp16" or "fp8"; None if the device lacks it.

        fp32 is true fp32: TF32 rounds its inputs to 10 bits and torch uses it only if it is set to.
        """
        return {
            "fp32": self.fp32_flops,
            "bf16": self.bf16_flops,
            "fp16": self.fp16_flops,
            "fp8": self.fp8_flops,
        }[precision]


def _accelerator(
    name: str,
    words: str,
    memory: tuple[float, float],
    half: tuple[float | None, float],
    fp8: float | None,
    single: tuple[float | None, float],
    link: float,
    network: float | None = None,
) -> Accelerator:
    """Units: GB and GB/s (memory), TFLOP/s (bf16, fp16; fp8; TF32, fp32), GB/s each way."""

    def scaled(value: float | None, unit: float) -> float | None:
        return None if value is None else value * unit

    return Accelerator(
        name,
        tuple(words.upper().split()),
        memory_bytes=memory[0] * GIGA,
        memory_bandwidth=memory[1] * GIGA,
        bf16_flops=scaled(half[0], TERA),
        fp16_flops=half[1] * TERA,
        fp8_flops=scaled(fp8, TERA),
        tf32_flops=scaled(single[0], TERA),
        fp32_flops=single[1] * TERA,
        link_bandwidth=link * GIGA,
        network_bandwidth=scaled(network, GIGA),
    )


# name, words; memory GB, GB/s; TFLOP/s of (bf16, fp16), fp8, (TF32, fp32); GB/s link, network
ACCELERATORS: dict[str, Accelerator] = {
    accelerator.name: accelerator
    for accelerator in (
        _accelerator("t4", "T4", (16, 320), (None, 65), None, (None, 8.1), 16),
        _accelerator("v100-16", "V100 16GB", (16, 900), (None, 125), None, (None, 15.7), 150, 6.25),
        _accelerator("v100-32", "V100 32GB", (32, 900), (None, 125), None, (None, 15.7), 150, 6.25),
        _accelerator(
            "v100-pcie-16", "V100 PCIE 16GB", (16, 900), (None, 112), None, (None, 14), 16
        ),
        _accelerator(
            "v100-pcie-32", "V100 PCIE 32GB", (32, 900), (None, 112), None, (None, 14), 16
        ),
        _accelerator("a10", "A10", (24, 600), (125, 125), None, (62.5, 31.2), 32),
        _accelerator("a30", "A30", (24, 933), (165, 165), None, (82, 10.3), 100),
        _accelerator("a100-40", "A100 40GB", (40, 1555), (312, 312), None, (156, 19.5), 300, 25),
        _accelerator("a100-80", "A100 80GB", (80, 2039), (312, 312), None, (156, 19.5), 300, 25),
        _accelerator(
            "a100-pcie-80", "A100 80GB PCIE", (80, 1935), (312, 312), None, (156, 19.5), 300
        ),
        _accelerator("l4", "L4", (24, 300), (121, 121), 242.5, (60, 30.3), 32),
        _accelerator("l40s", "L40S", (48, 864), (362, 362), 733, (183, 91.6), 32),
        _accelerator("rtx-3090", "RTX 3090", (24, 936), (71, 71), None, (35.6, 35.6), 32),
        _accelerator("rtx-4090", "RTX 4090", (24, 1008), (165.2, 165.2), 330.3, (82.6, 82.6), 32),
        _accelerator("rtx-5090", "RTX 5090", (32, 1792), (209.5, 209.5), 419, (104.8, 104.8), 64),
        _accelerator("h100", "H100", (80, 3350), (989.4, 989.4), 1978.9, (494.7, 66.9), 450, 50),
        _accelerator("h100-pcie", "H100 PCIE", (80, 2000), (756, 756), 1513, (378, 51), 300),
        _accelerator("h100-nvl", "H100 NVL", (94, 3900), (835, 835), 1671, (417.5, 60), 300),
        _accelerator("gh200", "GH200", (96, 4000), (989.4, 989.4), 1978.9, (494.7, 66.9), 450, 50),
        _accelerator("h200", "H200", (141, 4800), (989.4, 989.4), 1978.9, (494.7, 66.9), 450, 50),
        _accelerator("h200-nvl", "H200 NVL", (141, 4800), (835.5, 835.5), 1671, (418, 60), 450),
        _accelerator("b200", "B200", (180, 8000), (2250, 2250), 4500, (1125, 75), 900, 50),
    )
}


def find_accelerator(device_name: str) -> Accelerator | None:
    """The accelerator that a driver calls ``device_name``; None if it is not in the table.

    That is the entry with the most words, all of them in the name. A slice of a device (MIG) has
    no published peak, and a laptop's one has another.
    """
    words = set(re.split(r"[\s_-]+", device_name.upper()))
    if words & {"MIG", "LAPTOP"}:
        return None
    matches = [one for one in ACCELERATORS.values() if words >= set(one.words)]
    return max(matches, key=lambda one: len(one.words), default=None)
