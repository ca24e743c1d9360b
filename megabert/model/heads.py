"""Heads of pretraining: masked language model, next sentence (Devlin et al. 2019, section 3.1).

Shapes as in :mod:`megabert.model.modules`; M = masked positions of a micro batch, P = its sequences,
V = true vocabulary.

Losses are sums over a micro batch, in float32 whatever the dtype of the weights. The training loop
divides by the counts of the whole global batch, so the division into micro batches does not change
what is optimized.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megabert.common.packed_batch import PackedBatch
from megabert.config.model import ModelConfig
from megabert.model.encoder import Encoder, variant_of
from megabert.model.head_registry import Head
from megabert.model.modules import Linear, Norm, biased_activation
from megabert.parallel.cross_entropy import SplitVocabulary, VocabularyLoss, vocabulary_loss
from megabert.parallel.layers import TensorParallel, mark_split
from megabert.parallel.linear import column_linear
from megabert.parallel.mappings import (
    copy_to_tensor_parallel_region,
    gather_from_tensor_parallel_region,
)
from megabert.parallel.rng import DropoutSeeds


class MlmHead(nn.Module):
    """Transform, then the product with the word embeddings, which the caller gives (tied weights).

    Attributes:
        z_loss: factor of the squared log-sum-exp that is added to each token's loss.
    """

    z_loss = 0.0

    def __init__(self, config: ModelConfig, tp: TensorParallel) -> None:
        super().__init__()
        self.tp = tp
        self.vocab_size = config.vocab_size
        self.activation = biased_activation(config.hidden_act)
        hidden, bias = config.hidden_size, variant_of(config).bias
        self.dense = Linear(hidden, hidden, bias)
        self.norm = Norm(hidden, config.layer_norm_eps, bias)
        columns = tp.divide(config.padded_vocab_size, "padded vocabulary")
        self.bias = mark_split(nn.Parameter(torch.zeros(columns)), 0)

    def transform(self, hidden: Tensor) -> Tensor:
        """``[M, H] -> [M, H]``, copied to the tensor parallel region."""
        out = self.dense.product(hidden)
        return copy_to_tensor_parallel_region(
            self.norm(self.activation(out, self.dense.bias)), self.tp
        )

    def forward(
        self, hidden: Tensor, word_embeddings: Tensor, labels: Tensor | None = None
    ) -> VocabularyLoss | Tensor:
        """Summed loss, number of correct predictions for ``labels`` [M], and the z-loss, float32 scalars.

        Without labels: logits ``[M, Vp/t]``.
        """
        x = self.transform(hidden)
        if labels is None:
            return column_linear(x, [word_embeddings], [self.bias], TensorParallel())[0]
        over = SplitVocabulary(self.vocab_size, self.tp, self.z_loss)
        return vocabulary_loss(x, word_embeddings, self.bias, labels, over)


class NspHead(nn.Module):
    """Whether the second segment continues the first (0) or not (1)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.classifier = Linear(config.hidden_size, 2)

    def forward(self, pooled: Tensor) -> Tensor:
        """``[P, H] -> [P, 2]``."""
        return self.classifier(pooled)  # type: ignore[no-any-return]


class PretrainingOutput(NamedTuple):
    """Sums over a micro batch: scalars of one dtype (float32), ready for one all-reduce.

    Only the loss sums have a gradient. Counts are 0 where there was nothing to predict. ``z_loss_sum`` is
    the part of ``mlm_loss_sum`` that is not cross entropy.
    """

    mlm_loss_sum: Tensor
    mlm_correct: Tensor
    mlm_count: Tensor
    nsp_loss_sum: Tensor
    nsp_correct: Tensor
    nsp_count: Tensor
    z_loss_sum: Tensor

    def sums(self) -> Tensor:
        """Without gradients, float64 [7], in this order; the first is the plain cross entropy."""
        values = torch.stack([value.detach().double() for value in self])
        values[0] -= values[6]
        return values


class BertForPreTraining(nn.Module):
    """Encoder with the MLM head and, with ``sentence_task``, the pooler and the sentence-pair head.

    Without ``sentence_task`` the pooler and that head do not exist, so every parameter has a gradient
    in every step.
    """

    def __init__(
        self,
        config: ModelConfig,
        tp: TensorParallel | None = None,
        dropout_seeds: DropoutSeeds | None = None,
        sentence_task: bool = True,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.tp = tp = tp if tp is not None else TensorParallel()
        self.bert = Encoder(
            config, tp, dropout_seeds, activation_checkpointing, pooler=sentence_task
        )
        self.mlm = MlmHead(config, tp)
        self.nsp = NspHead(config) if sentence_task else None

    def forward(self, batch: PackedBatch[Tensor]) -> PretrainingOutput:
        """Losses and counts of a micro batch.

        Args:
            batch: with the labels
                masked_positions int64 ``[M]``, places in T; M may be 0;
                masked_labels int64 ``[M]``, below ``vocab_size``;
                next_sentence_labels int64 ``[P]``, exactly when the model has that head. A sequence
                labelled -100 is padding of the batch: no loss and no count includes it.
        """
        masked_positions = batch.labels["masked_positions"]
        masked_labels = batch.labels["masked_labels"]
        next_sentence_labels = batch.labels.get("next_sentence_labels")
        if (self.nsp is None) != (next_sentence_labels is None):
            raise ValueError(
                "a batch needs next_sentence_labels if and only if the model has a sentence_task"
            )
        selected = masked_positions
        if self.nsp is not None:
            selected = torch.cat([masked_positions, batch.first_tokens.long()])
        hidden = self.bert(batch, selected)  # [M, H] and the sequences' first tokens, [P, H]
        masked = masked_positions.numel()
        words = self.bert.embeddings.word_embeddings.weight
        mlm_loss_sum, mlm_correct, z_loss_sum = self.mlm(hidden[:masked], words, masked_labels)
        nsp = self._sentence_sums(hidden[masked:], next_sentence_labels, mlm_loss_sum)
        return PretrainingOutput(
            mlm_loss_sum,
            mlm_correct,
            torch.full_like(mlm_loss_sum, masked, requires_grad=False),
            *nsp,
            z_loss_sum,
        )

    def _sentence_sums(
        self, first_tokens: Tensor, labels: Tensor | None, like: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        if self.nsp is None or self.bert.pooler is None or labels is None:
            nothing = torch.zeros_like(like, requires_grad=False)
            return nothing, nothing, nothing
        logits = self.nsp(self.bert.pooler(first_tokens)).to(like.dtype)  # [P, 2]
        loss_sum = F.cross_entropy(logits, labels, reduction="sum")
        correct = (logits.argmax(dim=1) == labels).sum(dtype=like.dtype)
        return loss_sum, correct, (labels >= 0).sum(dtype=like.dtype)

    @torch.no_grad()
    def logits(self, batch: PackedBatch[Tensor]) -> tuple[Tensor, Tensor | None]:
        """MLM logits ``[T, V]`` at every position and sentence logits ``[P, 2]``; no gradient."""
        hidden = self.bert(batch)  # [T, H]
        parts = self.mlm(hidden, self.bert.embeddings.word_embeddings.weight)
        words = gather_from_tensor_parallel_region(parts, self.tp)[:, : self.config.vocab_size]
        if self.nsp is None or self.bert.pooler is None:
            return words, None
        first_tokens = hidden.index_select(0, batch.first_tokens.long())
        return words, self.nsp(self.bert.pooler(first_tokens))


class BertForNextSentence(nn.Module):
    """Encoder with the pooler and the sentence-pair head: a checkpoint whose MLM head is gone."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.bert = Encoder(config, TensorParallel(), pooler=True)
        self.nsp = NspHead(config)

    def forward(self, batch: PackedBatch[Tensor]) -> Tensor:
        """Sentence logits ``[P, 2]``."""
        first_tokens = self.bert(batch, batch.first_tokens.long())
        assert self.bert.pooler is not None
        return self.nsp(self.bert.pooler(first_tokens))  # type: ignore[no-any-return]


PRETRAINING = Head(
    "pretraining",
    modules=("mlm", "nsp"),
    tensors=("mlm.dense.weight", "nsp.classifier.weight", "bert.pooler.dense.weight"),
    build=lambda config, outputs: BertForPreTraining(config),
    reads_pooler=True,
    transformers_suffix="ForPreTraining",
)

MASKED_LM = Head(
    "masked language model",
    modules=("mlm",),
    tensors=("mlm.dense.weight",),
    build=lambda config, outputs: BertForPreTraining(config, sentence_task=False),
    transformers_suffix="ForMaskedLM",
)

NEXT_SENTENCE = Head(
    "next sentence",
    modules=("nsp",),
    tensors=("nsp.classifier.weight", "bert.pooler.dense.weight"),
    build=lambda config, outputs: BertForNextSentence(config),
    reads_pooler=True,
    per_sequence=True,
    transformers_suffix="ForNextSentencePrediction",
    transformers_outputs=(("NSP logits", "logits"),),
)
