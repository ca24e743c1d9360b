"""An encoder of another package: rotary positions, gated MLPs, norms before the blocks, no biases.

All of it is in this file. A package that installs it names its module as an entry point:

    entry_points={"megabert.encoders": ["rope-geglu = my_package.rope_geglu:RopeGeglu"]}
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveFloat
from pydantic.dataclasses import dataclass
from torch import Tensor

from megabert.common.errors import UserError
from megabert.config.model import ModelConfig
from megabert.model.encoders.variant import (
    SAVED_BY_ATTENTION,
    SAVED_BY_GATED_MLP,
    EncoderVariant,
    register_encoder,
)
from megabert.model.modules import GatedMlp, SelfAttention
from megabert.parallel.topology import TensorParallel


@dataclass(frozen=True)
class RopeConfig(ModelConfig):
    """The fields of BERT, and ``rope_theta``, the base of the rotations' wavelengths."""

    encoder = "rope-geglu"
    norm: Literal["post", "pre"] = "pre"
    rope_theta: PositiveFloat = 10000.0


class RopeAttention(SelfAttention):
    """Attention whose queries and keys are rotated by their positions (Su et al. 2021)."""

    def __init__(self, config: RopeConfig, tp: TensorParallel) -> None:
        super().__init__(config, tp, bias=False)
        self.theta = config.rope_theta

    def rotate(self, query: Tensor, key: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Rotate each pair (x_k, x_(k + D/2)) by the angle position / theta^(2k/D)."""
        steps = torch.arange(0, self.head_size, 2, device=query.device) / self.head_size
        angles = positions[:, None, None] * self.theta**-steps  # [T, 1, D/2]
        cos, sin = angles.cos(), angles.sin()

        def rotated(x: Tensor) -> Tensor:
            first, second = x.float().chunk(2, dim=-1)  # [T, N/t, D/2] each
            turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
            return turned.to(x.dtype)

        return rotated(query), rotated(key)


@register_encoder
class RopeGeglu(EncoderVariant):
    """Counts of parameters and FLOPs, tensor parallelism and checkpoints follow from the model."""

    name = RopeConfig.encoder
    config_class = RopeConfig
    presets = (
        RopeConfig(
            name="rope-geglu-tiny",
            hidden_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=256,
        ),
    )
    bias = False
    saved_for_backward = SAVED_BY_ATTENTION + SAVED_BY_GATED_MLP
    backward_inner = 4

    def check(self, config: ModelConfig) -> None:
        """Refuse heads of odd width."""
        super().check(config)
        if config.head_size % 2:
            raise UserError(f"model {config.name}: the head size {config.head_size} must be even")

    def attention(self, config: ModelConfig, tp: TensorParallel) -> SelfAttention:
        """Attention with rotary positions."""
        assert isinstance(config, RopeConfig)
        return RopeAttention(config, tp)

    def mlp(self, config: ModelConfig, tp: TensorParallel) -> GatedMlp:
        """Gated by ``hidden_act``, GELU by default (Shazeer 2020)."""
        return GatedMlp(config, tp, bias=False)
