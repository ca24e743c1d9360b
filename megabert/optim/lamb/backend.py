"""What a backend of the optimizer computes: flat tensors, one rule, and factors per segment.

:class:`~megabert.optim.lamb.optimizer.Lamb` knows groups, ranks and trust ratios; a *backend* only
computes the elementwise passes and the sums of squares per segment, on one rank. Every backend has
the functions of :class:`UpdateBackend` and gives the same values up to rounding:

    torch_passes     foreach and fused operators in blocks that stay in cache (any device)
    triton_passes    two kernels over the flat partition with a segment table (CUDA)

With g' = s g (s: 1; for LANS 1/|g| of the whole tensor), c1 = 1 - b1^t and c2 = 1 - b2^t (both 1
without bias correction), the updates that a rule combines are

    m = b1 m + (1 - b1) g'        v = b2 v + (1 - b2) g'^2        d = sqrt(v / c2) + eps
    u_1 = (m / c1) / d + wd p                                     LAMB and AdamW use only this one
    u_2 = g' / d + wd p                                           LANS uses both

and the second pass does p -= lr sum_k f_k u_k with factors f [segments, k] that hold the trust
ratios (1 where a tensor is not adapted; for LANS multiplied by b1 and 1 - b1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from megabert.optim.flat_segments import Partition


@dataclass(frozen=True)
class LambOptions:
    """Settings of the rule; a parameter group may set any but ``rule`` for itself.

    Attributes:
        lr: step size.
        betas: decay of the first and second moment.
        eps: added to the root of the (corrected) second moment.
        weight_decay: times p, added to the update before its norm is taken.
        bias_correction: divide the moments by 1 - beta^t.
        min_trust_ratio, max_trust_ratio: bounds of r for adapted tensors (None: none).
        adapt: scale the update by the trust ratio; False for biases and norm parameters.
        rule: "lamb", "lans" or "adamw" (no group adapts).
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-6
    weight_decay: float = 0.01
    bias_correction: bool = True
    min_trust_ratio: float | None = None
    max_trust_ratio: float | None = None
    adapt: bool = True
    rule: Literal["lamb", "lans", "adamw"] = "lamb"


@dataclass(frozen=True)
class Rule:
    """A parameter group's settings, without the learning rate."""

    kind: Literal["lamb", "lans"]
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    bias_correction: bool

    @property
    def updates(self) -> int:
        """Number of u_k: 1, or 2 for LANS."""
        return 2 if self.kind == "lans" else 1

    @property
    def weights(self) -> tuple[float, ...]:
        """Weight of each u_k in the update; they add up to 1."""
        return (self.beta1, 1.0 - self.beta1) if self.kind == "lans" else (1.0,)

    def corrections(self, step: int) -> tuple[float, float]:
        """c1 and the root of c2 at update ``step`` (from 1)."""
        if not self.bias_correction:
            return 1.0, 1.0
        return 1.0 - self.beta1**step, (1.0 - self.beta2**step) ** 0.5


@dataclass
class Work:
    """One flat tensor of n elements and all that its update reads and writes, all contiguous.

    Attributes:
        master: [n] fp32 (fp64 in tests): the weights, updated in place.
        grad: [n] fp32, bf16 or fp16 (fp64 with an fp64 master); read only.
        exp_avg, exp_avg_sq: [n] like ``master``, updated in place by the first (or single) pass.
        step: this update's number, from 1.
        partition: the segments; elements outside them are padding, which a backend may update
            (its gradient is zero) but never counts.
        half_copy: [n] bf16 or fp16 copy of the weights, written after ``master``; or None.
        scratch: [n] like ``master``: memory that a backend may fill in the first pass and read in
            the second; it may be ``grad`` itself if nothing reads the gradient again; or None.
    """

    master: Tensor
    grad: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: int
    partition: Partition
    half_copy: Tensor | None = None
    scratch: Tensor | None = None


class UpdateBackend(Protocol):
    """The elementwise part of an update. Nothing here communicates or waits for the device."""

    name: str

    def gradient_squares(self, work: Sequence[Work]) -> list[Tensor]:
        """Sum of g^2 of each segment: float64 [segments] for each of ``work``."""
        ...

    def first_pass(
        self, rule: Rule, work: Sequence[Work], scales: Sequence[Tensor] | None
    ) -> list[Tensor]:
        """Advance both moments; sums of squares of p and of each u_k: float64 [segments, 1 + k].

        ``scales``: s of each segment, float32 [segments] for each of ``work``; None: 1.
        """
        ...

    def second_pass(
        self,
        rule: Rule,
        work: Sequence[Work],
        scales: Sequence[Tensor] | None,
        factors: Sequence[Tensor],
        lr: float,
    ) -> None:
        """p -= lr sum_k f_k u_k; ``factors``: float32 [segments, k] for each of ``work``."""
        ...

    def single_pass(
        self, rule: Rule, work: Sequence[Work], scales: Sequence[Tensor] | None, lr: float
    ) -> None:
        """Moments and weights at once, with ``rule.weights`` as factors: for tensors that are not adapted."""
        ...
