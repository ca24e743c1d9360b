"""Muon on the known gradients of :mod:`tests.helpers.lamb_runs`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from megabert.optim.lamb.backend import LambOptions
from megabert.optim.muon.optimizer import Muon, MuonOptions
from megabert.optim.param_groups import GroupRule, parameter_groups
from tests.helpers.lamb_runs import PEAK, TENSORS, Case, start_weight
from tests.helpers.muon_reference import MuonReference

MATRICES = ("position.weight", "up.weight", "down.weight")
"""A copied one, one split by rows, one split by columns."""
OWN_GROUPS = (
    GroupRule("^up", lr_scale=0.5),
    GroupRule("^embed", 2.0, 0.02, muon=True),
    GroupRule("^position", muon=False),
)


def is_matrix(name: str, dimensions: int) -> bool:
    """What :func:`megabert.optim.param_groups.is_hidden_matrix` is for real models."""
    return name in MATRICES


@dataclass(frozen=True)
class MuonCase(Case):
    """``rule``: of the others; ``bucket``: elements of an exchange, few enough for several."""

    rule: str = "adamw"
    iteration: Literal["auto", "bf16", "fp32"] = "auto"
    bucket: int = 100

    def __str__(self) -> str:
        return f"muon in {self.iteration}, others {super().__str__()}, buckets of {self.bucket}"

    @property
    def tolerance(self) -> float:
        """fp32: the iteration multiplies the error of small singular values by up to 3.4^5."""
        return 5e-6 if self.iteration != "bf16" else 5e-3

    @property
    def matrices(self) -> set[str]:
        """Names of the matrices."""
        if not self.own_groups:
            return set(MATRICES)
        return {"embed.weight", "up.weight", "down.weight"}

    def reference(self) -> MuonReference:
        """The float64 twin at its start."""
        return MuonReference(
            {name: start_weight(name).numpy() for name in TENSORS},
            self.matrices,
            clip=self.clip,
            rule=self.rule,
            groups={
                name: next((r for r in OWN_GROUPS if re.search(r.match, name)), GroupRule(""))
                for name in (TENSORS if self.own_groups else ())
            },
        )

    def groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """The optimizer's parameter groups."""
        own = OWN_GROUPS if self.own_groups else ()
        return parameter_groups(model, 0.01, own=own, matrices=is_matrix)

    def optimizer(self, groups: list[dict[str, Any]]) -> Muon:
        """The optimizer under test."""
        others = LambOptions(PEAK, rule=self.rule)  # type: ignore[arg-type]
        options = MuonOptions(precision=self.iteration)
        return Muon(groups, others, options, bucket=self.bucket)
