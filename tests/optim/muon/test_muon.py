"""Muon on whole tensors in one process: the iteration, owners, parameter groups."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.config.training import OptimizerSettings
from megabert.engine.build import _optimizer
from megabert.optim.flat_segments import LocalTensor
from megabert.optim.lamb.backend import LambOptions
from megabert.optim.muon.newton_schulz import iteration_flops, orthogonalized, update_scale
from megabert.optim.muon.optimizer import Muon
from megabert.optim.muon.ownership import Grid, Matrix, Ownership, Part
from megabert.optim.param_groups import GroupRule, is_hidden_matrix, parameter_groups
from megabert.optim.registry import StateLayout, optimizer_spec
from tests.helpers.muon_reference import MuonReference, newton_schulz


@pytest.mark.parametrize("shape", [(5, 5), (3, 8), (8, 3), (1, 6)], ids=str)
def test_iteration_equals_that_on_singular_values(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wanted = newton_schulz(matrix.numpy(), 5)
    assert np.abs(orthogonalized(matrix, 5).numpy() - wanted).max() < 1e-12
    assert np.abs(orthogonalized(1e-20 * matrix, 5).numpy() - wanted).max() < 1e-12
    assert np.abs(orthogonalized(matrix.float(), 5).numpy() - wanted).max() < 1e-4
    assert np.abs(orthogonalized(matrix.bfloat16(), 5).float().numpy() - wanted).max() < 0.1
    assert not orthogonalized(torch.zeros(shape), 5).any()


def test_scale_gives_the_root_mean_square_of_adamw() -> None:
    for rows, columns in ((16, 64), (64, 16)):
        q = torch.linalg.qr(torch.randn(64, 16, generator=torch.Generator().manual_seed(2)))[0]
        matrix = update_scale(rows, columns) * q
        assert float(matrix.square().mean().sqrt()) == pytest.approx(0.2, rel=1e-5)
    assert iteration_flops(16, 64, 5) == iteration_flops(64, 16, 5) == 5 * 2 * (
        2 * 16 * 16 * 64 + 16**3
    )  # fmt: skip


@pytest.mark.parametrize("rule", ["adamw", "lamb"])
def test_equals_reference_in_float64(rule: Literal["adamw", "lamb"]) -> None:
    """Ten updates of matrices, and of the rest by AdamW or LAMB, to the precision of float64."""
    draw = np.random.default_rng(3)
    shapes = {"a.weight": (7, 5), "b.weight": (4, 9), "c.weight": (6, 3), "c.bias": (6,)}
    weights = {name: draw.standard_normal(shape) for name, shape in shapes.items()}
    reference = MuonReference(weights, {"a.weight", "b.weight"}, momentum=0.9, rule=rule)
    parameters = {name: nn.Parameter(torch.tensor(value)) for name, value in weights.items()}
    model = nn.Module()
    for owner in "abc":
        setattr(model, owner, nn.Module())
    for name, parameter in parameters.items():
        model.get_submodule(name[0]).register_parameter(name[2:], parameter)
    groups = parameter_groups(model, 0.01, matrices=lambda name, p: name in reference.matrices)
    settings = OptimizerSettings(optimizer="muon", muon_momentum=0.9, muon_others=rule)
    optimizer = optimizer_spec("muon").make(groups, settings, StateLayout())
    for group in optimizer.param_groups:
        group["lr"] = 0.02
    for _ in range(10):
        gradients = {name: draw.standard_normal(shape) for name, shape in shapes.items()}
        for name, parameter in parameters.items():
            parameter.grad = torch.tensor(gradients[name])
        optimizer.step()
        reference.step(gradients, 0.02)
    for name, parameter in parameters.items():
        error = np.abs(parameter.detach().numpy() - reference.weights[name]).max()
        assert error < 1e-12, f"{name} with {rule}: {error:.1e}"


def test_owners_balance_the_work_and_are_holders() -> None:
    """ZeRO 3 on 4 ranks: no rank has much more than a quarter. ZeRO 1: holders of borders share."""
    tensors = [LocalTensor(f"t{n}", (8, 8 * (1 + n % 3))) for n in range(13)]
    matrices = [Matrix(tensor, 1) for tensor in tensors]
    everywhere = [[Part(n, 0, 2, n) for n in range(13)] for _ in range(4)]
    made = Ownership.make(Grid(4), matrices, everywhere, 256)
    loads = [made.flops_of(rank, 5) for rank in range(4)]
    assert sum(loads) == sum(iteration_flops(*matrix.shape, 5) for matrix in matrices)
    assert max(loads) < 1.3 * sum(loads) / 4
    assert sorted(n for bucket in made.buckets for n in bucket) == list(range(13))
    assert len(made.buckets) > 1
    assert not made.alone
    cut = [[Part(0, 0, 64, 0), Part(1, 0, 60, 1)], [Part(1, 60, 68, 0), Part(2, 0, 192, 1)]]
    made = Ownership.make(Grid(2), matrices[:3], cut)
    assert made.owners == [0, 0, 1]
    assert made.alone == [0, 2]
    assert made.buckets == [[1]]
    assert [part.start for part in made.to_owner(1, 0, [1])] == [60]
    assert not list(made.to_owner(0, 1, [1]))


def test_which_parameters() -> None:
    """Those of layers and dense weights; a rule of the user may say otherwise, for matrices only."""
    names = {
        "bert.layers.0.attention.query.weight": True,
        "bert.layers.11.mlp.down.weight": True,
        "mlm.dense.weight": True,
        "bert.layers.0.mlp.up.bias": False,
        "bert.layers.0.mlp_norm.weight": False,
        "bert.embeddings.word_embeddings.weight": False,
        "nsp.classifier.weight": False,
    }
    for name, wanted in names.items():
        dimensions = 1 if "norm" in name or name.endswith("bias") else 2
        assert is_hidden_matrix(name, dimensions) is wanted, name
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    own = [GroupRule("^0.weight", muon=True), GroupRule("^1.weight", muon=False)]
    groups = parameter_groups(model, 0.01, own=own, matrices=lambda name, p: "weight" in name)
    assert [(g["names"], g["matrix"]) for g in groups] == [
        (["0.bias", "1.bias"], False),
        (["0.weight"], True),
        (["1.weight"], False),
    ]
    with pytest.raises(UserError, match=r"muon updates matrices, and 0\.bias has the shape \(2,\)"):
        parameter_groups(model, 0.01, own=[GroupRule("^0", muon=True)], matrices=is_hidden_matrix)


def test_moments_of_matrices_alone_are_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    for rule in (
        GroupRule("weight", beta1=0.8, muon=True),
        GroupRule("weight", eps=1e-8, muon=True),
        GroupRule("weight", adapt=False, muon=True),
    ):
        with pytest.raises(UserError, match="matches only matrices of Muon"):
            parameter_groups(model, 0.01, own=[rule], matrices=is_hidden_matrix)
    for rule in (GroupRule("^0", beta1=0.8, muon=None), GroupRule("weight", beta1=0.8, muon=False)):
        assert any(
            group.get("beta1") == 0.8
            for group in parameter_groups(model, 0.01, own=[rule], matrices=is_hidden_matrix)
        )


@pytest.mark.parametrize(
    ("optimizer", "more", "refused"),
    [
        ("lamb", {}, False),
        ("adamw", {}, True),
        ("stable-adamw", {}, True),
        ("muon", {"max_trust_ratio": 10.0}, True),
        ("muon", {"muon_others": "lamb", "max_trust_ratio": 10.0}, False),
    ],
)
def test_trust_ratios_that_no_rule_has(
    optimizer: str,
    more: dict[str, Any],
    refused: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A group's own is refused, a setting is reported; Muon has them where LAMB is the rule of the rest."""
    monkeypatch.setattr(get_logger(), "propagate", True)
    model = nn.Sequential(nn.Linear(2, 2))
    path = tmp_path / "groups.yaml"
    path.write_text("- {match: bias, adapt: true}\n")
    settings = OptimizerSettings(optimizer=optimizer, parameter_groups=path, **more)
    with (
        pytest.raises(UserError, match="sets adapt, which --optimizer")
        if refused
        else nullcontext()
    ):
        _optimizer(model, settings, StateLayout())
    assert ("--max-trust-ratio has no effect" in caplog.text) == (refused and bool(more))


def test_half_precision_weights_are_refused() -> None:
    parameter = nn.Parameter(torch.zeros(2, 2, dtype=torch.bfloat16))
    parameter.grad = torch.ones_like(parameter)
    optimizer = Muon([{"params": [parameter], "matrix": True}], LambOptions(rule="adamw"))
    with pytest.raises(TypeError, match="fp32 and fp64"):
        optimizer.step()


def test_apex_has_no_muon() -> None:
    with pytest.raises(UserError, match="apex has no Muon"):
        optimizer_spec("muon").make(
            [], OptimizerSettings(optimizer="muon", lamb_backend="apex"), StateLayout()
        )
