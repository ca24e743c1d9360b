"""BERT encoder (Devlin et al. 2019, section 3; layers as in Vaswani et al. 2017), split as Megatron.

Local shapes in comments:
    B sequences of a micro batch    S tokens a sequence    H hidden_size    N heads    D head_size
    I intermediate_size             Vp padded vocabulary   t tensor parallel degree

Each layer is two blocks, attention and MLP.  A block enters its split region with f, multiplies by
matrices split by columns, computes on its own heads or its own part of the MLP, multiplies by a
matrix split by rows, and leaves with g (inside RowParallelLinear).

    post-LN (BERT):   x = norm(x + dropout(block(x)))
    pre-LN:           x = x + dropout(block(norm(x))), no norm after the embeddings, one after the
                      last layer (Shoeybi et al. 2019, section 4)

A row of B may hold several sequences end to end ("packed"): `sequence_ids` then says which tokens belong
together. Each attends to its own sequence only, and `position_ids` begin at 0 in each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from megabert.config import ModelConfig
from megabert.log import UserError
from megabert.parallel.layers import (
    ColumnParallelLinear,
    RowParallelLinear,
    TensorParallel,
    VocabParallelEmbedding,
)
from megabert.parallel.mappings import f
from megabert.parallel.rng import EMBEDDINGS, DropoutStreams, FreeDropout, LayerDropout

Dropout = LayerDropout | FreeDropout

_gelu_tanh = partial(F.gelu, approximate="tanh")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_python": F.gelu,
    "gelu_new": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}
"""Values of ``hidden_act``; "gelu" is the exact one, x * Phi(x)."""


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The function behind a ``hidden_act``; UserError when it is not known."""
    if name not in ACTIVATIONS:
        raise UserError(f"hidden_act {name!r} is not known; use one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def layer_norm(config: ModelConfig) -> nn.LayerNorm:
    """LayerNorm over H."""
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


def key_padding_mask(attention_mask: Tensor | None) -> Tensor | None:
    """``[B, S]`` of 1 (real) and 0 (padding) as bool ``[B, 1, 1, S]``; None when nothing is padded.

    Only a mask on the CPU is looked at: elsewhere that would make the host wait for the device.
    """
    if attention_mask is None:
        return None
    real = attention_mask.bool()
    if real.device.type == "cpu" and bool(real.all()):
        return None
    return real[:, None, None, :]


def same_sequence_mask(sequence_ids: Tensor) -> Tensor:
    """int64 ``[B, S]`` -> bool ``[B, 1, S, S]``: may a token (row) attend to another (column)?

    Padding (0) is a sequence of its own, so that every token has one to attend to.
    """
    return (sequence_ids[:, :, None] == sequence_ids[:, None, :])[:, None]


class Embeddings(nn.Module):
    """Sum of word, position and token type embeddings, normalized and dropped out."""

    def __init__(self, config: ModelConfig, tp: TensorParallel) -> None:
        super().__init__()
        self.dropout = config.hidden_dropout_prob
        self.word_embeddings = VocabParallelEmbedding(
            config.padded_vocab_size, config.hidden_size, tp, what="padded vocabulary"
        )
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = layer_norm(config) if config.norm == "post" else None

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        position_ids: Tensor | None,
        dropout: Dropout,
    ) -> Tensor:
        """int64 ``[B, S]`` each -> ``[B, S, H]``; without ``position_ids`` 0 .. S-1 in every row."""
        dropout.begin()
        if position_ids is None:
            position_ids = torch.arange(input_ids.size(1), device=input_ids.device)
        x = self.word_embeddings(input_ids)  # [B, S, H]
        x = x + self.token_type_embeddings(token_type_ids) + self.position_embeddings(position_ids)
        if self.norm is not None:
            x = self.norm(x)
        return F.dropout(x, self.dropout, self.training)


class SelfAttention(nn.Module):
    """Multi-head attention; heads are shared out over the tensor-parallel group."""

    def __init__(self, config: ModelConfig, tp: TensorParallel) -> None:
        super().__init__()
        hidden = config.hidden_size
        tp.divide(config.num_attention_heads, "num_attention_heads")
        self.tp = tp
        self.head_size = config.head_size
        self.scale = 1.0 / math.sqrt(config.head_size)
        self.dropout = config.attention_probs_dropout_prob
        self.query = ColumnParallelLinear(hidden, hidden, tp, what="hidden_size")
        self.key = ColumnParallelLinear(hidden, hidden, tp, what="hidden_size")
        self.value = ColumnParallelLinear(hidden, hidden, tp, what="hidden_size")
        self.output = RowParallelLinear(hidden, hidden, tp, what="hidden_size")

    def forward(self, x: Tensor, mask: Tensor | None, dropout: Dropout) -> Tensor:
        """``[B, S, H]``, bool ``[B, 1, 1 or S, S]`` (True = may be attended to) -> ``[B, S, H]``."""
        x = f(x, self.tp)  # [B, S, H]
        query, key, value = (
            linear(x).unflatten(-1, (-1, self.head_size)).transpose(1, 2)  # [B, N/t, S, D]
            for linear in (self.query, self.key, self.value)
        )
        with dropout.split():
            context = F.scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=mask,
                dropout_p=self.dropout if self.training else 0.0,
                scale=self.scale,
            )
        return self.output(context.transpose(1, 2).flatten(2))  # [B, S, H/t] -> [B, S, H]


class Mlp(nn.Module):
    """Position-wise feed-forward block."""

    def __init__(self, config: ModelConfig, tp: TensorParallel) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        self.tp = tp
        self.activation = activation(config.hidden_act)
        self.up = ColumnParallelLinear(hidden, inner, tp, what="intermediate_size")
        self.down = RowParallelLinear(inner, hidden, tp, what="intermediate_size")

    def forward(self, x: Tensor) -> Tensor:
        """``[B, S, H] -> [B, S, H]``."""
        return self.down(self.activation(self.up(f(x, self.tp))))  # inside: [B, S, I/t]


class Layer(nn.Module):
    """Attention block and MLP block, each with its residual sum, LayerNorm and dropout."""

    def __init__(self, config: ModelConfig, tp: TensorParallel) -> None:
        super().__init__()
        self.pre_norm = config.norm == "pre"
        self.dropout = config.hidden_dropout_prob
        self.attention = SelfAttention(config, tp)
        self.attention_norm = layer_norm(config)
        self.mlp = Mlp(config, tp)
        self.mlp_norm = layer_norm(config)

    def forward(self, x: Tensor, mask: Tensor | None, dropout: Dropout) -> Tensor:
        """``[B, S, H] -> [B, S, H]``; ``mask`` as in :class:`SelfAttention`."""
        dropout.begin()
        if self.pre_norm:
            x = x + self._drop(self.attention(self.attention_norm(x), mask, dropout))
            return x + self._drop(self.mlp(self.mlp_norm(x)))
        x = self.attention_norm(x + self._drop(self.attention(x, mask, dropout)))
        return self.mlp_norm(x + self._drop(self.mlp(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class Pooler(nn.Module):
    """tanh of a linear map of a sequence's first token ([CLS])."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor, sequence_starts: Tensor | None = None) -> Tensor:
        """``[B, S, H] -> [B, H]``; with int64 ``[P]`` into the flat B * S: ``[P, H]``."""
        if sequence_starts is None:
            return torch.tanh(self.dense(hidden[:, 0]))
        return torch.tanh(self.dense(hidden.flatten(0, 1).index_select(0, sequence_starts)))


class BertModel(nn.Module):
    """Embeddings and ``num_hidden_layers`` layers; ``pooler=True`` adds one for sentence tasks.

    ``activation_checkpointing`` keeps each layer's input only and computes the layer again in
    backward.  ``streams`` gives the dropout masks; it may be left out where nothing is
    split or recomputed: dropout then draws from torch's generator as it stands.

    Raises UserError when ``hidden_size``, ``num_attention_heads``, ``intermediate_size`` or the padded
    vocabulary is not divisible by the tensor parallel degree.
    """

    def __init__(
        self,
        config: ModelConfig,
        tp: TensorParallel | None = None,
        streams: DropoutStreams | None = None,
        activation_checkpointing: bool = False,
        pooler: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.tp = tp = tp if tp is not None else TensorParallel()
        self.streams = streams
        self.activation_checkpointing = activation_checkpointing
        self.embeddings = Embeddings(config, tp)
        self.layers = nn.ModuleList(Layer(config, tp) for _ in range(config.num_hidden_layers))
        self.final_norm = layer_norm(config) if config.norm == "pre" else None
        self.pooler = Pooler(config) if pooler else None

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        sequence_ids: Tensor | None = None,
    ) -> Tensor:
        """Hidden states of the last layer.

        Args:
            input_ids: int64 ``[B, S]``, below ``vocab_size``.
            token_type_ids: int64 ``[B, S]``; all 0 when left out.
            attention_mask: ``[B, S]``, 1 for real tokens, 0 for padding; all 1 when left out.
            position_ids: int64 ``[B, S]``; 0 .. S-1 in every row when left out.
            sequence_ids: int64 ``[B, S]`` for packed rows: 0 in padding, else the same number in all
                tokens of a sequence. ``attention_mask`` says nothing beside it.

        Returns:
            ``[B, S, H]`` in the dtype of the weights.

        Raises:
            UserError: S is larger than ``max_position_embeddings``, without ``position_ids``.
        """
        if position_ids is None and input_ids.size(1) > self.config.max_position_embeddings:
            raise UserError(
                f"sequence length {input_ids.size(1)} is larger than the position table "
                f"(max_position_embeddings {self.config.max_position_embeddings}): "
                "use shorter sequences or a model with more positions"
            )
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        if sequence_ids is None:
            mask = key_padding_mask(attention_mask)
        else:
            mask = same_sequence_mask(sequence_ids)
        x = self.embeddings(input_ids, token_type_ids, position_ids, self._dropout(EMBEDDINGS))
        for number, layer in enumerate(self.layers):
            dropout = self._dropout(number)
            if self.activation_checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(
                    layer, x, mask, dropout, use_reentrant=False, preserve_rng_state=False
                )
            else:
                x = layer(x, mask, dropout)
        return x if self.final_norm is None else self.final_norm(x)

    def _dropout(self, layer: int) -> Dropout:
        """Streams of one layer, or FreeDropout where no mask needs to be repeated."""
        config = self.config
        if not self.training or not (
            config.hidden_dropout_prob or config.attention_probs_dropout_prob
        ):
            return FreeDropout()
        if self.streams is not None:
            return self.streams.layer(layer)
        if self.tp.size > 1 or self.activation_checkpointing:
            raise ValueError(
                "dropout with tensor parallelism or activation checkpointing needs DropoutStreams"
            )
        return FreeDropout()
