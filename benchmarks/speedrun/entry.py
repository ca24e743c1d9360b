"""An entry of the speedrun: a file of settings, and what it tries.

about: What the entry tries, in a sentence or two.
vocabulary: 8192          # of the shards (default: 8192)
ranks: 2                  # of a CPU track: processes that share the two cores (default: 2); or 1 with two threads
weights: trained          # what is scored: trained (default) or ema
steps: {cpu-1h: 700}      # updates for each track; without them: run --fit
settings:                 # a --config of launch/pretrain.py: only what differs from its defaults
  model: {model: bert-mini}
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.speedrun.prepared import VOCABULARY
from benchmarks.speedrun.tracks import TRACKS
from megabert.common.errors import UserError
from megabert.common.files import sha256_of
from megabert.common.yaml_text import read_yaml_value
from megabert.config import flags
from megabert.config.training import PretrainSettings
from megabert.pretrain.settings import resolve_pretraining

ENTRIES = Path(__file__).resolve().parent / "entries"
OF_THE_RACE = frozenset({
    "data", "weights", "eval_data", "replay", "steps", "train_tokens", "output", "seed", "data_seed", "weight_seed", "resume",
    "init_from", "decay_from", "stop_after", "eval_interval", "eval_samples", "save_interval", "keep_last", "keep_every",
})  # fmt: skip
"""Settings that the rules fix or the command sets."""


@dataclass(frozen=True)
class Entry:
    """What an entry's file says.

    Attributes:
        name: of the file.
        about: what it tries.
        settings: section -> setting -> value.
        vocabulary, ranks, weights: see the module.
        steps: track -> updates.
    """

    name: str
    about: str
    settings: dict[str, Any]
    vocabulary: int = VOCABULARY
    ranks: int = 2
    weights: str = "trained"
    steps: dict[str, int] | None = None

    @property
    def digest(self) -> str:
        """Of everything that decides the result, apart from the number of updates."""
        content = [self.settings, self.vocabulary, self.ranks, self.weights]
        return sha256_of(json.dumps(content, sort_keys=True))


def find_entry(name: str) -> Entry:
    """The entry of this name, or of this file.

    Raises:
        UserError: there is none, or its file is wrong.
    """
    path = ENTRIES / f"{name}.yaml"
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in ENTRIES.glob("*.yaml")))
        raise UserError(f"entry {name}: no such file, and no such name among {known}")
    return read_entry(path)


def read_entry(path: Path) -> Entry:
    """Read and check an entry's file.

    Raises:
        UserError: a key or value that is wrong; the message names the file.
    """
    content = read_yaml_value(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected the keys about and settings")
    known = {"about": str, "settings": dict, "vocabulary": int, "ranks": int, "weights": str, "steps": dict}  # fmt: skip
    for key, value in content.items():
        if key not in known:
            raise UserError(f"{path}: {key}: expected one of {', '.join(known)}")
        if type(value) is not known[key]:
            raise UserError(f"{path}: {key}: expected a value of type {known[key].__name__}")
    if "about" not in content or "settings" not in content:
        raise UserError(f"{path}: about and settings are needed")
    if content.get("ranks", 2) not in (1, 2):
        raise UserError(f"{path}: ranks: expected 1 or 2")
    if content.get("weights", "trained") not in ("trained", "ema"):
        raise UserError(f"{path}: weights: expected trained or ema")
    for section, values in content["settings"].items():
        if not isinstance(values, dict):
            raise UserError(f"{path}: settings.{section}: expected settings and their values")
        for name in sorted(OF_THE_RACE.intersection(values)):
            raise UserError(f"{path}: settings.{section}.{name} is set by the speedrun; remove it")
    for track, steps in content.get("steps", {}).items():
        if track not in TRACKS:
            raise UserError(f"{path}: steps.{track}: expected one of {', '.join(TRACKS)}")
        if type(steps) is not int or steps < 1:
            raise UserError(f"{path}: steps.{track}: expected a whole number from 1")
    _check_settings(content, path)
    return Entry(path.stem, content["about"].strip(), **{k: v for k, v in content.items() if k != "about"})  # fmt: skip


def _check_settings(content: dict[str, Any], path: Path) -> None:
    """Refuse what launch/pretrain.py would refuse, and a score of weights that the run does not have."""
    try:
        layer = flags.layer_of(content["settings"], PretrainSettings, "settings")
        settings = resolve_pretraining(flags.Given(file=layer))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if content.get("weights") == "ema" and not settings.averaging.ema_decay:
        raise UserError(f"{path}: weights: ema needs settings.averaging.ema_decay")
