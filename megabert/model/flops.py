"""Model FLOPs of pretraining: what the mathematics needs, for model FLOPs utilization (MFU).

A multiplication and an addition count as two; backward as twice the forward; recomputation, dropout,
LayerNorm and the embeddings' look-up as nothing.  For a sequence of s real tokens with m predicted
positions, L layers, hidden size h, MLP width f and vocabulary V:

    3 ( L s (8 h^2 + 4 h f)  +  4 L h s^2  +  2 m (h^2 + h V) )
        projections and MLP     attention     MLM head

Relative positions (NEZHA) multiply each query by the 2 m + 1 rows of the table of distances, and the
probabilities summed by distance too: 4 h (2 m + 1) a token and layer in forward (the short way, without
a vector for each pair of tokens), and as much in backward, as the table has no gradient.

The attention term is quadratic, so a batch needs the sum of its squared lengths.  Padding is not
counted: only real tokens are useful work.
"""

from __future__ import annotations

from megabert.config.model import ModelConfig


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
    hidden, inner = config.hidden_size, config.intermediate_size
    layers, vocabulary = config.num_hidden_layers, config.vocab_size
    dense = layers * tokens * (8 * hidden**2 + 4 * hidden * inner)
    attention = 4 * layers * hidden * squared_lengths
    relative = 0.0
    if config.is_relative:
        relative = 4 * layers * hidden * tokens * (2 * config.max_relative_position + 1)
    head = 2 * predictions * (hidden**2 + hidden * vocabulary)
    return 3 * (dense + attention + head) + 2 * relative


def sequence_flops(config: ModelConfig, length: int, predictions: int) -> float:
    """FLOPs of forward and backward of one sequence of ``length`` real tokens."""
    return pretraining_flops(config, length, length**2, predictions)
