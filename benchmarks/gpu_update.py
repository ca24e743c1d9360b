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
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.steps.json_file import json_file
from megabert.common.errors import UserError
from megabert.common.hardware import ACCELERATORS
from megabert.common.log import run_command
from megabert.config.deepspeed_file import read_deepspeed_config
from megabert.config.flags import plain_parser
from megabert.config.model import model_config
from megabert.config.numbers import Count, Limits, Size
from megabert.config.values import ValueReader

Precisions = tuple[Literal["bf16", "fp16", "fp32", "fp8"], ...]
Sequences = Annotated[int, Limits(gt=0, le=65536)]
GPUs = Annotated[int, Limits(gt=0, le=4096)]
Fill = Annotated[float, Limits(ge=0.5, le=1.0)]
"""The lengths of short samples are spread evenly, so that half of the tokens are real at least."""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags.

    Raises:
        UserError: a wrong value; a length that a model does not have; a precision that the GPU does not have.
    """
    parser = plain_parser("gpu_update.py", (__doc__ or "").splitlines()[0])
    add = parser.add_argument
    names = ("bert-large",)
    add("--models", type=ValueReader(tuple[str, ...]), default=names, help="(bert-large)")
    add("--seq-length", type=ValueReader(Size), default=128, help="(128)")
    add("--micro-batch-size", type=ValueReader(Sequences), default=512, help="sequences (512)")
    add("--accumulation", type=ValueReader(Count), default=2, help="micro steps per update (2)")
    add(
        "--precisions", type=ValueReader(Precisions), default=("bf16",),
        help="of bf16, fp16, fp32, fp8; comma-separated, as models (bf16)",
    )  # fmt: skip
    add("--zero-stage", type=int, choices=(1, 2), default=1, help="(1)")
    add("--activation-checkpointing", action="store_true")
    add("--gpus", type=ValueReader(GPUs), default=8, help="data parallel ranks (8)")
    add("--fill", type=ValueReader(Fill), default=0.952, help="mean share of real tokens (0.952)")
    add("--gpu", choices=sorted(ACCELERATORS), default="h200", help="(h200)")
    add("--deepspeed_config", type=Path)
    add("--json", type=json_file)
    args = parser.parse_args(argv)
    for name in args.models:
        longest = model_config(name).max_position_embeddings
        if args.seq_length > longest:
            raise UserError(f"--seq-length {args.seq_length}: {name} takes {longest} at most")
    gpu = ACCELERATORS[args.gpu]
    for precision in args.precisions:
        if gpu.peak_flops(precision) is None:
            raise UserError(f"--precisions {precision}: {gpu.name} does not support it")
    args.sections = read_deepspeed_config(args.deepspeed_config) if args.deepspeed_config else {}
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Count every model in every precision."""
    args = parse(argv)
    # changes torch for the whole process
    from benchmarks.fake_gpu.tables import counted_case
    from benchmarks.steps.rounds import write_json

    cases = [
        counted_case(args, name, precision) for name in args.models for precision in args.precisions
    ]
    settings = {
        key: ",".join(value) if isinstance(value, tuple) else str(value)
        for key, value in vars(args).items()
    }
    write_json(args.json, {"settings": settings, "cases": cases})


if __name__ == "__main__":
    run_command(main)
