"""Models of the fine-tuning tasks (Devlin et al. 2019, section 4 and figure 4).

Shapes as in :mod:`megabert.model.modules`; P = sequences of a micro batch, L = labels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from megabert.config.model import ModelConfig
from megabert.kernels.ops import dropped
from megabert.model.crf import Allowed, Constraints, Crf
from megabert.model.encoder import Encoder
from megabert.model.head_registry import Head
from megabert.model.heads import first_tokens
from megabert.model.modules import Linear
from megabert.parallel.layers import TensorParallel
from megabert.parallel.rng import DropoutSeeds


class QaHead(nn.Module):
    """Start and end of the answer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.classifier = Linear(config.hidden_size, 2)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """``[..., H]`` -> start logits ``[...]``, end logits ``[...]``."""
        start, end = self.classifier(hidden).unbind(-1)
        return start, end


class LabelHead(nn.Module):
    """A linear map to one score a label."""

    def __init__(self, config: ModelConfig, labels: int) -> None:
        super().__init__()
        self.classifier = Linear(config.hidden_size, labels)

    def forward(self, hidden: Tensor) -> Tensor:
        """``[..., H] -> [..., L]``."""
        return self.classifier(hidden)  # type: ignore[no-any-return]


class Packing(NamedTuple):
    """Where packed sequences begin and end, and a bound of their lengths; None for padded ones."""

    cu_seqlens: Tensor | None
    max_seqlen: int | None


class TaskModel(nn.Module, ABC):
    """An encoder and a task's head, which a subclass adds and applies in :meth:`head`.

    Args:
        config: the encoder.
        tp, dropout_seeds, activation_checkpointing, pooler: as in :class:`Encoder`. With a pooler the head
            reads the sequences' first tokens only.
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
        self, hidden: Tensor, drop: Callable[[Tensor], Tensor], packing: Packing, **more: Any
    ) -> Any:
        """Output of the task.

        Args:
            hidden: ``[T, H]``, ``[B, S, H]``, or with a pooler ``[P, H]``, as the encoder leaves it.
            drop: dropout of what the head reads, ``[rows, H]``.
            packing: of the sequences.
            more: further arguments of :meth:`forward`.
        """

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
        **more: Any,
    ) -> Any:
        """What :meth:`head` gives; arguments as in :meth:`Encoder.forward`, others go to it."""
        rows = None if self.bert.pooler is None else first_tokens(input_ids, cu_seqlens)
        hidden = self.bert(
            input_ids,
            token_type_ids,
            attention_mask,
            position_ids,
            cu_seqlens,
            max_seqlen,
            sample_numbers,
            first_sample,
            rows,
        )
        dropout = partial(
            self.bert.head_dropout,
            rows,
            input_ids,
            cu_seqlens,
            max_seqlen,
            sample_numbers,
            first_sample,
        )
        return self.head(
            hidden, lambda x: dropped(x, dropout()), Packing(cu_seqlens, max_seqlen), **more
        )


class BertForQuestionAnswering(TaskModel):
    """Encoder with the answer-span head, without dropout in between (as published).

    :meth:`forward` gives start and end logits: ``[B, S]`` each; of packed sequences
    ``[P, max_seqlen]``, -inf beyond a sequence's end.
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
        self, hidden: Tensor, drop: Callable[[Tensor], Tensor], packing: Packing, **more: Any
    ) -> tuple[Tensor, Tensor]:
        """Start and end logits."""
        start, end = self.qa(hidden)
        if packing.cu_seqlens is None or packing.max_seqlen is None:
            return start, end
        ends, width = packing.cu_seqlens, packing.max_seqlen
        return _in_rows(start, ends, width), _in_rows(end, ends, width)


class BertForSequenceClassification(TaskModel):
    """Encoder, pooler, dropout, and one score a label of each sequence (one label: a regression).

    :meth:`forward` gives scores ``[P or B, L]``.

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
        self, hidden: Tensor, drop: Callable[[Tensor], Tensor], packing: Packing, **more: Any
    ) -> Tensor:
        """Scores ``[P, L]``."""
        assert self.bert.pooler is not None
        scores: Tensor = self.sequence(drop(self.bert.pooler(hidden)))
        return scores


class BertForTokenClassification(TaskModel):
    """Encoder, dropout, and one score a label of each token.

    :meth:`forward` gives scores ``[T, L]`` of packed or ``[B, S, L]`` of padded tokens.

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
        self, hidden: Tensor, drop: Callable[[Tensor], Tensor], packing: Packing, **more: Any
    ) -> Any:
        """Scores of the tokens."""
        flat = drop(hidden.reshape(-1, hidden.size(-1)))
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

    :meth:`forward` takes ``chains`` (:class:`TagChains`) and, for the loss, ``labels`` too, as
    :meth:`Crf.forward`.

    Args:
        allowed, constraints: as in :class:`Crf`.
        config, labels, tp, dropout_seeds, activation_checkpointing: as in
            :class:`BertForTokenClassification`.
    """

    def __init__(
        self,
        config: ModelConfig,
        labels: int,
        allowed: Allowed | None = None,
        constraints: Constraints = "decode",
        tp: TensorParallel | None = None,
        dropout_seeds: DropoutSeeds | None = None,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__(config, labels, tp, dropout_seeds, activation_checkpointing)
        self.crf = Crf(labels, allowed, constraints)

    def head(
        self, hidden: Tensor, drop: Callable[[Tensor], Tensor], packing: Packing, **more: Any
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Log-likelihoods, or tags and probabilities: see :meth:`Crf.forward`."""
        chains: TagChains = more["chains"]
        scores = super().head(hidden, drop, packing)
        emissions = chain_scores(scores, chains.positions, packing.cu_seqlens)
        return self.crf(emissions, chains.counts, chains.begins, chains.ends, more.get("labels"))


def _in_rows(values: Tensor, cu_seqlens: Tensor, width: int) -> Tensor:
    """Values of packed tokens ``[T]`` as one row a sequence, ``[P, width]``; -inf beyond its end."""
    columns = torch.arange(width, device=values.device)
    places = cu_seqlens[:-1, None] + columns  # [P, width]
    inside = places < cu_seqlens[1:, None]
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
"""The model that ``build`` makes gives the emissions of a conditional random field, if there is one."""
