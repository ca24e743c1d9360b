"""NEZHA's encoder in float64, written out from the equations of Wei et al. 2019, for comparison.

Every a_ij is there as a vector, one sequence after the other; gradients are autograd's. Nothing of the
package computes here but the dropout masks, which have to be the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from megabert.config.model import ModelConfig
from megabert.kernels.dropout import Dropout, head_seed, keep_mask
from megabert.parallel.rng import (
    AFTER_ATTENTION,
    AFTER_MLP,
    ATTENTION,
    EMBEDDINGS,
    MicroStepDropout,
)


def position_vectors(length: int, head_size: int, most: int) -> Tensor:
    """a_ij, float64 [S, S, D]; the angle counts from -most, as in the published code."""
    places = torch.arange(length, dtype=torch.float64)
    shifted = (places[None, :] - places[:, None]).clamp(-most, most) + most
    vectors = torch.empty(length, length, head_size, dtype=torch.float64)
    for k in range(head_size // 2):
        angle = shifted / 10000.0 ** (2 * k / head_size)
        vectors[:, :, 2 * k], vectors[:, :, 2 * k + 1] = torch.sin(angle), torch.cos(angle)
    return vectors


def _factors(dropout: Dropout | None, seed: int, rows: Tensor, columns: int) -> Tensor | float:
    if dropout is None:
        return 1.0
    return keep_mask(rows, seed, columns, dropout.threshold).double() * dropout.scale


def _dropped(x: Tensor, dropout: Dropout | None, rows: Tensor) -> Tensor:
    return x * _factors(dropout, 0 if dropout is None else dropout.seed, rows, x.size(1))


def attention(
    q: Tensor, k: Tensor, v: Tensor, vectors: Tensor, dropout: Dropout | None, rows: Tensor, head: int
) -> Tensor:  # fmt: skip
    """One head of one sequence, equations (1) to (4): [S, D] each -> [S, D]."""
    scores = torch.einsum("id,ijd->ij", q, k[None] + vectors) / math.sqrt(q.size(1))
    seed = 0 if dropout is None else head_seed(dropout.seed, head)
    weights = torch.softmax(scores, dim=1) * _factors(dropout, seed, rows, len(k))
    return torch.einsum("ij,ijd->id", weights, v[None] + vectors)


def encode(
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    ids: Tensor,
    types: Tensor,
    rows: Tensor,
    dropout: MicroStepDropout | None,
) -> Tensor:
    """Last hidden states of one sequence, [S, H]; ``rows``: the keys of its tokens' masks."""

    def at(layer: int, place: int = AFTER_ATTENTION) -> Dropout | None:
        return None if dropout is None else dropout.at(layer, place)

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        shape = (config.hidden_size,)
        return F.layer_norm(
            x, shape, weights[f"{name}.weight"], weights[f"{name}.bias"], config.layer_norm_eps
        )

    vectors = position_vectors(len(ids), config.head_size, config.max_relative_position)
    words = weights["embeddings.word_embeddings.weight"][ids]
    x = words + weights["embeddings.token_type_embeddings.weight"][types]
    x = _dropped(norm(x, "embeddings.norm"), at(EMBEDDINGS), rows)
    for number in range(config.num_hidden_layers):
        name = f"layers.{number}"
        parts = [linear(x, f"{name}.attention.{part}") for part in ("query", "key", "value")]
        heads = zip(*(part.split(config.head_size, dim=1) for part in parts))
        context = torch.cat(
            [
                attention(q, k, v, vectors, at(number, ATTENTION), rows, head)
                for head, (q, k, v) in enumerate(heads)
            ],
            dim=1,
        )
        out = _dropped(linear(context, f"{name}.attention.output"), at(number), rows)
        x = norm(x + out, f"{name}.attention_norm")
        inner = F.gelu(linear(x, f"{name}.mlp.up"))
        out = _dropped(linear(inner, f"{name}.mlp.down"), at(number, AFTER_MLP), rows)
        x = norm(x + out, f"{name}.mlp_norm")
    return x
