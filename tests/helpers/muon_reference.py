"""Muon in float64 on whole matrices in one process, other tensors by LAMB's plain twin."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from tests.helpers.lamb_reference import Array, LambReference


class MuonReference(LambReference):
    """Global-norm clipping, then Muon for ``matrices`` (names) and ``rule`` for all others."""

    def __init__(
        self,
        weights: Mapping[str, Array],
        matrices: Collection[str],
        *,
        momentum: float = 0.95,
        steps: int = 5,
        **others: Any,
    ) -> None:
        super().__init__(weights, **others)
        self.matrices, self.momentum, self.steps = set(matrices), momentum, steps
        self.updates: dict[str, Array] = {}

    def scale(self, shape: tuple[int, ...]) -> float:
        """Factor of an orthogonalized matrix."""
        return float(0.2 * np.sqrt(max(shape)))

    def step(self, gradients: Mapping[str, Array], lr: float) -> None:
        """One update."""
        before = {name: self.weights[name].copy() for name in self.matrices}
        first = {name: self.m[name].copy() for name in self.matrices}
        super().step(gradients, lr)
        scale = min(1.0, self.clip / (self.norm + 1e-6)) if self.clip else 1.0
        for name in self.matrices:
            g = gradients[name] * scale
            p, m, b = before[name], first[name], self.momentum
            m = b * m + (1 - b) * g
            o = newton_schulz((1 - b) * g + b * m, self.steps)
            own = self.groups.get(name)
            decay = self.weight_decay
            if own is not None and own.weight_decay is not None:
                decay = own.weight_decay
            rate = lr * (own.lr_scale if own is not None else 1.0)
            self.updates[name] = self.scale(p.shape) * o
            self.weights[name][...] = p - rate * (self.updates[name] + decay * p)
            self.m[name][...] = m


def newton_schulz(g: Array, steps: int) -> Array:
    """Jordan's quintic, on singular values: another way to the same matrix."""
    norm = float(np.sqrt(np.sum(g * g)))
    u, s, vt = np.linalg.svd(g / norm if norm else g, full_matrices=False)
    for _ in range(steps):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return np.asarray((u * s) @ vt)
