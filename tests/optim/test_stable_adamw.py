"""StableAdamW on whole tensors against the float64 reference."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from megabert.config.training import OptimizerSettings
from megabert.optim.registry import StateLayout, optimizer_spec
from tests.helpers.stable_adamw_reference import StableAdamWReference

SHAPES = {"a.weight": (7, 5), "b.weight": (4, 9), "b.bias": (4,)}


def test_equals_reference_and_clips_growing_gradients() -> None:
    """One tensor's gradients grow by half per update: its steps are shortened, the others' hardly."""
    draw = np.random.default_rng(5)
    weights = {name: draw.standard_normal(shape) for name, shape in SHAPES.items()}
    reference = StableAdamWReference(weights, betas=(0.9, 0.9), eps=1e-8)
    parameters = {name: nn.Parameter(torch.tensor(value)) for name, value in weights.items()}
    groups = [
        {"params": [p for name, p in parameters.items() if "bias" not in name], "weight_decay": 0.01},
        {"params": [parameters["b.bias"]], "weight_decay": 0.0},
    ]  # fmt: skip
    settings = OptimizerSettings(optimizer="stable-adamw", beta2=0.9, eps=1e-8)
    optimizer = optimizer_spec("stable-adamw").make(groups, settings, StateLayout())
    for group in optimizer.param_groups:
        group["lr"] = 0.02
    for step in range(8):
        gradients = {name: draw.standard_normal(shape) for name, shape in SHAPES.items()}
        gradients["a.weight"] *= 1.5**step
        for name, parameter in parameters.items():
            parameter.grad = torch.tensor(gradients[name])
        optimizer.step()
        reference.step(gradients, 0.02)
    for name, parameter in parameters.items():
        assert np.abs(parameter.detach().numpy() - reference.weights[name]).max() < 1e-12, name
    ratios = [row.trust_ratio for row in optimizer.tensor_norms()]
    assert np.allclose(ratios, [reference.ratios[name] for name in SHAPES], rtol=1e-12)
    assert ratios[0] < 0.8 < ratios[1]
    assert [row.clamped for row in optimizer.tensor_norms()] == [ratio < 1.0 for ratio in ratios]
