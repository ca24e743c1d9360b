"""Model FLOPs of pretraining: those of the mathematics, for model FLOPs utilization (MFU).

A multiplication and an addition count as two; backward as twice the forward; recomputation, dropout,
LayerNorm and the embedding lookup as nothing. For a sequence of s real tokens with m predicted
positions, L layers, hidden size h, E elements of a layer's matrices and vocabulary V:

    3 ( 2 L s E              +  4 L h s^2  +  2 m (h^2 + h V) )
        projections and MLP     attention     MLM head

For BERT with an MLP of width f, E = 4 h^2 + 2 h f.

Relative positions (NEZHA) multiply each query by the 2 m + 1 rows of the table of distances, and the
probabilities summed by distance too: 4 h (2 m + 1) per token and layer in forward (the shorter method,
without a vector per pair of tokens), and the same in backward, as the table has no gradient.

The attention term is quadratic, so a batch needs the sum of its squared lengths. Padding does not
count: only real tokens are useful work.
"""

from __future__ import annotations

import functools

from megabert.config.model import ModelConfig
from megabert.model.encoder import variant_of
from megabert.model.parameters import LAYERS, pretraining_parameters


def pretraining_flops(
    config: ModelConfig, tokens: float, squared_lengths: float, predictions: float
) -> float:
    """FLOPs of forward and backward over some sequences.

    Args:
        config: the model.
        tokens: real tokens, summed over the sequences.
        squared_lengths: squares of the real lengths, summed over the sequences.
        predictions: predicted (masked) positions, summed over the sequences.
    """
    variant, hidden, layers = variant_of(config), config.hidden_size, config.num_hidden_layers
    dense = layers * tokens * (2 * _layer_elements(config))
    attention = variant.attention_flops(config, squared_lengths)
    head = 2 * predictions * (hidden**2 + hidden * config.vocab_size)
    return 3 * (dense + attention + head) + variant.constant_flops(config, tokens)


@functools.lru_cache(maxsize=64)
def _layer_elements(config: ModelConfig) -> float:
    """Elements of the matrices of one layer, as a mean over all."""
    sizes = [
        parameter.numel
        for name, parameter in pretraining_parameters(config).items()
        if name.startswith(LAYERS) and len(parameter.shape) == 2
    ]
    return sum(sizes) / config.num_hidden_layers


def sequence_flops(config: ModelConfig, length: int, predictions: int) -> float:
    """FLOPs of forward and backward of one sequence of ``length`` real tokens."""
    return pretraining_flops(config, length, length**2, predictions)
