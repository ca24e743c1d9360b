"""BERT encoder (Devlin et al. 2019, section 3; layers as in Vaswani et al. 2017), split as Megatron.

NEZHA (Wei et al. 2019) is the same encoder with relative positions in each attention instead of
position embeddings (:mod:`megabert.model.nezha`).

Local shapes in comments:
    B sequences of a micro batch    S tokens a sequence    H hidden_size    N heads    D head_size
    I intermediate_size             Vp padded vocabulary   t tensor parallel degree
    T rows that are computed on: the real tokens of packed sequences, or B S with padding
    K rows of the last layer that a head reads

Sequences lie end to end in T rows ("packed"), so that no operator but the attention sees where one
ends; padded input ``[B, S]`` is the same with padding between. Each layer is two blocks, attention and
MLP. A block enters its split region, multiplies by matrices split by columns, computes on its own
heads or its own part of the MLP, multiplies by a matrix split by rows, and leaves; what follows (bias,
dropout, residual sum, norm) is one operator.

    post-LN (BERT):   x = norm(x + dropout(block(x)))
    pre-LN:           x = x + dropout(block(norm(x))), no norm after the embeddings, one after the
                      last layer (Shoeybi et al. 2019, section 4)

With sequence parallelism (Korthikanti et al. 2022) each tensor-parallel rank has only its own T/t rows
outside the split regions, up to the last layer.

The heads read few rows of the last layer: the masked positions and the sequences' first tokens. Its
output projection and MLP are computed for these only (``kept``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from megabert.common.errors import UserError
from megabert.config.model import ModelConfig
from megabert.kernels.attention.dispatch import Sequences, attention
from megabert.kernels.dropout import Dropout, token_keys
from megabert.kernels.ops import add_norm, bias_gelu, dropped, embedding
from megabert.kernels.reference import wide
from megabert.model.nezha import relative_table
from megabert.parallel.layers import (
    ColumnParallelLinear,
    RowParallelLinear,
    TensorParallel,
    VocabParallelEmbedding,
)
from megabert.parallel.linear import column_linear
from megabert.parallel.mappings import (
    gather_from_sequence_parallel_region,
    parameters_in_sequence_parallel_region,
    scatter_to_sequence_parallel_region,
)
from megabert.parallel.rng import (
    AFTER_ATTENTION,
    AFTER_MLP,
    ATTENTION,
    EMBEDDINGS,
    HEAD,
    DropoutSeeds,
    MicroStepDropout,
)

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


def biased_activation(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """``activation(x + bias)``, in one operator where there is one."""
    function = activation(name)
    return bias_gelu if function is F.gelu else lambda x, bias: function(x + bias)


def layer_norm(config: ModelConfig) -> nn.LayerNorm:
    """LayerNorm over H."""
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


def normalized(x: Tensor, norm: nn.LayerNorm, tp: TensorParallel) -> Tensor:
    """``norm(x)`` of this rank's rows."""
    weight, bias = parameters_in_sequence_parallel_region([norm.weight, norm.bias], tp)
    return F.layer_norm(x, norm.normalized_shape, weight, bias, norm.eps)


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """A linear layer that every tensor-parallel rank computes alike."""
    return column_linear(x, [layer.weight], [layer.bias], TensorParallel())[0]


class Embeddings(nn.Module):
    """Sum of word, position and token type embeddings, normalized and dropped out.

    There are no position embeddings where positions are relative.
    """

    def __init__(self, config: ModelConfig, tp: TensorParallel) -> None:
        super().__init__()
        self.tp = tp
        self.word_embeddings = VocabParallelEmbedding(
            config.padded_vocab_size, config.hidden_size, tp, what="padded vocabulary"
        )
        self.position_embeddings = None
        if not config.is_relative:
            self.position_embeddings = nn.Embedding(
                config.max_position_embeddings, config.hidden_size
            )
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = layer_norm(config) if config.norm == "post" else None

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        position_ids: Tensor,
        dropout: Dropout | None,
    ) -> Tensor:
        """int64 ``[T]`` each -> ``[T or T/t, H]``."""
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
            x = normalized(x, self.norm, self.tp)
        return dropped(x, dropout)


class SelfAttention(nn.Module):
    """Multi-head attention; heads are shared out over the tensor-parallel group."""

    def __init__(self, config: ModelConfig, tp: TensorParallel) -> None:
        super().__init__()
        hidden = config.hidden_size
        tp.divide(config.num_attention_heads, "num_attention_heads")
        self.tp = tp
        self.head_size = config.head_size
        self.scale = 1.0 / math.sqrt(config.head_size)
        self.max_relative_position = config.max_relative_position if config.is_relative else None
        self.query = ColumnParallelLinear(hidden, hidden, tp, what="hidden_size")
        self.key = ColumnParallelLinear(hidden, hidden, tp, what="hidden_size")
        self.value = ColumnParallelLinear(hidden, hidden, tp, what="hidden_size")
        self.output = RowParallelLinear(hidden, hidden, tp, what="hidden_size")

    def forward(
        self, x: Tensor, sequences: Sequences, dropout: Dropout | None, kept: Tensor | None = None
    ) -> Tensor:
        """``[T or T/t, H]`` -> the same shape, or ``[K, H]``; the output's bias is not added."""
        linears = self.query, self.key, self.value
        query, key, value = (
            part.unflatten(-1, (-1, self.head_size))  # [T, N/t, D]
            for part in column_linear(
                x,
                [linear.weight for linear in linears],
                [linear.bias for linear in linears],
                self.tp,
                self.query.products,
            )
        )
        first_head = self.tp.rank * query.size(1)
        relative = None
        if self.max_relative_position is not None:
            relative = relative_table(
                self.max_relative_position, self.head_size, wide(query.dtype), query.device
            )
        context = attention(query, key, value, sequences, first_head, self.scale, dropout, relative)
        context = context.flatten(1)  # [T, H/t]
        if kept is not None:
            context = context.index_select(0, kept)
        return self.output.product(context)


class Mlp(nn.Module):
    """Position-wise feed-forward block."""

    def __init__(self, config: ModelConfig, tp: TensorParallel) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        self.tp = tp
        self.activation = biased_activation(config.hidden_act)
        self.up = ColumnParallelLinear(hidden, inner, tp, what="intermediate_size")
        self.down = RowParallelLinear(inner, hidden, tp, what="intermediate_size")

    def forward(self, x: Tensor) -> Tensor:
        """``[T or T/t, H]`` -> the same shape; the output's bias is not added."""
        inner = self.up.product(x)  # [T, I/t]
        return self.down.product(self.activation(inner, self.up.bias))


class Layer(nn.Module):
    """Attention block and MLP block, each with its residual sum, LayerNorm and dropout."""

    def __init__(self, config: ModelConfig, tp: TensorParallel, number: int) -> None:
        super().__init__()
        self.number, self.tp = number, tp
        self.pre_norm = config.norm == "pre"
        self.attention = SelfAttention(config, tp)
        self.attention_norm = layer_norm(config)
        self.mlp = Mlp(config, tp)
        self.mlp_norm = layer_norm(config)

    def forward(
        self,
        x: Tensor,
        sequences: Sequences,
        dropout: MicroStepDropout | None,
        kept: Tensor | None = None,
    ) -> Tensor:
        """``[T or T/t, H]`` -> the same shape; only the rows ``kept``, ``[K, H]``, if these are given.

        ``kept`` (int64 [K]) is for layers without sequence parallelism.
        """
        within = None if dropout is None else dropout.at(self.number, ATTENTION)
        entered = normalized(x, self.attention_norm, self.tp) if self.pre_norm else x
        out = self.attention(entered, sequences, within, kept)
        rows = (
            None if dropout is None else scatter_to_sequence_parallel_region(dropout.rows, self.tp)
        )
        if kept is not None:
            x = x.index_select(0, kept)
            rows = None if rows is None else rows.index_select(0, kept)
        norm = self.mlp_norm if self.pre_norm else self.attention_norm
        after = None if dropout is None else dropout.at(self.number, AFTER_ATTENTION, rows)
        total, x = self._add_norm(out, self.attention.output.bias, x, norm, after)
        out = self.mlp(x)
        after = None if dropout is None else dropout.at(self.number, AFTER_MLP, rows)
        if self.pre_norm:
            (bias,) = parameters_in_sequence_parallel_region([self.mlp.down.bias], self.tp)
            return total + dropped(out + bias, after)
        return self._add_norm(out, self.mlp.down.bias, x, self.mlp_norm, after)[1]

    def _add_norm(
        self, x: Tensor, bias: Tensor, residual: Tensor, norm: nn.LayerNorm, dropout: Dropout | None
    ) -> tuple[Tensor, Tensor]:
        bias, weight, norm_bias = parameters_in_sequence_parallel_region(
            [bias, norm.weight, norm.bias], self.tp
        )
        return add_norm(x, bias, residual, weight, norm_bias, norm.eps, dropout)


class Pooler(nn.Module):
    """tanh of a linear map of a sequence's first token ([CLS])."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, first_tokens: Tensor) -> Tensor:
        """``[P, H] -> [P, H]``."""
        return torch.tanh(linear(first_tokens, self.dense))


class BertModel(nn.Module):
    """Embeddings and ``num_hidden_layers`` layers; ``pooler=True`` adds one for sentence tasks.

    ``activation_checkpointing`` keeps each layer's input only and computes the layer again in
    backward.  ``dropout_seeds`` gives the dropout masks of samples that have a number in the run.

    Raises UserError when ``hidden_size``, ``num_attention_heads``, ``intermediate_size`` or the padded
    vocabulary is not divisible by the tensor parallel degree.
    """

    def __init__(
        self,
        config: ModelConfig,
        tp: TensorParallel | None = None,
        dropout_seeds: DropoutSeeds | None = None,
        activation_checkpointing: bool = False,
        pooler: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.tp = tp = tp if tp is not None else TensorParallel()
        self.dropout_seeds = dropout_seeds
        self.activation_checkpointing = activation_checkpointing
        self.embeddings = Embeddings(config, tp)
        last, alone = config.num_hidden_layers - 1, replace(tp, sequence_parallel=False)
        self.layers = nn.ModuleList(
            Layer(config, alone if number == last else tp, number) for number in range(last + 1)
        )
        self.final_norm = layer_norm(config) if config.norm == "pre" else None
        self.pooler = Pooler(config) if pooler else None

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        max_seqlen: int | None = None,
        sample_numbers: Tensor | None = None,
        first_sample: int = 0,
        kept: Tensor | None = None,
    ) -> Tensor:
        """Hidden states of the last layer.

        Args:
            input_ids: int64 ``[T]`` (packed) or ``[B, S]`` (padded), below ``vocab_size``.
            token_type_ids: int64, the same shape; all 0 when left out.
            attention_mask: ``[B, S]``, 1 for real tokens, 0 for padding; all 1 when left out.
            position_ids: int64, the same shape; when left out, 0, 1, ... in every sequence.
                Relative positions do not read them: they are differences of places in a sequence.
            cu_seqlens: int32 ``[P+1]`` for packed sequences: where they begin and end, from 0 to T.
            max_seqlen: a bound of their lengths, the same in all batches; goes with ``cu_seqlens``.
            sample_numbers: int64 ``[P or B]``, the samples' numbers in the run, for the dropout masks.
            first_sample: a number of this micro step alone, for masks that a generator draws.
            kept: int64 ``[K]``, the rows (of the flat T, or B * S) to return; all when left out.

        Returns:
            In the dtype of the weights ``[K, H]``, or ``[T, H]``, or ``[B, S, H]``.

        Raises:
            UserError: a sequence may be longer than ``max_position_embeddings``.
        """
        if (cu_seqlens is None) != (max_seqlen is None):
            raise ValueError("cu_seqlens and max_seqlen go together")
        longest = input_ids.size(-1) if max_seqlen is None else max_seqlen
        if longest > self.config.max_position_embeddings:
            raise UserError(
                f"sequence length {longest} is larger than {self.config.longest_sequence} "
                "(max_position_embeddings): use shorter sequences or a model with more positions"
            )
        sequences, places, lengths = self._layout(input_ids, attention_mask, cu_seqlens, longest)
        positions = places if position_ids is None else position_ids.reshape(-1)
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        dropout = self._dropout(places, lengths, sample_numbers, first_sample)
        first = None
        if dropout is not None:
            first = dropout.at(
                EMBEDDINGS, rows=scatter_to_sequence_parallel_region(dropout.rows, self.tp)
            )
        x = self.embeddings(input_ids.reshape(-1), types.reshape(-1), positions, first)
        for layer in self.layers:
            here = None
            if layer.number == len(self.layers) - 1:
                x = gather_from_sequence_parallel_region(
                    x, self.tp, tensor_parallel_output_grad=False
                )
                here = kept
            if self.activation_checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(
                    layer,
                    x,
                    sequences,
                    dropout,
                    here,
                    use_reentrant=False,
                    preserve_rng_state=False,
                )
            else:
                x = layer(x, sequences, dropout, here)
        if self.final_norm is not None:
            x = self.final_norm(x)
        return x if kept is not None else x.view(*input_ids.shape, -1)

    def head_dropout(
        self,
        rows: Tensor | None,
        input_ids: Tensor,
        cu_seqlens: Tensor | None = None,
        max_seqlen: int | None = None,
        sample_numbers: Tensor | None = None,
        first_sample: int = 0,
    ) -> Dropout | None:
        """Dropout of what a task's head reads of ``rows`` of the flat T (all when None)."""
        longest = input_ids.size(-1) if max_seqlen is None else max_seqlen
        _, places, lengths = self._layout(input_ids, None, cu_seqlens, longest)
        dropout = self._dropout(places, lengths, sample_numbers, first_sample)
        if dropout is None:
            return None
        keys = dropout.rows if rows is None else dropout.rows.index_select(0, rows)
        return dropout.at(EMBEDDINGS, HEAD, keys)

    def _layout(
        self, ids: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None, longest: int
    ) -> tuple[Sequences, Tensor, Tensor | None]:
        """(division into sequences, each row's place in its sequence [T], lengths; None: all longest)"""
        if cu_seqlens is None:
            rows = ids.size(0)
            places = torch.arange(longest, device=ids.device).repeat(rows)
            return Sequences.padded(rows, longest, ids.device, mask), places, None
        lengths = cu_seqlens.diff()
        starts = torch.repeat_interleave(cu_seqlens[:-1], lengths, output_size=ids.numel())
        places = torch.arange(ids.numel(), device=ids.device) - starts
        return Sequences.packed(cu_seqlens, longest), places, lengths

    def _dropout(
        self,
        places: Tensor,
        lengths: Tensor | None,
        sample_numbers: Tensor | None,
        first_sample: int,
    ) -> MicroStepDropout | None:
        """Masks of this micro step; None in evaluation and for a model without dropout."""
        config = self.config
        hidden, within = config.hidden_dropout_prob, config.attention_probs_dropout_prob
        if not self.training or not (hidden or within):
            return None
        if self.dropout_seeds is None or sample_numbers is None:
            if self.tp.size > 1:
                raise ValueError(
                    "dropout with tensor parallelism needs dropout_seeds and sample_numbers"
                )
            drawn = DropoutSeeds(int(torch.randint(2**62, ())))
            rows = torch.arange(places.numel(), device=places.device)
            return MicroStepDropout(drawn, rows, hidden, within)
        repeats = places.numel() // sample_numbers.numel() if lengths is None else lengths
        samples = torch.repeat_interleave(sample_numbers, repeats, output_size=places.numel())
        keys = token_keys(samples, places)
        return MicroStepDropout(self.dropout_seeds, keys, hidden, within, first_sample)
