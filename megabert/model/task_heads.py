"""Models of the fine-tuning tasks (Devlin et al. 2019, section 4 and figure 4).

Shapes as in :mod:`megabert.model.modules`; P = sequences of a micro batch, L = labels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from megabert.common.packed_batch import PackedBatch
from megabert.config.model import ModelConfig
from megabert.kernels.ops import dropped
from megabert.model.crf import Crf
from megabert.model.encoder import Encoder
from megabert.model.head_registry import Head
from megabert.model.modules import Linear
from megabert.parallel.layers import TensorParallel
from megabert.parallel.rng import DropoutSeeds


class QaHead(nn.Module):
    """Scores of each token as the start and as the end of the answer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.classifier = Linear(config.hidden_size, 2)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """``[..., H]`` -> start logits ``[...]``, end logits ``[...]``."""
        start, end = self.classifier(hidden).unbind(-1)
        return start, end


class LabelHead(nn.Module):
    """A linear map to one score per label."""

    def __init__(self, config: ModelConfig, labels: int) -> None:
        super().__init__()
        self.classifier = Linear(config.hidden_size, labels)

    def forward(self, hidden: Tensor) -> Tensor:
        """``[..., H] -> [..., L]``."""
        return self.classifier(hidden)  # type: ignore[no-any-return]


class TaskModel(nn.Module, ABC):
    """An encoder and a task's head, which a subclass adds and applies in :meth:`head`.

    Args:
        config: the encoder.
        tp, dropout_seeds, activation_checkpointing, pooler: as in :class:`Encoder`. With a pooler, the
            head reads only the sequences' first tokens.
    """

    def __init__(
        self,
        config: ModelConfig,
        tp: TensorParallel | None,
        dropout_seeds: DropoutSeeds | None,
        activation_checkpointing: bool,
        pooler: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.tp = tp = tp if tp is not None else TensorParallel()
        self.bert = Encoder(config, tp, dropout_seeds, activation_checkpointing, pooler=pooler)

    @abstractmethod
    def head(
        self,
        hidden: Tensor,
        drop: Callable[[Tensor], Tensor],
        batch: PackedBatch[Tensor],
        **more: Any,
    ) -> Any:
        """Output of the task.

        Args:
            hidden: the encoder's output, ``[T, H]``, or with a pooler ``[P, H]``.
            drop: dropout for what the head reads, ``[rows, H]``.
            batch: the micro batch.
            more: further arguments of :meth:`forward`.
        """

    def forward(self, batch: PackedBatch[Tensor], **more: Any) -> Any:
        """Output of :meth:`head`, which also gets ``more``."""
        rows = None if self.bert.pooler is None else batch.first_tokens.long()
        hidden = self.bert(batch, rows)

        def drop(x: Tensor) -> Tensor:
            return dropped(x, self.bert.head_dropout(batch, rows))

        return self.head(hidden, drop, batch, **more)


class BertForQuestionAnswering(TaskModel):
    """Encoder with the answer-span head, without dropout in between (as published).

    :meth:`forward` returns start and end logits, ``[P, max_length]`` each, -inf after a sequence's end.
    """

    def __init__(
        self,
        config: ModelConfig,
        tp: TensorParallel | None = None,
        dropout_seeds: DropoutSeeds | None = None,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__(config, tp, dropout_seeds, activation_checkpointing)
        self.qa = QaHead(config)

    def head(
        self,
        hidden: Tensor,
        drop: Callable[[Tensor], Tensor],
        batch: PackedBatch[Tensor],
        **more: Any,
    ) -> tuple[Tensor, Tensor]:
        """Start and end logits."""
        start, end = self.qa(hidden)
        return _in_rows(start, batch), _in_rows(end, batch)


class BertForSequenceClassification(TaskModel):
    """Encoder, pooler, dropout, and one score per label and sequence (one label: a regression).

    :meth:`forward` returns scores ``[P, L]``.

    Args:
        config: the encoder.
        labels: L.
        tp, dropout_seeds, activation_checkpointing: as in :class:`Encoder`.
    """

    def __init__(
        self,
        config: ModelConfig,
        labels: int,
        tp: TensorParallel | None = None,
        dropout_seeds: DropoutSeeds | None = None,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__(config, tp, dropout_seeds, activation_checkpointing, pooler=True)
        self.sequence = LabelHead(config, labels)

    def head(
        self,
        hidden: Tensor,
        drop: Callable[[Tensor], Tensor],
        batch: PackedBatch[Tensor],
        **more: Any,
    ) -> Tensor:
        """Scores ``[P, L]``."""
        assert self.bert.pooler is not None
        scores: Tensor = self.sequence(drop(self.bert.pooler(hidden)))
        return scores


class BertForTokenClassification(TaskModel):
    """Encoder, dropout, and one score per label and token.

    :meth:`forward` returns scores ``[T, L]``.

    Args:
        config: the encoder.
        labels: L.
        tp, dropout_seeds, activation_checkpointing: as in :class:`Encoder`.
    """

    def __init__(
        self,
        config: ModelConfig,
        labels: int,
        tp: TensorParallel | None = None,
        dropout_seeds: DropoutSeeds | None = None,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__(config, tp, dropout_seeds, activation_checkpointing)
        self.token = LabelHead(config, labels)

    def head(
        self,
        hidden: Tensor,
        drop: Callable[[Tensor], Tensor],
        batch: PackedBatch[Tensor],
        **more: Any,
    ) -> Any:
        """Scores of the tokens."""
        return self.token(drop(hidden))


class TagChains(NamedTuple):
    """Which tokens of each sequence form its chain of tags; U = tags of the longest chain.

    Attributes:
        positions: int64 [P, U], places in the sequence; 0 after the chain's end.
        counts: int64 [P], tags of each chain.
        begins, ends: bool [P], False where the chain continues from or into another row.
    """

    positions: Tensor
    counts: Tensor
    begins: Tensor
    ends: Tensor


def chain_scores(scores: Tensor, positions: Tensor, batch: PackedBatch[Tensor]) -> Tensor:
    """Scores ``[T, L]`` of the tokens at ``positions`` of each sequence, ``[P, U, L]``."""
    return scores[batch.first_tokens[:, None] + positions]


class BertCrfForTokenClassification(BertForTokenClassification):
    """Token classification with a conditional random field over each chain of tags.

    :meth:`forward` takes ``chains`` (:class:`TagChains`) and, for the loss, ``labels`` too, as
    :meth:`Crf.forward`.

    Args:
        config: the encoder.
        crf: the field; one score per token for each of its labels.
        tp, dropout_seeds, activation_checkpointing: as in :class:`Encoder`.
    """

    def __init__(
        self,
        config: ModelConfig,
        crf: Crf,
        tp: TensorParallel | None = None,
        dropout_seeds: DropoutSeeds | None = None,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__(config, crf.labels, tp, dropout_seeds, activation_checkpointing)
        self.crf = crf

    def head(
        self,
        hidden: Tensor,
        drop: Callable[[Tensor], Tensor],
        batch: PackedBatch[Tensor],
        **more: Any,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Log-likelihoods, or tags and probabilities: see :meth:`Crf.forward`."""
        chains: TagChains = more["chains"]
        scores = super().head(hidden, drop, batch)
        emissions = chain_scores(scores, chains.positions, batch)
        return self.crf(emissions, chains.counts, chains.begins, chains.ends, more.get("labels"))


def _in_rows(values: Tensor, batch: PackedBatch[Tensor]) -> Tensor:
    """Values of tokens ``[T]`` as one row per sequence, ``[P, max_length]``; -inf after its end."""
    columns = torch.arange(batch.max_length, device=values.device)
    places = batch.first_tokens[:, None] + columns  # [P, max_length]
    inside = columns < batch.lengths[:, None]
    rows = values.index_select(0, places.masked_fill(~inside, 0).flatten()).view_as(inside)
    return rows.masked_fill(~inside, -torch.inf)


def _crf_tensors(outputs: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a conditional random field's tensors."""
    return {
        "crf.start": (outputs,),
        "crf.end": (outputs,),
        "crf.transitions": (outputs, outputs),
    }


QUESTION_ANSWERING = Head(
    "question answering",
    modules=("qa",),
    tensors=("qa.classifier.weight",),
    build=lambda config, outputs: BertForQuestionAnswering(config),
    transformers_suffix="ForQuestionAnswering",
    transformers_layers=(("qa.classifier", "qa_outputs"),),
    transformers_outputs=(("start logits", "start_logits"), ("end logits", "end_logits")),
)

SEQUENCE_CLASSIFICATION = Head(
    "sequence classification",
    modules=("sequence",),
    tensors=("sequence.classifier.weight",),
    build=BertForSequenceClassification,
    reads_pooler=True,
    labelled=True,
    per_sequence=True,
    transformers_suffix="ForSequenceClassification",
    transformers_layers=(("sequence.classifier", "classifier"),),
    transformers_outputs=(("sequence logits", "logits"),),
)

TOKEN_CLASSIFICATION = Head(
    "token classification",
    modules=("token", "crf"),
    tensors=("token.classifier.weight",),
    build=BertForTokenClassification,
    labelled=True,
    optional_tensors=_crf_tensors,
    transformers_suffix="ForTokenClassification",
    transformers_layers=(("token.classifier", "classifier"),),
    transformers_outputs=(("token logits", "logits"),),
)
"""``build`` makes a model of the emissions alone, also where a conditional random field follows."""
