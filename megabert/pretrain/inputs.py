"""What a pretraining run starts from: settings out of all their layers, shards, and the model's shape."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.common.names import EVAL, TOKENIZER_FOLDER, TRAIN
from megabert.config import flags
from megabert.config.flags import Values
from megabert.config.model import ModelConfig
from megabert.config.training import RECIPES, DataSettings, PretrainSettings
from megabert.data.foreign.files import is_foreign, open_foreign
from megabert.data.foreign.source import ForeignSource
from megabert.data.samples.index import SampleSettings
from megabert.data.samples.masking import MaskSettings, default_max_predictions
from megabert.data.samples.source import Samples, SampleSource, evaluation_settings
from megabert.data.shards.corpus import Corpus
from megabert.data.shards.manifest import Manifest, load_manifest
from megabert.data.tokenizers.base import Tokenizer
from megabert.data.tokenizers.load import load_tokenizer
from megabert.engine.config import (
    BatchSizes,
    deepspeed_values,
    read_deepspeed_config,
    resolve_batch,
)
from megabert.model.encoder import variant_of

TOKENS_PER_MICRO_STEP = 8192
"""A micro batch that nobody set holds at most this many tokens."""
_ONLY_UNMASKED = ("masking", "mask_fraction", "short_sequence_fraction")
"""Settings that say how samples are made, which foreign shards have behind them."""


def resolve(given: Values, config_file: Values) -> tuple[PretrainSettings, dict[str, Any]]:
    """All settings but the batch, and the user's DeepSpeed sections.

    ``given``: what flags set; ``config_file``: what ``--config`` set. Precedence: flag > file >
    DeepSpeed file > phase recipe > default.
    """
    first = flags.build(PretrainSettings, flags.join(config_file, given))
    recipe = RECIPES[first.run.phase]
    layer: Values = {
        "data": {"seq_length": recipe.seq_length},
        "batch": {"global_batch_size": recipe.global_batch_size},
        "optimizer": {
            "lr": recipe.lr,
            "warmup_fraction": recipe.warmup_fraction,
            "steps": recipe.steps,
        },
        "run": {"output": f"runs/{first.model.model}-phase{first.run.phase}"},
    }
    raw: dict[str, Any] = {}
    from_deepspeed: Values = {}
    if first.parallel.deepspeed_config is not None:
        raw = read_deepspeed_config(first.parallel.deepspeed_config)
        from_deepspeed = deepspeed_values(raw, first.parallel.deepspeed_config)
    by_hand = flags.join(config_file, given)
    for section in by_hand.values():  # None in a file means "not set"
        for name in [name for name, value in section.items() if value is None]:
            del section[name]
    values = flags.join(layer, from_deepspeed, by_hand)
    if "global_batch_size" not in {**from_deepspeed.get("batch", {}), **by_hand.get("batch", {})}:
        factors = by_hand.get("batch", {}) | from_deepspeed.get("batch", {})
        if {"micro_batch_size", "gradient_accumulation_steps"} <= set(factors):
            values["batch"].pop("global_batch_size")
    settings = flags.build(PretrainSettings, values)
    if settings.run.init_from is not None and settings.run.resume not in ("never", "auto"):
        raise UserError(
            "--init-from starts a run and --resume TAG goes on with one; give one of them"
        )
    _require_meaning(settings, given, config_file)
    length, degree = settings.data.seq_length or 0, settings.parallel.tensor_parallel
    if settings.parallel.sequence_parallel and settings.data.packing == "off" and length % degree:
        raise UserError(
            f"--sequence-parallel on splits a padded batch's tokens evenly, and --seq-length {length} is "
            f"not divisible by --tensor-parallel {degree}: leave --packing on, or change one of them"
        )
    limit = settings.data.max_predictions or default_max_predictions(
        length, settings.data.mask_fraction
    )
    return replace(settings, data=replace(settings.data, max_predictions=limit)), raw


def divide(
    settings: PretrainSettings, data_parallel: int, kept: int | None = None
) -> tuple[PretrainSettings, BatchSizes]:
    """The settings with every batch size made definite, and those sizes.

    ``kept``: global batch of the checkpoint that the run goes on from (``resolve_batch``).

    Raises:
        UserError: they don't multiply out.
    """
    micro_limit = max(1, TOKENS_PER_MICRO_STEP // (settings.data.seq_length or 1))
    batch = resolve_batch(settings.batch, data_parallel, micro_limit, kept=kept)
    sizes = replace(
        settings.batch,
        global_batch_size=batch.global_size,
        micro_batch_size=batch.micro_size,
        gradient_accumulation_steps=batch.accumulation,
    )
    return replace(settings, batch=sizes), batch


def _require_meaning(settings: PretrainSettings, given: Values, config_file: Values) -> None:
    """Refuse settings of the data that its shards give no meaning to.

    A ``--config`` may be another run's file, which names every setting: there only values other
    than the defaults are refused.
    """
    data = settings.data
    if not is_foreign(data.data):
        if data.tokenizer is not None and data.data.exists():
            raise UserError(
                f"{data.data}: no HDF5 or TFRecord shards of other projects here, and --tokenizer is "
                "for these alone: megabert's own carry their tokenizer"
            )
        return
    if data.tokenizer is None:
        raise UserError(
            f"{data.data}: these shards carry no vocabulary: give the tokenizer that they were made "
            "with, --tokenizer FILE"
        )
    flagged, filed = given.get("data", {}), config_file.get("data", {})
    defaults = {field.name: field.default for field in fields(DataSettings)}
    idle = [name for name in (*_ONLY_UNMASKED, "max_predictions") if name in flagged]
    idle += [
        name
        for name in _ONLY_UNMASKED
        if name in filed and name not in idle and getattr(data, name) != defaults[name]
    ]
    if idle:
        names = ", ".join("--" + name.replace("_", "-") for name in idle)
        raise UserError(
            f"{names}: no effect on {data.data}, whose samples are cut and masked already; leave it "
            "out, or make shards of ours with data_tools/import_shards.py"
        )


@dataclass(frozen=True)
class Inputs:
    """The samples, the model that belongs to them, and their tokenizer.

    ``manifest``: what the data says about itself; ``tokenizer``: the folder that our own shards
    keep it in, or the tokenizer given for foreign ones.
    """

    manifest: Manifest
    train: Samples
    evaluation: Samples | None
    model: ModelConfig
    tokenizer: Path | Tokenizer

    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer's files into an empty folder."""
        if isinstance(self.tokenizer, Path):
            shutil.copytree(self.tokenizer, folder, dirs_exist_ok=True)
        else:
            self.tokenizer.save(folder)


def open_inputs(settings: PretrainSettings) -> Inputs:
    """Open the shards and check them against the model.

    Raises:
        UserError: no shards, damaged shards, sequences longer than the position table; foreign
            shards that do not fit the tokenizer or the settings.
    """
    if is_foreign(settings.data.data):
        return _open_foreign(settings)
    data = settings.data
    try:
        manifest = load_manifest(data.data)
    except UserError as error:
        raise UserError(
            f"{error} -- make shards with: python data_tools/shard_wiki.py --input DUMP "
            f"--tokenizer FILE --output {data.data}"
        ) from error
    model = _model(settings, manifest.tokenizer.vocab_size)
    samples = _sample_settings(settings)
    assert data.max_predictions is not None
    masks = MaskSettings(data.masking, data.mask_fraction, data.max_predictions)
    train = SampleSource(Corpus.open(data.data, TRAIN), samples, masks)
    evaluation = None
    if manifest.splits.get(EVAL) is not None and manifest.splits[EVAL].documents > 1:
        # own fixed seed: the same held-out samples and masks in every run over these shards
        evaluation = SampleSource(Corpus.open(data.data, EVAL), evaluation_settings(samples), masks)
    return Inputs(manifest, train, evaluation, model, data.data / TOKENIZER_FOLDER)


def _open_foreign(settings: PretrainSettings) -> Inputs:
    assert settings.data.tokenizer is not None
    tokenizer = load_tokenizer(settings.data.tokenizer)
    model = _model(settings, tokenizer.vocab_size)
    shards = open_foreign([settings.data.data])
    samples, info = _sample_settings(settings), tokenizer.info()
    train = ForeignSource(shards.train, samples, info)
    evaluation = None
    if shards.evaluation:
        evaluation = ForeignSource(shards.evaluation, evaluation_settings(samples), info)
    get_logger().info(
        "%s: %s, %d files, %d samples for training and %d for evaluation, masks as they are",
        settings.data.data,
        shards.layout,
        len(shards.files),
        train.samples_per_epoch,
        evaluation.samples_per_epoch if evaluation else 0,
    )
    if shards.advice:
        get_logger().info("slow to read: %s", shards.advice)
    return Inputs(shards.manifest(info), train, evaluation, model, tokenizer)


def _model(settings: PretrainSettings, vocab_size: int) -> ModelConfig:
    model = settings.model.resolve(vocab_size)
    assert settings.data.seq_length is not None
    if settings.data.seq_length > model.max_position_embeddings:
        raise UserError(
            f"--seq-length {settings.data.seq_length} is longer than "
            f"{variant_of(model).length_limit(model)} (max_position_embeddings)"
        )
    return model


def _sample_settings(settings: PretrainSettings) -> SampleSettings:
    data = settings.data
    assert data.seq_length is not None
    return SampleSettings(
        seq_length=data.seq_length,
        sentence_task=data.sentence_task,
        short_sequence_fraction=data.short_sequence_fraction,
        seed=settings.run.seed,
    )
