"""How each parameter is split for tensor parallelism, by its name.

This table and the marks that the layers put on their parameters say the same thing; a test compares
them.  Checkpoints, conversion and phase changes cut and merge by name, without a model at hand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from megabert.common.errors import UserError
from megabert.parallel.topology import cut

__all__ = [
    "MLM_BIAS",
    "VOCABULARY_PARAMETERS",
    "WORD_EMBEDDINGS",
    "cut",
    "merge",
    "split_dim",
]

WORD_EMBEDDINGS = "bert.embeddings.word_embeddings.weight"
MLM_BIAS = "mlm.bias"
VOCABULARY_PARAMETERS = frozenset({WORD_EMBEDDINGS, MLM_BIAS})
"""Parameters with one row a word of the padded vocabulary."""

_LAYER = r"bert\.layers\.\d+\."
_SPLIT_DIMS: tuple[tuple[re.Pattern[str], int], ...] = (
    (re.compile(_LAYER + r"attention\.(query|key|value)\.(weight|bias)"), 0),
    (re.compile(_LAYER + r"attention\.output\.weight"), 1),
    (re.compile(_LAYER + r"mlp\.up\.(weight|bias)"), 0),
    (re.compile(_LAYER + r"mlp\.down\.weight"), 1),
    (re.compile(re.escape(WORD_EMBEDDINGS)), 0),
    (re.compile(re.escape(MLM_BIAS)), 0),
)


def split_dim(name: str) -> int | None:
    """Dimension along which a parameter is split; None when it is not split."""
    for pattern, dim in _SPLIT_DIMS:
        if pattern.fullmatch(name):
            return dim
    return None


def merge(parts: Sequence[Tensor], dim: int | None) -> Tensor:
    """Inverse of :func:`megabert.parallel.topology.cut`; replicated parts (dim None) must be equal and give the first."""
    if dim is None:
        if not all(torch.equal(parts[0], part) for part in parts[1:]):
            raise UserError("tensor-parallel parts hold different values of a replicated parameter")
        return parts[0]
    return torch.cat(list(parts), dim=dim)
