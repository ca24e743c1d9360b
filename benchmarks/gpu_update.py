#!/usr/bin/env python
"""What an update does on a GPU, counted without one: operators, launches, reads, bytes, least time.

    python benchmarks/gpu_update.py [--models bert-large] [--seq-length 128] [--micro-batch-size 512]
        [--precisions bf16,fp8] [--zero-stage 1] [--gpus 8] [--deepspeed_config FILE] [--json FILE]

The real engine (DeepSpeed, LAMB) runs on fake CUDA tensors, which have a shape and no data: every branch
for GPUs is taken. It needs a C++ compiler, and a CPU build of torch; no Triton kernel and no product runs.

"operators" are torch's dispatches, which cost the host time; "launches" those that start a kernel, Triton's
included; "reads" values that the host waits for. "least ms" is the roofline: of each kernel the larger of
its bytes over the memory's bandwidth and its FLOPs over the peak. Attention counts the FLOPs of the pairs
of real tokens. "peak" is the bytes of tensors alive on the device; the allocator's gaps, CUDA's context and
NCCL come on top. The loss curves of such a run mean nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# isort: off
from benchmarks.fake_gpu.update import MASKED, Case, Counted, count, lengths_of  # before torch

# isort: on
from benchmarks.fake_gpu.counting import ATTENTION, by_category
from benchmarks.steps.rounds import markdown_table, write_json
from megabert.common.errors import UserError
from megabert.common.hardware import ACCELERATORS
from megabert.common.log import run_command
from megabert.config.deepspeed_file import read_deepspeed_config
from megabert.config.model import ModelConfig, model_config
from megabert.config.training import ParallelSettings
from megabert.model.flops import pretraining_flops

PARTS = ("forward", "backward", "update")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--models", default="bert-large", help="comma-separated")
    parser.add_argument("--seq-length", type=int, default=128)
    parser.add_argument("--micro-batch-size", type=int, default=512, help="sequences")
    parser.add_argument("--accumulation", type=int, default=2, help="micro steps per update")
    parser.add_argument(
        "--precisions", default="bf16", help="comma-separated: bf16, fp16, fp32, fp8"
    )
    parser.add_argument("--zero-stage", type=int, choices=(1, 2), default=1)
    parser.add_argument("--activation-checkpointing", action="store_true")
    parser.add_argument("--gpus", type=int, default=8, help="data parallel ranks")
    parser.add_argument("--fill", type=float, default=0.952, help="mean share of real tokens")
    parser.add_argument("--gpu", choices=sorted(ACCELERATORS), default="h200")
    parser.add_argument("--deepspeed_config", type=Path)
    parser.add_argument("--json", type=Path)
    return parser.parse_args(argv)


def attention_flops(model: ModelConfig, pairs: float, part: str) -> float:
    """Of all layers: 2 products forward, 5 backward, which makes the probabilities again."""
    each = 2.0 * pairs * model.hidden_size * model.num_hidden_layers
    return {"forward": 2 * each, "backward": 5 * each, "update": 0.0}[part]


def rows_of(
    counted: dict[str, Counted], model: ModelConfig, pairs: float, bandwidth: float, peak: float
) -> list[list[Any]]:
    """Part, category, launches, GB, TFLOP and least milliseconds."""
    rows: list[list[Any]] = []
    for part in PARTS:
        for category, kernels in by_category(counted[part].kernels):
            moved = sum(kernel.bytes for kernel in kernels)
            flops = sum(kernel.flops for kernel in kernels)
            seconds = sum(kernel.seconds(bandwidth, peak) for kernel in kernels)
            if category == ATTENTION:
                flops = attention_flops(model, pairs, part)
                seconds = max(moved / bandwidth, flops / peak)
            rows.append([part, category, len(kernels), moved / 1e9, flops / 1e12, 1e3 * seconds])
    return rows


def counted_case(args: argparse.Namespace, name: str, precision: str) -> dict[str, Any]:
    """Count one model in one precision, and print it.

    Raises:
        UserError: an unknown model; a precision that the GPU does not have.
    """
    gpu, model = ACCELERATORS[args.gpu], model_config(name)
    peak = gpu.peak_flops("bf16" if precision == "fp8" else precision)
    if peak is None:
        raise UserError(f"--precision {precision}: {gpu.name} does not support it")
    sections = read_deepspeed_config(args.deepspeed_config) if args.deepspeed_config else {}
    parallel = ParallelSettings(
        zero_stage=args.zero_stage,
        precision=precision,  # type: ignore[arg-type]
        activation_checkpointing=args.activation_checkpointing,
    )
    case = Case(
        model, args.seq_length, args.micro_batch_size, args.accumulation, args.gpus, parallel,
        args.fill, sections,
    )  # fmt: skip
    counted = count(case)
    lengths = lengths_of(case).astype(float)
    pairs = float((lengths**2).sum())
    rows = rows_of(counted, model, pairs, gpu.memory_bandwidth, peak)
    print(
        f"\n{name}, {precision}, ZeRO {args.zero_stage}, {lengths.sum():,.0f} tokens of a micro batch\n"
    )
    print(markdown_table(("part", "kernels", "launches", "GB", "TFLOP", "least ms"), rows))
    parts = [
        [part, one.operators, len(one.kernels), len(one.reads), one.peak / 1e9, places(one.reads)]
        for part, one in counted.items()
    ]
    print()
    print(markdown_table(("part", "operators", "launches", "reads", "peak GB", "read by"), parts))
    seconds = sum(row[-1] for row in rows if row[0] != "update") / 1e3
    real = pretraining_flops(model, lengths.sum(), pairs, MASKED * lengths.sum())
    most = real / seconds / peak
    print(f"\nleast time of a micro step {1e3 * seconds:.1f} ms, MFU at most {100 * most:.1f} %")
    return {
        "model": name, "precision": precision, "kernels": rows, "parts": parts,
        "least_micro_step_seconds": seconds, "most_mfu": most,
    }  # fmt: skip


def places(reads: list[str]) -> str:
    """Each place with its number of reads."""
    return ", ".join(f"{place} x {number}" for place, number in Counter(reads).items())


def main(argv: Sequence[str] | None = None) -> None:
    """Count every model in every precision."""
    args = parse(argv)
    cases = [
        counted_case(args, name, precision)
        for name in args.models.split(",")
        for precision in args.precisions.split(",")
    ]
    settings = {key: str(value) for key, value in vars(args).items()}
    write_json(args.json, {"settings": settings, "cases": cases})


if __name__ == "__main__":
    run_command(main)
