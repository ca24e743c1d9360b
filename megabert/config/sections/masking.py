"""How tokens are masked, next to ``masking``, ``mask_fraction`` and ``max_predictions`` of the data."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from megabert.common.errors import UserError
from megabert.config.flags import setting
from megabert.config.numbers import Fraction, Share
from megabert.config.values import DEFERRED

MASK_SHARE, RANDOM_SHARE = 0.8, 0.1
"""Of BERT (Devlin et al. 2019, section 3.1)."""


def check_shares(mask: float, random: float) -> None:
    """Refuse shares of predicted tokens that are more than all of them.

    Raises:
        UserError: which shares.
    """
    if mask + random > 1 + 1e-9:
        raise UserError(
            f"--mask-share {mask:g} and --random-share {random:g} are more than 1 together; the rest of "
            "the predicted tokens is kept: lower one of them"
        )


@dataclass(frozen=True, config=DEFERRED)
class MaskingSettings:
    """Masking"""

    mask_share: Fraction = setting(
        MASK_SHARE,
        "share of the predicted tokens that become [MASK]; the shares of an evaluation are always "
        f"{MASK_SHARE} and {RANDOM_SHARE}",
        resume="must_match",
    )
    random_share: Fraction = setting(
        RANDOM_SHARE,
        "share that becomes a random token; what is left of 1 keeps its token",
        resume="must_match",
    )
    final_mask_fraction: Share | None = setting(
        None,
        "let the mask fraction change evenly, update by update, from --mask-fraction in the first one to this in the "
        "last one of --steps (default: it stays)",
        metavar="FRACTION",
        resume="must_match",
    )
    eval_mask_fraction: Share | None = setting(
        None,
        "mask fraction of evaluations (default: --final-mask-fraction, or else --mask-fraction)",
        metavar="FRACTION",
    )

    def __post_init__(self) -> None:
        check_shares(self.mask_share, self.random_share)
