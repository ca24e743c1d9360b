#!/usr/bin/env python
"""What each optimisation of the encoder gives on a CPU: a step with it compared with a step without it.

    python benchmarks/archive_2026_11/undone.py SHARDS [--model bert-mini] [--length 128] [--precision fp32] [--rounds 7]

Every contestant is our model with the same weights on the same real micro batches, interleaved, with one
thing done the way torch does it by itself:

    padded rows             the same samples as rows with padding (packing undone)
    all rows, last layer    output projection and MLP of the last layer for all rows, not those heads read
    torch's elementwise     bias, dropout, residual sum, LayerNorm, GELU by torch's operators
    torch's attention       scaled_dot_product_attention, on padded rows: compare with "padded rows"
    loss by two copies      logits, a float copy, torch's cross_entropy, and autograd's backward
    memory given back       glibc's settings as they are by default
    bf16 products           the library's own (bf16 only)

Times are medians, ratios medians over the rounds' own ratios to the whole model. `--profile` adds shares of
the time by kind of work.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.steps.batches import MicroBatch, RealBatches
from benchmarks.steps.peers import our_loss, our_model
from benchmarks.steps.rounds import (
    CLOCKS,
    choose_device,
    environment,
    markdown_table,
    paired_ratio,
    relative_difference,
    timed,
    turns,
    write_json,
)
from benchmarks.steps.shares import time_shares
from megabert.engine.machine import cores
from megabert.kernels import ops
from megabert.kernels.dropout import Dropout
from megabert.model import heads, modules
from megabert.parallel import cross_entropy, linear, products

WHOLE, PADDED, LIBRARY = "all of it", "padded rows", "bf16 products"
GIVEN_BACK = "memory given back"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Undo = Callable[[], contextlib.AbstractContextManager[Any]]


def _probability(dropout: Dropout | None) -> float:
    return 0.0 if dropout is None else dropout.probability


def _add_norm(
    x: Tensor,
    bias: Tensor,
    residual: Tensor,
    weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    dropout: Any,
) -> tuple[Tensor, Tensor]:
    total = residual + F.dropout(x + bias, _probability(dropout))
    return total, F.layer_norm(total, weight.shape, weight, norm_bias, eps)


@contextlib.contextmanager
def torch_elementwise() -> Iterator[None]:
    """Bias, dropout, sums, norms and GELU by torch's operators, with masks of its generator."""
    with (
        mock.patch.object(modules, "add_norm", _add_norm),
        mock.patch.object(
            ops, "_BiasGelu", SimpleNamespace(apply=lambda x, bias: F.gelu(x + bias))
        ),
        mock.patch.object(
            modules, "dropped", lambda x, dropout: F.dropout(x, _probability(dropout))
        ),
    ):
        yield


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sequences: Any,
    _: int,
    scale: float,
    dropout: Any,
    relative: None,
    setting: str = "auto",
) -> Tensor:
    shape = sequences.count, sequences.max_length, *query.shape[1:]
    q, k, v = (part.reshape(shape).transpose(1, 2) for part in (query, key, value))
    lengths = sequences.spans[:, 1] - sequences.spans[:, 0]
    real = torch.arange(sequences.max_length) < lengths[:, None]
    mask = None if bool(real.all()) else real[:, None, None, :]
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=_probability(dropout), scale=scale
    )
    return out.transpose(1, 2).reshape(query.shape)


def _loss(
    x: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, vocabulary: Any
) -> cross_entropy.VocabularyLoss:
    (logits,) = linear.column_linear(x, [weight], [bias], modules.TensorParallel())
    logits = logits[:, : vocabulary.size].float()
    loss = F.cross_entropy(logits, labels, reduction="sum")
    correct = (logits.argmax(1) == labels).sum().float()
    return cross_entropy.VocabularyLoss(loss, correct, torch.zeros_like(loss))


@contextlib.contextmanager
def memory_given_back() -> Iterator[None]:
    """glibc's defaults, where tensors of 128 KiB and more may be mapped again each time."""
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(cores._MMAP_MAX, 65536)
    mallopt(cores._TRIM_THRESHOLD, 1 << 17)
    ctypes.CDLL(None).malloc_trim(0)
    try:
        yield
    finally:
        cores.keep_freed_memory()


@contextlib.contextmanager
def all_rows() -> Iterator[None]:
    """The last layer for every row; the heads' rows are taken afterwards."""
    real = modules.Layer.forward

    def forward(self: modules.Layer, x: Tensor, inputs: Any, selected: Any = None) -> Tensor:
        out = real(self, x, inputs)
        return out if selected is None else out.index_select(0, selected)

    with mock.patch.object(modules.Layer, "forward", forward):
        yield


@contextlib.contextmanager
def library_products() -> Iterator[None]:
    """Products in bf16 by the library, whatever the CPU."""
    native = products._NATIVE
    with (
        mock.patch.object(linear, "products_for", return_value=native),
        mock.patch.object(cross_entropy, "products_for", return_value=native),
    ):
        yield


UNDONE: dict[str, Undo] = {
    WHOLE: contextlib.nullcontext,
    PADDED: contextlib.nullcontext,
    "all rows, last layer": all_rows,
    "torch's elementwise": torch_elementwise,
    "torch's attention": lambda: mock.patch.object(modules, "attention", _attention),
    "loss by two copies": lambda: mock.patch.object(heads, "vocabulary_loss", _loss),
    GIVEN_BACK: memory_given_back,
    LIBRARY: library_products,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", type=Path)
    parser.add_argument("--model", default="bert-mini", help="preset (bert-mini)")
    parser.add_argument(
        "--length", type=int, default=128, help="tokens of the longest sample (128)"
    )
    parser.add_argument("--precision", choices=sorted(DTYPES), default="fp32", help="(fp32)")
    parser.add_argument(
        "--micro-batch-size", type=int, help="samples per step (4096 tokens' worth)"
    )
    parser.add_argument("--rounds", type=int, default=7, help="timed steps of each (7)")
    parser.add_argument("--threads", type=int, help="CPU threads (torch's)")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    parser.add_argument("--profile", action="store_true", help="shares of the time by kind of work")
    parser.add_argument("--json", type=Path, help="write everything there too")
    arguments = parser.parse_args()
    device = choose_device(arguments.threads)
    if device.type != "cpu":
        parser.error("the optimisations undone here are those of CPUs: hide the GPU")
    size = arguments.micro_batch_size or max(1, 4096 // arguments.length)
    batches = RealBatches(arguments.shards, arguments.length, size)
    config = batches.model(arguments.model, 0.1)
    model = our_model(config).to(DTYPES[arguments.precision])
    names = [n for n in UNDONE if n != LIBRARY or arguments.precision == "bf16"]

    def step(name: str, batch: MicroBatch) -> Tensor:
        packed = name not in (PADDED, "torch's attention")
        with UNDONE[name]():
            loss = our_loss(model, packed)(batch)
            loss.backward()
            model.zero_grad(set_to_none=True)
        return loss.detach()

    times: dict[str, list[float]] = {name: [] for name in names}
    model.eval()
    losses = {name: float(step(name, batches.get(0))) for name in names}
    model.train()
    for number in range(arguments.rounds + 1):
        batch = batches.get(number)
        for name in turns(names, number):
            seconds, _ = timed(lambda: step(name, batch), device, arguments.clock)  # noqa: B023
            if number:  # the first round warms up
                times[name].append(seconds)
            if name == GIVEN_BACK:  # whoever is next finds the heap as it was
                step(WHOLE, batch)
    rows = [
        (
            name,
            statistics.median(times[name]) * 1000,
            paired_ratio(times[name], times[WHOLE]),
            relative_difference(losses[name], losses[WHOLE]),
        )
        for name in names
    ]
    print(markdown_table(("undone", "ms", "time x all of it", "loss difference"), rows))
    shares = {}
    if arguments.profile:
        for name in names:
            shares[name] = time_shares(lambda: step(name, batches.get(1)), 1, device)  # noqa: B023
            print(f"{name}: " + ", ".join(f"{k} {v:.1%}" for k, v in shares[name].items()))
    facts = environment(device)
    print(f"\n{config.name}, {arguments.length}, {arguments.precision}, {size} samples; {facts}")
    write_json(
        arguments.json,
        {"arguments": vars(arguments) | {"shards": str(arguments.shards), "json": None},
         "environment": facts, "seconds": times, "losses": losses, "shares": shares},
    )  # fmt: skip


if __name__ == "__main__":
    main()
