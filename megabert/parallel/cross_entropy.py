"""Cross-entropy over a vocabulary that is split across ranks.

Each rank holds logits for its columns of the padded vocabulary.  It reduces them alone to four
numbers a token (log-sum-exp, the label's logit, largest logit, its column); one all-gather of
``[M, 4]`` then gives every rank the whole answer.  Reductions are done in float32 (float64 for float64
logits) whatever the dtype of the logits.  Columns at or beyond ``vocab_size`` are padding: they take
no part in the softmax and their gradient is zero.

    backward:  d loss / d logit_j = softmax_j - [j = label]

which needs only the logits and the log-sum-exp, so nothing of size M x V is kept beside the logits.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megabert.parallel.topology import TensorParallel


class _VocabParallelCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, first: int, real: int, tp: TensorParallel
    ) -> tuple[Tensor, Tensor]:
        local = labels - first
        here = (local >= 0) & (local < real)
        local = local.masked_fill(~here, 0)
        summary = _summarize(logits[:, :real], local, here, first)  # [M, 4]
        logsumexp, target, correct = _combine(summary, labels, tp)
        ctx.save_for_backward(logits, local, here, logsumexp)
        ctx.real = real
        ctx.mark_non_differentiable(correct)
        return logsumexp - target, correct

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        logits, local, here, logsumexp = ctx.saved_tensors
        grad, real = grads[0].unsqueeze(1), ctx.real  # [M, 1]
        softmax = (logits[:, :real] - logsumexp.unsqueeze(1)).exp_()
        if real:
            softmax.scatter_add_(1, local.unsqueeze(1), -here.to(softmax.dtype).unsqueeze(1))
        out = softmax.mul_(grad).to(logits.dtype)
        if real < logits.size(1):
            out = torch.nn.functional.pad(out, (0, logits.size(1) - real))
        return out, None, None, None, None


def _summarize(real_logits: Tensor, local: Tensor, here: Tensor, first: int) -> Tensor:
    """This rank's columns ``[M, n]`` as ``[M, 4]``: log-sum-exp, label's logit, maximum, its column."""
    dtype = torch.promote_types(real_logits.dtype, torch.float32)
    tokens, columns = real_logits.shape
    if columns == 0:
        nothing = torch.tensor([-torch.inf, 0.0, -torch.inf, -1.0], dtype=dtype)
        return nothing.to(real_logits.device).repeat(tokens, 1)
    largest, column = real_logits.max(dim=1)
    largest = largest.to(dtype)
    logsumexp = (real_logits - largest.unsqueeze(1)).exp_().sum(dim=1).log_() + largest
    target = real_logits.gather(1, local.unsqueeze(1)).squeeze(1).to(dtype)
    target = target.masked_fill(~here, 0.0)
    return torch.stack([logsumexp, target, largest, (column + first).to(dtype)], dim=1)


def _combine(summary: Tensor, labels: Tensor, tp: TensorParallel) -> tuple[Tensor, Tensor, Tensor]:
    """All ranks' summaries to (log-sum-exp [M], label's logit [M], argmax is the label [M])."""
    if tp.size > 1 and summary.numel():
        parts = [torch.empty_like(summary) for _ in range(tp.size)]
        dist.all_gather(parts, summary, group=tp.group)
        logsumexps, targets, maxima, columns = torch.stack(parts).unbind(dim=2)  # [t, M] each
        winner = maxima.argmax(dim=0, keepdim=True)
        logsumexp, target = logsumexps.logsumexp(dim=0), targets.sum(dim=0)
        best = columns.gather(0, winner).squeeze(0)
    else:
        logsumexp, target, _, best = summary.unbind(dim=1)
    return logsumexp, target, best.to(labels.dtype) == labels


def vocab_parallel_cross_entropy(
    logits: Tensor, labels: Tensor, vocab_size: int, tp: TensorParallel
) -> tuple[Tensor, Tensor]:
    """Loss of each token and whether the most probable word is its label.

    Args:
        logits: ``[M, Vp/t]``, this rank's columns of the padded vocabulary.
        labels: int64 ``[M]``, each in ``0..vocab_size-1``.
        vocab_size: V, the true vocabulary; columns from V on are padding.

    Returns:
        (loss ``[M]``, float32 or float64; correct ``[M]``, bool), the same on all ranks.
    """
    columns = logits.size(1)
    first = tp.rank * columns
    real = min(max(vocab_size - first, 0), columns)
    loss, correct = _VocabParallelCrossEntropy.apply(logits, labels, first, real, tp)
    return loss, correct
