"""The fused operators in plain torch, on any device: the other implementations are tested against them.

Shapes: T tokens (rows), C columns, N heads of this rank, D head_size. Arithmetic is done in float32
(float64 for float64 input) and rounded once to the input's dtype; statistics and gradients of vectors
stay in the arithmetic's dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from megabert.kernels.attention.relative_reference import at_pairs, over_pairs
from megabert.kernels.dropout import Dropout, head_seed, keep_mask


def wide(dtype: torch.dtype) -> torch.dtype:
    """Dtype of the arithmetic on tensors of ``dtype``."""
    return torch.promote_types(dtype, torch.float32)


class Normed(NamedTuple):
    """What :func:`add_norm_forward` gives: the sum and its norm [T, C], mean and 1/deviation [T]."""

    total: Tensor
    normed: Tensor
    mean: Tensor
    rstd: Tensor


class NormGradients(NamedTuple):
    """What :func:`add_norm_backward` gives: of residual and x [T, C]; of the vectors [C], wide."""

    residual: Tensor
    x: Tensor
    bias: Tensor | None
    weight: Tensor
    norm_bias: Tensor


def dropped(x: Tensor, dropout: Dropout | None) -> Tensor:
    """Dropout of ``[T, C]``; its backward is the same function of the gradient."""
    if dropout is None:
        return x
    mask = keep_mask(dropout.rows, dropout.seed, x.size(1), dropout.threshold)
    return (x.to(wide(x.dtype)) * mask * dropout.scale).to(x.dtype)


def bias_gelu_forward(x: Tensor, bias: Tensor) -> Tensor:
    """``gelu(x + bias)``, exact GELU (Hendrycks and Gimpel 2016): ``[T, C]``, ``[C]`` -> ``[T, C]``."""
    total = x.to(wide(x.dtype)) + bias
    return (0.5 * total * (1.0 + torch.erf(total / math.sqrt(2.0)))).to(x.dtype)


def bias_gelu_backward(grad: Tensor, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of ``x`` (its dtype) and of ``bias`` (wide) from that of ``gelu(x + bias)``."""
    total = x.to(wide(x.dtype)) + bias
    density = torch.exp(-0.5 * total * total) / math.sqrt(2.0 * math.pi)
    slope = 0.5 * (1.0 + torch.erf(total / math.sqrt(2.0))) + total * density
    grad_x = grad.to(total.dtype) * slope
    return grad_x.to(x.dtype), grad_x.sum(dim=0)


def add_norm_forward(
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor,
    weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    dropout: Dropout | None,
) -> Normed:
    """``total = residual + dropout(x + bias)`` and its LayerNorm (Ba et al. 2016).

    Args:
        x, residual: ``[T, C]`` of one dtype.
        bias, weight, norm_bias: ``[C]``.
        eps: added to the variance.
        dropout: None for no dropout.

    Statistics are those of the returned sum, which is rounded to its dtype.
    """
    value = x.to(wide(x.dtype))
    if bias is not None:
        value = value + bias
    total = (residual + dropped(value, dropout)).to(x.dtype)
    value = total.to(wide(x.dtype))
    mean = value.mean(dim=1)
    rstd = torch.rsqrt(value.var(dim=1, unbiased=False) + eps)
    normed = (value - mean[:, None]) * rstd[:, None] * weight + norm_bias
    return Normed(total, normed.to(x.dtype), mean, rstd)


def add_norm_backward(
    grad: Tensor | None,
    grad_total: Tensor | None,
    total: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
    dropout: Dropout | None,
    with_bias: bool,
) -> NormGradients:
    """Gradients from those of the norm and of the sum; one of the two may be None (zero)."""
    dtype = wide(total.dtype)
    whitened = (total.to(dtype) - mean[:, None]) * rstd[:, None]
    grad_sum = torch.zeros_like(whitened) if grad_total is None else grad_total.to(dtype)
    grad_weight = grad_bias = whitened.new_zeros(whitened.size(1))
    if grad is not None:
        wide_grad = grad.to(dtype)
        grad_weight, grad_bias = (wide_grad * whitened).sum(dim=0), wide_grad.sum(dim=0)
        scaled = wide_grad * weight
        centred = scaled - scaled.mean(dim=1, keepdim=True)
        projected = whitened * (scaled * whitened).mean(dim=1, keepdim=True)
        grad_sum = grad_sum + (centred - projected) * rstd[:, None]
    grad_x = dropped(grad_sum, dropout)
    return NormGradients(
        grad_sum.to(total.dtype),
        grad_x.to(total.dtype),
        grad_x.sum(dim=0) if with_bias else None,
        grad_weight,
        grad_bias,
    )


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    drop: Callable[[Tensor], Tensor],
    relative: Tensor | None = None,
    visible: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention over whole sequences of one length, in their dtype; builds ``[..., S, S]`` tensors.

    Args:
        query, key, value: ``[..., S, D]``.
        scale: factor of the scores.
        drop: dropout of the probabilities.
        relative: table of relative positions ``[2m + 1, D]`` (:mod:`megabert.kernels.attention.relative_reference`).
        visible: which keys exist, bool, broadcast to ``[..., S, S]``; the context of a query that
            sees no key is 0.

    Returns:
        (context ``[..., S, D]``, log-sum-exp of the scaled scores ``[..., S]``).
    """
    scores = _scores(query * scale, key, relative, visible)
    lse = scores.logsumexp(dim=-1)
    if visible is not None:
        lse.masked_fill_(lse == -torch.inf, 0.0)
    weights = drop(scores.sub_(lse.unsqueeze(-1)).exp_())
    context = weights @ value
    if relative is not None:
        context += over_pairs(weights, relative)
    return context, lse


def attend_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    context: Tensor,
    lse: Tensor,
    scale: float,
    drop: Callable[[Tensor], Tensor],
    relative: Tensor | None = None,
    visible: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value of :func:`attend`, ``[..., S, D]``; the table is a constant."""
    query = query * scale
    weights = _scores(query, key, relative, visible).sub_(lse.unsqueeze(-1)).exp_()
    grad_weights = grad @ value.transpose(-1, -2)
    if relative is not None:
        grad_weights += at_pairs(grad, relative)
    grad_value = drop(weights).transpose(-1, -2) @ grad
    inner = (grad * context).sum(dim=-1, keepdim=True)  # = sum_j weights_j grad_weights_j
    grad_scores = drop(grad_weights).sub_(inner).mul_(weights)
    grad_query = grad_scores @ key
    if relative is not None:
        grad_query += over_pairs(grad_scores, relative)
    return grad_query * scale, grad_scores.transpose(-1, -2) @ query, grad_value


def _scores(query: Tensor, key: Tensor, relative: Tensor | None, visible: Tensor | None) -> Tensor:
    """Scores ``[..., S, S]`` of scaled queries; -inf where a key does not exist."""
    scores = query @ key.transpose(-1, -2)
    if relative is not None:
        scores += at_pairs(query, relative)
    return scores if visible is None else scores.masked_fill_(~visible, -torch.inf)


def attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    spans: Tensor,
    first_head: int,
    scale: float,
    dropout: Dropout | None,
    relative: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention within packed sequences (Vaswani et al. 2017, section 3.2).

    Args:
        query, key, value: ``[T, N, D]``.
        spans: first row and end of each sequence, rising, int64 [P, 2] on the host. Rows outside
            of them are padding: their context is 0, and they get no gradient.
        first_head: number of the first of these heads in the layer, for the dropout masks.
        scale: factor of the scores.
        dropout: of the probabilities; None for no dropout.
        relative: table of relative positions, wide ``[2m + 1, D]``, a constant
            (:mod:`megabert.kernels.attention.relative_reference`); None for absolute positions.

    Returns:
        (context ``[T, N, D]``, log-sum-exp of the scaled scores ``[N, T]``, wide).
    """
    context = torch.zeros_like(query)
    lse = query.new_zeros((query.size(1), query.size(0)), dtype=wide(query.dtype))
    for begin, end in spans.tolist():
        q, k, v = (part[begin:end].transpose(0, 1).to(lse.dtype) for part in (query, key, value))
        drop = _dropping(dropout, begin, end, first_head, q)
        made, lse[:, begin:end] = attend(q, k, v, scale, drop, relative)
        context[begin:end] = made.transpose(0, 1).to(query.dtype)
    return context, lse


def attention_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    context: Tensor,
    lse: Tensor,
    spans: Tensor,
    first_head: int,
    scale: float,
    dropout: Dropout | None,
    relative: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value from that of the context, ``[T, N, D]`` each."""
    grads = tuple(torch.zeros_like(part) for part in (query, key, value))
    for begin, end in spans.tolist():
        g, q, k, v, o = (
            part[begin:end].transpose(0, 1).to(lse.dtype)
            for part in (grad, query, key, value, context)
        )
        drop = _dropping(dropout, begin, end, first_head, q)
        parts = attend_backward(g, q, k, v, o, lse[:, begin:end], scale, drop, relative)
        for whole, part in zip(grads, parts):
            whole[begin:end] = part.transpose(0, 1).to(query.dtype)
    return grads[0], grads[1], grads[2]


def _dropping(
    dropout: Dropout | None, begin: int, end: int, first_head: int, query: Tensor
) -> Callable[[Tensor], Tensor]:
    """Dropout of the probabilities ``[N, S, S]`` of one sequence."""
    if dropout is None:
        return lambda weights: weights
    factors = _keep_factors(dropout, begin, end, first_head, query.size(0), query.dtype)
    return lambda weights: weights * factors


def _keep_factors(
    dropout: Dropout, begin: int, end: int, first_head: int, heads: int, dtype: torch.dtype
) -> Tensor:
    """Factors of the probabilities of one sequence, ``[N, S, S]``: 0 or 1 / (1 - p)."""
    rows = dropout.rows[begin:end]
    masks = [
        keep_mask(rows, head_seed(dropout.seed, first_head + head), end - begin, dropout.threshold)
        for head in range(heads)
    ]
    return torch.stack(masks).to(dtype) * dropout.scale


def cross_entropy_rows(logits: Tensor, labels: Tensor, first: int, real: int) -> Tensor:
    """Each row of this rank's logits as four numbers: ``[M, columns]`` -> wide ``[M, 4]``.

    Log-sum-exp, the label's logit (0 if another rank has it), the largest logit, and its column in the
    whole vocabulary. ``first``: word id of column 0; columns from ``real`` on are padding.
    """
    dtype = wide(logits.dtype)
    if real == 0:
        nothing = torch.tensor([-torch.inf, 0.0, -torch.inf, -1.0], dtype=dtype)
        return nothing.to(logits.device).repeat(len(logits), 1)
    scores = logits[:, :real].to(dtype)
    largest, column = scores.max(dim=1)
    local = labels - first
    here = (local >= 0) & (local < real)
    target = scores.gather(1, local.masked_fill(~here, 0).unsqueeze(1)).squeeze(1)
    target = target.masked_fill(~here, 0.0)
    return torch.stack(
        [scores.logsumexp(dim=1), target, largest, (column + first).to(dtype)], dim=1
    )


def cross_entropy_gradient_(
    logits: Tensor, labels: Tensor, lse: Tensor, first: int, real: int
) -> Tensor:
    """Overwrite logits by the gradient of the summed loss, ``softmax - [column is the label]``.

    ``lse``: log-sum-exp over the whole vocabulary, wide ``[M]``. Padding columns get 0.
    """
    rows = torch.arange(len(logits), device=logits.device)
    local = labels - first
    here = (local >= 0) & (local < real)
    gradient = (logits.to(lse.dtype) - lse[:, None]).exp()
    gradient[rows, local.masked_fill(~here, 0)] -= here.to(lse.dtype)
    gradient[:, real:] = 0.0
    return logits.copy_(gradient)


def embedding_backward(grad: Tensor, ids: Tensor, rows: int, first: int) -> Tensor:
    """Gradient of rows ``first .. first + rows - 1`` of a table from that of the rows looked up.

    ``grad`` [T, C], ``ids`` int64 [T] -> wide ``[rows, C]``; ids of other rows add nothing.
    """
    local = ids - first
    here = (local >= 0) & (local < rows)
    table = grad.new_zeros((rows, grad.size(1)), dtype=wide(grad.dtype))
    return table.index_add_(0, local[here], grad[here].to(table.dtype))
