"""The encoder: embeddings, layers and norms of the variant that its configuration describes.

Sequences are concatenated in T rows ("packed"), and only the attention knows where one ends. A padded
batch is the same with padding in between. Shapes are those of :mod:`megabert.model.modules`.

With sequence parallelism (Korthikanti et al. 2022) each tensor parallel rank has only its own T/t rows
outside the split regions, up to the last layer.

The heads read few rows of the last layer: the masked positions and the sequences' first tokens. The
last layer computes its output projection and its MLP for these only (``selected_positions``).
"""

from __future__ import annotations

import functools
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from megabert.common.errors import UserError
from megabert.common.packed_batch import PackedBatch
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
        UserError: no encoder has this name, or the configuration's fields do not fit it.
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
    """Embeddings and ``num_hidden_layers`` layers.

    Args:
        config: the encoder.
        tp: this rank's place; None without tensor parallelism.
        dropout_seeds: of the run, for batches that have sample numbers.
        activation_checkpointing: save only each layer's input, and recompute the layer in backward.
        pooler: add a pooler, for tasks on whole sequences.

    Raises:
        UserError: the tensor parallel degree does not divide ``hidden_size``, ``num_attention_heads``,
            ``intermediate_size`` or the padded vocabulary.
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
        self, batch: PackedBatch[Tensor], selected_positions: Tensor | None = None
    ) -> Tensor:
        """Hidden states of the last layer.

        Args:
            batch: T tokens; ids below ``vocab_size``. Relative positions do not read its position_ids,
                because they are differences of places in a sequence.
            selected_positions: int64 ``[K]``, the rows of T to return; None for all.

        Returns:
            ``[K, H]`` or ``[T, H]``, in the dtype of the weights.

        Raises:
            UserError: a sequence may be longer than ``max_position_embeddings``.
        """
        if batch.max_length > self.config.max_position_embeddings:
            raise UserError(
                f"sequence length {batch.max_length} is larger than "
                f"{self.variant.length_limit(self.config)} "
                "(max_position_embeddings): use shorter sequences or a model with more positions"
            )
        dropout = self._dropout(batch)
        first = None
        if dropout is not None:
            first = dropout.at(
                EMBEDDINGS, rows=scatter_to_sequence_parallel_region(dropout.rows, self.tp)
            )
        x = self.embeddings(batch.input_ids, batch.token_type_ids, batch.position_ids, first)
        inputs = LayerInputs(_sequences(batch), batch.position_ids, dropout)
        for layer in self.layers:
            here = None
            if layer.number == len(self.layers) - 1:
                x = gather_from_sequence_parallel_region(
                    x, self.tp, tensor_parallel_output_grad=False
                )
                here = selected_positions
            if self.activation_checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(
                    layer, x, inputs, here, use_reentrant=False, preserve_rng_state=False
                )
            else:
                x = layer(x, inputs, here)
        if self.final_norm is not None:
            x = self.final_norm(x)
        return x

    def head_dropout(self, batch: PackedBatch[Tensor], rows: Tensor | None) -> Dropout | None:
        """Dropout of what a task's head reads of ``rows`` of T (None for all)."""
        dropout = self._dropout(batch)
        if dropout is None:
            return None
        keys = dropout.rows if rows is None else dropout.rows.index_select(0, rows)
        return dropout.at(EMBEDDINGS, HEAD, keys)

    def _dropout(self, batch: PackedBatch[Tensor]) -> MicroStepDropout | None:
        """Dropout of this micro step; None in evaluation and for a model without dropout."""
        config = self.config
        hidden, within = config.hidden_dropout_prob, config.attention_probs_dropout_prob
        if not self.training or not (hidden or within):
            return None
        places = batch.position_ids
        if self.dropout_seeds is None or batch.sample_numbers is None:
            if self.tp.size > 1:
                raise ValueError(
                    "dropout with tensor parallelism needs dropout_seeds and sample_numbers"
                )
            drawn = DropoutSeeds(int(torch.randint(2**62, ())))
            rows = torch.arange(places.numel(), device=places.device)
            return MicroStepDropout(drawn, rows, hidden, within)
        samples = torch.repeat_interleave(
            batch.sample_numbers, batch.lengths, output_size=places.numel()
        )
        keys = token_keys(samples, places)
        return MicroStepDropout(self.dropout_seeds, keys, hidden, within, batch.first_sample)


def _sequences(batch: PackedBatch[Tensor]) -> Sequences:
    """How the attention divides the rows of a batch."""
    if batch.attention_mask is None:
        return Sequences.packed(batch.cu_seqlens, batch.max_length)
    return Sequences.padded(
        batch.num_sequences, batch.max_length, batch.input_ids.device, batch.attention_mask
    )
