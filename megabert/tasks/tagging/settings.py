"""Settings of tagging."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from megabert.config.flags import setting


@dataclass(frozen=True)
class TaggingSettings:
    """Tagging (CLUENER, CoNLL)"""

    crf: bool = setting(False, "a conditional random field on the linear head (on|off)")
    crf_constraints: Literal["none", "decode", "always"] = setting(
        "decode",
        "tags out of the scheme's order are ruled out: never, in predictions, in the loss too",
    )
    tag_scheme: Literal["auto", "bio", "bioes", "bmes"] = setting(
        "auto",
        "tags: of the files of conll (auto: what --train has); of cluener's labels (auto: bio)",
    )
