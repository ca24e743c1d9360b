"""LAMB in float64 on whole tensors in one process: the plain twin of megabert.optim.lamb."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class LambReference:
    """Global-norm clipping, then LAMB, by names; biases and norms neither decay nor adapt."""

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
    ) -> None:
        self.weights = {name: np.array(value, np.float64) for name, value in weights.items()}
        self.m = {name: np.zeros_like(value) for name, value in self.weights.items()}
        self.v = {name: np.zeros_like(value) for name, value in self.weights.items()}
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        self.bias_correction, self.bounds, self.clip = bias_correction, bounds, clip
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
        b1, b2 = self.betas
        for name, p in self.weights.items():
            g = gradients[name] * scale
            m, v = self.m[name], self.v[name]
            m[...] = b1 * m + (1 - b1) * g
            v[...] = b2 * v + (1 - b2) * g * g
            c1, c2 = (1 - b1**self.t, 1 - b2**self.t) if self.bias_correction else (1.0, 1.0)
            u = (m / c1) / (np.sqrt(v / c2) + self.eps)
            ratio = 1.0
            if not self.plain(name):
                u = u + self.weight_decay * p
                top, bottom = np.sqrt(np.sum(p * p)), np.sqrt(np.sum(u * u))
                if top > 0 and bottom > 0:
                    ratio = float(top / bottom)
                ratio = float(np.clip(ratio, *self.bounds))
            self.ratios[name] = ratio
            p -= lr * ratio * u
