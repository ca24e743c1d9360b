"""What matrix products alone cost here: rates measured for each shape of the model.

The *ceiling* is the best rate among the shapes, which MFU is measured against. The *bound* of a micro
batch is the time that its useful products would take one after the other with nothing between them:
each at the rate of its own shape, those of attention at the ceiling, as how they are cut up is the
kernel's choice. Model and formula count the last layer whole, of which only the rows that a head reads
need be computed: a step may so come out a little faster than its bound.

Shapes: T real tokens, H hidden, I MLP width, M masked positions, V vocabulary, D head size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from benchmarks.steps.batches import Work
from benchmarks.steps.rounds import timed
from megabert.config.model import ModelConfig

SECONDS_A_SHAPE = 0.1
FEWEST_CALLS = 3


@dataclass(frozen=True)
class Product:
    """``count`` times ``[batch] x [m, k] @ [k, n]``; ``batch`` 0: a plain matrix product."""

    name: str
    count: float
    m: int
    k: int
    n: int
    batch: int = 0

    @property
    def flops(self) -> float:
        """Of one of them."""
        return 2.0 * max(1, self.batch) * self.m * self.k * self.n


def products(config: ModelConfig, work: Work) -> list[Product]:
    """The products of forward and backward over a micro batch, as model/flops.py counts them.

    Attention is that of ``samples`` sequences of the root mean square length, which has the same FLOPs.
    """
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    linear = [
        ("query, key, value", layers, work.tokens, hidden, 3 * hidden),
        ("attention output", layers, work.tokens, hidden, hidden),
        ("MLP up", layers, work.tokens, hidden, inner),
        ("MLP down", layers, work.tokens, inner, hidden),
        ("head", 1, work.predictions, hidden, hidden),
        ("vocabulary", 1, work.predictions, hidden, config.vocab_size),
    ]
    found = []
    for name, count, rows, inputs, outputs in linear:
        found += [
            Product(name, count, rows, inputs, outputs),
            Product(f"{name}, input gradient", count, rows, outputs, inputs),
            Product(f"{name}, weight gradient", count, outputs, rows, inputs),
        ]
    length = max(1, round(math.sqrt(work.squared_lengths / work.samples)))
    batch = work.samples * config.num_attention_heads
    exact = work.squared_lengths / (work.samples * length**2)
    size = config.head_size
    found += [
        Product("attention scores", 3 * layers * exact, length, size, length, batch),
        Product("attention context", 3 * layers * exact, length, length, size, batch),
    ]
    return [product for product in found if product.flops]


def best_seconds(
    product: Product,
    dtype: torch.dtype,
    device: torch.device,
    clock: str = "wall",
    enough: float = math.inf,
) -> float:
    """The fastest of some calls; no more are made once one has taken ``enough`` seconds."""
    left = torch.randn(product.m, product.k, device=device, dtype=dtype)
    right = torch.randn(product.n, product.k, device=device, dtype=dtype).t()
    out = left.new_empty(product.m, product.n)
    times: list[float] = []
    while len(times) < FEWEST_CALLS or sum(times) < SECONDS_A_SHAPE:
        seconds, _ = timed(lambda: torch.mm(left, right, out=out), device, clock)
        times.append(seconds)
        if times[-1] > enough:
            break
    return min(times)


@dataclass(frozen=True)
class Ceiling:
    """``rates``: FLOP/s by product name; ``bound``: seconds of all; ``best``: the best rate."""

    rates: dict[str, float]
    bound: float
    best: float


def measure_ceiling(
    config: ModelConfig, work: Work, dtype: torch.dtype, device: torch.device, clock: str = "wall"
) -> Ceiling:
    """Rates of the linear layers' products, and the bound of a micro batch.

    On a CPU products in bf16 may be slower than in fp32; the rate is then that of fp32, as nobody
    has to multiply in bf16.
    """
    found = products(config, work)
    rates = {}
    for product in (one for one in found if not one.batch):
        seconds = math.inf
        if device.type == "cpu" and dtype != torch.float32:
            seconds = best_seconds(product, torch.float32, device, clock)
        seconds = min(seconds, best_seconds(product, dtype, device, clock, enough=2 * seconds))
        rates[product.name] = product.flops / seconds
    best = max(rates.values())
    bound = sum(one.count * one.flops / rates.get(one.name, best) for one in found)
    return Ceiling(rates, bound, best)
