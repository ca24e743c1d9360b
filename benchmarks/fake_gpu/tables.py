"""What a counted update does, as tables: each part's kernels, reads, bytes and least time."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

# isort: off
from benchmarks.fake_gpu.update import MASKED, Case, Counted, count, lengths_of  # before torch

# isort: on
from benchmarks.fake_gpu.counting import ATTENTION, by_category
from benchmarks.steps.rounds import markdown_table
from megabert.common.hardware import ACCELERATORS
from megabert.config.model import ModelConfig, model_config
from megabert.config.training import ParallelSettings
from megabert.model.flops import pretraining_flops

PARTS = ("forward", "backward", "update")


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
    """Count one model in one precision, and print it."""
    gpu, model = ACCELERATORS[args.gpu], model_config(name)
    peak = gpu.peak_flops("bf16" if precision == "fp8" else precision)
    assert peak is not None
    parallel = ParallelSettings(
        zero_stage=args.zero_stage,
        precision=precision,  # type: ignore[arg-type]
        activation_checkpointing=args.activation_checkpointing,
    )
    case = Case(
        model, args.seq_length, args.micro_batch_size, args.accumulation, args.gpus, parallel,
        args.fill, args.sections,
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
