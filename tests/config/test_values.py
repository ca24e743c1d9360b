"""Values of flags and settings: what they may be, and how a wrong one is reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from megabert.config import values
from megabert.config.numbers import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
)
from megabert.config.training import OnOff
from megabert.config.values import WrongValue


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (bool, "ON", True),
        (bool, "false", False),
        (OnOff, True, "on"),
        (OnOff, "FALSE", "off"),
        (PositiveInt, "3", 3),
        (Literal[1, 2], "2", 2),
        (PositiveInt | Literal["epoch", "end"], "7", 7),
        (PositiveInt | Literal["epoch", "end"], "end", "end"),
        (Path | None, "a,b", Path("a,b")),
        (PositiveFloat | None, None, None),
        (tuple[NonNegativeFloat, ...], ["1e-5,2e-5", "3"], (1e-5, 2e-5, 3.0)),
        (tuple[NonNegativeFloat, ...], 1e-5, (1e-5,)),
        (tuple[NonNegativeFloat, ...], [1e-5, "2e-5"], (1e-5, 2e-5)),
        (tuple[Path, ...], ["a,b", "c"], (Path("a,b"), Path("c"))),
    ],
)
def test_a_text_or_yaml_becomes_a_value(kind: Any, text: Any, value: Any) -> None:
    made = values.read(kind, text)
    assert made == value
    assert type(made) is type(value)


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (bool, "yes", "expected on or off"),
        (bool, 1, "expected on or off"),
        (OnOff, "no", "expected on or off"),
        (PositiveInt, "0", "expected a whole number of 1 or more"),
        (PositiveInt, True, "expected a whole number of 1 or more"),
        (NonNegativeInt, "1.5", "expected a whole number of 0 or more"),
        (PositiveFloat, "inf", "expected a number above 0"),
        (NonNegativeFloat, "nan", "expected a number of 0 or more"),
        (Fraction, "1.1", "expected a number from 0 to 1"),
        (Probability, "1", "expected a number of 0 or more and below 1"),
        (
            Literal["poly", "linear"],
            "liner",
            "expected one of poly, linear; did you mean 'linear'?",
        ),
        (
            Literal["h100", "v100-16", "v100-32"],
            "V100",
            "expected one of h100, v100-16, v100-32; did you mean 'v100-16' or 'v100-32'?",
        ),
        (PositiveInt | Literal["end"], "x", "expected a whole number of 1 or more, or one of end"),
        (tuple[NonNegativeFloat, ...], "1,,2", "'': expected a number of 0 or more"),
    ],
)
def test_a_wrong_value_is_named_by_what_was_expected(kind: Any, text: Any, message: str) -> None:
    with pytest.raises(WrongValue) as raised:
        values.read(kind, text)
    assert str(raised.value) == message


def test_the_help_shows_what_is_expected() -> None:
    shown = {
        bool: "on|off",
        OnOff: "on|off",
        PositiveInt | None: "N",
        Fraction: "FRACTION",
        PositiveFloat: "X",
        Path: "PATH",
        Literal[1, 2]: "1|2",
        PositiveInt | Literal["epoch", "end"]: "N|epoch|end",
    }
    assert {kind: values.metavar(kind) for kind in shown} == shown
