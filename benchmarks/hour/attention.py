#!/usr/bin/env python
"""Attention forward and backward: megabert's choice, each implementation, NEZHA's, by length.

    python benchmarks/hour/attention.py [--lengths 64,128,256,384,512] [--tokens 65536] [--json FILE]

BERT-large's heads (16 of 64), bf16, dropout 0.1, packed sequences of random lengths up to the given one
(nine of ten have it). Times are medians of rounds, interleaved. TFLOP/s count two products forward and
five backward over the real pairs of tokens. An implementation that cannot run here says why.
"""

from __future__ import annotations

import argparse
import importlib
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.steps.rounds import (
    choose_device,
    environment,
    markdown_table,
    timed,
    turns,
    write_json,
)
from megabert.common.log import run_command
from megabert.kernels.attention import flash
from megabert.kernels.attention.dispatch import Sequences, attention
from megabert.kernels.attention.relative import relative_attention
from megabert.kernels.dropout import Dropout, token_keys

OURS, NEZHA = "megabert's choice, BERT", "megabert's choice, NEZHA"
HEADS, SIZE, DROPOUT, REACH = 16, 64, 0.1, 64
SHORTER = 0.1
"""Share of the sequences with a random shorter length, as in pretraining."""
Step = Callable[[Tensor, Tensor, Tensor], Tensor]


def _kernel() -> ModuleType:
    """megabert's kernel; a version without it has no such module."""
    return importlib.import_module("megabert.kernels.triton.attention")


class _ByTriton(torch.autograd.Function):
    """megabert's kernel, whatever the dispatch would choose."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, *place: Any) -> Tensor:
        context, lse = _kernel().attention_forward(query, key, value, *place)
        ctx.save_for_backward(query, key, value, context, lse)
        ctx.place = place
        return context

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        made = _kernel().attention_backward(grads[0], *ctx.saved_tensors, *ctx.place)
        return (*made, *(None for _ in ctx.place))


def random_lengths(length: int, tokens: int) -> list[int]:
    """Lengths of sequences of about ``tokens`` tokens in all, most of them ``length``."""
    rng = random.Random(length)
    count = max(1, tokens // length)
    return [
        rng.randint(max(1, length // 8), length) if rng.random() < SHORTER else length
        for _ in range(count)
    ]


def contenders(lengths: Sequence[int], longest: int, device: torch.device) -> dict[str, Step]:
    """Every implementation, on sequences of these lengths; of the padded ones only the padded rows."""
    bounds = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)
    total, scale = sum(lengths), SIZE**-0.5
    numbers = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    places = torch.cat([torch.arange(length) for length in lengths])
    dropout = Dropout(DROPOUT, 12345, token_keys(numbers, places).to(device))
    table = torch.randn(2 * REACH + 1, SIZE, device=device) * 0.1
    sequences = Sequences.packed(bounds, longest)
    rows, real = Sequences(len(lengths), longest, cu_seqlens=bounds).grid(total, device)

    def way(function: Callable[..., Tensor]) -> Step:
        return lambda q, k, v: function(q, k, v, bounds, longest, scale, DROPOUT)

    def rows_by(backend: SDPBackend) -> Step:
        """Uniform rows without a mask: as if every sequence had the same length."""
        count = total // longest

        def step(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            parts = (
                x[: count * longest].view(count, longest, HEADS, SIZE).transpose(1, 2)
                for x in (q, k, v)
            )
            with sdpa_kernel(backend):
                out = torch.nn.functional.scaled_dot_product_attention(*parts, dropout_p=DROPOUT)
            return out.transpose(1, 2)

        return step

    def kernel(relative: Tensor | None) -> Step:
        place = bounds, longest, 0, scale, dropout, relative
        return lambda q, k, v: _ByTriton.apply(q, k, v, *place)

    return {
        OURS: lambda q, k, v: attention(q, k, v, sequences, 0, scale, dropout),
        NEZHA: lambda q, k, v: attention(q, k, v, sequences, 0, scale, dropout, table),
        "Triton kernel, BERT": kernel(None),
        "Triton kernel, NEZHA": kernel(table),
        "torch's flash operator": way(flash.by_torch),
        "flash-attn": way(_package),
        "padded, SDPA with a mask": way(flash.padded),
        "uniform rows, cuDNN": rows_by(SDPBackend.CUDNN_ATTENTION),
        "uniform rows, flash": rows_by(SDPBackend.FLASH_ATTENTION),
        "NEZHA by torch operators": lambda q, k, v: relative_attention(
            q, k, v, table, rows, real, 0, scale, dropout
        ),
    }


def _package(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int, scale: float, p: float) -> Tensor:  # fmt: skip
    """flash-attn's function of the same name."""
    from flash_attn import flash_attn_varlen_func

    return flash_attn_varlen_func(
        q, k, v, bounds, bounds, longest, longest, dropout_p=p, softmax_scale=scale
    )


def measure(
    length: int, tokens: int, rounds: int, dtype: torch.dtype, device: torch.device
) -> list[dict[str, Any]]:
    """One row per implementation."""
    lengths = random_lengths(length, tokens)
    whole = torch.randn(3, sum(lengths), HEADS, SIZE, device=device, dtype=dtype)
    inputs = [part.requires_grad_() for part in whole.unbind()]
    flops = 14 * HEADS * SIZE * sum(n * n for n in lengths)
    field = contenders(lengths, length, device)

    def both(name: str) -> None:
        out = field[name](*inputs)
        torch.autograd.grad(out, inputs, torch.ones_like(out))

    rows: list[dict[str, Any]] = []
    times: dict[str, list[float]] = {}
    for name in field:
        try:
            both(name)
            both(name)
            times[name] = []
        except Exception as error:  # an implementation can refuse in any way
            reason = " ".join(str(error).split())[:140] or type(error).__name__
            rows.append({"length": length, "name": name, "not_available": reason})
    for number in range(rounds):
        for name in turns(list(times), number):
            times[name].append(timed(lambda name=name: both(name), device)[0])
    measured = [
        {
            "length": length,
            "name": name,
            "ms": statistics.median(own) * 1e3,
            "tflops": flops / statistics.median(own) / 1e12,
        }
        for name, own in times.items()
    ]
    return measured + rows


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", default="64,128,256,384,512", help="with commas")
    parser.add_argument("--tokens", type=int, default=65536, help="of a micro batch (65536)")
    parser.add_argument("--rounds", type=int, default=20, help="timed steps of each (20)")
    parser.add_argument("--json", type=Path, help="write everything there too")
    given = parser.parse_args(argv)
    device = choose_device(None)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    rows: list[dict[str, Any]] = []
    for length in map(int, given.lengths.split(",")):
        rows += measure(length, given.tokens, given.rounds, dtype, device)
        write_json(given.json, {"environment": environment(device), "rows": rows})
    done = [(row["length"], row["name"], row["ms"], row["tflops"]) for row in rows if "ms" in row]
    print(markdown_table(("length", "attention", "ms", "TFLOP/s"), done))
    reasons = {row["name"]: row["not_available"] for row in rows if "not_available" in row}
    print("\n".join(["", *(f"- {name}: not available: {why}" for name, why in reasons.items())]))
    return 0


if __name__ == "__main__":
    run_command(main)
