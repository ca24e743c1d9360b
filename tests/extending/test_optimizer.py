"""An optimizer of one file from outside, under every ZeRO stage: exact, saved, resumed, planned for."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from torch import Tensor

from megabert.common.errors import UserError
from megabert.common.registry import Registry
from megabert.config import flags
from megabert.config.optimizers import OPTIMIZERS
from megabert.config.training import OptimizerSettings, PretrainSettings
from megabert.engine.build import _optimizer
from megabert.engine.zero.whole_tensors import read_state, write_state
from megabert.optim.registry import StateLayout, optimizer_spec, optimizer_specs
from megabert.planner.states import Sharding, state_bytes
from tests.extending.sign_momentum import SIGN_MOMENTUM, SignMomentum
from tests.helpers.distributed import run_ranks
from tests.helpers.lamb_runs import PEAK, TENSORS, Case, Run, full_gradient, start_weight, worlds
from tests.helpers.training_runs import losses, make_shards, train, whole_weights

SETTINGS = OptimizerSettings(optimizer="sign-momentum", beta1=0.5)
"""With 0.5 and the known gradients the momentum has no rounding, so that its sign is certain."""
DECAY = 0.01


class PlainSignMomentum:
    """The same rule on whole tensors, as one would write it without any of this project."""

    def __init__(self) -> None:
        self.weights = {name: start_weight(name) for name in TENSORS}
        self.momentum = {name: torch.zeros_like(w) for name, w in self.weights.items()}

    def step(self, gradients: dict[str, Tensor]) -> None:
        for name, p in self.weights.items():
            m = self.momentum[name]
            m += (1 - SETTINGS.beta1) * (gradients[name] - m)
            decay = 0.0 if re.search("bias|norm", name) else DECAY
            p -= PEAK * (torch.sign(m) + decay * p)


def _check(run: Run, plain: PlainSignMomentum, what: str) -> None:
    state = read_state(run.engine, run.world.tp)
    for name in TENSORS:
        assert set(state[name]) == {"weight", "momentum"}
        for key, wanted in (("weight", plain.weights), ("momentum", plain.momentum)):
            torch.testing.assert_close(
                state[name][key], wanted[name], rtol=1e-6, atol=1e-7, msg=f"{what}: {key} of {name}"
            )
    run.check_model(state, what)


def _train_all_stages(rank: int, world_size: int, tensor_parallel: int) -> None:
    for world in worlds(tensor_parallel):
        saved: dict[str, dict[str, Tensor]] = {}
        for stage in range(4):
            run = Run(world, Case(stage, accumulation=2, clip=0.0), _make)
            plain = PlainSignMomentum()
            for step in range(3):
                run.train(step)
                gradient = full_gradient(step, run.parts())
                plain.step({name: torch.from_numpy(g).float() for name, g in gradient.items()})
            _check(run, plain, f"ZeRO {stage}")
            if saved:  # the state of another stage is this one's
                write_state(run.engine, world.tp, saved, 3)
                _check(run, plain, f"ZeRO {stage} after writing")
            saved = read_state(run.engine, world.tp)
            run.close()


def _make(groups: list, lr: float) -> SignMomentum:
    return SignMomentum(groups, SETTINGS, StateLayout())


@pytest.mark.parametrize(("ranks", "tensor_parallel"), [(2, 1), (2, 2)])
def test_equals_the_rule_on_whole_tensors(ranks: int, tensor_parallel: int) -> None:
    run_ranks(_train_all_stages, ranks, tensor_parallel, initialize=False, timeout=240.0)


def test_saved_and_resumed(tmp_path: Path) -> None:
    """On the layout that wrote it bit for bit; on another through whole tensors, momentum included."""
    shards = make_shards(tmp_path / "shards")
    arguments = ["--optimizer", "sign-momentum", "--lr", "1e-3", "--precision", "fp32"]
    straight = losses(train(shards, tmp_path / "straight", *arguments, ranks=2))
    resumed = tmp_path / "resumed"
    train(shards, resumed, *arguments, "--stop-after", "2", ranks=2)
    before = whole_weights(resumed)
    assert all(set(values) == {"weight", "momentum"} for values in before.values())
    assert any(bool(values["momentum"].any()) for values in before.values())
    again = [*arguments, "--resume", "auto"]
    assert losses(train(shards, resumed, *again, "--stop-after", "3", ranks=2)) == straight[:3]
    other = losses(train(shards, resumed, *again, "--zero-stage", "3", ranks=1))
    assert other == pytest.approx(straight, rel=1e-3)


def test_declaration_counts_everywhere() -> None:
    """The flag, the planner's bytes and the list of optimizers; a name has one owner."""
    assert "sign-momentum" in OPTIMIZERS.names()
    assert optimizer_spec("sign-momentum") is SIGN_MOMENTUM
    assert SIGN_MOMENTUM.state_bytes == 4 * len(SignMomentum.state_names)
    given = flags.parse(PretrainSettings, ["--optimizer", "sign-momentum"], "pretrain.py", "")
    assert flags.build(PretrainSettings, given.flags).optimizer.optimizer == "sign-momentum"
    with pytest.raises(UserError, match="sgd"):
        flags.parse(PretrainSettings, ["--optimizer", "sgd"], "pretrain.py", "")
    with pytest.raises(UserError, match="sign-momentum"):
        OPTIMIZERS.register("sign-momentum", object())
    assert {"lamb", "lans", "adamw"} <= {spec.name for spec in optimizer_specs()}


def test_planner_asks_for_the_bytes_of_its_state() -> None:
    from megabert.config.model import model_config
    from megabert.planner.parameters import local_parameters

    n = local_parameters(model_config("bert-tiny"), 1, True)
    moments = {
        name: state_bytes(n, Sharding(0, "fp32", 1, optimizer=name), micro_steps=1)["update"][
            "moments"
        ]
        for name in ("lamb", "sign-momentum")
    }
    assert moments["lamb"] == 2 * moments["sign-momentum"] == 8 * n.total


def test_an_installed_package_needs_no_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry point makes the name known; one that is not an OptimizerSpec is refused by name."""
    names = Registry[object]("optimizer", {}, "megabert.optimizers")
    monkeypatch.setattr("megabert.optim.registry.OPTIMIZERS", names)
    place = "tests.extending.sign_momentum:"
    points = [
        EntryPoint("theirs", place + "SIGN_MOMENTUM", names.group),
        EntryPoint("wrong", place + "SignMomentum", names.group),
    ]
    monkeypatch.setattr("megabert.common.registry._any_package_has", lambda group: True)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points)
    assert names.names() == ("theirs", "wrong")
    assert optimizer_spec("theirs") is SIGN_MOMENTUM
    with pytest.raises(UserError, match=r"'wrong'.*must name an OptimizerSpec"):
        optimizer_spec("wrong")


def test_a_group_may_not_set_what_the_rule_does_not_use(tmp_path: Path) -> None:
    file = tmp_path / "groups.yaml"
    model = torch.nn.Linear(2, 2)
    settings = OptimizerSettings(optimizer="sign-momentum", parameter_groups=file, beta1=0.5)
    file.write_text("- match: weight\n  beta1: 0.25\n")
    made = _optimizer(model, settings, StateLayout())
    assert {group["betas"][0] for group in made.param_groups} == {0.5, 0.25}
    file.write_text("- match: weight\n  eps: 0.5\n")
    with pytest.raises(
        UserError, match=r"group 1 \('weight'\) sets eps, .* sign-momentum does not"
    ):
        _optimizer(model, settings, StateLayout())
