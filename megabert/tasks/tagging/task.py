"""Named entities by tagging tokens (Devlin et al. 2019, section 5.3): the common part of ``cluener`` and ``conll``.

The head gives each scored token one score per label. Without ``--crf`` a token's label is the one of
the highest score; with it the labels of a text are the most likely sequence of a conditional random field.
Entities are read from the labels by conlleval's rule (:mod:`megabert.tasks.tagging.entity_spans`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from megabert.common.errors import UserError
from megabert.common.packed_batch import PackedBatch
from megabert.config.model import ModelConfig
from megabert.data.tokenizers.base import without_surrogates
from megabert.model.crf import Allowed, Constraints, Crf
from megabert.model.task_heads import (
    TOKEN_CLASSIFICATION,
    BertCrfForTokenClassification,
    BertForTokenClassification,
    TagChains,
    chain_scores,
)
from megabert.tasks.base import Features, Forward, Task
from megabert.tasks.batches import ExampleChoice
from megabert.tasks.files.feature_records import is_features_file
from megabert.tasks.tagging.data import Pieces, TaggedTexts
from megabert.tasks.tagging.entity_spans import (
    SCHEMES,
    Entity,
    allowed_steps,
    find_scheme,
    labels_of,
    parse_tag,
    span_scores,
)
from megabert.tasks.tagging.features import SPECIAL, UNLABELLED, TaggingFeatures, TagSet
from megabert.tasks.tagging.label_checks import require_types
from megabert.tasks.tagging.prediction_columns import write_columns
from megabert.tasks.tagging.records import read_tag_records
from megabert.tasks.tagging.settings import TaggingSettings

if TYPE_CHECKING:
    from megabert.data.tokenizers.base import Tokenizer
    from megabert.parallel.layers import TensorParallel
    from megabert.parallel.rng import DropoutSeeds


class Tagging(Task):
    """A task with tags: see :class:`megabert.tasks.base.Task` for what each public method does."""

    head = TOKEN_CLASSIFICATION
    metric = "f1"
    section, settings_class = "tagging", TaggingSettings
    settings: TaggingSettings
    characters = False
    """Whether the tokens of the training file are characters."""

    def __init__(self, settings: TaggingSettings, max_length: int | None = None) -> None:
        super().__init__(settings, max_length)
        self.scheme: str | None = None if settings.tag_scheme == "auto" else settings.tag_scheme
        self.crf = bool(settings.crf)
        self.constraints: Constraints = settings.crf_constraints or "decode"

    @abstractmethod
    def read(self, path: Path, scheme: str | None) -> TaggedTexts:
        """A file's texts and entities; its tags, if it has any, must be of ``scheme`` (None: any)."""

    @abstractmethod
    def pieces(self, corpus: TaggedTexts, tokenizer: Tokenizer) -> list[Pieces]:
        """Each text of a corpus for the model."""

    @abstractmethod
    def items(self, items: Sequence[Mapping[str, Any]]) -> TaggedTexts:
        """Inputs of :meth:`item_features` as a corpus without labels."""

    @abstractmethod
    def write(
        self, features: TaggingFeatures, found: list[list[Entity]], folder: Path
    ) -> dict[str, float]:
        """Write the predictions; scores of this task alone, if the file has labels."""

    def load_labels(self, labels: tuple[str, ...], record: dict[str, Any]) -> None:
        """Load labels, scheme and random field; ``--crf on`` adds a field to a checkpoint without one.

        Raises:
            UserError: flags contradict the checkpoint, or its labels are not tags.
        """
        tags = [parse_tag(label) for label in labels]
        prefixes = {tag.prefix for tag in tags if tag is not None}
        scheme = record.get("tag_scheme") or find_scheme(prefixes)
        if self.scheme not in (None, scheme):
            raise UserError(
                f"--tag-scheme {self.scheme}: the labels of the checkpoint use the scheme {scheme}; "
                "leave the flag out"
            )
        if None in tags or "O" not in labels or scheme not in SCHEMES:
            raise UserError(
                f"the labels of the checkpoint ({', '.join(labels[:5]) or 'without names'}) are not tags of one "
                f"scheme, as O, B-LOC, I-LOC; --task {self.name} cannot use them"
            )
        self.labels, self.scheme = labels, scheme
        self.characters = bool(record.get("characters", False))
        if record.get("crf"):
            if self.settings.crf is False:
                raise UserError(
                    "--crf off: the head of the checkpoint has a conditional random field; leave the flag out, or "
                    "train a new head"
                )
            self.crf = True
            if self.settings.crf_constraints is None:
                self.constraints = record.get("crf_constraints", self.constraints)

    def record(self) -> dict[str, Any]:
        """Length, scheme and field of the labels, and whether tokens are characters."""
        return {
            **super().record(),
            "tag_scheme": self.scheme,
            "crf": self.crf,
            "crf_constraints": self.constraints,
            "characters": self.characters,
        }

    def train_features(
        self, path: Path, tokenizer: Tokenizer, max_examples: int | None, seed: int
    ) -> TaggingFeatures:
        """Rows of the texts of a file with labels; ``max_examples`` counts texts."""
        return self._to_train(path, tokenizer, ExampleChoice(True, max_examples, seed))[0]

    def split_features(
        self,
        path: Path,
        tokenizer: Tokenizer,
        max_examples: int | None,
        seed: int,
        share: float,
    ) -> tuple[TaggingFeatures, TaggingFeatures]:
        """The same without a share of the texts, and the rows of these."""
        train, held_out = self._to_train(
            path, tokenizer, ExampleChoice(True, max_examples, seed, share)
        )
        return train, held_out

    def _to_train(
        self, path: Path, tokenizer: Tokenizer, choice: ExampleChoice
    ) -> list[TaggingFeatures]:
        """Rows of the chosen texts, and of those that the choice holds out, if it does."""
        corpus, pieces = self._read(path, tokenizer, training=True)
        if corpus.entities is None:
            raise UserError(f"{path} has no labels, so it cannot be trained on")
        types = corpus.types()
        if not types:
            raise UserError(f"{path} has no entity to train on")
        self.scheme = self.scheme or corpus.scheme or "bio"
        self.labels = self.labels or labels_of(types, self.scheme)
        require_types(corpus, self.labels, labels_of(types, self.scheme))
        self.characters = all(map(_of_characters, corpus.texts))
        return [self._features(corpus, pieces, tokenizer, one) for one in choice.with_held_out()]

    def eval_features(self, path: Path, tokenizer: Tokenizer) -> TaggingFeatures:
        """Rows of all texts of a file, with labels or without."""
        self._need_labels()
        corpus, pieces = self._read(path, tokenizer, training=False)
        require_types(corpus, self.labels)
        return self._features(corpus, pieces, tokenizer, ExampleChoice(False))

    def _read(
        self, path: Path, tokenizer: Tokenizer, training: bool
    ) -> tuple[TaggedTexts, list[Pieces]]:
        """A file's texts, and what the model sees of each."""
        if is_features_file(path):
            return read_tag_records(path, tokenizer, self.max_length)
        corpus = self.read(path, self.scheme)
        return corpus, self.pieces(corpus, tokenizer)

    def item_features(self, items: list[dict[str, Any]], tokenizer: Tokenizer) -> TaggingFeatures:
        """Rows of inputs without labels."""
        self._need_labels()
        corpus = self.items(items)
        return self._features(
            corpus, self.pieces(corpus, tokenizer), tokenizer, ExampleChoice(False)
        )

    def text_of(self, item: Mapping[str, Any], number: int) -> str:
        """The ``text`` of an input."""
        text = item.get("text")
        if not isinstance(text, str):
            raise UserError(f"item {number}: 'text' is missing or not a text")
        return without_surrogates([text])[0]

    def _need_labels(self) -> None:
        if not self.labels:
            raise UserError(
                f"the labels of {self.name} are unknown: give --train, or a checkpoint that was "
                "fine-tuned for it"
            )

    def _features(
        self,
        corpus: TaggedTexts,
        pieces: list[Pieces],
        tokenizer: Tokenizer,
        choice: ExampleChoice,
    ) -> TaggingFeatures:
        return TaggingFeatures(
            corpus,
            pieces,
            TagSet(self.labels, self.scheme or "bio"),
            tokenizer.special,
            self.max_length,
            choice,
        )

    def build_model(
        self,
        config: ModelConfig,
        tensor_parallel: TensorParallel,
        dropout_seeds: DropoutSeeds | None,
        activation_checkpointing: bool,
    ) -> torch.nn.Module:
        """The encoder and one output row per label, with a conditional random field if ``--crf`` is on."""
        self._need_labels()
        shared = (tensor_parallel, dropout_seeds, activation_checkpointing)
        if not self.crf:
            return BertForTokenClassification(config, len(self.labels), *shared)
        steps = allowed_steps(self.labels, self.scheme or "bio")
        allowed = Allowed(*(torch.from_numpy(mask) for mask in steps))
        crf = Crf(len(self.labels), allowed, self.constraints)
        return BertCrfForTokenClassification(config, crf, *shared)

    def loss(self, model: Forward, batch: PackedBatch[torch.Tensor]) -> torch.Tensor:
        """Mean over the rows of a row's negative log-likelihood over the mean tags of a training row.

        Without a field a row's is the sum of its tags' cross-entropies. Dividing by the training
        file's mean, not by the batch's count, makes the loss a mean over rows, so that it does not
        depend on how a batch is divided; over an epoch it is the mean over tags.
        """
        tags = batch.labels["tags"]
        if self.crf:
            loss = -model(batch, chains=_chains(batch), labels=tags)
        else:
            scores = self._scores(model, batch).float()
            losses = F.cross_entropy(
                scores.transpose(1, 2), tags, ignore_index=UNLABELLED, reduction="none"
            )
            loss = losses.sum(dim=1)
        return (loss * batch.labels["row_weights"]).mean()

    def predict(self, model: Forward, batch: PackedBatch[torch.Tensor]) -> dict[str, torch.Tensor]:
        """For each tag of a row its label, ``labels`` int32, and probability, ``scores`` float32, [B, room].

        The probability is the label's softmax, or with a field its marginal.
        """
        if self.crf:
            labels, scores = model(batch, chains=_chains(batch))
        else:
            scores, labels = self._scores(model, batch).float().softmax(dim=-1).max(dim=-1)
        missing = (0, self.max_length - SPECIAL - labels.size(1))
        return {
            "labels": F.pad(labels.to(torch.int32), missing),
            "scores": F.pad(scores.float(), missing),
        }

    def _scores(self, model: Forward, batch: PackedBatch[torch.Tensor]) -> torch.Tensor:
        return chain_scores(model(batch), batch.labels["tag_positions"], batch)

    def score(
        self, features: Features, outputs: dict[str, np.ndarray], folder: Path
    ) -> dict[str, float]:
        """Write the predictions; precision, recall and F1 of entities, accuracy of tags, in per cent.

        ``{}`` for a file without labels. ``all_o_accuracy`` is what tagging everything ``O`` gives
        (its F1 is 0).
        """
        tagged = _own(features)
        labels = tagged.gather(outputs["labels"])
        found = tagged.found(labels)
        more: dict[str, float] = {}
        if tagged.corpus.recorded:
            write_columns(tagged, found, folder)
        else:
            more = self.write(tagged, found, folder)
        if not tagged.labelled:
            return {}
        truths = tagged.truths()
        spans = span_scores(*([side[n] for n in tagged.scored] for side in (truths, found)))
        return {**spans, **tagged.accuracy(labels), **more}

    def answers(self, features: Features, outputs: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        """``{"entities": [{"type", "text", "start", "end", "score"}]}`` of each input.

        ``start`` and ``end`` (exclusive) count characters of a text, or tokens where
        tokens were given; ``score`` is the mean probability of the entity's tags.
        """
        tagged = _own(features)
        labels, scores = tagged.gather(outputs["labels"]), tagged.gather(outputs["scores"])
        result = []
        for row, entities in enumerate(tagged.found(labels)):
            text = tagged.corpus.texts[tagged.texts[row]]
            joint = "" if self.characters else " "
            listed = [
                {
                    "type": kind,
                    "text": text[start:end]
                    if isinstance(text, str)
                    else joint.join(text[start:end]),
                    "start": start,
                    "end": end,
                    "score": float(scores[row][first:stop].mean()),
                }
                for (kind, start, end), (_, first, stop) in zip(
                    entities, tagged.in_pieces(labels[row])
                )
            ]
            result.append({"entities": listed})
        return result


def _chains(batch: PackedBatch[torch.Tensor]) -> TagChains:
    labels = batch.labels
    return TagChains(
        labels["tag_positions"], labels["tag_counts"], labels["begins"], labels["ends"]
    )


def _own(features: Features) -> TaggingFeatures:
    if not isinstance(features, TaggingFeatures):
        raise TypeError(f"features of another task: {type(features).__name__}")
    return features


def _of_characters(text: Sequence[str] | str) -> bool:
    """Whether a text's tokens are characters; of a text with spans, whether it has no spaces."""
    if isinstance(text, str):
        return not any(character.isspace() for character in text)
    return all(len(token) == 1 for token in text)
