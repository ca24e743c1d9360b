"""Heads: masked language model, next sentence, question answering (Devlin et al. 2019, 3.1, 4.2).

Shapes as in :mod:`megabert.model.bert`; M = masked positions of a micro batch, V = true vocabulary;
P = sequences of a packed micro batch.
Losses are sums over a micro batch, in float32 whatever the weights' dtype: the training loop
divides by the counts of the whole global batch, so that how that batch is cut up does not change what
is optimized.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megabert.config import ModelConfig
from megabert.model.bert import BertModel, activation, layer_norm
from megabert.parallel.cross_entropy import vocab_parallel_cross_entropy
from megabert.parallel.layers import TensorParallel, mark_split
from megabert.parallel.mappings import f, gather_last_dim
from megabert.parallel.rng import DropoutStreams


class MlmHead(nn.Module):
    """Transform, then the product with the word embeddings (tied, given by the caller)."""

    def __init__(self, config: ModelConfig, tp: TensorParallel) -> None:
        super().__init__()
        self.tp = tp
        self.activation = activation(config.hidden_act)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = layer_norm(config)
        columns = tp.divide(config.padded_vocab_size, "padded vocabulary")
        self.bias = mark_split(nn.Parameter(torch.zeros(columns)), 0)

    def forward(self, hidden: Tensor, word_embeddings: Tensor) -> Tensor:
        """``[..., H]``, ``[Vp/t, H]`` -> logits ``[..., Vp/t]``."""
        x = self.norm(self.activation(self.dense(hidden)))
        return F.linear(f(x, self.tp), word_embeddings, self.bias)


class NspHead(nn.Module):
    """Is the second text the continuation of the first (0) or not (1)?"""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.classifier = nn.Linear(config.hidden_size, 2)

    def forward(self, pooled: Tensor) -> Tensor:
        """``[B, H] -> [B, 2]``."""
        return self.classifier(pooled)


class QaHead(nn.Module):
    """Start and end of the answer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.classifier = nn.Linear(config.hidden_size, 2)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, S, H]`` -> start logits ``[B, S]``, end logits ``[B, S]``."""
        start, end = self.classifier(hidden).unbind(-1)
        return start, end


class PretrainingOutput(NamedTuple):
    """Sums over a micro batch: scalars of one dtype (float32), ready for one all-reduce.

    Only the loss sums carry a gradient.  Counts are 0 where there was nothing to predict.
    """

    mlm_loss_sum: Tensor
    mlm_correct: Tensor
    mlm_count: Tensor
    nsp_loss_sum: Tensor
    nsp_correct: Tensor
    nsp_count: Tensor


class BertForPreTraining(nn.Module):
    """Encoder with the MLM head and, with ``sentence_task``, the pooler and the sentence-pair head.

    Without ``sentence_task`` the pooler and that head do not exist, so that every parameter takes
    part in every step.
    """

    def __init__(
        self,
        config: ModelConfig,
        tp: TensorParallel | None = None,
        streams: DropoutStreams | None = None,
        sentence_task: bool = True,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.tp = tp = tp if tp is not None else TensorParallel()
        self.bert = BertModel(config, tp, streams, activation_checkpointing, pooler=sentence_task)
        self.mlm = MlmHead(config, tp)
        self.nsp = NspHead(config) if sentence_task else None

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None,
        attention_mask: Tensor | None,
        masked_positions: Tensor,
        masked_labels: Tensor,
        next_sentence_labels: Tensor | None = None,
        position_ids: Tensor | None = None,
        sequence_ids: Tensor | None = None,
        sequence_starts: Tensor | None = None,
    ) -> PretrainingOutput:
        """Losses and counts of a micro batch.

        Args:
            input_ids, token_type_ids, attention_mask, position_ids, sequence_ids: as in
                :meth:`BertModel.forward`.
            masked_positions: int64 ``[M]``, indices into the flattened ``[B * S]``; M may be 0.
            masked_labels: int64 ``[M]``, below ``vocab_size``.
            next_sentence_labels: int64 ``[B]``; needed exactly when the model has that head. A row
                labelled -100 only fills up an evaluation batch: it is in no loss and no count.
            sequence_starts: int64 ``[P]`` for packed rows: places of the sequences' first tokens in
                the flattened ``[B * S]``; labels are ``[P]`` then.
        """
        if (self.nsp is None) != (next_sentence_labels is None):
            raise ValueError("next_sentence_labels go with a model made with sentence_task=True")
        hidden = self.bert(
            input_ids, token_type_ids, attention_mask, position_ids, sequence_ids
        )  # [B, S, H]
        masked = hidden.flatten(0, 1).index_select(0, masked_positions)  # [M, H]
        logits = self.mlm(masked, self.bert.embeddings.word_embeddings.weight)  # [M, Vp/t]
        loss, correct = vocab_parallel_cross_entropy(
            logits, masked_labels, self.config.vocab_size, self.tp
        )
        mlm_loss_sum = loss.sum()
        nsp = self._sentence_sums(hidden, sequence_starts, next_sentence_labels, mlm_loss_sum)
        return PretrainingOutput(
            mlm_loss_sum,
            correct.sum(dtype=mlm_loss_sum.dtype),
            torch.full_like(mlm_loss_sum, masked_labels.numel(), requires_grad=False),
            *nsp,
        )

    def _sentence_sums(
        self, hidden: Tensor, starts: Tensor | None, labels: Tensor | None, like: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        if self.nsp is None or self.bert.pooler is None or labels is None:
            nothing = torch.zeros_like(like, requires_grad=False)
            return nothing, nothing, nothing
        logits = self.nsp(self.bert.pooler(hidden, starts)).to(like.dtype)  # [B or P, 2]
        loss_sum = F.cross_entropy(logits, labels, reduction="sum")
        correct = (logits.argmax(dim=1) == labels).sum(dtype=like.dtype)
        return loss_sum, correct, (labels >= 0).sum(dtype=like.dtype)

    @torch.no_grad()
    def logits(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """MLM logits ``[B, S, V]`` at every position and sentence logits ``[B, 2]``; no gradient."""
        hidden = self.bert(input_ids, token_type_ids, attention_mask)
        parts = self.mlm(hidden, self.bert.embeddings.word_embeddings.weight)  # [B, S, Vp/t]
        words = gather_last_dim(parts, self.tp)[..., : self.config.vocab_size]
        if self.nsp is None or self.bert.pooler is None:
            return words, None
        return words, self.nsp(self.bert.pooler(hidden))


class BertForQuestionAnswering(nn.Module):
    """Encoder with the answer-span head."""

    def __init__(
        self,
        config: ModelConfig,
        tp: TensorParallel | None = None,
        streams: DropoutStreams | None = None,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.tp = tp = tp if tp is not None else TensorParallel()
        self.bert = BertModel(config, tp, streams, activation_checkpointing)
        self.qa = QaHead(config)

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Start and end logits, each ``[B, S]``; arguments as in :meth:`BertModel.forward`."""
        start, end = self.qa(self.bert(input_ids, token_type_ids, attention_mask))
        return start, end
