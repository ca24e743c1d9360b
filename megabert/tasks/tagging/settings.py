"""Settings of tagging."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from megabert.config.flags import setting
from megabert.config.values import DEFERRED


@dataclass(frozen=True, config=DEFERRED)
class TaggingSettings:
    """Tagging (CLUENER, CoNLL)"""

    crf: bool = setting(False, "add a conditional random field to the linear head (on|off)")
    crf_constraints: Literal["none", "decode", "always"] = setting(
        "decode",
        "where tag sequences that the scheme forbids are ruled out: nowhere, in predictions, in the loss too",
    )
    tag_scheme: Literal["auto", "bio", "bioes", "bmes"] = setting(
        "auto",
        "scheme of the tags in conll's files (auto: that of --train), or of cluener's labels (auto: bio)",
    )
