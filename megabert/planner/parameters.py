"""Sizes of the parameter tensors of one tensor parallel rank.

N = all elements. The optimizer has two groups of them, each one flat tensor under ZeRO: weights
(decayed and adapted), and biases with the norms' parameters.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from megabert.common.errors import UserError
from megabert.config.model import ModelConfig
from megabert.model.parameters import LAYERS, pretraining_parameters
from megabert.optim.param_groups import is_bias_or_norm


@dataclass(frozen=True)
class LocalParameters:
    """Elements that one rank holds under tensor parallelism, before ZeRO.

    Attributes:
        weights: elements of matrices and embeddings.
        small: elements of biases and norm parameters.
        largest: elements of the largest tensor (the word embeddings, or an MLP matrix).
        layer: elements of the largest encoder layer.
        tensors: number of tensors.
        matrices: elements of the weights of encoder layers.
    """

    weights: int
    small: int
    largest: int
    layer: int
    tensors: int
    matrices: int = 0

    @property
    def total(self) -> int:
        """N: elements of all tensors."""
        return self.weights + self.small


def check_degree(config: ModelConfig, tensor_parallel: int) -> None:
    """Check that a tensor parallel degree divides the model.

    Raises:
        UserError: names the size of the model that it does not divide.
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


@functools.lru_cache(maxsize=256)
def local_parameters(
    config: ModelConfig, tensor_parallel: int = 1, sentence_task: bool = True
) -> LocalParameters:
    """Count the tensors of ``BertForPreTraining`` that one tensor parallel rank holds.

    Raises:
        UserError: the degree does not divide the model.
    """
    check_degree(config, tensor_parallel)
    sizes, weights, matrices = [], 0, 0
    layers = [0] * config.num_hidden_layers
    for name, parameter in pretraining_parameters(config, sentence_task).items():
        split = parameter.split_dim is not None
        size = parameter.numel // (tensor_parallel if split else 1)
        sizes.append(size)
        if not is_bias_or_norm(name):
            weights += size
        if name.startswith(LAYERS):
            matrices += 0 if is_bias_or_norm(name) else size
            layers[int(name.removeprefix(LAYERS).partition(".")[0])] += size
    total = sum(sizes)
    return LocalParameters(weights, total - weights, max(sizes), max(layers), len(sizes), matrices)
