"""Which tensors a model has: their whole shapes, and how tensor parallelism splits them.

Both are read from the model itself, built on the meta device without tensor parallelism: shapes from
its parameters, split dimensions from the marks that the split layers put on them
(:func:`megabert.parallel.layers.mark_split`). Checkpoints, conversion and the planner ask here.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from megabert.common.errors import UserError
from megabert.config.model import ModelConfig
from megabert.model.heads import BertForPreTraining
from megabert.parallel.layers import split_dim

ENCODER = "bert"
"""Name of the encoder's module in every model, whatever its variant."""
LAYERS = f"{ENCODER}.layers."
"""Beginning of the names of the layers' parameters; the layer's number follows."""
VOCABULARY_TENSORS = ("bert.embeddings.word_embeddings.weight", "mlm.bias")
"""The tensors whose first dimension is the vocabulary."""


@dataclass(frozen=True)
class WholeParameter:
    """One tensor of the unsplit model.

    Attributes:
        shape: with the padded vocabulary.
        split_dim: the dimension that tensor parallelism splits; None: every rank has all of it.
    """

    shape: tuple[int, ...]
    split_dim: int | None = None

    @property
    def numel(self) -> int:
        """Elements of the whole tensor."""
        return math.prod(self.shape)


def whole_parameters(model: nn.Module, degree: int = 1) -> dict[str, WholeParameter]:
    """Every parameter of ``model``, one rank's part of ``degree``, as it is when whole.

    Parameters that ZeRO 3 has partitioned have the shape that they have when gathered.
    """
    return {
        name: whole_parameter(parameter, degree) for name, parameter in model.named_parameters()
    }


def whole_parameter(parameter: nn.Parameter, degree: int) -> WholeParameter:
    """One parameter of one rank's part of ``degree`` as it is when whole."""
    shape, dim = list(getattr(parameter, "ds_shape", parameter.shape)), split_dim(parameter)
    if dim is not None:
        shape[dim] *= degree
    return WholeParameter(tuple(shape), dim)


@functools.lru_cache(maxsize=64)
def pretraining_parameters(
    config: ModelConfig, sentence_task: bool = True
) -> Mapping[str, WholeParameter]:
    """Every parameter of the pretraining model by name, in the model's order."""
    with torch.device("meta"):
        model = BertForPreTraining(config, sentence_task=sentence_task)
    return MappingProxyType(whole_parameters(model))


def merge(parts: Sequence[Tensor], dim: int | None) -> Tensor:
    """Inverse of :func:`megabert.parallel.topology.cut`.

    Raises:
        UserError: ``dim`` is None and the parts, which every rank holds whole, are not equal.
    """
    if dim is None:
        if not all(torch.equal(parts[0], part) for part in parts[1:]):
            raise UserError("tensor parallel ranks hold different values of a replicated parameter")
        return parts[0]
    return torch.cat(list(parts), dim=dim)
