"""Heads of the fine-tuning tasks that label sequences or tokens (Devlin et al. 2019, section 4, figure 4).

Shapes as in :mod:`megabert.model.bert`; P = sequences of a micro batch, L = labels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from megabert.config import ModelConfig
from megabert.kernels.ops import dropped
from megabert.model.bert import BertModel, linear
from megabert.model.crf import Allowed, Constraints, Crf
from megabert.model.heads import first_tokens
from megabert.parallel.layers import TensorParallel
from megabert.parallel.rng import DropoutStreams


class LabelHead(nn.Module):
    """A linear map to one score a label."""

    def __init__(self, config: ModelConfig, labels: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(config.hidden_size, labels)

    def forward(self, hidden: Tensor) -> Tensor:
        """``[..., H] -> [..., L]``."""
        return linear(hidden, self.classifier)


class BertForSequenceClassification(nn.Module):
    """Encoder, pooler, dropout, and one score a label of each sequence (one label: a regression).

    Args:
        config: the encoder.
        labels: L.
        tp, streams, activation_checkpointing: as in :class:`BertModel`.
    """

    def __init__(
        self,
        config: ModelConfig,
        labels: int,
        tp: TensorParallel | None = None,
        streams: DropoutStreams | None = None,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.tp = tp = tp if tp is not None else TensorParallel()
        self.bert = BertModel(config, tp, streams, activation_checkpointing, pooler=True)
        self.sequence = LabelHead(config, labels)

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        max_seqlen: int | None = None,
        sample_numbers: Tensor | None = None,
        first_sample: int = 0,
    ) -> Tensor:
        """Scores ``[P or B, L]``; arguments as in :meth:`BertModel.forward`."""
        first = first_tokens(input_ids, cu_seqlens)
        hidden = self.bert(
            input_ids,
            token_type_ids,
            attention_mask,
            position_ids,
            cu_seqlens,
            max_seqlen,
            sample_numbers,
            first_sample,
            first,
        )  # [P, H]
        assert self.bert.pooler is not None
        dropout = self.bert.head_dropout(
            first, input_ids, cu_seqlens, max_seqlen, sample_numbers, first_sample
        )
        return self.sequence(dropped(self.bert.pooler(hidden), dropout))


class BertForTokenClassification(nn.Module):
    """Encoder, dropout, and one score a label of each token.

    Args:
        config: the encoder.
        labels: L.
        tp, streams, activation_checkpointing: as in :class:`BertModel`.
    """

    def __init__(
        self,
        config: ModelConfig,
        labels: int,
        tp: TensorParallel | None = None,
        streams: DropoutStreams | None = None,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.tp = tp = tp if tp is not None else TensorParallel()
        self.bert = BertModel(config, tp, streams, activation_checkpointing)
        self.token = LabelHead(config, labels)

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        max_seqlen: int | None = None,
        sample_numbers: Tensor | None = None,
        first_sample: int = 0,
    ) -> Tensor:
        """Scores ``[T, L]`` of packed or ``[B, S, L]`` of padded tokens; arguments as in
        :meth:`BertModel.forward`.
        """
        hidden = self.bert(
            input_ids,
            token_type_ids,
            attention_mask,
            position_ids,
            cu_seqlens,
            max_seqlen,
            sample_numbers,
            first_sample,
        )
        dropout = self.bert.head_dropout(
            None, input_ids, cu_seqlens, max_seqlen, sample_numbers, first_sample
        )
        flat = dropped(hidden.reshape(-1, hidden.size(-1)), dropout)
        return self.token(flat).view(*hidden.shape[:-1], -1)


class TagChains(NamedTuple):
    """Which tokens of each sequence form its chain of tags; U = tags of the longest chain.

    ``positions`` int64 [P, U], places in the sequence, 0 behind the chain's end; ``counts`` int64 [P],
    tags of each chain; ``begins`` and ``ends`` bool [P], False where the chain goes on in another row.
    """

    positions: Tensor
    counts: Tensor
    begins: Tensor
    ends: Tensor


def chain_scores(scores: Tensor, positions: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """Scores ``[P, U, L]`` at the places ``positions`` of each sequence.

    ``scores``: ``[T, L]`` of packed tokens, or ``[P, S, L]`` of padded ones (no ``cu_seqlens``).
    """
    if cu_seqlens is None:
        first = torch.arange(len(positions), device=positions.device) * scores.size(1)
    else:
        first = cu_seqlens[:-1]
    return scores.reshape(-1, scores.size(-1))[first[:, None] + positions]


class BertCrfForTokenClassification(BertForTokenClassification):
    """Token classification with a conditional random field over each chain of tags.

    Args:
        allowed, constraints: as in :class:`Crf`.
        config, labels, tp, streams, activation_checkpointing: as in
            :class:`BertForTokenClassification`.
    """

    def __init__(
        self,
        config: ModelConfig,
        labels: int,
        allowed: Allowed | None = None,
        constraints: Constraints = "decode",
        tp: TensorParallel | None = None,
        streams: DropoutStreams | None = None,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__(config, labels, tp, streams, activation_checkpointing)
        self.crf = Crf(labels, allowed, constraints)

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        max_seqlen: int | None = None,
        sample_numbers: Tensor | None = None,
        first_sample: int = 0,
        *,
        chains: TagChains,
        labels: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Log-likelihoods, or tags and probabilities, of the chains: see :meth:`Crf.forward`."""
        scores = super().forward(
            input_ids,
            token_type_ids,
            attention_mask,
            position_ids,
            cu_seqlens,
            max_seqlen,
            sample_numbers,
            first_sample,
        )
        emissions = chain_scores(scores, chains.positions, cu_seqlens)
        return self.crf(emissions, chains.counts, chains.begins, chains.ends, labels)
