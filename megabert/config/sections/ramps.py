"""Batch sizes and sequence lengths that change in a run: the texts of ``--batch-ramp`` and ``--length-ramp``."""

from __future__ import annotations

import re
from typing import Annotated, NamedTuple

from pydantic import BeforeValidator
from pydantic.dataclasses import dataclass

from megabert.common.errors import UserError
from megabert.config.flags import setting
from megabert.config.sections.duration import Duration, read_duration
from megabert.config.values import DEFERRED

NONE = "none"
_STAGE = re.compile(r"\s*(?P<value>\d{1,10})\s+for\s+(?P<duration>.{1,100})")
_LARGEST = {"batch": 2**31 - 1, "length": 2**24}
_SMALLEST = {"batch": 1, "length": 8}


class RampStage(NamedTuple):
    """One stage of a ramp: the global batch size or sequence length, and how long it holds."""

    value: int
    duration: Duration


def read_ramp(text: object) -> RampStage:
    """A stage from its text.

    Raises:
        ValueError: it is not one.
    """
    match = _STAGE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(
            "expected a size and how long it holds, in quotes: '256 for 1e6 tokens', '256 for 500 steps' or "
            "'256 for 20%'"
        )
    duration = read_duration(match["duration"])
    if not duration.number:
        raise ValueError("expected a duration above 0")
    return RampStage(int(match["value"]), duration)


def ramp_base(
    ramp_duration: str | int | None, steps: int | None, tokens: int | None
) -> tuple[int | None, int | None]:
    """Updates and tokens of which a ramp's percentages are: the run's, or ``--ramp-duration``; one is None if so."""
    if ramp_duration is None:
        return steps, tokens
    number, unit = read_duration(ramp_duration)
    return (int(number), None) if unit == "steps" else (None, int(number))


def _checked(value: object, what: str) -> object:
    if value == NONE:
        return value
    stage = read_ramp(value)
    if not _SMALLEST[what] <= stage.value <= _LARGEST[what]:
        raise ValueError(f"expected a {what} from {_SMALLEST[what]} to {_LARGEST[what]:,}")
    return f"{stage.value} for {stage.duration}"


BatchStage = Annotated[str, BeforeValidator(lambda value: _checked(value, "batch"))]
LengthStage = Annotated[str, BeforeValidator(lambda value: _checked(value, "length"))]


@dataclass(frozen=True, config=DEFERRED)
class RampSettings:
    """Ramps of batch size and sequence length"""

    batch_ramp: tuple[BatchStage, ...] = setting(
        (),
        "global batch sizes before --global-batch-size, each with its duration in quotes: '256 for 1e6 tokens' "
        "'1024 for 20%'; a duration in updates, tokens (of the batches, padding included), or percent of the run; none for no "
        "ramp, where a recipe has one",
        metavar="STAGE",
    )
    length_ramp: tuple[LengthStage, ...] = setting(
        (),
        "sequence lengths before --seq-length, in the same way: '128 for 80%' '256 for 10%'; --max-predictions "
        "is that of --seq-length, and other lengths have it in proportion",
        metavar="STAGE",
    )

    def __post_init__(self) -> None:
        for name in ("batch_ramp", "length_ramp"):
            stages = getattr(self, name)
            if NONE not in stages:
                continue
            if len(stages) > 1:
                raise UserError(
                    f"--{name.replace('_', '-')}: {NONE} stands alone: give it, or the stages"
                )
            object.__setattr__(self, name, ())
