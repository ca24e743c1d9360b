"""Product with the vocabulary and cross-entropy in one operator, over a vocabulary split across ranks.

Each rank has the rows of the word embeddings for its columns of the padded vocabulary. For a chunk of
tokens it computes its logits and reduces each row to four numbers (log-sum-exp, the label's logit,
largest logit, its column); one all-gather of ``[m, 4]`` gives every rank the whole answer. Then

    d loss / d logit_j = softmax_j - [j = label]

is written over the logits, and its products with the weight and the input are taken at once, in
forward: logits exist once, for one chunk, in the dtype of the products, and never as a second copy.
Backward only multiplies by the gradient of the summed loss.

The z-loss (PaLM, Chowdhery et al. 2022, section 5) adds z lse^2 to a token's loss. Then

    d loss / d logit_j = (1 + 2 z lse) softmax_j - [j = label] = exp(logit_j - s) - [j = label]

with s = lse - log(1 + 2 z lse): what computes the gradient is the same, with s in place of lse. This holds
where lse > -1 / (2 z), for the largest z that settings allow, 0.01, above -50; below that the softmax's part
of the gradient counts as 0.

Columns at or beyond ``vocab_size`` are
padding: they take no part in the softmax and their gradient is zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from megabert.kernels.ops import implementation
from megabert.kernels.reference import cross_entropy_rows, wide
from megabert.parallel.products import products_for
from megabert.parallel.topology import TensorParallel

CHUNK_BYTES = 1 << 28
"""Upper bound for the memory of the logits of a chunk (a chunk has at least one token)."""


_LEAST_FACTOR = 1e-30
"""Of the softmax in the gradient: its logarithm is finite."""


class _Columns(NamedTuple):
    """This rank's columns: the word id of the first, and how many are not padding."""

    first: int
    real: int


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        labels: Tensor,
        columns: _Columns,
        tp: TensorParallel,
        with_gradients: bool,
        z: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        products = products_for(x)
        operand, table = products.operand(x), products.operand(weight)
        dtype = wide(x.dtype)
        loss = torch.zeros((), dtype=dtype, device=x.device)
        correct, added = torch.zeros_like(loss), torch.zeros_like(loss)
        grads_x: list[Tensor] = []
        grad_weight = torch.zeros((), dtype=weight.dtype, device=x.device)
        grad_bias = torch.zeros(bias.shape, dtype=dtype, device=x.device)
        size = max(1, CHUNK_BYTES // max(1, len(weight) * operand.element_size()))
        for part, chosen in zip(operand.split(size), labels.split(size)):
            logits = products.forward(part, table, bias.to(operand.dtype), operand.dtype)
            lse, target, right = _whole_rows(logits, chosen, columns, tp)
            loss += (lse - target).sum()
            correct += right.sum()
            if z:
                added += z * lse.square().sum()
                lse = lse - (1.0 + 2.0 * z * lse).clamp(min=_LEAST_FACTOR).log()
            if with_gradients:
                grad = implementation(logits).cross_entropy_gradient_(logits, chosen, lse, *columns)
                grads_x.append(products.grad_x([grad], [table], x.dtype))
                grad_bias += grad.sum(dim=0, dtype=dtype)
                if len(part) == len(operand):
                    grad_weight = products.grad_weight(grad, part, weight.dtype)
                else:
                    grad_weight = grad_weight.to(dtype) + products.grad_weight(grad, part, dtype)
        if with_gradients:
            ctx.grads = (
                torch.cat(grads_x) if grads_x else torch.zeros_like(x),
                grad_weight.to(weight.dtype),
                grad_bias.to(bias.dtype),
            )
        ctx.mark_non_differentiable(correct, added)
        return loss + added if z else loss, correct, added

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.grads is None:
            raise RuntimeError("the gradients of this loss have been taken already")
        made, ctx.grads = ctx.grads, None
        scaled = (whole.mul_(grads[0].to(whole.dtype)) for whole in made)
        return (*scaled, None, None, None, None, None)


def _whole_rows(
    logits: Tensor, labels: Tensor, columns: _Columns, tp: TensorParallel
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-sum-exp and the label's logit over the whole vocabulary, and whether the label is the most probable word."""
    rows = implementation(logits).cross_entropy_rows if columns.real else cross_entropy_rows
    summary = rows(logits, labels, *columns)  # [m, 4]
    if tp.size > 1 and summary.numel():
        parts = [torch.empty_like(summary) for _ in range(tp.size)]
        dist.all_gather(parts, summary, group=tp.group)
        logsumexps, targets, maxima, best = torch.stack(parts).unbind(dim=2)  # [t, m] each
        winner = maxima.argmax(dim=0, keepdim=True)
        logsumexp, target = logsumexps.logsumexp(dim=0), targets.sum(dim=0)
        column = best.gather(0, winner).squeeze(0)
    else:
        logsumexp, target, _, column = summary.unbind(dim=1)
    return logsumexp.contiguous(), target, column.to(labels.dtype) == labels


def linear_cross_entropy(
    x: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, vocab_size: int, tp: TensorParallel
) -> tuple[Tensor, Tensor]:
    """Summed loss of ``x W^T + b`` and how many labels are the most probable word.

    Args:
        x: ``[M, H]``, the same on all ranks; its gradient is this rank's part of a sum.
        weight, bias: ``[Vp/t, H]`` and ``[Vp/t]``, this rank's columns of the padded vocabulary.
        labels: int64 ``[M]``, each in ``0..vocab_size-1``.
        vocab_size: V, the true vocabulary; columns from V on are padding.

    Returns:
        (loss, correct): scalars, float32 or float64, the same on all ranks. Backward runs once.
    """
    sums = vocabulary_loss(x, weight, bias, labels, SplitVocabulary(vocab_size, tp))
    return sums.loss, sums.correct


@dataclass(frozen=True)
class SplitVocabulary:
    """Over what a loss is taken.

    Attributes:
        size: V, the true vocabulary.
        tp: the ranks that share its columns.
        z: factor of the z-loss; 0: none.
    """

    size: int
    tp: TensorParallel
    z: float = 0.0


class VocabularyLoss(NamedTuple):
    """Sums over tokens, scalars; only the loss has a gradient. ``added``: the z-loss that is in it."""

    loss: Tensor
    correct: Tensor
    added: Tensor


def vocabulary_loss(
    x: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, vocabulary: SplitVocabulary
) -> VocabularyLoss:
    """:func:`linear_cross_entropy` with the z-loss of ``vocabulary``."""
    first, tp = vocabulary.tp.rank * len(weight), vocabulary.tp
    columns = _Columns(first, min(max(vocabulary.size - first, 0), len(weight)))
    return VocabularyLoss(
        *_LinearCrossEntropy.apply(
            x, weight, bias, labels, columns, tp, torch.is_grad_enabled(), vocabulary.z
        )
    )
