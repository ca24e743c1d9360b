"""What a pretraining run starts from: shards, the model's shape, and the batch for its ranks."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.common.names import EVAL, TOKENIZER_FOLDER, TRAIN
from megabert.config import flags
from megabert.config.model import ModelConfig
from megabert.config.training import DividedSettings, ResolvedBatch, ResolvedSettings
from megabert.data.foreign.files import is_foreign, open_foreign
from megabert.data.foreign.fit import check_fit
from megabert.data.foreign.source import ForeignSource
from megabert.data.samples.index import SampleSettings
from megabert.data.samples.masking import MaskSettings
from megabert.data.samples.source import Samples, SampleSource, evaluation_settings
from megabert.data.shards.corpus import Corpus
from megabert.data.shards.manifest import Manifest
from megabert.data.tokenizers.base import Tokenizer
from megabert.data.tokenizers.load import load_tokenizer
from megabert.engine.broadcast import least_of_ranks
from megabert.engine.config import BatchSizes, micro_batch_limit, resolve_batch
from megabert.engine.launch import World
from megabert.model.encoder import variant_of
from megabert.planner.machine import own_gpu
from megabert.planner.plan import Planner
from megabert.planner.settings import (
    AssumptionSettings,
    MachineSettings,
    PlanFlags,
    plan_settings,
)
from megabert.pretrain.settings import read_manifest


def micro_limit(settings: ResolvedSettings, model: ModelConfig, world: World) -> int:
    """Sequences of a micro batch whose size is not set, at most (a collective on GPUs).

    On GPUs it is the planner's figure for the smallest memory of all ranks.
    """
    if world.device.type != "cuda":
        return micro_batch_limit(settings.data.seq_length)
    own = torch.cuda.get_device_properties(world.device).total_memory
    asked = flags.narrow(
        PlanFlags,
        settings,
        machine=MachineSettings(gpus=world.topology.world_size),
        assumptions=AssumptionSettings(vocab_size=model.vocab_size),
    )
    planner = Planner(plan_settings(asked), own_gpu(least_of_ranks(world, own)))
    return planner.micro_limit(planner.largest(planner.settings.layout))


def divide_batch(
    settings: ResolvedSettings, data_parallel: int, limit: int, resumed_size: int | None = None
) -> tuple[DividedSettings, BatchSizes]:
    """The batch for a number of data-parallel ranks, and the settings with its sizes.

    ``limit``: of the micro batch (:func:`micro_limit`). ``resumed_size``: global batch of the checkpoint that
    the run resumes from (``resolve_batch``).

    Raises:
        UserError: the sizes don't multiply out.
    """
    sizes = resolve_batch(
        settings.batch,
        data_parallel,
        limit,
        resumed_global_batch=resumed_size,
    )
    batch = ResolvedBatch(
        global_batch_size=sizes.global_size,
        micro_batch_size=sizes.micro_size,
        gradient_accumulation_steps=sizes.accumulation,
    )
    return flags.narrow(
        DividedSettings, settings, batch=batch, deepspeed_sections=settings.deepspeed_sections
    ), sizes


@dataclass(frozen=True)
class Inputs:
    """The samples, the model that belongs to them, and their tokenizer.

    ``model``: if its shape is that of ``--init-from``, :meth:`with_model` sets it once that is read.
    ``manifest``: what the data says about itself; ``tokenizer``: the folder that our own shards
    keep it in, or the tokenizer given for foreign ones.
    """

    manifest: Manifest
    train: Samples
    evaluation: Samples | None
    model: ModelConfig
    tokenizer: Path | Tokenizer

    def with_model(self, model: ModelConfig, settings: ResolvedSettings) -> Inputs:
        """The same inputs with another model.

        Raises:
            UserError: sequences longer than its position table.
        """
        _check_length(settings, model)
        return replace(self, model=model)

    def open_tokenizer(self) -> Tokenizer:
        """The tokenizer of the samples."""
        if isinstance(self.tokenizer, Path):
            return load_tokenizer(self.tokenizer)
        return self.tokenizer

    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer's files into an empty folder."""
        if isinstance(self.tokenizer, Path):
            shutil.copytree(self.tokenizer, folder, dirs_exist_ok=True)
        else:
            self.tokenizer.save(folder)


def open_inputs(settings: ResolvedSettings) -> Inputs:
    """Open the shards and check them against the model.

    Raises:
        UserError: no shards, damaged shards, sequences longer than the position table; foreign
            shards that do not fit the tokenizer or the settings.
    """
    if is_foreign(settings.data.data):
        return _open_foreign(settings)
    data = settings.data
    manifest = read_manifest(data.data)
    model = _model(settings, manifest.tokenizer.vocab_size)
    samples = _sample_settings(settings)
    masks = MaskSettings(data.masking, data.mask_fraction, data.max_predictions)
    train = SampleSource(Corpus.open(data.data, TRAIN), samples, masks)
    evaluation = None
    if manifest.splits.get(EVAL) is not None and manifest.splits[EVAL].documents > 1:
        # own fixed seed: the same evaluation samples and masks in every run over these shards
        evaluation = SampleSource(Corpus.open(data.data, EVAL), evaluation_settings(samples), masks)
    return Inputs(manifest, train, evaluation, model, data.data / TOKENIZER_FOLDER)


def _open_foreign(settings: ResolvedSettings) -> Inputs:
    assert settings.data.tokenizer is not None
    tokenizer = load_tokenizer(settings.data.tokenizer)
    shards = open_foreign([settings.data.data])
    check_fit(shards.files, tokenizer)
    model = _model(settings, tokenizer.vocab_size)
    samples, info = _sample_settings(settings), tokenizer.info()
    train = ForeignSource(shards.train, samples, info)
    evaluation = None
    if shards.evaluation:
        evaluation = ForeignSource(shards.evaluation, evaluation_settings(samples), info)
    get_logger().info(
        "%s: %s, %d files, %d samples for training and %d for evaluation, masked as stored",
        settings.data.data,
        shards.layout,
        len(shards.files),
        train.samples_per_epoch,
        evaluation.samples_per_epoch if evaluation else 0,
    )
    if shards.advice:
        get_logger().info("slow to read: %s", shards.advice)
    return Inputs(shards.manifest(info), train, evaluation, model, tokenizer)


def _model(settings: ResolvedSettings, vocab_size: int) -> ModelConfig:
    model = settings.model.resolve(vocab_size)
    if settings.model.model is not None:
        _check_length(settings, model)
    return model


def _check_length(settings: ResolvedSettings, model: ModelConfig) -> None:
    if settings.data.seq_length > model.max_position_embeddings:
        raise UserError(
            f"--seq-length {settings.data.seq_length} is longer than "
            f"{variant_of(model).length_limit(model)} (max_position_embeddings)"
        )


def _sample_settings(settings: ResolvedSettings) -> SampleSettings:
    data = settings.data
    return SampleSettings(
        seq_length=data.seq_length,
        sentence_task=data.sentence_task,
        short_sequence_fraction=data.short_sequence_fraction,
        seed=settings.run.seed,
    )
