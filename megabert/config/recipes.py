"""The published recipes: those of the phases, and the files of ``launch/recipes``.

A recipe file is a valid ``--config`` of ``launch/pretrain.py``. It starts with comments of a fixed form, which
:func:`read_header` reads: ``# key: text`` for every field of :class:`RecipeHeader`, in its order; further lines
of a text are indented by four spaces.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, NamedTuple

from megabert.common.errors import UserError

RECIPE_FOLDER = Path(__file__).parents[2] / "launch" / "recipes"

Phase = Literal[1, 2, "continue"]
CONTINUE = "continue"
"""The phase of a run that continues a finished model on other text."""


class Recipe(NamedTuple):
    """Published settings of one phase."""

    seq_length: int
    max_predictions: int
    global_batch_size: int
    steps: int
    lr: float
    warmup_fraction: float
    optimizer: str = "lamb"
    beta2: float = 0.999
    schedule: str = "poly"
    masking: str = "token"


RECIPES: dict[int | str, Recipe] = {
    1: Recipe(128, 20, 65536, 7038, 6e-3, 0.2843),
    2: Recipe(512, 80, 32768, 1563, 4e-3, 0.128),
    CONTINUE: Recipe(512, 80, 2048, 12500, 5e-4, 0.06, "adamw", 0.98, "linear", "whole-word"),
}
"""1 and 2: BERT-large with LAMB (You et al. 2020, and its public scripts). continue: domain-adaptive
pretraining of Gururangan et al. 2020, with the whole-word masking of Google BERT's release of May 2019."""


class RecipeHeader(NamedTuple):
    """What a recipe file says of itself.

    Attributes:
        name: the file's name without ``.yaml``.
        source: the paper, with section or table.
        code: repository and file of the published values.
        hardware: what the source trained on, and how long.
        published: the source's loss or scores.
        checked: what was tried with it here.
        departures: where it differs from the source, and why.
    """

    name: str
    source: str
    code: str
    hardware: str
    published: str
    checked: str
    departures: str


def recipe_files() -> dict[str, Path]:
    """Name -> file of every recipe; empty if megabert is installed without ``launch/``."""
    return {
        name: RECIPE_FOLDER / f"{name}.yaml"
        for name in sorted(p.stem for p in RECIPE_FOLDER.glob("*.yaml"))
    }


def read_header(path: Path) -> RecipeHeader:
    """The header of a recipe file.

    Raises:
        UserError: a field is missing, unknown, empty or not in its place.
    """
    texts: dict[str, str] = {}
    key = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        start = re.fullmatch(r"# ([a-z]+):(?: (.*))?", line)
        if start is not None:
            key = start[1]
            texts[key] = start[2] or ""
        elif key and line.startswith("#     "):
            texts[key] = f"{texts[key]} {line[6:]}".strip()
        else:
            raise UserError(f"{path}: the line {line!r} is not of a recipe's header (# key: text)")
    fields = RecipeHeader._fields
    if tuple(texts) != fields or not all(texts.values()):
        raise UserError(
            f"{path}: a recipe's header has, in this order and with texts: {', '.join(fields)}"
        )
    return RecipeHeader(**texts)
