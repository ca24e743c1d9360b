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

_LOCAL_SCORE = 6.0
"""Score with which a local head begins at its neighbour: two fifths of its attention go there at 64 values per head."""


def _waves(head_size: int) -> Tensor:
    """Radians per token of each pair of a sine and a cosine, float64 [head_size / 2]."""
    powers = torch.arange(0, head_size, 2, dtype=torch.float64) * (-math.log(_BASE) / head_size)
    return torch.exp(powers)


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
        angles = rows[:, None] * _waves(head_size)
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

    def local_query_bias(self, config: ModelConfig, share: float) -> Tensor:
        """A bias per head, for the distances -1, 1, -2, 2, ... of the first heads; 0 for the others.

        The vector of distance d holds sin(w a) and cos(w a) for each wave w, a = d + m. With the bias
        g w (sin(w b), cos(w b)), b = o + m, the score of distance d is g sum_w w cos(w (d - o)) /
        sqrt(head_size): a peak at o, of the height :data:`_LOCAL_SCORE` by the choice of g. The factor w makes
        up for how densely the waves lie, which are powers: so the peak is as narrow as the shortest wave
        allows, close to sin(d - o) / (d - o).
        """
        most, waves = config.max_relative_position, _waves(config.head_size)
        gain = _LOCAL_SCORE * math.sqrt(config.head_size) / waves.sum()
        bias = torch.zeros(config.num_attention_heads, config.head_size, dtype=torch.float64)
        heads = int(share * config.num_attention_heads)
        if share and not heads:
            raise UserError(
                f"--init-local-heads {share:g}: of {config.num_attention_heads} heads that is less than one; "
                f"give at least {1 / config.num_attention_heads:g}, or leave it out"
            )
        for head in range(heads):
            distance = head // 2 + 1
            angles = waves * (most + (distance if head % 2 else -distance))
            bias[head] = (
                torch.stack([angles.sin(), angles.cos()], dim=1)
                .mul_(gain * waves[:, None])
                .flatten()
            )
        return bias.flatten().float()

    def constant_flops(self, config: ModelConfig, tokens: float) -> float:
        """Products with the table's 2m + 1 rows (:mod:`megabert.model.flops`)."""
        rows = 2 * config.max_relative_position + 1
        return 2 * (4 * config.num_hidden_layers * config.hidden_size * tokens * rows)

    def transformers_type(self, config: ModelConfig) -> str | None:
        """``nezha``, which transformers had up to its fourth version (there post-LN only)."""
        return "nezha"
