"""Sizes of the parameter tensors of one tensor-parallel rank.

N = all elements, of which the optimizer has two groups, each one flat tensor under ZeRO: weights
(decayed and adapted), and biases with the norms' parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

from megabert.common.errors import UserError
from megabert.config.model import ModelConfig


@dataclass(frozen=True)
class LocalParameters:
    """Elements that one rank holds under tensor parallelism, before ZeRO.

    Attributes:
        weights: elements of matrices and embeddings.
        small: elements of biases and norm parameters.
        largest: elements of the largest tensor (the word embeddings, or an MLP matrix).
        layer: elements of one encoder layer.
        tensors: number of tensors.
    """

    weights: int
    small: int
    largest: int
    layer: int
    tensors: int

    @property
    def total(self) -> int:
        """N: elements of all tensors."""
        return self.weights + self.small


def check_degree(config: ModelConfig, tensor_parallel: int) -> None:
    """Refuse a tensor-parallel degree that does not divide the model.

    Raises:
        UserError: which size of the model it does not divide.
    """
    for what, number in (
        ("num_attention_heads", config.num_attention_heads),
        ("hidden_size", config.hidden_size),
        ("intermediate_size", config.intermediate_size),
        ("padded vocabulary", config.padded_vocab_size),
    ):
        if number % tensor_parallel:
            raise UserError(
                f"--tensor-parallel {tensor_parallel} does not divide {what} {number} of "
                f"{config.name}: choose a degree that does"
            )


def local_parameters(
    config: ModelConfig, tensor_parallel: int = 1, sentence_task: bool = True
) -> LocalParameters:
    """Count the tensors of ``BertForPreTraining`` as one tensor-parallel rank holds them.

    Raises:
        UserError: the degree does not divide the model.
    """
    check_degree(config, tensor_parallel)
    t, h, inner = tensor_parallel, config.hidden_size, config.intermediate_size
    rows = config.padded_vocab_size // t
    matrix, up = h * h // t, inner * h // t
    layer_weights = 4 * matrix + 2 * up
    # q, k, v and MLP-up biases are split; the row-parallel biases and both norms are not
    layer_small = 3 * h // t + h + inner // t + h + 4 * h
    layers = config.num_hidden_layers
    positions = 0 if config.is_relative else config.max_position_embeddings
    embeddings = (rows + positions + config.type_vocab_size) * h
    head_weights, head_small = h * h, h + 2 * h + rows
    if sentence_task:
        head_weights += h * h + 2 * h
        head_small += h + 2
    norm = 2 * h  # of the embeddings (post-LN) or the last one (pre-LN)
    return LocalParameters(
        weights=embeddings + layers * layer_weights + head_weights,
        small=norm + layers * layer_small + head_small,
        largest=max(rows * h, up, h * h, positions * h),
        layer=layer_weights + layer_small,
        tensors=(2 if config.is_relative else 3)
        + 2
        + 16 * layers
        + 5
        + (4 if sentence_task else 0),
    )
