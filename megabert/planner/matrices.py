"""Matrices that the optimizer updates whole (Muon): their arithmetic, and what ranks send for it.

With d data-parallel and t tensor-parallel ranks, E elements of all matrices, of which ranks of a row
hold copies (C) or parts (S = E - C), the elements sent by all ranks together are

    ZeRO    to the owners                back to the holders
    0       S (1 - 1/t)                  S (d - 1/t)       + C (d t - 1)
    1, 2    S (1 - 1/t)       + B        S (1 - 1/t) + B   + C (t - 1)
    3       S (1 - 1/(d t))  + C (1 - 1/d)     S (1 - 1/(d t))  + C (t - 1/d)

where B is what lies beyond the d - 1 borders of the partitions: half a matrix each, on average. The ranks
share the arithmetic of the iteration and the messages; both are taken as balanced.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from megabert.config.model import ModelConfig
from megabert.model.parameters import pretraining_parameters
from megabert.optim.registry import optimizer_spec
from megabert.planner.settings import MatrixRule


@dataclass(frozen=True)
class WholeMatrices:
    """Those of a model that an optimizer updates whole.

    Attributes:
        number: of them.
        split: elements of those that tensor parallelism splits.
        copied: elements of the others.
        flops: of one update.
        in_bf16: the iteration, and what is sent for it; else in fp32.
    """

    number: int = 0
    split: int = 0
    copied: int = 0
    flops: float = 0.0
    in_bf16: bool = True

    @classmethod
    def of(
        cls,
        config: ModelConfig,
        rule: MatrixRule,
        sentence_task: bool = True,
        *,
        on_cpu: bool = False,
    ) -> WholeMatrices:
        """None at all for an optimizer without a rule for matrices."""
        spec = optimizer_spec(rule.optimizer)
        number = split = copied = 0
        flops = 0.0
        for name, parameter in pretraining_parameters(config, sentence_task).items():
            if spec.matrices is None or not spec.matrices(name, len(parameter.shape)):
                continue
            rows, columns = parameter.shape
            number += 1
            split += parameter.numel if parameter.split_dim is not None else 0
            copied += parameter.numel if parameter.split_dim is None else 0
            flops += spec.matrix_flops(rows, columns, rule.steps) if spec.matrix_flops else 0
        in_bf16 = rule.precision == "bf16" or (rule.precision == "auto" and not on_cpu)
        return cls(number, split, copied, flops, in_bf16)

    @property
    def elements(self) -> int:
        """E."""
        return self.split + self.copied

    def sent(self, stage: int, d: int, t: int) -> float:
        """Elements that a rank sends in one update, on average, to owners and back."""
        s, c = self.split, self.copied
        if t == 1:
            s, c = s + c, 0
        if stage == 0:
            total = s * (1 - 1 / t) + s * (d - 1 / t) + c * (d * t - 1)
        elif stage == 3:
            total = 2 * s * (1 - 1 / (d * t)) + c * (1 - 1 / d) + c * (t - 1 / d)
        else:
            borders = min((d - 1) * self.elements / max(self.number, 1) / 2, s * (1 - 1 / d))
            total = 2 * (s * (1 - 1 / t) + borders) + c * (t - 1)
        return total / (d * t)

    def messages(self, d: int, t: int, bucket: int) -> int:
        """All-to-alls of one update, where an owner receives about ``bucket`` elements in each."""
        return 2 * max(1, math.ceil(self.elements / (d * t) / bucket))
