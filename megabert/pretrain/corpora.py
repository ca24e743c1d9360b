"""The corpora of a run, from its settings: which are trained on, in which shares, and which only evaluated.

    own_mixture     the settings of a command line that names a mixture of its own
    read_mixture    settings of data -> corpora, stages and replay, without a look at the shards
    shares          the same and the tokens of each corpus -> whole weights, stage by stage

Needs no torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from megabert.common.errors import UserError
from megabert.common.names import RUN_CONFIG
from megabert.config import flags
from megabert.config.flags import Given, SettingsLayer
from megabert.config.mixture import (
    StageSettings,
    is_mixture_file,
    read_mixture_file,
    read_stage,
    show_stage,
)
from megabert.config.training import DataSettings, PretrainSettings
from megabert.data.samples.course import Course
from megabert.data.samples.mixture import MixturePlan, Stage, whole_weights

_SHARES = ("weights", "temperature", "stages")
_OF_A_MIXTURE = (*_SHARES, "eval_data", "corpus_names")
"""What else describes the mixture whose folders ``--data`` names."""

_OF_A_RUN = ": data.data"
"""How the name of a corpus's place ends that was found in the settings of another run."""


class NamedCorpus(NamedTuple):
    """A corpus's name in metrics, its folder or file, and the flag that names it."""

    name: str
    path: Path
    flag: str


@dataclass(frozen=True)
class MixtureSettings:
    """What the settings say about the corpora of a run.

    Attributes:
        trained: those of ``--data``, then those that are replayed.
        evaluated: those that are only evaluated.
        replayed: how many of ``trained`` are replayed.
        replay_share: their share of the samples.
        replay_weights: of each of them among these; () for in proportion to tokens.
        stages: the shares of those of ``--data``.
        tokenizer: of foreign shards.
    """

    trained: tuple[NamedCorpus, ...]
    evaluated: tuple[NamedCorpus, ...]
    replayed: int
    replay_share: Fraction
    replay_weights: tuple[Fraction, ...]
    stages: tuple[StageSettings, ...]
    tokenizer: Path | None

    @property
    def corpora(self) -> tuple[NamedCorpus, ...]:
        """All of them."""
        return self.trained + self.evaluated


def own_mixture(given: Given) -> tuple[Given, SettingsLayer]:
    """A command line's settings without what they replace of ``--config``, and those of a mixture file.

    The flag ``--data`` replaces the whole mixture of a file, a flag for shares the file's shares, and
    ``--eval-data`` its names.

    Raises:
        UserError: the mixture file is wrong, or is given along with what it contains.
    """
    recorded = dict(given.file.values.get("data", {}))
    replaced: set[str] = set()
    if given.flags.sets("data", "data"):
        replaced.update(_OF_A_MIXTURE)
    if given.flags.sets("data", "eval_data"):
        replaced.add("corpus_names")
    if any(given.flags.sets("data", name) for name in _SHARES):
        replaced.update(_SHARES)
    kept = {name: value for name, value in recorded.items() if name not in replaced}
    values = {**given.file.values, "data": kept}
    given = replace(given, file=SettingsLayer(values, given.file.file, given.file.names))
    paths = flags.build(PretrainSettings, given.file, given.flags).data.data
    files = [path for path in paths if is_mixture_file(path)]
    if not files:
        return given, SettingsLayer()
    if len(paths) > 1:
        raise UserError(
            f"--data {files[0]} is a mixture, and more is given along with it: write all corpora into that file"
        )
    for layer in (given.file, given.flags):
        for name in _OF_A_MIXTURE:
            if layer.sets("data", name) and layer.values["data"][name] not in ([], ()):
                flag = "--" + name.replace("_", "-")
                raise UserError(f"--data {files[0]} is a mixture: write what {flag} says into it")
    return given, SettingsLayer({"data": read_mixture_file(files[0])}, str(files[0]))


def read_mixture(
    data: DataSettings, seq_length: int, course: Course | None, init_from: Path | None
) -> MixtureSettings:
    """What the settings say, checked as far as that is possible without the shards.

    ``course``: None if the global batch follows from the number of ranks.

    Raises:
        UserError: numbers of values that do not fit, a folder twice, shares that are all 0, ...
    """
    stages = _stages(data, seq_length, course)
    names = list(data.corpus_names)
    paths = [(path, "--data") for path in data.data] + [
        (path, "--eval-data") for path in data.eval_data
    ]
    if names and len(names) != len(paths):
        raise UserError(
            f"--corpus-names gives {len(names)} names for {len(paths)} corpora (--data and --eval-data)"
        )
    if len(set(names)) < len(names):
        raise UserError("--corpus-names gives a name twice; give each corpus its own")
    named = [
        NamedCorpus(name, *place)
        for name, place in zip(names or _names([path for path, _ in paths]), paths)
    ]
    trained, evaluated = named[: len(data.data)], named[len(data.data) :]
    old, weights, tokenizer = _replayed(data, init_from)
    taken = {corpus.name for corpus in named}
    for number, corpus in enumerate(old):
        name = corpus.name
        while name in taken:
            name = f"replay/{name}"
        taken.add(name)
        old[number] = corpus._replace(name=name)
    share = Fraction(repr(data.replay_share or 0.0))
    if share:
        trained += old
    else:
        evaluated, weights = [*evaluated, *old], ()
    _refuse_twice([*trained, *evaluated])
    return MixtureSettings(
        tuple(trained),
        tuple(evaluated),
        len(old) if share else 0,
        share,
        weights,
        tuple(stages),
        data.tokenizer or tokenizer,
    )


def shares(mixture: MixtureSettings, tokens: Sequence[int]) -> MixturePlan:
    """The weights of all corpora that are trained on, given the tokens of each.

    Raises:
        UserError: a corpus has no share in any stage.
    """
    own = len(mixture.trained) - mixture.replayed
    old = _parts(mixture.replay_weights, Fraction(1), tokens[own:])
    stages = []
    for stage in mixture.stages:
        new = _parts(stage.weights, stage.temperature, tokens[:own])
        weights = [(1 - mixture.replay_share) * part for part in new]
        weights += [mixture.replay_share * part for part in old]
        stages.append(Stage(whole_weights(weights), stage.samples))
    for number, corpus in enumerate(mixture.trained):
        if not any(stage.weights[number] for stage in stages):
            raise UserError(
                f"{corpus.flag} {corpus.path} has the weight 0 throughout: leave it out, or name it with "
                "--eval-data to evaluate it only"
            )
    return MixturePlan(stages)


def resolved_data(data: Any, mixture: MixtureSettings, plan: MixturePlan) -> Any:
    """Settings of data that mean this mixture by themselves: what ``config.yaml`` records."""
    several, stages = len(mixture.corpora) > 1, plan.stages
    weights: tuple[float, ...] = ()
    texts: tuple[str, ...] = ()
    if len(stages) > 1:
        texts = tuple(show_stage(stage.weights, stage.samples) for stage in stages)
    elif len(mixture.trained) > 1:
        weights = tuple(map(float, stages[0].weights))
    return replace(
        data,
        data=tuple(corpus.path for corpus in mixture.trained),
        eval_data=tuple(corpus.path for corpus in mixture.evaluated),
        corpus_names=tuple(corpus.name for corpus in mixture.corpora) if several else (),
        weights=weights,
        temperature=None,
        stages=texts,
        replay=(),
        replay_share=None,
        tokenizer=mixture.tokenizer,
    )


def _stages(data: DataSettings, seq_length: int, course: Course | None) -> list[StageSettings]:
    """The stages of the corpora of ``--data``; one without an end unless ``--stages`` are given."""
    given = {
        "--weights": bool(data.weights),
        "--temperature": data.temperature is not None,
        "--stages": bool(data.stages),
    }
    if sum(given.values()) > 1:
        both = " and ".join(flag for flag, there in given.items() if there)
        raise UserError(f"{both} give the shares of the corpora; give one of them")
    if data.stages:
        stages, first = [], 0
        for text in data.stages:
            stages.append(read_stage(text, partial(_samples_of, first, seq_length, course)))
            first += stages[-1].samples or 0
        for text, stage in zip(data.stages[:-1], stages):
            if stage.samples is None:
                raise UserError(f"--stages '{text}' has no length, and only the last one may not")
        if stages[-1].samples is not None:
            raise UserError(
                f"--stages '{data.stages[-1]}' is the last one, which lasts to the end of the run; leave "
                "out its length, or add a stage after it"
            )
    else:
        weights = tuple(Fraction(repr(weight)) for weight in data.weights)
        temperature = Fraction(repr(data.temperature or 1.0))
        stages = [StageSettings(weights, temperature, None)]
    for stage in stages:
        flag = "--stages: a stage" if data.stages else "--weights"
        if stage.weights and len(stage.weights) != len(data.data):
            raise UserError(
                f"{flag} gives {len(stage.weights)} weights for {len(data.data)} corpora of --data"
            )
        if stage.weights and not any(stage.weights):
            raise UserError(
                f"{flag} gives every corpus the weight 0; give at least one a weight above 0"
            )
    return stages


def _replayed(
    data: DataSettings, init_from: Path | None
) -> tuple[list[NamedCorpus], tuple[Fraction, ...], Path | None]:
    """Corpora to replay, their weights, and the tokenizer that their run was given."""
    if data.replay_share is None:
        if data.replay:
            raise UserError(
                "--replay names corpora; give their share of the samples: --replay-share"
            )
        return [], (), None
    if data.replay:
        names = _names(data.replay)
        return (
            [NamedCorpus(name, path, "--replay") for name, path in zip(names, data.replay)],
            (),
            None,
        )
    if init_from is None:
        raise UserError(
            "--replay-share needs the corpora to replay: --init-from RUN, or --replay DIR..."
        )
    places = (init_from / RUN_CONFIG, init_from.parent.parent / RUN_CONFIG)
    config = next((place for place in places if place.is_file()), None)
    if config is None:
        raise UserError(
            f"--replay-share: --init-from {init_from} is not a pretraining run, which records its data; name "
            "the folders with --replay DIR..."
        )
    earlier = flags.build(PretrainSettings, flags.read_yaml(config, PretrainSettings)).data
    if earlier.stages:
        stage = read_stage(earlier.stages[-1], lambda length, unit: length)
    else:
        stage = _stages(earlier, 1, None)[-1]
    found = earlier.corpus_names[: len(earlier.data)] or _names(earlier.data)
    corpora = [
        NamedCorpus(name, path, f"{config}{_OF_A_RUN}") for name, path in zip(found, earlier.data)
    ]
    if stage.weights:
        kept = [number for number, weight in enumerate(stage.weights) if weight]
        return (
            [corpora[number] for number in kept],
            tuple(stage.weights[number] for number in kept),
            earlier.tokenizer,
        )
    return corpora, (), earlier.tokenizer


def _samples_of(
    first: int, seq_length: int, course: Course | None, length: Fraction, unit: str
) -> Fraction | None:
    """Samples of this many tokens or updates from sample ``first`` on; None for updates of unknown size."""
    if unit == "tokens":
        if course is None:
            return Fraction(ceil(length / seq_length))
        end = course.sample_tokens(first) + ceil(length)
        return Fraction(course.samples_for_tokens(end) - first)
    if course is None or course.constant or length.denominator != 1:
        return None if course is None else length * course.final.batch
    update = course.update_of_sample(first)
    return Fraction(course.first_sample(update + int(length)) - course.first_sample(update))


def _parts(
    weights: Sequence[Fraction], temperature: Fraction, tokens: Sequence[int]
) -> list[Fraction]:
    """Shares of the sum 1; without weights in proportion to tokens to the power of 1 / temperature."""
    if not weights and temperature == 1:
        weights = [Fraction(count) for count in tokens]
    elif not weights:
        largest = max(tokens)
        # to nine digits, so that the last bits of a power do not matter
        weights = [
            Fraction(round(10**9 * (count / largest) ** (1 / float(temperature))), 10**9)
            for count in tokens
        ]
    total = sum(weights)
    return [weight / total for weight in weights] if total else list(weights)


def _names(paths: Sequence[Path]) -> list[str]:
    """The last part of each path, with the one before it or a number where these are the same."""
    parts = [
        [re.sub(r"[^\w.-]+", "_", part)[:60] for part in path.absolute().parts[1:]] or ["data"]
        for path in paths
    ]
    names = [own[-1] for own in parts]
    names = [
        "/".join(own[-2:]) if names.count(name) > 1 else name for own, name in zip(parts, names)
    ]
    for number, name in enumerate(names):
        same = names[:number].count(name)
        if same:
            names[number] = f"{name}-{same + 1}"
    return names


def _refuse_twice(corpora: Sequence[NamedCorpus]) -> None:
    seen: dict[Path, NamedCorpus] = {}
    for corpus in corpora:
        place = corpus.path.resolve()
        if place in seen:
            first = seen[place]
            cure = "give it once"
            if corpus.flag.endswith(_OF_A_RUN):
                cure += ", or name other folders with --replay DIR..."
            both = corpus.flag if corpus.flag == first.flag else f"{first.flag} and {corpus.flag}"
            raise UserError(f"{both} {corpus.path}: this corpus is given twice; {cure}")
        seen[place] = corpus
