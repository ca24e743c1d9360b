"""The model that a new run starts from (``--init-from``): its shape, its tokenizer, its weights.

    a run or a checkpoint    weights and moments, through whole tensors (megabert.checkpoint.resume)
    any other model          weights, which the main rank reads and sends to the others. Heads that the
                             model lacks are drawn by the run's seed, the same on every topology; heads
                             that this run does not train are left out. Both are logged

The shape is the source's, unless ``--model`` names a preset; what is set of it must agree.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from megabert.checkpoint import resume
from megabert.checkpoint.layout import Layout
from megabert.checkpoint.record import Checkpoint
from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.common.names import RUN_CHECKPOINTS, TOKENIZER_FOLDER, checkpoint_tag
from megabert.common.storage import named_storage_errors
from megabert.config.model import ModelConfig, changed_fields
from megabert.config.sections.shape import ModelSettings
from megabert.config.training import ResolvedSettings
from megabert.convert.sources.any_model import is_run, read_any_model
from megabert.convert.tokenizer import tokenizer_in
from megabert.convert.vocabulary import is_padding
from megabert.convert.whole_model import WholeModel
from megabert.data.tokenizers.compare import tokenizer_difference
from megabert.data.tokenizers.load import load_tokenizer
from megabert.engine.broadcast import broadcast_object, broadcast_tensors
from megabert.engine.launch import World
from megabert.engine.training_engine import TrainingEngine
from megabert.model.encoder import variant_of
from megabert.model.init import initial_tensor
from megabert.model.parameters import ENCODER, VOCABULARY_TENSORS, whole_parameters
from megabert.model.weights import padded_vocabulary, true_vocabulary
from megabert.pretrain.inputs import Inputs
from megabert.pretrain.lengths.durations import branch_of

_FREE = {
    "name", "hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range", "vocab_multiple",
}  # fmt: skip
"""Fields of a model that a new run may alter: they shape no trained tensor and no result without dropout."""

log = get_logger()


class StartingModel(ABC):
    """What a new run starts from.

    Attributes:
        config: its model.
        trained_positions: rows of its position table that training has used.
    """

    config: ModelConfig
    trained_positions: int

    @abstractmethod
    def load_into(
        self,
        engine: TrainingEngine,
        model: nn.Module,
        config: ModelConfig,
        settings: ResolvedSettings,
    ) -> None:
        """Load it into a new engine of ``model``, which ``config`` describes (a collective)."""


def _say_heads_are_kept(settings: ResolvedSettings) -> None:
    """Local heads are a start of random weights, and these weights are not."""
    if settings.initial_weights.init_local_heads:
        log.info("--init-local-heads has no effect: attention is that of --init-from")


class StartingCheckpoint(StartingModel):
    """A checkpoint of a run, with its moments."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.config = ModelConfig.from_dict(checkpoint.record["model"])
        self.trained_positions = int(checkpoint.record.get("trained_positions", 0))

    def load_into(
        self,
        engine: TrainingEngine,
        model: nn.Module,
        config: ModelConfig,
        settings: ResolvedSettings,
    ) -> None:
        moments = settings.run.init_moments
        resume.transfer(engine, model, self.checkpoint, moments=moments)
        averaged = Layout.from_record(self.checkpoint.record).has_average
        average_used = averaged and moments and bool(settings.averaging.ema_decay)
        also = ", moments and averaged weights" if average_used else " and moments"
        log.info("weights%s of %s", also if moments else "", self.checkpoint.folder)
        _say_heads_are_kept(settings)
        if averaged and not average_used:
            log.info(
                "its averaged weights are not used: to start from them, give --init-from the output of "
                "launch/convert.py --ema --to megabert"
            )


class StartingWeights(StartingModel):
    """Weights of any other kind. ``model`` has its tensors on the main rank only."""

    def __init__(self, model: WholeModel) -> None:
        self.model = model
        self.config = model.config
        self.trained_positions = model.trained_positions

    def load_into(
        self,
        engine: TrainingEngine,
        model: nn.Module,
        config: ModelConfig,
        settings: ResolvedSettings,
    ) -> None:
        _say_heads_are_kept(settings)
        tensors = broadcast_tensors(engine.world, self.model.tensors)
        self.model.tensors = {}
        full: dict[str, dict[str, torch.Tensor]] = {}
        scheme = settings.initial_weights.init_scheme
        drawn = []
        for name, parameter in whole_parameters(model, engine.world.tp.size).items():
            if name in tensors:
                value = padded_vocabulary(name, tensors[name], config.padded_vocab_size)
            else:
                drawn.append(name)
                value = initial_tensor(name, parameter.shape, config, settings.weight_seed, scheme)
            full[name] = {"weight": value}
        engine.load_whole_tensors(full, step=0)
        log.info(
            "weights of %s: %d tensors; moments start at zero",
            self.model.origin,
            len(full) - len(drawn),
        )
        if drawn:
            flag = "--seed" if settings.seeds.weight_seed is None else "--weight-seed"
            seed = settings.weight_seed
            log.info("drawn by %s %d, not found there: %s", flag, seed, _parts(drawn))
        left = [(name, "not trained by this run") for name in tensors if name not in full]
        reasons: dict[str, list[str]] = {}
        for name, reason in (*self.model.left_out, *left):
            reasons.setdefault(reason, []).append(name)
        if reasons:
            said = (f"{_parts(names)} ({reason})" for reason, names in reasons.items())
            log.info("left out: %s", "; ".join(said))


def _parts(names: Iterable[str]) -> str:
    """Tensors by the module they belong to: "mlm (5 tensors), nsp (2 tensors)"; a single one by its name."""
    parts: dict[str, list[str]] = {}
    for name in names:
        words = name.split(".")
        part = name if " " in name else ".".join(words[: 2 if words[0] == ENCODER else 1])
        parts.setdefault(part, []).append(name)
    shown = [
        found[0] if len(found) == 1 else f"{part} ({len(found)} tensors)"
        for part, found in parts.items()
    ]
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if shown[8:] else "")


def settle_model(
    settings: ResolvedSettings, inputs: Inputs, checkpoint: Checkpoint | None, world: World
) -> tuple[ResolvedSettings, Inputs, StartingModel | None]:
    """The model of the run, and what it starts from (a collective).

    Args:
        checkpoint: what the run resumes from, or a decay branch continues; ``--init-from`` is not read then.

    Returns:
        the settings with the whole shape, the inputs with the model, and the start of a new run with
        ``--init-from``.

    Raises:
        UserError: the source cannot be read, or does not fit the settings or the shards.
    """
    source = None
    if checkpoint is not None:
        before = ModelConfig.from_dict(checkpoint.record["model"])
    elif settings.run.init_from is not None:
        source = _open_source(settings, inputs, world)
        before = source.config
    else:
        return settings, inputs, None
    if settings.model.model is None:
        config = settings.model.resolve(inputs.tokenizer_info.vocab_size, before)
        settings = replace(settings, model=ModelSettings.of(config))
        inputs = inputs.with_model(config, settings)
    return settings, inputs, source


def open_branch(settings: ResolvedSettings, world: World) -> Checkpoint | None:
    """The checkpoint that a new decay branch continues; None for any other run (a collective).

    Raises:
        UserError: it is damaged, or the ranks have found different ones.
    """
    point = branch_of(settings)
    if point is None:
        return None
    meant = broadcast_object(world, lambda: str(point))
    if not world.agree(meant == str(point)):
        raise UserError(
            f"--decay-from {point.run}: a checkpoint was written while the ranks looked for the newest one: "
            f"name the step, as {meant}"
        )
    folder = point.run / RUN_CHECKPOINTS / checkpoint_tag(point.step or 0)
    return resume.find_source(folder, lambda found: None, world, "--decay-from")


def _open_source(settings: ResolvedSettings, inputs: Inputs, world: World) -> StartingModel:
    path = settings.run.init_from
    assert path is not None

    def of_a_run() -> bool:
        with _named(path), named_storage_errors(path, "cannot be read"):
            return is_run(path)

    if broadcast_object(world, of_a_run):

        def require_fit(found: Checkpoint) -> None:
            place = tokenizer_in(found.folder.parent.parent / TOKENIZER_FOLDER)
            _require_tokenizer(path, place, found.field("tokenizer_sha256"), None, inputs)
            _require_shape(path, ModelConfig.from_dict(found.record["model"]), settings, inputs)

        return StartingCheckpoint(resume.find_source(path, require_fit, world))
    tensors: dict[str, torch.Tensor] = {}

    def read() -> WholeModel:
        with _named(path):
            model = read_any_model(path, "--init-from")
        model = _fitting(model, path, inputs)
        _require_shape(path, model.config, settings, inputs)
        tensors.update(model.tensors)
        return replace(model, tensors={})

    model = broadcast_object(world, read)
    model.tensors = tensors
    return StartingWeights(model)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Put the flag and the source before a wrong input that does not name them."""
    try:
        yield
    except UserError as error:
        said = str(error)
        where = "" if said.startswith("--init-from") else "--init-from "
        where += "" if str(path) in said else f"{path}: "
        raise UserError(f"{where}{said}") from error


def _fitting(model: WholeModel, path: Path, inputs: Inputs) -> WholeModel:
    """The model with a row for each entry of the shards' tokenizer, and no others.

    Raises:
        UserError: the tokenizer is another one.
    """
    rows, words = model.config.vocab_size, inputs.tokenizer_info.vocab_size
    _require_tokenizer(path, model.tokenizer, model.tokenizer_sha256, rows, inputs)
    if rows == words:
        return model
    model.left_out += [
        (f"rows {words} to {rows - 1} of {name}", "no entries of the tokenizer")
        for name in VOCABULARY_TENSORS
        if name in model.tensors
    ]
    cut = {name: true_vocabulary(name, tensor, words) for name, tensor in model.tensors.items()}
    return replace(model, config=replace(model.config, vocab_size=words), tensors=cut)


def _require_tokenizer(
    path: Path, place: Path | None, recorded: str | None, rows: int | None, inputs: Inputs
) -> None:
    """Refuse a source whose tokenizer does not do the same as the shards'.

    Args:
        path: the source.
        place: its tokenizer's files, if it has them.
        recorded: SHA-256 of its tokenizer, if it is known.
        rows: of its word embeddings, without known padding; None: as many as its tokenizer has entries.
    """
    own = inputs.tokenizer_info
    if recorded != own.sha256:
        if place is not None:
            _require_same(path, place, inputs)
        elif recorded is not None:
            raise UserError(
                f"--init-from {path}: its tokenizer ({recorded[:12]}...) is not the shards' "
                f"({own.sha256[:12]}...), and its files are not there to compare them; shard the text with "
                "the tokenizer it was trained with"
            )
        elif rows is not None and not (rows == own.vocab_size or is_padding(rows, own.vocab_size)):
            raise UserError(
                f"--init-from {path}: its vocabulary has {rows:,} entries, the shards' {own.vocab_size:,}: "
                "shard the text with the tokenizer it was trained with (data_tools/shard_wiki.py --tokenizer)"
            )
        else:
            log.warning(
                "--init-from %s has no tokenizer: only the size of the vocabulary was compared, which is the "
                "shards' (%d)",
                path,
                own.vocab_size,
            )
    if rows is not None and rows < own.vocab_size:
        raise UserError(
            f"--init-from {path}: its word embeddings have {rows:,} rows, and the tokenizer "
            f"{own.vocab_size:,} entries: the tokenizer does not belong to these weights; shard the text with "
            "the one that they were trained with"
        )


def _require_same(path: Path, place: Path, inputs: Inputs) -> None:
    theirs = load_tokenizer(place)
    what = None
    if theirs.sha256 != inputs.tokenizer_info.sha256:
        what = tokenizer_difference(theirs, inputs.open_tokenizer())
    if what is not None:
        raise UserError(
            f"--init-from {path}: its tokenizer is not the shards' ({what}); shards that fit are made with: "
            f"python data_tools/shard_wiki.py --input TEXT --tokenizer {place} --output DIR"
        )


def _require_shape(
    path: Path, before: ModelConfig, settings: ResolvedSettings, inputs: Inputs
) -> None:
    """Refuse a source of another shape than the settings ask for.

    Raises:
        UserError: which fields, from what to what.
    """
    own = replace(before, vocab_size=inputs.tokenizer_info.vocab_size)
    now = settings.model.resolve(own.vocab_size, own)
    free = _FREE if variant_of(now).position_rows(now) else _FREE | {"max_position_embeddings"}
    differing = [
        f"{name} {old} -> {new}"
        for name, (old, new) in changed_fields(before, now).items()
        if name not in free and not (name == "vocab_size" and settings.model.model is None)
    ]
    if differing:
        longer = "max_position_embeddings" in changed_fields(before, now) and len(differing) == 1
        raise UserError(
            f"--init-from {path} is another model ({'; '.join(differing)}); leave out --model and its flags "
            "to take the shape from there, or set them to match"
            + ("; launch/convert.py --position-rows makes a longer model" if longer else "")
        )
    if now.type_vocab_size < 2 and settings.data.sentence_task != "none":
        raise UserError(
            f"--init-from {path} knows {now.type_vocab_size} segment only, and --sentence-task "
            f"{settings.data.sentence_task} makes pairs: set --sentence-task none"
        )
