"""LAMB, LANS and AdamW in float64 on whole tensors in one process: the plain twin of Lamb."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class LambReference:
    """Global-norm clipping, then LAMB, by names; biases and norms neither decay nor adapt.

    ``groups``: by name, something with ``lr_scale``, ``weight_decay``, ``adapt``, ``beta1``, ``beta2`` and
    ``eps`` (None: as usual).
    """

    def __init__(
        self,
        weights: Mapping[str, Array],
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        bias_correction: bool = True,
        bounds: tuple[float, float] = (0.0, float("inf")),
        clip: float = 0.0,
        rule: str = "lamb",
        adapt_all: bool = False,
        groups: Mapping[str, Any] | None = None,
    ) -> None:
        self.weights = {name: np.array(value, np.float64) for name, value in weights.items()}
        self.m = {name: np.zeros_like(value) for name, value in self.weights.items()}
        self.v = {name: np.zeros_like(value) for name, value in self.weights.items()}
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        self.bias_correction, self.bounds, self.clip = bias_correction, bounds, clip
        self.rule, self.adapt_all = rule, adapt_all
        self.groups = dict(groups or {})
        self.t = 0
        self.norm = float("nan")
        self.ratios: dict[str, float] = {}

    @staticmethod
    def plain(name: str) -> bool:
        """A bias, or a parameter of a norm."""
        return bool(re.search(r"(^|\.)bias$|norm\.weight$", name))

    def step(self, gradients: Mapping[str, Array], lr: float) -> None:
        """One update."""
        self.t += 1
        self.norm = float(np.sqrt(sum(np.sum(g**2) for g in gradients.values())))
        scale = min(1.0, self.clip / (self.norm + 1e-6)) if self.clip else 1.0
        for name, p in self.weights.items():
            own = self.groups.get(name)
            b1, b2, eps = (
                usual if (value := getattr(own, key, None)) is None else value
                for key, usual in zip(("beta1", "beta2", "eps"), (*self.betas, self.eps))
            )
            g = gradients[name] * scale
            if self.rule == "lans":
                g = g / size(g) if size(g) > 0 else g
            m, v = self.m[name], self.v[name]
            m[...] = b1 * m + (1 - b1) * g
            v[...] = b2 * v + (1 - b2) * g * g
            c1, c2 = (1 - b1**self.t, 1 - b2**self.t) if self.bias_correction else (1.0, 1.0)
            denominator = np.sqrt(v / c2) + eps
            decay = 0.0 if self.plain(name) else self.weight_decay
            if own is not None and own.weight_decay is not None:
                decay = own.weight_decay
            rate = lr * (own.lr_scale if own is not None else 1.0)
            first = (m / c1) / denominator + decay * p
            self.ratios[name] = self.ratio(name, p, first)
            if self.rule == "lans":
                second = g / denominator + decay * p
                other = self.ratio(name, p, second)
                p -= rate * (b1 * self.ratios[name] * first + (1 - b1) * other * second)
            else:
                p -= rate * self.ratios[name] * first

    def ratio(self, name: str, p: Array, u: Array) -> float:
        """Trust ratio of a tensor with update ``u``."""
        own = self.groups.get(name)
        adapts = not self.plain(name) or self.adapt_all
        if own is not None and own.adapt is not None:
            adapts = own.adapt
        if self.rule == "adamw" or not adapts:
            return 1.0
        ratio = size(p) / size(u) if size(p) > 0 and size(u) > 0 else 1.0
        return float(np.clip(ratio, *self.bounds))


def size(values: Array) -> float:
    """Euclidean norm."""
    return float(np.sqrt(np.sum(values * values)))
