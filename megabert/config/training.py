"""Settings of a pretraining run, and the published recipes.

Every setting is one field of one frozen dataclass and one flag. ``megabert.config.flags`` makes the flags,
reads ``--config FILE.yaml`` and joins the layers: flag > file > DeepSpeed config > phase recipe >
default. Values are checked by pydantic when a dataclass is made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from megabert.common.errors import UserError
from megabert.config.flags import setting
from megabert.config.model import ModelConfig, Probability, model_config, preset_names
from megabert.config.optimizers import OPTIMIZERS

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


@dataclass(frozen=True)
class Recipe:
    """Published settings of one phase (BERT-large with LAMB: You et al. 2020, and its public scripts)."""

    seq_length: int
    max_predictions: int
    global_batch_size: int
    steps: int
    lr: float
    warmup_fraction: float


RECIPES: dict[int, Recipe] = {
    1: Recipe(128, 20, 65536, 7038, 6e-3, 0.2843),
    2: Recipe(512, 80, 32768, 1563, 4e-3, 0.128),
}


@dataclass(frozen=True)
class ModelSettings:
    """Model"""

    model: str = setting("bert-large", "preset", choices=preset_names)
    hidden_size: PositiveInt | None = setting(None, "overrides the preset's hidden_size")
    num_hidden_layers: PositiveInt | None = setting(None, "overrides the preset's layers")
    num_attention_heads: PositiveInt | None = setting(None, "overrides the preset's heads")
    intermediate_size: PositiveInt | None = setting(None, "overrides the preset's MLP width")
    max_position_embeddings: PositiveInt | None = setting(
        None, "rows of the position table (512; phase 1 already holds those of phase 2)"
    )
    position_embeddings: Literal["absolute", "relative"] | None = setting(
        None,
        "trained table (BERT), or fixed functions of the distance in each attention (NEZHA); the "
        "preset's. With relative ones the longest sequence replaces the rows of the table",
    )
    norm: Literal["post", "pre"] | None = setting(None, "LayerNorm after (BERT) or before a block")
    dropout: Probability | None = setting(None, "hidden and attention dropout (0.1)")
    initializer_range: PositiveFloat | None = setting(
        None,
        "standard deviation of initial weights (0.02, for widths from 512; more for narrow ones)",
    )

    def resolve(self, vocab_size: int) -> ModelConfig:
        """The model that these settings describe over a vocabulary of ``vocab_size``."""
        return model_config(
            self.model,
            vocab_size=vocab_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=self.intermediate_size,
            max_position_embeddings=self.max_position_embeddings,
            position_embeddings=self.position_embeddings,
            norm=self.norm,
            hidden_dropout_prob=self.dropout,
            attention_probs_dropout_prob=self.dropout,
            initializer_range=self.initializer_range,
        )


@dataclass(frozen=True)
class DataSettings:
    """Data"""

    data: Path = setting(
        Path("data/wiki"),
        "folder of shards made by data_tools/shard_wiki.py; or NVIDIA's HDF5 or BERT TFRecords, a "
        "file or a folder of them, which need --tokenizer",
    )
    tokenizer: Path | None = setting(None, "tokenizer of shards that carry none")
    seq_length: PositiveInt | None = setting(None, "tokens a sequence (phase 1: 128, phase 2: 512)")
    sentence_task: Literal["nsp", "sop", "none"] = setting("nsp", "second task on sentence pairs")
    masking: Literal["token", "whole-word", "ngram"] = setting("token", "what is masked together")
    mask_fraction: Fraction = setting(0.15, "share of the tokens that are predicted")
    max_predictions: PositiveInt | None = setting(
        None, "most predicted tokens a sequence (20 at 128, 80 at 512, else in proportion)"
    )
    short_sequence_fraction: Fraction = setting(0.1, "share of sequences of random shorter length")
    packing: Literal["on", "off"] = setting(
        "on", "samples end to end instead of padded: same updates, no time spent on padding"
    )
    loader_workers: NonNegativeInt = setting(
        0, "loader processes a rank (0: in the training process)"
    )


@dataclass(frozen=True)
class BatchSettings:
    """Batch"""

    global_batch_size: PositiveInt | None = setting(
        None, "sequences an update over all ranks (phase 1: 65536, phase 2: 32768)"
    )
    micro_batch_size: PositiveInt | None = setting(
        None, "sequences a rank and micro step (largest divisor of its share with <= 8192 tokens)"
    )
    gradient_accumulation_steps: PositiveInt | None = setting(
        None, "micro steps an update (global batch / micro batch / data-parallel ranks)"
    )


@dataclass(frozen=True)
class OptimizerSettings:
    """Optimizer and schedule"""

    optimizer: str = setting("lamb", "optimizer", choices=OPTIMIZERS.names)
    lr: NonNegativeFloat | None = setting(None, "peak learning rate (phase 1: 6e-3, phase 2: 4e-3)")
    beta1: Probability = setting(0.9, "decay of the first moment")
    beta2: Probability = setting(0.999, "decay of the second moment")
    eps: PositiveFloat = setting(1e-6, "added to the root of the second moment")
    weight_decay: NonNegativeFloat = setting(0.01, "decay of weights (never of biases and norms)")
    bias_correction: bool = setting(True, "correct the moments' start at zero (on|off)")
    max_trust_ratio: PositiveFloat | None = setting(None, "upper clamp of LAMB's ratio (none)")
    min_trust_ratio: NonNegativeFloat | None = setting(None, "lower clamp of LAMB's ratio (none)")
    adapt_all: bool = setting(
        False, "trust ratios for biases and norm parameters too (NVLAMB; on|off)"
    )
    lamb_backend: Literal["auto", "triton", "torch", "apex"] = setting(
        "auto", "who computes the step; auto: triton's kernels on a GPU, torch operators on a CPU"
    )
    parameter_groups: Path | None = setting(
        None, "YAML list of own groups: match (a regular expression), lr_scale, weight_decay, adapt"
    )
    gradient_clipping: NonNegativeFloat = setting(1.0, "largest global gradient norm (0: no clip)")
    schedule: Literal["poly", "linear", "cosine", "constant"] = setting(
        "poly", "learning rate after warm-up; poly is the published one"
    )
    warmup_fraction: Fraction | None = setting(
        None, "share of the steps with rising rate (phase 1: 0.2843, phase 2: 0.128)"
    )
    steps: PositiveInt | None = setting(None, "updates (phase 1: 7038, phase 2: 1563)")


@dataclass(frozen=True)
class ParallelSettings:
    """Parallelism and precision"""

    tensor_parallel: PositiveInt = setting(1, "ranks that share each layer's weights")
    sequence_parallel: bool = setting(
        False, "split the tokens between blocks over the tensor-parallel ranks too (on|off)"
    )
    zero_stage: Literal[0, 1, 2, 3] = setting(1, "DeepSpeed ZeRO stage")
    precision: Literal["auto", "fp32", "bf16", "fp16", "fp8"] = setting(
        "auto",
        "auto: bf16 on a GPU, fp32 on a CPU; fp16 needs a GPU; fp8 is bf16 with the encoder's matrix "
        "products in float8, on a GPU of compute capability 8.9 or more (a CPU imitates them)",
    )
    fp8_scaling: Literal["tensor", "row"] = setting(
        "tensor", "with fp8: one scale for a whole matrix, or one for each of its rows"
    )
    activation_checkpointing: bool = setting(False, "recompute layers in backward (on|off)")
    deepspeed_config: Path | None = setting(
        None,
        "DeepSpeed JSON; its batch, precision, clipping, ZeRO and optimizer sections count",
        flags=("--deepspeed_config", "--deepspeed-config"),
    )

    def __post_init__(self) -> None:
        if self.sequence_parallel and self.tensor_parallel == 1:
            raise UserError(
                "--sequence-parallel on splits tokens over tensor-parallel ranks, and there is one: "
                "set --tensor-parallel to 2 or more, or leave it off"
            )


@dataclass(frozen=True)
class RunSettings:
    """Run"""

    phase: Literal[1, 2] = setting(1, "fills in that phase's published recipe")
    output: Path | None = setting(None, "run folder (runs/MODEL-phaseN)")
    init_from: Path | None = setting(
        None, "run whose weights and moments start this one; step and schedule start anew"
    )
    init_moments: bool = setting(True, "with --init-from: keep the optimizer's moments (on|off)")
    resume: str = setting("never", "auto: go on from the newest whole checkpoint; or a tag")
    seed: NonNegativeInt = setting(42, "initial weights, sample order, masks and dropout")
    stop_after: PositiveInt | None = setting(
        None, "stop with a checkpoint after this many updates in all (the schedule keeps --steps)"
    )
    eval_interval: NonNegativeInt = setting(500, "updates between evaluations (0: at the end only)")
    eval_samples: PositiveInt = setting(1024, "most held-out sequences an evaluation reads")
    save_interval: NonNegativeInt = setting(500, "updates between checkpoints (0: at the end only)")
    log_interval: PositiveInt = setting(10, "updates between lines of metrics")
    profile: PositiveInt | None = setting(
        None, "updates, after 3 to warm up, whose trace and operators go to RUN/profile (none)"
    )
    peak_tflops: PositiveFloat | None = setting(
        None,
        "TFLOP/s of a rank's device, which MFU is a share of (a GPU's published peak in the run's "
        "precision; a CPU's is measured)",
    )
    trust_ratio_interval: NonNegativeInt = setting(
        100, "updates between lines of each tensor's trust ratio and norms (0: never)"
    )
    keep_last: PositiveInt = setting(2, "checkpoints kept in the run folder")
    on_spike: Literal["stop", "rollback", "ignore"] = setting(
        "stop",
        "a loss that jumps or is not finite: stop; or rollback to the last checkpoint and leave its "
        "samples out; ignore goes on after jumps and stops at what is not finite",
    )
    spike_threshold: PositiveFloat = setting(
        12.0, "jump of the loss that is a spike, in robust standard deviations of the last updates"
    )
    skip_samples: str | None = setting(
        None, "A:B[,A:B...]: samples A to B-1 of the run left out, in whole global batches"
    )
    max_rollbacks: PositiveInt = setting(
        10, "returns to a checkpoint, without getting past the bad update, after which a run stops"
    )


@dataclass(frozen=True)
class PretrainSettings:
    """All settings of ``launch/pretrain.py``."""

    model: ModelSettings
    data: DataSettings
    batch: BatchSettings
    optimizer: OptimizerSettings
    parallel: ParallelSettings
    run: RunSettings
