"""The encoder: embeddings, layers and norms of whatever variant its configuration describes.

Sequences lie end to end in T rows ("packed"), so that no operator except the attention sees where one
ends; padded input ``[B, S]`` is the same with padding between. Shapes are those of
:mod:`megabert.model.modules`.

With sequence parallelism (Korthikanti et al. 2022) each tensor-parallel rank has only its own T/t rows
outside the split regions, up to the last layer.

The heads read few rows of the last layer: the masked positions and the sequences' first tokens. Its
output projection and MLP are computed for these only (``kept``).
"""

from __future__ import annotations

import functools
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from megabert.common.errors import UserError
from megabert.config.model import ENCODERS, ModelConfig
from megabert.kernels.attention.dispatch import Sequences
from megabert.kernels.dropout import Dropout, token_keys
from megabert.model.encoders.variant import EncoderVariant
from megabert.model.modules import LayerInputs, Pooler
from megabert.parallel.layers import TensorParallel
from megabert.parallel.mappings import (
    gather_from_sequence_parallel_region,
    scatter_to_sequence_parallel_region,
)
from megabert.parallel.rng import EMBEDDINGS, HEAD, DropoutSeeds, MicroStepDropout


@functools.cache
def variant_of(config: ModelConfig) -> EncoderVariant:
    """The encoder that a configuration describes.

    Raises:
        UserError: there is none, or the configuration's fields do not fit it.
    """
    kind = ENCODERS.get(config.encoder)
    if not issubclass(kind, EncoderVariant):
        raise TypeError(
            f"{kind.__name__} is registered as an encoder, but is not an EncoderVariant"
        )
    variant = kind()
    variant.check(config)
    return variant


class Encoder(nn.Module):
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
        self.variant = variant = variant_of(config)
        self.embeddings = variant.embeddings(config, tp)
        last, alone = config.num_hidden_layers - 1, replace(tp, sequence_parallel=False)
        self.layers = nn.ModuleList(
            variant.layer(config, number, alone if number == last else tp)
            for number in range(last + 1)
        )
        self.final_norm = variant.final_norm(config)
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
                f"sequence length {longest} is larger than "
                f"{self.variant.length_limit(self.config)} "
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
        inputs = LayerInputs(sequences, positions, dropout)
        for layer in self.layers:
            here = None
            if layer.number == len(self.layers) - 1:
                x = gather_from_sequence_parallel_region(
                    x, self.tp, tensor_parallel_output_grad=False
                )
                here = kept
            if self.activation_checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(
                    layer, x, inputs, here, use_reentrant=False, preserve_rng_state=False
                )
            else:
                x = layer(x, inputs, here)
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
