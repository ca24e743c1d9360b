"""Settings of a pretraining run, and the published recipes.

Every setting is one field of one frozen dataclass and one flag. ``megabert.config.flags`` makes the flags,
reads ``--config FILE.yaml`` and joins the layers: flag > file > DeepSpeed config > phase recipe >
default. Values are checked by pydantic when a dataclass is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator
from pydantic.dataclasses import dataclass

from megabert.common.errors import UserError
from megabert.config.flags import setting
from megabert.config.mixture import CorpusName, StageText
from megabert.config.numbers import (
    Count,
    Fraction,
    Limits,
    NonNegativeFloat,
    PositiveFloat,
    Probability,
    Ranks,
    Seconds,
    Share,
    Size,
)
from megabert.config.optimizers import OPTIMIZERS
from megabert.config.sections.averaging import AveragingSettings
from megabert.config.sections.initial_weights import InitialWeightSettings
from megabert.config.sections.loss import LossSettings
from megabert.config.sections.masking import MaskingSettings
from megabert.config.sections.muon import MuonPart
from megabert.config.sections.ramps import RampSettings
from megabert.config.sections.run import RunSettings
from megabert.config.sections.schedule import ScheduleSettings
from megabert.config.sections.seeds import SeedSettings
from megabert.config.sections.shape import ModelSettings
from megabert.config.trackers import TrackerSettings
from megabert.config.values import DEFERRED, SWITCH_WORDS


def _on_or_off(value: object) -> object:
    """YAML reads a bare ``on`` as a boolean; the setting keeps the word."""
    switch = SWITCH_WORDS.get(value.lower()) if isinstance(value, str) else value
    return ("on" if switch else "off") if isinstance(switch, bool) else value


OnOff = Annotated[Literal["on", "off"], BeforeValidator(_on_or_off)]
"""A switch that files record as the word ``on`` or ``off``."""


@dataclass(frozen=True, config=DEFERRED)
class DataSettings:
    """Data"""

    data: tuple[Path, ...] = setting(
        (Path("data/wiki"),),
        "folder of shards made by data_tools/shard_wiki.py; or pretraining shards of NVIDIA (HDF5) or "
        "Google (BERT TFRecords), as a file or a folder, together with --tokenizer; several of these are "
        "mixed; or the YAML file of a mixture (docs/guide/mixtures.md)",
        metavar="DIR",
    )
    weights: tuple[NonNegativeFloat, ...] = setting(
        (),
        "share of the samples from each folder of --data; any sum (default: in proportion to tokens)",
    )
    temperature: PositiveFloat | None = setting(
        None,
        "shares in proportion to tokens to the power of 1/T: above 1 small corpora get more (default: 1)",
        metavar="T",
    )
    stages: tuple[StageText, ...] = setting(
        (),
        "weights that change in the run, each with its length in quotes: '0.9 0.1 for 1e9 tokens' "
        "'0.5 0.5'; also samples or updates; the last one has no length",
        metavar="STAGE",
    )
    eval_data: tuple[Path, ...] = setting(
        (), "more folders of shards, which are evaluated and not trained on", metavar="DIR"
    )
    replay_share: Probability | None = setting(
        None,
        "share of the samples from the corpora of the run of --init-from, or of --replay; 0 only "
        "evaluates them",
        metavar="FRACTION",
    )
    replay: tuple[Path, ...] = setting(
        (), "with --replay-share: these folders instead of the run's", metavar="DIR"
    )
    corpus_names: tuple[CorpusName, ...] = setting(
        (),
        "names of the corpora in metrics, those of --data and then --eval-data (default: their folders')",
    )
    tokenizer: Path | None = setting(
        None,
        "tokenizer that made the shards of NVIDIA or Google; megabert's shards contain theirs",
        metavar="FILE",
    )
    seq_length: Size | None = setting(
        None,
        "tokens per sequence, at most (default: 128 in phase 1, otherwise 512)",
        resume="must_match",
    )
    sentence_task: Literal["nsp", "sop", "none"] = setting(
        "nsp",
        "second task, on pairs of segments: next sentence prediction or sentence order prediction",
        resume="must_match",
    )
    masking: Literal["token", "whole-word", "ngram"] = setting(
        "token", "unit of masking; whole-word in phase continue", resume="must_match"
    )
    mask_fraction: Share = setting(
        0.15,
        "fraction of the tokens that the model predicts; of the first update with --final-mask-fraction",
        resume="must_match",
    )
    max_predictions: Size | None = setting(
        None,
        "predicted tokens per sequence, at most (default: 20 at 128 tokens, 80 at 512, otherwise in proportion to the "
        "length and to the largest mask fraction of the run)",
        resume="must_match",
    )
    short_sequence_fraction: Fraction = setting(
        0.1, "fraction of sequences that get a random shorter length", resume="must_match"
    )
    packing: OnOff = setting(
        "on", "concatenate samples instead of padding them: the same updates in less time"
    )
    loader_workers: Annotated[int, Limits(ge=0, le=1024)] | None = setting(
        None,
        "data loader processes per rank; 0 loads in the training process (default: 0 on a CPU, up to 4 on a GPU)",
    )


@dataclass(frozen=True, config=DEFERRED)
class BatchSettings:
    """Batch"""

    global_batch_size: Count | None = setting(
        None,
        "sequences per update over all ranks (default: 65536 in phase 1, 32768 in phase 2, 2048 in phase continue)",
        resume="must_match",
    )
    micro_batch_size: Count | None = setting(
        None,
        "sequences per rank and micro step (default: the largest that divides the rank's part of the batch and has at most 8192 tokens, on a GPU 65536 if they fit in its memory)",
        resume="free",
    )
    gradient_accumulation_steps: Count | None = setting(
        None,
        "micro steps per update (default: global batch / micro batch / data-parallel ranks)",
        resume="free",
    )


@dataclass(frozen=True, config=DEFERRED)
class _RuleAndSchedule:
    optimizer: str = setting("lamb", "optimizer; adamw in phase continue", choices=OPTIMIZERS.names)
    lr: NonNegativeFloat | None = setting(
        None,
        "peak learning rate (default: 6e-3 in phase 1, 4e-3 in phase 2, 5e-4 in phase continue)",
    )
    beta1: Probability = setting(0.9, "decay rate of the first moment")
    beta2: Probability = setting(0.999, "decay rate of the second moment; 0.98 in phase continue")
    eps: PositiveFloat = setting(1e-6, "added to the square root of the second moment")
    weight_decay: NonNegativeFloat = setting(
        0.01, "weight decay; biases and norm parameters have none"
    )
    bias_correction: bool = setting(True, "correct the moments for their start at zero")
    max_trust_ratio: PositiveFloat | None = setting(
        None, "upper limit of LAMB's trust ratio (default: no limit)"
    )
    min_trust_ratio: NonNegativeFloat | None = setting(
        None, "lower limit of LAMB's trust ratio (default: no limit)"
    )
    adapt_all: bool = setting(
        False, "use trust ratios for biases and norm parameters too (as NVIDIA's LAMB does)"
    )
    lamb_backend: Literal["auto", "triton", "torch", "apex"] = setting(
        "auto",
        "implementation of the update; auto is triton's kernels on a GPU, torch operators on a CPU",
    )
    parameter_groups: Path | None = setting(
        None,
        "YAML list of parameter groups, each with match (a regular expression) and any of lr_scale, "
        "weight_decay, adapt, beta1, beta2, eps, muon",
        metavar="FILE",
    )
    gradient_clipping: NonNegativeFloat = setting(
        1.0, "global gradient norm above which gradients are scaled down; 0 disables clipping"
    )
    schedule: Literal["poly", "linear", "cosine", "constant", "inverse-sqrt", "wsd"] = setting(
        "poly",
        "learning rate after warm-up; poly is the published one of phases 1 and 2, linear that of continue; "
        "wsd is constant and then falls, in the last --decay-duration",
    )
    warmup_fraction: Fraction | None = setting(
        None,
        "fraction of the steps in which the learning rate rises (default: 0.2843 in phase 1, 0.128 in phase 2, 0.06 in phase continue)",
    )
    steps: Count | None = setting(
        None,
        "updates of the whole schedule (default: 7038 in phase 1, 1563 in phase 2, 12500 in phase continue)",
        resume="must_match",
    )


@dataclass(frozen=True, config=DEFERRED)
class OptimizerSettings(MuonPart, _RuleAndSchedule):
    """Optimizer and schedule"""


@dataclass(frozen=True, config=DEFERRED)
class ParallelSettings:
    """Parallelism and precision"""

    tensor_parallel: Ranks = setting(1, "ranks that split each layer's weights", resume="free")
    sequence_parallel: bool = setting(
        False,
        "also split the tokens between layers over the tensor-parallel ranks",
        resume="free",
    )
    zero_stage: Literal[0, 1, 2, 3] = setting(1, "DeepSpeed ZeRO stage", resume="free")
    precision: Literal["auto", "fp32", "bf16", "fp16", "fp8"] = setting(
        "auto",
        "auto is bf16 on a GPU (fp16 on V100, T4 and older ones) and fp32 on a CPU; fp16 needs a GPU; fp8 is bf16 with the encoder's "
        "matrix products in float8, on a GPU of compute capability 8.9 or higher (emulated on a CPU)",
    )
    fp8_scaling: Literal["tensor", "row"] = setting(
        "tensor", "with fp8: one scale per matrix, or one per row", resume="free"
    )
    attention: Literal["auto", "triton", "flash"] = setting(
        "auto",
        "attention on a GPU: triton is megabert's kernel, whose dropout is that of a CPU; flash is "
        "flash-attn's or torch's, whose dropout depends on the division of the batch; auto is triton "
        "where it can be used",
        resume="free",
    )
    activation_checkpointing: bool = setting(
        False, "save memory by recomputing each layer in the backward pass", resume="free"
    )
    hang_timeout: Seconds = setting(
        300.0,
        "seconds with no progress of any rank, or no sign of one, after which the run ends and names the "
        "rank; ten times as long outside an update (start, evaluation, save); 0 waits for ever",
        metavar="SECONDS",
        resume="free",
    )
    self_test: OnOff = setting(
        "on",
        "before the run, compare an update of a small model through DeepSpeed with plain autograd",
        resume="free",
    )
    deepspeed_config: Path | None = setting(
        None,
        "DeepSpeed configuration; its batch, precision, clipping, ZeRO and optimizer sections apply",
        flags=("--deepspeed_config", "--deepspeed-config"),
        metavar="FILE",
        resume="free",
    )

    def __post_init__(self) -> None:
        if self.sequence_parallel and self.tensor_parallel == 1:
            raise UserError(
                "--sequence-parallel on splits tokens over tensor-parallel ranks, but "
                "--tensor-parallel is 1: set it to 2 or more, or leave --sequence-parallel off"
            )


@dataclass(frozen=True, config=DEFERRED)
class PretrainSettings:
    """All settings of ``launch/pretrain.py``, as flags and files give them."""

    @staticmethod
    def named_files() -> Mapping[str, Path]:
        """Files that ``--config`` takes by name: the recipes."""
        from megabert.config.recipes import recipe_files

        return recipe_files()

    model: ModelSettings
    data: DataSettings
    batch: BatchSettings
    ramps: RampSettings
    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    parallel: ParallelSettings
    run: RunSettings
    trackers: TrackerSettings
    masking: MaskingSettings
    seeds: SeedSettings
    initial_weights: InitialWeightSettings
    averaging: AveragingSettings
    loss: LossSettings


# Resolved settings: recipe, DeepSpeed file and defaults are applied, so every value that has one is
# set. ``optional_inputs`` are the fields that a run may really be without.


@dataclass(frozen=True, kw_only=True, config=DEFERRED)
class ResolvedData(DataSettings):
    """Data"""

    seq_length: Size
    max_predictions: Size
    optional_inputs: ClassVar = ("temperature", "replay_share", "tokenizer", "loader_workers")


@dataclass(frozen=True, kw_only=True, config=DEFERRED)
class ResolvedBatch(BatchSettings):
    """Batch"""

    global_batch_size: Count
    micro_batch_size: Count
    gradient_accumulation_steps: Count
    optional_inputs: ClassVar = ()


@dataclass(frozen=True, kw_only=True, config=DEFERRED)
class ResolvedOptimizer(OptimizerSettings):
    """Optimizer and schedule"""

    lr: NonNegativeFloat
    warmup_fraction: Fraction
    steps: Count
    optional_inputs: ClassVar = ("max_trust_ratio", "min_trust_ratio", "parameter_groups")


@dataclass(frozen=True, kw_only=True, config=DEFERRED)
class ResolvedRun(RunSettings):
    """Run"""

    output: Path
    eval_at_start: bool
    optional_inputs: ClassVar = (
        "init_from", "stop_after", "profile", "peak_tflops", "skip_samples", "keep_every", "keep_best",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, config=DEFERRED)
class ResolvedSettings(PretrainSettings):
    """All settings of a pretraining run.

    Attributes:
        batch: as given; :class:`DividedSettings` has the sizes for a number of ranks.
        deepspeed_sections: the sections of the user's DeepSpeed file.
        batch_is_of_a_run: the division of the batch is that of another run, perhaps of another number of ranks.
    """

    data: ResolvedData
    optimizer: ResolvedOptimizer
    run: ResolvedRun
    deepspeed_sections: dict[str, Any]
    batch_is_of_a_run: bool = False

    @property
    def data_seed(self) -> int:
        """The seed of the samples and their masks."""
        given = self.seeds.data_seed
        return self.run.seed if given is None else given

    @property
    def weight_seed(self) -> int:
        """The seed of initial weights."""
        given = self.seeds.weight_seed
        return self.run.seed if given is None else given


@dataclass(frozen=True, kw_only=True, config=DEFERRED)
class DividedSettings(ResolvedSettings):
    """The settings of a run on a number of ranks, as ``config.yaml`` records them."""

    batch: ResolvedBatch
