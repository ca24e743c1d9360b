"""Mixtures of corpora as settings: the texts of stages, and the YAML file that ``--data`` may name.

    corpora:                           # docs/guide/mixtures.md
      - {name: wiki, path: shards/wiki, weight: 0.7}
      - {name: news, path: shards/news, weight: 0.3}
    temperature: 2                     # instead of weights
    stages:                            # instead of weights; the last one lasts to the end
      - {weights: {wiki: 1}, tokens: 1e9}
      - {weights: {wiki: 0.5, news: 0.5}}
    evaluate:                          # corpora that are only evaluated
      - {name: old, path: shards/old}

A file becomes the settings that ``--data``, ``--weights`` and the other flags set.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator

from megabert.common.errors import UserError
from megabert.config.values import shown_value, suggestion

_NUMBER = r"\d+(?:\.\d*)?(?:[eE][+-]?\d{1,2})?"
_STAGE = re.compile(
    rf"\s*(?:temperature\s+(?P<temperature>{_NUMBER})|(?P<weights>{_NUMBER}(?:\s+{_NUMBER})*))"
    rf"(?:\s+for\s+(?P<length>{_NUMBER})\s+(?P<unit>tokens|samples|updates))?\s*"
)
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)*")
_UNITS = ("tokens", "samples", "updates")
_SUFFIXES = (".yaml", ".yml")
_LONGEST = 2**62  # samples of a stage
_LONGEST_TEXT = 100_000  # characters of a stage: room for weights of thousands of corpora


def _stage_text(value: object) -> object:
    if isinstance(value, str) and len(value) > _LONGEST_TEXT:
        raise ValueError(f"expected at most {_LONGEST_TEXT:,} characters")
    if isinstance(value, str) and _STAGE.fullmatch(value):
        return value
    raise ValueError(
        "expected weights, one per corpus, and how long they hold: '0.9 0.1 for 1e9 tokens' (or samples, "
        "updates; none for the last stage), or 'temperature 2 for 1e9 tokens'"
    )


def _corpus_name(value: object) -> object:
    if isinstance(value, str) and len(value) <= 200 and _NAME.fullmatch(value):
        return value
    raise ValueError("expected a name of letters, digits and . _ - /, at most 200")


StageText = Annotated[str, BeforeValidator(_stage_text)]
"""``WEIGHT... [for N tokens|samples|updates]``; :func:`read_stage` reads it."""
CorpusName = Annotated[str, BeforeValidator(_corpus_name)]


class StageSettings(NamedTuple):
    """A stage of a mixture.

    Attributes:
        weights: one per corpus; () where the temperature decides.
        temperature: shares are in proportion to tokens to the power of 1 / temperature.
        samples: how long it lasts; None: to the end.
    """

    weights: tuple[Fraction, ...]
    temperature: Fraction
    samples: int | None


def read_stage(text: str, samples_of: Callable[[Fraction, str], Fraction | None]) -> StageSettings:
    """A stage from its text.

    ``samples_of``: number and unit (``tokens`` or ``updates``) -> samples; None if the size of an update is not
    known.

    Raises:
        UserError: it does not last for a whole number of samples, or for updates of unknown size.
    """
    match = _STAGE.fullmatch(text)
    assert match is not None
    weights = tuple(map(Fraction, (match["weights"] or "").split()))
    temperature = Fraction(match["temperature"] or 1)
    if not temperature:
        raise UserError(f"--stages '{text}': the temperature is 0; give one above 0")
    if match["length"] is None:
        return StageSettings(weights, temperature, None)
    length: Fraction | None = Fraction(match["length"])
    if match["unit"] != "samples":
        length = samples_of(Fraction(match["length"]), match["unit"])
    if length is None:
        raise UserError(
            f"--stages '{text}': the size of the global batch is not set; give --global-batch-size"
        )
    if length.denominator != 1 or not 1 <= length <= _LONGEST:
        raise UserError(f"--stages '{text}': expected a whole number of 1 or more {match['unit']}")
    return StageSettings(weights, temperature, int(length))


def show_stage(weights: Sequence[object], samples: int | None) -> str:
    """Inverse of :func:`read_stage`."""
    shares = " ".join(map(str, weights))
    return shares if samples is None else f"{shares} for {samples} samples"


def is_mixture_file(path: Path) -> bool:
    """Whether ``--data`` names a mixture, by its suffix."""
    return path.suffix.lower() in _SUFFIXES and not path.is_dir()


def read_mixture_file(path: Path) -> dict[str, Any]:
    """The settings of data that a mixture file sets, by name.

    Raises:
        UserError: one line with the file, the entry, and what is wrong with it.
    """
    from megabert.common.yaml_text import read_yaml_value  # --help needs no YAML

    try:
        content = read_yaml_value(path)
    except OSError as error:
        raise UserError(f"--data {path}: {error.strerror}; name a readable YAML file") from error
    except UserError as error:
        raise UserError(f"--data {error}") from error
    try:
        return _Reader(path).settings(content)
    except _WrongEntry as error:
        raise UserError(f"--data {path}: {error}") from error


class _WrongEntry(Exception):
    """Where in the file, and what was expected."""


class _Reader:
    """Reads the content of one file; paths are relative to its folder."""

    def __init__(self, path: Path) -> None:
        self._folder = path.parent

    def settings(self, content: Any) -> dict[str, Any]:
        top = _mapping(content, "the file", ("corpora", "temperature", "stages", "evaluate"))
        trained = [
            self._corpus(entry, f"corpora[{number}]", ("name", "path", "weight"))
            for number, entry in enumerate(_list(top.get("corpora"), "corpora"))
        ]
        extra = [
            self._corpus(entry, f"evaluate[{number}]", ("name", "path"))
            for number, entry in enumerate(_list(top.get("evaluate", []), "evaluate", least=0))
        ]
        names = [name for name, _, _ in (*trained, *extra)]
        for name in names:
            if names.count(name) > 1:
                raise _WrongEntry(f"two corpora are named {name!r}: give each its own name")
        weights = [weight for _, _, weight in trained if weight is not None]
        stages = [
            self._stage(entry, number, [name for name, _, _ in trained])
            for number, entry in enumerate(
                _list(top["stages"], "stages") if "stages" in top else ()
            )
        ]
        if weights and len(weights) < len(trained):
            missing = next(name for name, _, weight in trained if weight is None)
            raise _WrongEntry(
                f"corpus {missing!r} has no weight, and others have: give all or none"
            )
        if bool(weights) + bool(stages) + ("temperature" in top) > 1:
            raise _WrongEntry("give only one of weights, temperature and stages")
        temperature = top.get("temperature")
        return {
            "data": [path for _, path, _ in trained],
            "eval_data": [path for _, path, _ in extra],
            "corpus_names": names,
            "weights": weights,
            "temperature": None if temperature is None else _number(temperature, "temperature", 0),
            "stages": stages,
        }

    def _corpus(
        self, entry: Any, place: str, keys: Sequence[str]
    ) -> tuple[str, str, int | float | None]:
        """Name, path and weight."""
        corpus = _mapping(entry, place, keys)
        path = corpus.get("path")
        if not isinstance(path, str) or not path:
            raise _WrongEntry(f"{place}: needs a path, the folder of its shards")
        name = corpus.get("name", Path(path).name)
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise _WrongEntry(
                f"{place}: the name {shown_value(name)} is not one of letters, digits and . _ - /; give one"
            )
        weight = corpus.get("weight")
        if weight is not None:
            weight = _number(weight, f"{place}: weight")
        return name, str(self._folder / path), weight

    def _stage(self, entry: Any, number: int, names: Sequence[str]) -> str:
        place = f"stages[{number}]"
        stage = _mapping(entry, place, ("weights", "temperature", *_UNITS))
        lengths = [unit for unit in _UNITS if unit in stage]
        if ("weights" in stage) == ("temperature" in stage) or len(lengths) > 1:
            raise _WrongEntry(
                f"{place}: needs weights or a temperature, and at most one of {', '.join(_UNITS)}"
            )
        if "weights" in stage:
            weights = _mapping(stage["weights"], f"{place}: weights", names)
            shares = [_number(weights.get(name, 0), f"{place}: weight of {name}") for name in names]
            text = " ".join(map(_plain, shares))
        else:
            text = (
                f"temperature {_plain(_number(stage['temperature'], f'{place}: temperature', 0))}"
            )
        for unit in lengths:
            text += f" for {_plain(_number(stage[unit], f'{place}: {unit}', 0))} {unit}"
        return text


def _mapping(value: Any, place: str, keys: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _WrongEntry(f"{place}: expected a mapping with {', '.join(keys)}")
    for key in value:
        if key not in keys:
            raise _WrongEntry(
                f"{place}: unknown key {shown_value(key)!r}{suggestion(key, keys)} (known: {', '.join(keys)})"
            )
    return value


def _list(value: Any, place: str, least: int = 1) -> list[Any]:
    if not isinstance(value, list) or len(value) < least:
        raise _WrongEntry(f"{place}: expected a list" + (f" of {place}" if least else ""))
    return value


def _number(value: Any, place: str, above: float | None = None) -> int | float:
    """A number of 0 or more, or larger than ``above``. YAML takes ``1e9`` for a text."""
    if isinstance(value, str) and re.fullmatch(_NUMBER, value):
        value = float(value)
    limit = "0 or more" if above is None else f"more than {above}"
    good = isinstance(value, int | float) and not isinstance(value, bool) and value <= 1e18
    if not good or not (value >= 0 if above is None else value > above):
        raise _WrongEntry(f"{place} is {shown_value(value)}: expected a number of {limit}")
    number: int | float = value
    return number


def _plain(number: int | float) -> str:
    """A number without an exponent."""
    return format(Decimal(repr(number)), "f")
