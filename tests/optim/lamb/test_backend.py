"""Which backend computes the step; NVIDIA's apex where it is exact; the unrelated package apex."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from megabert.common.errors import UserError
from megabert.optim.lamb.apex import apex_lamb, wrong_apex
from megabert.optim.lamb.backend import LambOptions
from megabert.optim.lamb.choice import choose_backend
from megabert.optim.registry import StateLayout
from tests.helpers.lamb_reference import LambReference
from tests.optim.lamb.test_optimizer import difference, groups_of, make_gradients, make_tensors

FUSED_LAMB = '''
import torch


class FusedLAMB(torch.optim.Optimizer):
    """What NVIDIA documents of its optimizer, one tensor at a time."""

    def __init__(self, params, lr, bias_correction, betas, eps, adam_w_mode, grad_averaging,
                 max_grad_norm, use_nvlamb, weight_decay=0.01):
        assert adam_w_mode and grad_averaging
        self.use_nvlamb = use_nvlamb
        super().__init__(params, dict(lr=lr, bias_correction=bias_correction, betas=betas, eps=eps,
                                      weight_decay=weight_decay, max_grad_norm=max_grad_norm))

    @torch.no_grad()
    def step(self, closure=None):
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        norm = torch.stack([g.norm() for g in gradients]).norm()
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            limit = group["max_grad_norm"]
            scale = norm / limit if norm > limit else 1.0
            b1, b2 = group["betas"]
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
                g, m, v = p.grad / scale, state["exp_avg"], state["exp_avg_sq"]
                m.mul_(b1).add_(g, alpha=1 - b1)
                v.mul_(b2).addcmul_(g, g, value=1 - b2)
                t = group["step"]
                c1, c2 = (1 - b1**t, 1 - b2**t) if group["bias_correction"] else (1.0, 1.0)
                u = m / c1 / ((v / c2).sqrt() + group["eps"]) + group["weight_decay"] * p
                adapts = self.use_nvlamb or group["weight_decay"] != 0.0
                p.sub_(u, alpha=group["lr"] * float(p.norm() / u.norm() if adapts else 1.0))
'''


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in front of sys.path; what is imported from it is forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [n for n in sys.modules if n.split(".")[0] in ("apex", "amp_C")]:
        del sys.modules[name]


def write_apex(folder: Path, *, nvidia: bool, extensions: bool = True) -> None:
    (folder / "apex").mkdir()
    (folder / "apex" / "__init__.py").write_text("")
    if nvidia:
        (folder / "apex" / "optimizers.py").write_text(FUSED_LAMB)
    if extensions and nvidia:
        (folder / "amp_C.py").write_text("")


def make_apex(**changes: Any) -> torch.optim.Optimizer:
    parameters = changes.pop("parameters", None) or make_tensors()
    groups = changes.pop("groups", None) or groups_of(parameters)
    for group, plain in zip(groups, (False, True)):
        group.setdefault("weight_decay", 0.0 if plain else 0.01)
        group.setdefault("adapt", not plain)
    layout = StateLayout(changes.pop("zero_stage", 0), changes.pop("tensor_parallel", 1))
    return apex_lamb(groups, LambOptions(lr=0.02, **changes), layout)


@pytest.mark.parametrize("everything", [False, True])
def test_apex_equals_the_reference(packages: Path, everything: bool) -> None:
    """Also that its own clipping never acts, and that the step count is where Lamb has it."""
    write_apex(packages, nvidia=True)
    assert wrong_apex() is None
    parameters = make_tensors()
    reference = LambReference({n: p.numpy() for n, p in parameters.items()}, adapt_all=everything)
    groups = groups_of(parameters)
    groups[1]["adapt"] = everything
    optimizer = make_apex(groups=groups)
    for step in range(5):
        gradients = make_gradients(step)
        for name, parameter in parameters.items():
            parameter.grad = gradients[name] * 10.0
        optimizer.step()
        reference.step({n: 10.0 * g.double().numpy() for n, g in gradients.items()}, 0.02)
        if step == 2:  # a checkpoint in between
            saved = optimizer.state_dict()
            optimizer = make_apex(groups=[{**group} for group in groups])
            optimizer.load_state_dict(saved)
    for name, parameter in parameters.items():
        assert difference(parameter, reference.weights[name]) < 2e-6
        assert optimizer.state[parameter]["step"] == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"zero_stage": 2}, "norms of slices: use --zero-stage 0"),
        ({"tensor_parallel": 2}, "norms of parts of tensors"),
        ({"rule": "lans"}, "it has no lans"),
        ({"max_trust_ratio": 10.0}, "no trust ratio bounds"),
        ({"groups": [{"params": [torch.ones(2)], "weight_decay": 0.0}, {"params": [torch.ones(1)]}]},
         "exactly the tensors that decay"),
    ],
    ids=str,
)  # fmt: skip
def test_apex_is_refused_where_inexact(packages: Path, changes: dict, message: str) -> None:
    write_apex(packages, nvidia=True)
    with pytest.raises(UserError, match=message):
        make_apex(**changes)


def test_the_other_apex_is_named(packages: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """With --lamb-backend apex it is an error; otherwise one line, and training does not use it."""
    write_apex(packages, nvidia=False)
    with pytest.raises(UserError, match=r"not NVIDIA's apex but an unrelated one.*pip uninstall"):
        make_apex()
    assert choose_backend("auto", torch.device("cpu")).name == "torch"
    assert "is not NVIDIA's apex" in capfd.readouterr().err
    assert choose_backend("torch", torch.device("cpu")).name == "torch"
    assert capfd.readouterr().err == ""


def test_apex_without_extensions_or_missing(packages: Path) -> None:
    with pytest.raises(UserError, match="apex is not installed"):
        make_apex()
    write_apex(packages, nvidia=True, extensions=False)
    with pytest.raises(UserError, match="no amp_C"):
        make_apex()


def test_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert choose_backend("auto", torch.device("cpu")).name == "torch"
    with pytest.raises(UserError, match="--lamb-backend triton"):
        choose_backend("triton", torch.device("cpu"))
