"""Settings of ``launch/plan.py``; every setting is one flag (``megabert.config.flags``)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from megabert.common.errors import UserError
from megabert.common.hardware import ACCELERATORS
from megabert.config.flags import setting
from megabert.config.optimizers import OPTIMIZERS
from megabert.config.training import ModelSettings

CPU = "cpu"
Fraction = Annotated[float, Field(gt=0.0, le=1.0)]
Padding = Annotated[float, Field(ge=0.0, lt=0.75)]
Margin = Annotated[float, Field(ge=0.0, lt=1.0)]


@dataclass(frozen=True)
class MachineSettings:
    """Machine"""

    gpus: PositiveInt = setting(8, "ranks of the run, one per device")
    gpu: str = setting(
        "h100", "device: cpu (this machine, which is measured), " + ", ".join(ACCELERATORS)
    )
    gpus_per_node: PositiveInt = setting(8, "devices per host")
    network_bandwidth: PositiveFloat | None = setting(
        None, "GB/s each way per device between hosts (that of NVIDIA's own systems)"
    )
    efficiency: Fraction | None = setting(
        None, "fraction of the precision's peak that forward and backward reach (see --verbose)"
    )
    memory_margin: Margin = setting(
        0.1, "fraction of the device's memory to leave free (fragmentation, other programs)"
    )


@dataclass(frozen=True)
class LayoutSettings:
    """Layout and precision"""

    zero: Literal[0, 1, 2, 3] = setting(1, "DeepSpeed ZeRO stage")
    tensor_parallel: PositiveInt = setting(1, "ranks that split each layer's weights")
    sequence_parallel: bool = setting(
        False,
        "also split the tokens between layers over the tensor parallel ranks (on|off)",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16", "fp8"] = setting(
        "auto", "auto: bf16, or fp32 on a CPU"
    )
    activation_checkpointing: bool = setting(
        False, "save memory by recomputing each layer in the backward pass (on|off)"
    )
    packing: Literal["on", "off"] = setting("on", "compute on real tokens only")
    deepspeed_config: Path | None = setting(
        None,
        "DeepSpeed configuration, of which only the bucket sizes apply",
        flags=("--deepspeed_config", "--deepspeed-config"),
    )

    def __post_init__(self) -> None:
        if self.sequence_parallel and self.tensor_parallel == 1:
            raise UserError(
                "--sequence-parallel on splits tokens over tensor parallel ranks, but --tensor-parallel is "
                "1: set it to 2 or more, or leave --sequence-parallel off"
            )


@dataclass(frozen=True)
class RecipeSettings:
    """Recipe"""

    phase: Literal[1, 2] = setting(1, "use this phase's published recipe for what is not set")
    vocab_size: PositiveInt | None = setting(
        None, "vocabulary size of the tokenizer (the preset's)"
    )
    seq_length: PositiveInt | None = setting(
        None, "tokens per sequence (phase 1: 128, phase 2: 512)"
    )
    mask_fraction: Fraction = setting(0.15, "fraction of the tokens that the model predicts")
    padding: Padding | None = setting(
        None, "fraction of a padded batch that is padding (0.048 up to 256 tokens, 0.082 above)"
    )
    sentence_task: Literal["nsp", "sop", "none"] = setting(
        "nsp", "second task, on pairs of segments"
    )
    global_batch_size: PositiveInt | None = setting(
        None, "sequences per update over all ranks (phase 1: 65536, phase 2: 32768)"
    )
    micro_batch_size: PositiveInt | None = setting(
        None, "sequences per rank and micro step (the largest that fits and divides the batch)"
    )
    steps: PositiveInt | None = setting(None, "updates (phase 1: 7038, phase 2: 1563)")
    optimizer: str = setting("lamb", "optimizer", choices=OPTIMIZERS.names)


@dataclass(frozen=True)
class PlanSettings:
    """All settings of ``launch/plan.py``."""

    model: ModelSettings
    machine: MachineSettings
    layout: LayoutSettings
    recipe: RecipeSettings
