"""The Newton-Schulz iteration: a matrix's singular values brought near 1, its singular vectors kept.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024):

    X_0 = G / |G|,   A = X X^T,   X <- a X + (b A + c A^2) X

with (a, b, c) = (3.4445, -4.7750, 2.0315), which has the steepest start among the quintics that stay
bounded: after five steps singular values above 0.01 of the norm are between 0.68 and 1.13, not 1.
The matrix is transposed if it is higher than wide, so that A is the smaller of the two products.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_LEAST_NORM = 1e-30


def orthogonalized(matrix: Tensor, steps: int) -> Tensor:
    """The iteration on a matrix [rows, columns], in its own number format; zeros stay zeros."""
    a, b, c = COEFFICIENTS
    high = matrix.size(0) > matrix.size(1)
    x = matrix.mT if high else matrix
    wide = x.dtype if x.dtype == torch.float64 else torch.float32
    norm = torch.linalg.vector_norm(x, dtype=wide).clamp(min=_LEAST_NORM)
    x = x / norm.to(x.dtype)
    for _ in range(steps):
        product = x @ x.mT
        polynomial = torch.addmm(product, product, product, beta=b, alpha=c)
        x = torch.addmm(x, polynomial, x, beta=a)
    return x.mT if high else x


def update_scale(rows: int, columns: int) -> float:
    """Factor that gives an orthogonalized matrix the root mean square of AdamW's updates, 0.2.

    Liu et al., "Muon is Scalable for LLM Training" (2025): an orthogonal matrix has the root mean
    square 1 / sqrt(max(rows, columns)).
    """
    return 0.2 * math.sqrt(max(rows, columns))


def iteration_flops(rows: int, columns: int, steps: int) -> int:
    """Floating-point operations of :func:`orthogonalized`: three products per step."""
    small, large = sorted((rows, columns))
    return steps * (4 * small * small * large + 2 * small**3)
