"""What every encoder is built of: norms, linear layers, embeddings, attention, MLPs, the layer.

Local shapes in comments, here and in the other files of this package:
    B sequences per micro batch     S tokens per sequence  H hidden_size    N heads    D head_size
    I intermediate_size             Vp padded vocabulary   t tensor parallel degree
    T rows that are computed: the real tokens of packed sequences, or B S with padding
    K rows of the last layer that a head reads

Norms, linear layers, attention and MLPs have biases or not (``bias=False``). Each block of a layer
enters its split region, multiplies by matrices split by columns, computes its own heads or its own
part of the MLP, multiplies by a matrix split by rows, and leaves. What follows (bias, dropout,
residual sum, norm) is one operator.

    post-LN (BERT):   x = norm(x + dropout(block(x)))
    pre-LN:           x = x + dropout(block(norm(x))), no norm after the embeddings, one after the
                      last layer (Shoeybi et al. 2019, section 4)

Modules create their parameters without random numbers: :mod:`megabert.model.init` draws all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megabert.common.errors import UserError
from megabert.config.model import ModelConfig
from megabert.kernels.attention.dispatch import AttentionSetting, Sequences, attention
from megabert.kernels.dropout import Dropout
from megabert.kernels.ops import add_norm, bias_gelu, dropped, embedding
from megabert.parallel.layers import (
    ColumnParallelLinear,
    RowParallelLinear,
    TensorParallel,
    VocabParallelEmbedding,
)
from megabert.parallel.linear import column_linear, column_linear_and_input
from megabert.parallel.mappings import (
    parameters_in_sequence_parallel_region,
    scatter_to_sequence_parallel_region,
)
from megabert.parallel.rng import AFTER_ATTENTION, AFTER_MLP, ATTENTION, MicroStepDropout

_ALONE = TensorParallel()

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


def biased_activation(name: str) -> Callable[[Tensor, Tensor | None], Tensor]:
    """``activation(x + bias)``, in one operator where there is one."""
    function = activation(name)

    def biased(x: Tensor, bias: Tensor | None) -> Tensor:
        if bias is None:
            return function(x)
        return bias_gelu(x, bias) if function is F.gelu else function(x + bias)

    return biased


class Norm(nn.Module):
    """LayerNorm over the last dimension, with or without a bias."""

    def __init__(self, size: int, eps: float, bias: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size)) if bias else None

    def forward(self, x: Tensor, tp: TensorParallel = _ALONE) -> Tensor:
        """``[..., H]`` -> the same shape; with sequence parallelism, of this rank's rows."""
        weight, bias = shared_parameters([self.weight, self.bias], tp)
        return F.layer_norm(x, self.weight.shape, weight, bias, self.eps)


class Linear(nn.Module):
    """A linear layer that every tensor parallel rank computes identically."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in] -> [..., out]``."""
        return column_linear(x, [self.weight], [self.bias], _ALONE)[0]

    def product(self, x: Tensor) -> Tensor:
        """:meth:`forward` without the bias."""
        return column_linear(x, [self.weight], [None], _ALONE)[0]


class Embedding(nn.Module):
    """A table that every tensor parallel rank holds whole."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(rows, width))


def shared_parameters(
    parameters: Sequence[Tensor | None], tp: TensorParallel
) -> list[Tensor | None]:
    """:func:`megabert.parallel.mappings.parameters_in_sequence_parallel_region` of those that are there; None stays None."""
    passed = iter(
        parameters_in_sequence_parallel_region([p for p in parameters if p is not None], tp)
    )
    return [None if p is None else next(passed) for p in parameters]


class Embeddings(nn.Module):
    """Sum of word, position and token type embeddings, normalized (post-LN) and dropped out.

    Args:
        config: the encoder.
        tp: this rank's place.
        positions: rows of the position table; 0 for an encoder without one.
        bias: whether the norm has one.
    """

    def __init__(
        self, config: ModelConfig, tp: TensorParallel, positions: int = 0, bias: bool = True
    ) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.tp = tp
        self.word_embeddings = VocabParallelEmbedding(
            config.padded_vocab_size, hidden, tp, what="padded vocabulary"
        )
        self.position_embeddings = Embedding(positions, hidden) if positions else None
        self.token_types = config.type_vocab_size
        self.token_type_embeddings = Embedding(config.type_vocab_size, hidden)
        self.norm = Norm(hidden, config.layer_norm_eps, bias) if config.norm == "post" else None

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        position_ids: Tensor,
        dropout: Dropout | None,
    ) -> Tensor:
        """int64 ``[T]`` each -> ``[T or T/t, H]``. With one token type, both texts of a pair have it."""
        if self.token_types == 1:
            token_type_ids = torch.zeros_like(token_type_ids)
        looked_up = [(token_type_ids, self.token_type_embeddings)]
        if self.position_embeddings is not None:
            looked_up.append((position_ids, self.position_embeddings))
        tables = parameters_in_sequence_parallel_region(
            [layer.weight for _, layer in looked_up], self.tp
        )
        x = self.word_embeddings(input_ids)
        for (ids, _), table in zip(looked_up, tables):
            x = x + embedding(scatter_to_sequence_parallel_region(ids, self.tp), table)
        if self.norm is not None:
            x = self.norm(x, self.tp)
        return dropped(x, dropout)


@dataclass(frozen=True)
class LayerInputs:
    """What all layers of a micro step read besides the hidden states.

    Attributes:
        sequences: how the T rows divide.
        positions: int64 ``[T]``, each row's place in its sequence.
        dropout: None for none.
    """

    sequences: Sequences
    positions: Tensor
    dropout: MicroStepDropout | None = None


class SelfAttention(nn.Module):
    """Multi-head attention; heads are divided over the tensor parallel group.

    A subclass may add positions: it rotates queries and keys (:meth:`rotate`), or gives a table of
    relative positions (:meth:`relative_table`).

    Attributes:
        attention_setting: the implementation on a GPU (``--attention``).
    """

    attention_setting: AttentionSetting = "auto"

    def __init__(self, config: ModelConfig, tp: TensorParallel, bias: bool = True) -> None:
        super().__init__()
        hidden = config.hidden_size
        tp.divide(config.num_attention_heads, "num_attention_heads")
        self.tp = tp
        self.head_size = config.head_size
        self.scale = 1.0 / math.sqrt(config.head_size)
        self.query = ColumnParallelLinear(hidden, hidden, tp, what="hidden_size", bias=bias)
        self.key = ColumnParallelLinear(hidden, hidden, tp, what="hidden_size", bias=bias)
        self.value = ColumnParallelLinear(hidden, hidden, tp, what="hidden_size", bias=bias)
        self.output = RowParallelLinear(hidden, hidden, tp, what="hidden_size", bias=bias)

    def rotate(self, query: Tensor, key: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys ``[T, N/t, D]`` at ``positions`` ``[T]``, before their products."""
        return query, key

    def relative_table(self, dtype: torch.dtype, device: torch.device) -> Tensor | None:
        """Constant vectors ``[2m + 1, D]`` to add to keys and values by distance; None for none."""
        return None

    def forward(
        self, x: Tensor, inputs: LayerInputs, dropout: Dropout | None, selected: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """``[T or T/t, H]`` -> the same, or the rows ``selected`` ``[K, H]``, without output bias; ``x``.

        ``x`` is returned for the residual sum.
        """
        linears = self.query, self.key, self.value
        *parts, x = column_linear_and_input(
            x,
            [linear.weight for linear in linears],
            [linear.bias for linear in linears],
            self.tp,
            self.query.products,
        )
        query, key, value = (
            part.unflatten(-1, (-1, self.head_size)) for part in parts
        )  # [T, N/t, D]
        query, key = self.rotate(query, key, inputs.positions)
        first_head = self.tp.rank * query.size(1)
        relative = self.relative_table(query.dtype, query.device)
        place = first_head, self.scale, dropout, relative
        context = attention(query, key, value, inputs.sequences, *place, self.attention_setting)
        context = context.flatten(1)  # [T, H/t]
        if selected is not None:
            context = context.index_select(0, selected)
        return self.output.product(context), x


class Mlp(nn.Module):
    """Position-wise feed-forward block: ``down(activation(up(x)))``."""

    def __init__(self, config: ModelConfig, tp: TensorParallel, bias: bool = True) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        self.activation = biased_activation(config.hidden_act)
        self.up = ColumnParallelLinear(hidden, inner, tp, what="intermediate_size", bias=bias)
        self.down = RowParallelLinear(inner, hidden, tp, what="intermediate_size", bias=bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``[T or T/t, H]`` -> the same shape, the output's bias not added; ``x`` for the residual sum."""
        tp, products = self.up.tp, self.up.products
        inner, x = column_linear_and_input(x, [self.up.weight], [None], tp, products)  # [T, I/t]
        return self.down.product(self.activation(inner, self.up.bias)), x


class GatedMlp(Mlp):
    """Gated feed-forward block (Shazeer 2020): ``down(activation(gate(x)) * up(x))``."""

    def __init__(self, config: ModelConfig, tp: TensorParallel, bias: bool = True) -> None:
        super().__init__(config, tp, bias)
        hidden, inner = config.hidden_size, config.intermediate_size
        self.tp = tp
        self.gate = ColumnParallelLinear(hidden, inner, tp, what="intermediate_size", bias=bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As in :class:`Mlp`."""
        weights, biases = [self.gate.weight, self.up.weight], [None, self.up.bias]
        gate, up, x = column_linear_and_input(x, weights, biases, self.tp, self.up.products)
        return self.down.product(self.activation(gate, self.gate.bias) * up), x


class Layer(nn.Module):
    """Attention block and MLP block, each with its residual sum, norm and dropout.

    Args:
        config: the encoder.
        number: of this layer, from 0.
        attention, mlp: its blocks; their ``output`` and ``down`` hold the biases that are added here.
        tp: this rank's place.
        bias: whether its norms have one.
    """

    def __init__(
        self,
        config: ModelConfig,
        number: int,
        attention: SelfAttention,
        mlp: Mlp,
        tp: TensorParallel,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.number, self.tp = number, tp
        self.pre_norm = config.norm == "pre"
        self.attention = attention
        self.attention_norm = Norm(config.hidden_size, config.layer_norm_eps, bias)
        self.mlp = mlp
        self.mlp_norm = Norm(config.hidden_size, config.layer_norm_eps, bias)

    def forward(self, x: Tensor, inputs: LayerInputs, selected: Tensor | None = None) -> Tensor:
        """``[T or T/t, H]`` -> the same shape, or the rows ``selected`` only, ``[K, H]``.

        ``selected`` (int64 [K]) is for layers without sequence parallelism.
        """
        dropout = inputs.dropout
        within = None if dropout is None else dropout.at(self.number, ATTENTION)
        entered = self.attention_norm(x, self.tp) if self.pre_norm else x
        out, entered = self.attention(entered, inputs, within, selected)
        x = x if self.pre_norm else entered
        rows = (
            None if dropout is None else scatter_to_sequence_parallel_region(dropout.rows, self.tp)
        )
        if selected is not None:
            x = x.index_select(0, selected)
            rows = None if rows is None else rows.index_select(0, selected)
        norm = self.mlp_norm if self.pre_norm else self.attention_norm
        after = None if dropout is None else dropout.at(self.number, AFTER_ATTENTION, rows)
        total, x = self._add_norm(out, self.attention.output.bias, x, norm, after)
        out, x = self.mlp(x)
        after = None if dropout is None else dropout.at(self.number, AFTER_MLP, rows)
        if self.pre_norm:
            (bias,) = shared_parameters([self.mlp.down.bias], self.tp)
            return total + dropped(out if bias is None else out + bias, after)
        return self._add_norm(out, self.mlp.down.bias, x, self.mlp_norm, after)[1]

    def _add_norm(
        self, x: Tensor, bias: Tensor | None, residual: Tensor, norm: Norm, dropout: Dropout | None
    ) -> tuple[Tensor, Tensor]:
        bias, weight, norm_bias = shared_parameters([bias, norm.weight, norm.bias], self.tp)
        assert weight is not None
        if norm_bias is None:
            norm_bias = torch.zeros_like(weight)
        return add_norm(x, bias, residual, weight, norm_bias, norm.eps, dropout)


class Pooler(nn.Module):
    """tanh of a linear map of a sequence's first token ([CLS])."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size)

    def forward(self, first_tokens: Tensor) -> Tensor:
        """``[P, H] -> [P, H]``."""
        return torch.tanh(self.dense(first_tokens))
