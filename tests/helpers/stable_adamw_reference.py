"""StableAdamW in float64 on whole tensors in one process, and its case of known gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from megabert.config.training import OptimizerSettings
from megabert.optim.registry import StateLayout
from megabert.optim.stable_adamw import StableAdamW
from tests.helpers.lamb_reference import Array, LambReference
from tests.helpers.lamb_runs import TENSORS, Case, start_weight


class StableAdamWReference(LambReference):
    """Global-norm clipping, then the rule of Wortsman et al. 2023; ``ratios``: 1 / max(1, R)."""

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
            root = np.sqrt(v / (1 - b2**self.t))
            r = np.sqrt(np.mean(g**2 / np.maximum(root, self.eps) ** 2))
            self.ratios[name] = 1 / max(1.0, float(r))
            rate = lr * self.ratios[name]
            decay = 0.0 if self.plain(name) else self.weight_decay
            p -= rate * (m / (1 - b1**self.t) / (root + self.eps) + decay * p)


@dataclass(frozen=True)
class StableAdamWCase(Case):
    """The second moment forgets fast, so that updates are clipped."""

    rule: str = "stable-adamw"

    def reference(self) -> StableAdamWReference:
        """The float64 twin at its start."""
        weights = {name: start_weight(name).numpy() for name in TENSORS}
        return StableAdamWReference(weights, clip=self.clip, betas=(0.9, 0.6))

    def optimizer(self, groups: list[dict[str, Any]]) -> StableAdamW:
        """The optimizer under test."""
        return StableAdamW(groups, OptimizerSettings(beta2=0.6), StateLayout())
