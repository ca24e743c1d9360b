"""What a pretraining run starts from: shards, the model's shape, and the batch for its ranks."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.common.names import EVAL, TOKENIZER_FOLDER, TRAIN
from megabert.config import flags
from megabert.config.model import ModelConfig
from megabert.config.training import (
    DividedSettings,
    ResolvedBatch,
    ResolvedData,
    ResolvedSettings,
)
from megabert.data.foreign.files import ForeignData, is_foreign, open_foreign
from megabert.data.foreign.fit import check_fit
from megabert.data.foreign.source import ForeignSource
from megabert.data.samples.course import Course
from megabert.data.samples.index import SampleSettings
from megabert.data.samples.mask_schedule import MaskSchedule
from megabert.data.samples.masking import MaskSettings
from megabert.data.samples.mixture import MixturePlan, corpus_seed, mix
from megabert.data.samples.source import Samples, SampleSource, evaluation_settings
from megabert.data.shards.corpus import Corpus
from megabert.data.shards.manifest import Manifest, TokenizerInfo
from megabert.data.tokenizers.base import Tokenizer
from megabert.data.tokenizers.compare import tokenizer_difference
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
from megabert.pretrain.corpora import NamedCorpus, resolved_data, shares
from megabert.pretrain.lengths.course import course_of, lengths_of
from megabert.pretrain.lengths.durations import ramp_updates
from megabert.pretrain.settings import mixture_of, read_manifest
from megabert.pretrain.stages import RunSamples


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
    recorded = settings.batch.global_batch_size if settings.batch_is_of_a_run else None
    sizes = resolve_batch(
        settings.batch,
        data_parallel,
        limit,
        divided_before=resumed_size or recorded,
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
class OpenCorpus:
    """A corpus of a run; ``train`` is None if it is only evaluated, ``evaluation`` if it has no such split.

    ``tokens`` are those of its split for training; of foreign shards, samples x sequence length.
    """

    name: str
    path: Path
    manifest: Manifest
    train: Samples | None
    evaluation: Samples | None
    tokens: int


@dataclass(frozen=True)
class Inputs:
    """The samples, the model that belongs to them, and their tokenizer.

    ``model``: if its shape is that of ``--init-from``, :meth:`with_model` sets it once that is read.
    ``corpora``: those that are trained on, then those that are only evaluated; ``plan``: which sample is of
    which of the former; ``data``: the settings that mean this mixture; ``tokenizer``: the folder that our
    own shards keep it in, or the tokenizer given for foreign ones.
    """

    corpora: tuple[OpenCorpus, ...]
    plan: MixturePlan
    data: ResolvedData
    train: Samples
    model: ModelConfig
    tokenizer: Path | Tokenizer

    @property
    def trained(self) -> tuple[OpenCorpus, ...]:
        """The corpora of the plan."""
        return self.corpora[: self.plan.corpora]

    @property
    def evaluated(self) -> list[OpenCorpus]:
        """The corpora with samples for evaluation."""
        return [corpus for corpus in self.corpora if corpus.evaluation is not None]

    @property
    def tokenizer_info(self) -> TokenizerInfo:
        """Of the tokenizer that all corpora share."""
        return self.corpora[0].manifest.tokenizer

    def with_model(self, model: ModelConfig, settings: ResolvedSettings) -> Inputs:
        """The same inputs with another model.

        Raises:
            UserError: sequences longer than its position table.
        """
        _check_length(settings, model)
        return replace(self, model=model)

    def along(self, course: Course) -> RunSamples:
        """The samples of a run with this course."""
        sources = [corpus.train for corpus in self.trained if corpus.train is not None]
        return RunSamples(sources, self.plan, self.train, course)

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
    """Open the shards and check them against each other and the model.

    Raises:
        UserError: no shards, damaged shards, sequences longer than the position table; foreign
            shards that do not fit the tokenizer or the settings; corpora of different tokenizers.
    """
    mixture = mixture_of(settings)
    own = [corpus for corpus in mixture.corpora if not is_foreign(corpus.path)]
    manifests = {corpus: read_manifest(corpus) for corpus in own}
    for corpus in own[1:]:
        if manifests[corpus].tokenizer.sha256 != manifests[own[0]].tokenizer.sha256:
            _require_same(own[0], corpus, load_tokenizer(corpus.path / TOKENIZER_FOLDER))
    tokenizer: Path | Tokenizer
    if len(own) < len(mixture.corpora):
        words = mixture.tokenizer or own[0].path / TOKENIZER_FOLDER
        tokenizer = load_tokenizer(words)
        info = tokenizer.info()
        if own and info.sha256 != manifests[own[0]].tokenizer.sha256:
            _require_same(own[0], NamedCorpus("", words, "--tokenizer"), tokenizer)
    else:
        tokenizer, info = own[0].path / TOKENIZER_FOLDER, manifests[own[0]].tokenizer
    foreign = {}
    for corpus in mixture.corpora:
        if corpus not in own:
            assert not isinstance(tokenizer, Path)
            foreign[corpus] = open_foreign([corpus.path])
            check_fit(foreign[corpus].files, tokenizer)
    model = _model(settings, info.vocab_size)
    corpora = []
    for position, corpus in enumerate(mixture.corpora):
        trained = position < len(mixture.trained)
        samples = _sample_settings(settings, position)
        if corpus in own:
            corpora.append(_own(corpus, manifests[corpus], samples, settings, trained=trained))
        else:
            corpora.append(_foreign(corpus, foreign[corpus], samples, info, trained=trained))
    sources = [corpus.train for corpus in corpora if corpus.train is not None]
    plan = shares(mixture, [corpus.tokens for corpus in corpora[: len(sources)]])
    train = sources[0] if len(sources) == 1 else mix(sources, plan)
    data = resolved_data(settings.data, mixture, plan)
    return Inputs(tuple(corpora), plan, data, train, model, tokenizer)


def _require_same(first: NamedCorpus, other: NamedCorpus, found: Tokenizer) -> None:
    """Refuse another tokenizer than that of the first corpus; files may differ if they do the same."""
    difference = tokenizer_difference(load_tokenizer(first.path / TOKENIZER_FOLDER), found)
    if difference is not None:
        raise UserError(
            f"{first.flag} {first.path} and {other.flag} {other.path} have different tokenizers (of the first: "
            f"{difference}), and a run has one: make the shards of one of them again with "
            "data_tools/shard_wiki.py and the other's tokenizer"
        )


def _own(
    corpus: NamedCorpus,
    manifest: Manifest,
    samples: SampleSettings,
    settings: ResolvedSettings,
    *,
    trained: bool,
) -> OpenCorpus:
    """A corpus of our own shards."""
    folder, data, masking = corpus.path, settings.data, settings.masking
    masks = MaskSettings(
        data.masking,
        data.mask_fraction,
        data.max_predictions,
        masking.mask_share,
        masking.random_share,
    )
    train = SampleSource(Corpus.open(folder, TRAIN), samples, masks) if trained else None
    split, evaluation = manifest.splits.get(EVAL), None
    needed = 2 if data.sentence_task == "nsp" else 1  # a wrong next sentence is of another document
    if split is not None and split.documents >= needed:
        # own fixed seed: the same evaluation samples and masks in every run over these shards
        evaluation = SampleSource(
            Corpus.open(folder, EVAL), evaluation_settings(samples), evaluation_masks(settings)
        )
    elif not trained:
        raise UserError(
            f"{corpus.flag} {folder} is only evaluated, and its evaluation split has fewer documents than {needed}: "
            "make the shards with a larger --eval-fraction, or leave it out"
        )
    tokens = manifest.splits[TRAIN].tokens if TRAIN in manifest.splits else 0
    return OpenCorpus(corpus.name, folder, manifest, train, evaluation, tokens)


def evaluation_masks(settings: ResolvedSettings) -> MaskSettings:
    """The masks of evaluations: of one fraction, and BERT's shares, so that curves compare."""
    data, masking = settings.data, settings.masking
    if masking.eval_mask_fraction is not None:
        return MaskSettings(data.masking, masking.eval_mask_fraction)
    return MaskSettings(
        data.masking, masking.final_mask_fraction or data.mask_fraction, data.max_predictions
    )


def mask_schedule(settings: ResolvedSettings, course: Course) -> MaskSchedule | None:
    """How the mask fraction changes in the run; None if it stays."""
    last = settings.masking.final_mask_fraction
    if last is None:
        return None
    steps = ramp_updates(settings, partial(course_of, settings))
    return MaskSchedule(settings.data.mask_fraction, last, steps, course)


def _foreign(
    corpus: NamedCorpus,
    shards: ForeignData,
    samples: SampleSettings,
    info: TokenizerInfo,
    *,
    trained: bool,
) -> OpenCorpus:
    """A corpus of another project's shards."""
    train = ForeignSource(shards.train, samples, info) if trained else None
    files = shards.evaluation or (() if trained else shards.train)
    evaluation = ForeignSource(files, evaluation_settings(samples), info) if files else None
    get_logger().info(
        "%s: %s, %d files, %d samples for training and %d for evaluation, masked as stored",
        corpus.path,
        shards.layout,
        len(shards.files),
        train.samples_per_epoch if train else 0,
        evaluation.samples_per_epoch if evaluation else 0,
    )
    if shards.advice:
        get_logger().info("slow to read: %s", shards.advice)
    tokens = train.samples_per_epoch * samples.seq_length if train else 0
    return OpenCorpus(corpus.name, corpus.path, shards.manifest(info), train, evaluation, tokens)


def _model(settings: ResolvedSettings, vocab_size: int) -> ModelConfig:
    model = settings.model.resolve(vocab_size)
    if settings.model.model is not None:
        _check_length(settings, model)
    return model


def _check_length(settings: ResolvedSettings, model: ModelConfig) -> None:
    longest, flag = max(lengths_of(settings).items())
    if longest > model.max_position_embeddings:
        raise UserError(
            f"{flag} {longest} is longer than "
            f"{variant_of(model).length_limit(model)} (max_position_embeddings): set it to "
            f"{model.max_position_embeddings} or less, or make a longer model (--max-position-embeddings; of a "
            "trained one, launch/convert.py --position-rows)"
        )


def _sample_settings(settings: ResolvedSettings, position: int) -> SampleSettings:
    data = settings.data
    return SampleSettings(
        seq_length=data.seq_length,
        sentence_task=data.sentence_task,
        short_sequence_fraction=data.short_sequence_fraction,
        seed=corpus_seed(settings.data_seed, position),
    )
