"""NEZHA (Wei et al. 2019): BERT with functional relative positions in each attention.

Equations 1-4 of the paper have a_ij[2k] = sin((j - i) / 10000^(2k/D)) and a_ij[2k + 1] the cosine, D
being head_size, with distances clipped to -m .. m. The authors' published code (theirs for TensorFlow
and for PyTorch, and transformers' ``NezhaModel`` after it) takes the row's number in the table,
clip(j - i) + m = 0 .. 2m, for j - i. The two differ by a rotation of each pair of sine and cosine. We
follow the code, so that published weights give the same results.

The table has no parameter: it is the same for all heads and layers, and for keys and values. There is
no position table, and ``max_position_embeddings`` is the longest sequence allowed.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from megabert.common.errors import UserError
from megabert.config.model import ModelConfig
from megabert.kernels.reference import wide
from megabert.model.encoders.variant import EncoderVariant, ScratchTraffic
from megabert.model.modules import Mlp, SelfAttention
from megabert.parallel.topology import TensorParallel

_BASE = 10000.0


@functools.cache
def relative_table(
    max_distance: int, head_size: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The table ``[2m + 1, D]``, made once per combination of arguments and never changed.

    Args:
        max_distance: m, from which all distances count as m (``max_relative_position``).
        head_size: D, even.
        dtype: of the attention's arithmetic, float32 or float64.
        device: where the table is to be.
    """
    with torch.inference_mode(False):  # whoever asks first; a later backward may need it
        rows = torch.arange(2 * max_distance + 1, dtype=torch.float64)
        waves = torch.exp(
            torch.arange(0, head_size, 2, dtype=torch.float64) * (-math.log(_BASE) / head_size)
        )
        angles = rows[:, None] * waves
        table = torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)
        return table.to(device, dtype)


class RelativeAttention(SelfAttention):
    """Attention whose keys and values get a vector by distance."""

    def __init__(self, config: ModelConfig, tp: TensorParallel) -> None:
        super().__init__(config, tp)
        self.max_distance = config.max_relative_position

    def relative_table(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """The constant vectors, ``[2m + 1, D]``."""
        return relative_table(self.max_distance, self.head_size, wide(dtype), device)


class Nezha(EncoderVariant):
    """NEZHA. Its presets are those of :mod:`megabert.config.model`."""

    name = "nezha"
    gpu_scratch = ScratchTraffic("relative positions", bytes_per_pair=52.0, most_keys=208)

    def check(self, config: ModelConfig) -> None:
        """Refuse heads of odd width."""
        if config.head_size % 2:
            raise UserError(
                f"model {config.name}: relative positions are pairs of a sine and a cosine, and "
                f"hidden_size / num_attention_heads is {config.head_size}, not even; change one of "
                "them"
            )

    def attention(self, config: ModelConfig, tp: TensorParallel) -> SelfAttention:
        """Attention with relative positions."""
        return RelativeAttention(config, tp)

    def mlp(self, config: ModelConfig, tp: TensorParallel) -> Mlp:
        """As in BERT."""
        return Mlp(config, tp)

    def constant_flops(self, config: ModelConfig, tokens: float) -> float:
        """Products with the table's 2m + 1 rows (:mod:`megabert.model.flops`)."""
        rows = 2 * config.max_relative_position + 1
        return 2 * (4 * config.num_hidden_layers * config.hidden_size * tokens * rows)

    def transformers_type(self, config: ModelConfig) -> str | None:
        """``nezha``, which transformers had up to its fourth version; post-LN only."""
        return "nezha" if config.norm == "post" else None
