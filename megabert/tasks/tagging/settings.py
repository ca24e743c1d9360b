"""Settings of tagging."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from megabert.config.flags import setting
from megabert.config.values import DEFERRED


@dataclass(frozen=True, config=DEFERRED)
class TaggingSettings:
    """Tagging (CLUENER, CoNLL, tags of one's own)"""

    crf: bool | None = setting(
        None,
        "add a conditional random field to the linear head (default: off, or as in the checkpoint's head)",
    )
    crf_constraints: Literal["none", "decode", "always"] | None = setting(
        None,
        "where to exclude tag sequences that the scheme forbids: nowhere, in predictions, or also in the loss "
        "(default: decode, or the checkpoint's)",
    )
    tag_scheme: Literal["auto", "bio", "bioes", "bmes", "io"] = setting(
        "auto",
        "scheme of the tags in a file (auto: detected from --train), or of labels made from spans (auto: bio)",
    )
