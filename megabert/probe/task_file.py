"""The file of ``launch/probe.py --tasks``: a YAML list of probes. Nothing here needs torch.

    - {name: sst2, kind: finetune, task: sst2, train: sst2/train.tsv, eval: sst2/dev.tsv, epochs: 1,
       max_train_examples: 2000, seeds: 3}
    - {name: wiki, kind: pseudo-perplexity, text: held-out.txt, sentences: 200, max_length: 64}

The keys of a fine-tuning are the flags of ``launch/finetune.py`` without dashes, with the same types and limits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass as checked_dataclass

from megabert.common.errors import UserError
from megabert.common.files import sha256_of, sha256_of_file
from megabert.common.yaml_text import read_yaml_value
from megabert.config import flags
from megabert.config.flags import Given, SettingsLayer, Values, setting
from megabert.config.numbers import Count, NonNegativeInt, Size
from megabert.config.values import DEFERRED, suggestion
from megabert.finetune.settings import ResolvedFinetuning, finetune_settings, resolve_finetuning

FINETUNE, PERPLEXITY = "finetune", "pseudo-perplexity"

_OF_THE_COMMAND = {
    "task": {"checkpoint", "output", "test", "random_init", "log_interval"},
    "initial_weights": {"init_scheme", "init_local_heads"},
    "selection": {"lrs", "resume"},
    "parallel": {
        "tensor_parallel", "sequence_parallel", "deepspeed_config", "self_test", "hang_timeout",
    },
}  # fmt: skip
"""Settings of a fine-tuning that are not those of a probe."""
_DEFAULTS: Values = {
    "task": {"checkpoint": "(each model)", "output": "(the probe's)", "new_head": True},
    "selection": {"eval_interval": "end", "keep": "last"},
}
"""Every model is scored after the last update, with a new head."""


@dataclass(frozen=True)
class FinetuneProbe:
    """A small fine-tuning.

    Attributes:
        name: as the file gives it.
        settings: of ``launch/finetune.py``; checkpoint and output are those of each model.
        repetitions: number of seeds.
    """

    name: str
    settings: ResolvedFinetuning
    repetitions: int

    @property
    def files(self) -> dict[str, Path]:
        """``train`` and ``eval``."""
        task = self.settings.task
        return {name: path for name in ("train", "eval") if (path := getattr(task, name))}

    @property
    def seeds(self) -> tuple[int, ...]:
        """As ``--seeds`` of a fine-tuning: one after the other."""
        first = self.settings.task.seed
        return tuple(range(first, first + self.repetitions))

    def definition(self) -> dict[str, Any]:
        """The settings that change results."""
        rules = flags.resume_rules(finetune_settings())
        kept = {
            section: {
                name: value
                for name, value in values.items()
                if rules[section, name] != "free"
                and name not in _OF_THE_COMMAND.get(section, ())
                and (section, name) != ("task", "seed")
                and (section, name) not in (("task", "train"), ("task", "eval"))
            }
            for section, values in flags.to_values(self.settings).items()
        }
        return {"kind": FINETUNE, **kept}

    def of_model(self, checkpoint: Path, output: Path, seed: int) -> ResolvedFinetuning:
        """The settings of one run."""
        place = replace(self.settings.task, checkpoint=checkpoint, output=output, seed=seed)
        return replace(self.settings, task=place)


@checked_dataclass(frozen=True, config=DEFERRED)
class PerplexitySettings:
    """Pseudo-perplexity"""

    text: Path | None = setting(None, "UTF-8 text, a sentence per line")
    sentences: Count = setting(200, "sentences to use, at most; a random choice by the seed")
    max_length: Size = setting(
        128, "tokens per sentence, [CLS] and [SEP] included; the rest is cut"
    )
    batch_size: Count = setting(64, "masked sentences that are computed at once", resume="free")
    seed: NonNegativeInt = setting(42, "seed of the choice of sentences")


@checked_dataclass(frozen=True, config=DEFERRED)
class _PerplexityTree:
    perplexity: PerplexitySettings


@dataclass(frozen=True)
class PerplexityProbe:
    """Pseudo-perplexity of a text.

    Attributes:
        name: as the file gives it.
        text: the file.
        settings: how much of it.
    """

    name: str
    text: Path
    settings: PerplexitySettings

    @property
    def files(self) -> dict[str, Path]:
        """``text``."""
        return {"text": self.text}

    @property
    def seeds(self) -> tuple[int, ...]:
        """One: the choice of sentences is the same for every model."""
        return (self.settings.seed,)

    def definition(self) -> dict[str, Any]:
        """Number and length of sentences."""
        settings = self.settings
        return {
            "kind": PERPLEXITY,
            "sentences": settings.sentences,
            "max_length": settings.max_length,
        }


Probe = FinetuneProbe | PerplexityProbe
"""One entry of the file."""


def read_tasks(path: Path) -> list[Probe]:
    """The probes of a file.

    Raises:
        UserError: the file or one that it names is missing, or an entry is wrong; the message names it.
    """
    try:
        entries = read_yaml_value(path)
    except OSError as error:
        raise UserError(f"--tasks {path}: {error.strerror}; name a readable YAML file") from error
    except UserError as error:
        raise UserError(f"--tasks {error}") from error
    if not isinstance(entries, list) or not entries:
        raise UserError(
            f"--tasks {path}: expected a list of probes, each with name and kind ({FINETUNE} or {PERPLEXITY})"
        )
    probes = [_read_entry(path, number, entry) for number, entry in enumerate(entries, start=1)]
    names = [probe.name for probe in probes]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise UserError(f"--tasks {path}: two probes have the name {twice[0]!r}; rename one")
    return probes


def _read_entry(path: Path, number: int, entry: Any) -> Probe:
    if not isinstance(entry, Mapping):
        raise UserError(f"--tasks {path}: entry {number} is not a mapping of keys to values")
    name = entry.get("name")
    if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > 60:
        raise UserError(f"--tasks {path}: entry {number}: name is missing, or not a short text")
    place = f"--tasks {path}: {name}"
    kind = entry.get("kind")
    if kind not in (FINETUNE, PERPLEXITY):
        raise UserError(f"{place}: kind: expected {FINETUNE} or {PERPLEXITY}, not {kind!r}")
    body = {str(key): value for key, value in entry.items() if key not in ("name", "kind")}
    made = _finetuning if kind == FINETUNE else _perplexity
    probe = made(place, name, body)
    for key, file in probe.files.items():
        if not file.exists():
            raise UserError(f"{place}: {key} {file}: no such file")
    return probe


def _finetuning(place: str, name: str, body: dict[str, Any]) -> Probe:
    places = _places(finetune_settings())
    layer = _layer(place, body, places)
    values = flags.join(_DEFAULTS, layer.values)
    repetitions = flags.build(finetune_settings(), layer).selection.seeds
    values["selection"] = values["selection"] | {"seeds": 1}
    try:
        settings = resolve_finetuning(Given(flags=SettingsLayer(values, layer.file, layer.names)))
    except UserError as error:
        raise UserError(f"{place}: {error}" if place not in str(error) else str(error)) from error
    for key in ("train", "eval"):
        if getattr(settings.task, key) is None:
            raise UserError(f"{place}: {key} is missing: name a file")
    return FinetuneProbe(name, settings, repetitions)


def _perplexity(place: str, name: str, body: dict[str, Any]) -> Probe:
    layer = _layer(place, body, _places(_PerplexityTree))
    settings = flags.build(_PerplexityTree, layer).perplexity
    if settings.text is None:
        raise UserError(f"{place}: text is missing: name a file with a sentence per line")
    if settings.max_length < 3:
        raise UserError(
            f"{place}: max_length {settings.max_length}: [CLS] and [SEP] take 2 of them"
        )
    return PerplexityProbe(name, settings.text, settings)


def _places(tree: type) -> dict[str, tuple[str, str]]:
    """Key of an entry -> (section, setting); a key is a setting's name, or its flag without dashes."""
    found: dict[str, tuple[str, str]] = {}
    for section, kind in flags.sections(tree).items():
        for field in dataclasses.fields(kind):
            if field.name not in _OF_THE_COMMAND.get(section, ()):
                flag = flags.flag_of(field).lstrip("-").replace("-", "_")
                found |= {field.name: (section, field.name), flag: (section, field.name)}
    return found


def _layer(
    place: str, body: dict[str, Any], places: Mapping[str, tuple[str, str]]
) -> SettingsLayer:
    """The entry's values as settings, named as in the file.

    Raises:
        UserError: every key that is not known, or that is given under two names.
    """
    problems = [
        f"unknown key {key!r}{suggestion(key, places)}" for key in body if key not in places
    ]
    values: Values = {}
    names: dict[tuple[str, str], str] = {}
    for key, value in body.items():
        if key in places:
            section, field = places[key]
            if places[key] in names:
                problems.append(f"{key} and {names[places[key]]} are one setting; keep one")
            names[places[key]] = key
            values.setdefault(section, {})[field] = value
    if problems:
        raise UserError(f"{place}: {'; '.join(problems)}")
    return SettingsLayer(values, place, names)


def content_sum(path: Path) -> str:
    """SHA-256 of a file, or of all files in a folder."""
    if path.is_file():
        return sha256_of_file(path)
    files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
    return sha256_of("\n".join(f"{p.relative_to(path)} {sha256_of_file(p)}" for p in files))
