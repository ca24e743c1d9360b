"""Classification of texts and pairs of texts, and regression: GLUE and TNEWS (Devlin et al. 2019, 4.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.common.packed_batch import PackedBatch
from megabert.config.model import ModelConfig
from megabert.model.task_heads import SEQUENCE_CLASSIFICATION, BertForSequenceClassification
from megabert.tasks.base import Features, Forward, Task
from megabert.tasks.batches import ExampleChoice
from megabert.tasks.classification.data import Examples, Label, Source, texts_of_items
from megabert.tasks.classification.features import ClassificationFeatures, join_texts
from megabert.tasks.classification.glue import GLUE, HIGHEST
from megabert.tasks.classification.metrics import metric_scores
from megabert.tasks.classification.settings import ClassificationSettings
from megabert.tasks.classification.tnews import Tnews
from megabert.tasks.files.feature_records import is_features_file
from megabert.tasks.files.problems import Problems
from megabert.tasks.files.tf_features import read_classifier_records

if TYPE_CHECKING:
    from megabert.data.tokenizers.base import Tokenizer
    from megabert.parallel.layers import TensorParallel
    from megabert.parallel.rng import DropoutSeeds

BASELINE = "majority_"
"""Prefix of the name of a score: the score of always giving the most frequent training label."""

log = get_logger()


_SOURCES: dict[str, Callable[[], Source]] = {
    **{name: partial(GLUE.__getitem__, name) for name in GLUE},
    Tnews.name: Tnews,
}


class Classification(Task):
    """A task on a :class:`Source`: see :class:`megabert.tasks.base.Task` for what each method does.

    Files are those of the source, or TFRecord features of Google BERT's ``run_classifier.py``.
    """

    head = SEQUENCE_CLASSIFICATION
    baselines: tuple[str, ...] = ()
    """Scores whose value for the most frequent label is given; () for all."""
    multi_label = False
    """Whether a text may have several labels."""
    section, settings_class = "classification", ClassificationSettings
    unused_settings = frozenset({"label_separator", "threshold"})
    skips_lines = True
    settings: ClassificationSettings

    def __init__(
        self, source: Source, settings: ClassificationSettings, max_length: int | None = None
    ) -> None:
        super().__init__(settings, max_length)
        if source.regression and settings.class_weights != "none":
            raise UserError(
                f"--class-weights {settings.class_weights}: {source.name} has no classes"
            )
        self.source = source
        self.name, self.metric = source.name, source.metrics[0]
        self.labels, self.input_fields = source.labels, source.fields
        self.ranks_answers = not source.regression
        self._record: dict[str, Any] = {}

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """One per source."""
        return tuple(_SOURCES)

    @classmethod
    def create(
        cls, name: str, settings: ClassificationSettings, max_length: int | None
    ) -> Classification:
        """The task on the source of this name."""
        return cls(_SOURCES[name](), settings, max_length)

    @classmethod
    def implied_by(cls, labels: tuple[str, ...], outputs: int) -> str | None:
        """STS-B for one score, a pair task with these labels."""
        if outputs == 1:
            return "stsb"
        given = sorted(label.lower() for label in labels)
        return next((n for n in ("mnli", "rte") if given == sorted(GLUE[n].labels)), None)

    @classmethod
    def answer_settings(
        cls, record: Mapping[str, Any], given: Mapping[str, Any], max_length: int
    ) -> Any:
        """As of every task; the record's weights of labels are for training alone."""
        kept = {key: value for key, value in record.items() if key != "class_weights"}
        return super().answer_settings(kept, given, max_length)

    def unnamed_labels(self, outputs: int) -> tuple[str, ...]:
        """None where the source has an order of its own."""
        return () if self.source.labels else super().unnamed_labels(outputs)

    def load_labels(self, labels: tuple[str, ...], record: dict[str, Any]) -> None:
        """Load the checkpoint's labels in its order, and its label counts for the baseline."""
        if record.get("multi_label", False) != self.multi_label:
            kind = "several labels per text" if record.get("multi_label") else "one label per text"
            raise UserError(f"the checkpoint gives {kind}, unlike --task {self.name}")
        self.labels = self.source.load_labels(labels, record)
        self._record = dict(record)

    def record(self) -> dict[str, Any]:
        """``label_counts`` of the training data, ``class_weights``, and the source's record."""
        return {**self._record, **self.source.record()}

    def train_features(
        self, path: Path, tokenizer: Tokenizer, max_examples: int | None, seed: int
    ) -> ClassificationFeatures:
        """Rows of a labelled file; its labels become the task's unless a checkpoint's are loaded.

        Raises:
            UserError: as ``Source.read``; the file has no labels, or one that the checkpoint lacks.
        """
        choice = ExampleChoice(True, max_examples, seed)
        return self._to_train(self._features(path, tokenizer, choice)[0])

    def split_features(
        self,
        path: Path,
        tokenizer: Tokenizer,
        max_examples: int | None,
        seed: int,
        share: float,
    ) -> tuple[ClassificationFeatures, ClassificationFeatures]:
        """The same without a share of the examples, and the rows of these."""
        choice = ExampleChoice(True, max_examples, seed, share)
        train, held_out = self._features(path, tokenizer, *choice.with_held_out())
        return self._to_train(train), held_out

    def _to_train(self, found: ClassificationFeatures) -> ClassificationFeatures:
        """Note the labels' counts, and weight the rows by them if this is asked for."""
        if found.targets is None:
            raise UserError(
                f"{found.path} has no labels to train on; give a labelled file as --train"
            )
        counts = found.counts()
        self._record = {"max_length": self.max_length}
        if not counts:
            return found
        self._record["label_counts"] = counts
        if self.settings.class_weights == "none":
            return found
        return self._weighted(found)

    def _weighted(self, found: ClassificationFeatures) -> ClassificationFeatures:
        """The rows with the weights of their labels."""
        assert found.targets is not None
        weights = class_weights(np.array(list(found.counts().values())))
        self._record["class_weights"] = dict(zip(self.labels, weights.tolist()))
        log.info(
            "class weights: %s", ", ".join(f"{n} {w:.3f}" for n, w in zip(self.labels, weights))
        )
        return replace(found, weights=weights.astype(np.float32)[found.targets])

    def eval_features(self, path: Path, tokenizer: Tokenizer) -> ClassificationFeatures:
        """Rows of a file, with or without labels.

        Raises:
            UserError: as ``Source.read``; a label that the task lacks.
        """
        return self._features(path, tokenizer, ExampleChoice(False))[0]

    def _features(
        self, path: Path, tokenizer: Tokenizer, *choices: ExampleChoice
    ) -> list[ClassificationFeatures]:
        """Rows of a file, which is read once, for each choice of its examples; the first trains or does not."""
        training = choices[0].training
        if is_features_file(path):
            return self._recorded(path, tokenizer, choices)
        examples = self._examples(path, training)
        log.info("%s is read as %s", path, examples.layout)
        self._set_labels(path, training)
        order, targets = examples.targets(self.labels)
        drawn = [choice.drawn(len(order)) for choice in choices]
        if targets is not None:
            targets = self._scaled(targets, targets[drawn[0]] if training else None)
        found = []
        for some in drawn:
            texts = tuple([texts[row] for row in order[some]] for texts in examples.texts)
            rows, cut, empty = join_texts(texts, tokenizer, self.max_length)
            found.append(
                ClassificationFeatures(
                    path,
                    rows,
                    None if targets is None else targets[some],
                    self.labels,
                    [examples.ids[row] for row in order[some]],
                    cut=cut,
                    empty=empty,
                    part=examples.part,
                    problems=examples.faults.problems,
                )
            )
        return found

    def _examples(self, path: Path, training: bool) -> Examples:
        """The examples of a file, which must have labels if it is to be trained on."""
        return self.source.read(path, self.bad_lines)

    def _scaled(self, targets: np.ndarray, training: np.ndarray | None) -> np.ndarray:
        """Targets as the loss takes them; ``training``: those that are trained on."""
        return targets

    def _recorded(
        self, path: Path, tokenizer: Tokenizer, choices: Sequence[ExampleChoice]
    ) -> list[ClassificationFeatures]:
        """The same for TFRecord features, whose label ids are in the data set's own order."""
        self._set_labels(path, choices[0].training)
        names = () if self.source.regression else self.source.labels_of(path)
        found = read_classifier_records(
            path, tokenizer, self.max_length, None if self.source.regression else len(names)
        )
        targets = found.labels
        if self.source.regression and not ((targets >= 0) & (targets <= HIGHEST)).all():
            wrong = int(np.flatnonzero((targets < 0) | (targets > HIGHEST))[0])
            raise UserError(
                f"{path}: record {found.records[wrong]}: its label is {targets[wrong]:g}, not a score from "
                f"0 to {HIGHEST:g}"
            )
        if names:
            unknown = [name for name in names if name not in self.labels]
            if unknown:
                raise UserError(f"{path}: label {unknown[0]!r} is not one of the checkpoint's")
            targets = np.array([self.labels.index(name) for name in names], np.int64)[targets]
        problems = Problems()
        for number in found.filling:
            problems.add("record that is not a real example", f"record {number}")
        return [
            ClassificationFeatures(
                path,
                found.rows.taken(drawn),
                targets[drawn],
                self.labels,
                drawn.tolist(),
                problems=problems,
            )
            for drawn in (choice.drawn(len(targets)) for choice in choices)
        ]

    def _set_labels(self, path: Path, training: bool) -> None:
        """Use the training file's labels, unless a checkpoint or the data set has given them."""
        if self.labels or self.source.regression:
            return
        if not training:
            raise UserError(
                f"the labels of {self.name} are unknown: the checkpoint does not name them; give --train"
            )
        self.labels = self.source.labels_of(path)

    def item_features(
        self, items: list[dict[str, Any]], tokenizer: Tokenizer
    ) -> ClassificationFeatures:
        """Rows of items with a text, or two, under one of the names of ``Source.fields``."""
        texts = texts_of_items(items, self.input_fields)
        rows, cut, empty = join_texts(texts, tokenizer, self.max_length)
        return ClassificationFeatures(
            Path("items"), rows, None, self.labels, range(len(items)), cut=cut, empty=empty
        )

    def answers(self, features: Features, outputs: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        """``{"label", "score", "scores": {label: probability}}``, or ``{"score"}`` of a regression."""
        logits = outputs["logits"].astype(np.float64)
        if self.source.regression:
            return [{"score": value} for value in logits[:, 0].tolist()]
        probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        found = []
        for best, row in zip(probabilities.argmax(axis=1).tolist(), probabilities.tolist()):
            scores = dict(zip(self.labels, row))
            found.append({"label": self.labels[best], "score": row[best], "scores": scores})
        return found

    def build_model(
        self,
        config: ModelConfig,
        tensor_parallel: TensorParallel,
        dropout_seeds: DropoutSeeds | None,
        activation_checkpointing: bool,
    ) -> torch.nn.Module:
        """The encoder with one output per label, or one in all."""
        outputs = 1 if self.source.regression else len(self.labels)
        return BertForSequenceClassification(
            config, outputs, tensor_parallel, dropout_seeds, activation_checkpointing
        )

    def loss(self, model: Forward, batch: PackedBatch[torch.Tensor]) -> torch.Tensor:
        """Mean over the rows of the weighted cross-entropy, or of the squared error, in float32."""
        logits, targets = model(batch).float(), batch.labels["targets"]
        if self.source.regression:
            return F.mse_loss(logits[:, 0], targets)
        losses = F.cross_entropy(logits, targets, reduction="none")
        if "row_weights" in batch.labels:
            losses = losses * batch.labels["row_weights"]
        return losses.mean()

    def predict(self, model: Forward, batch: PackedBatch[torch.Tensor]) -> dict[str, torch.Tensor]:
        """``logits`` float32 [B, L]."""
        return {"logits": model(batch).float()}

    def score(
        self, features: Features, outputs: dict[str, np.ndarray], folder: Path
    ) -> dict[str, float]:
        """Write the prediction file; scores and baselines in per cent, {} for a file without labels."""
        if not isinstance(features, ClassificationFeatures):
            raise TypeError(f"features of another task: {type(features).__name__}")
        path = self._write(features, outputs, folder)
        if features.targets is None:
            log.info("%s has no labels: predictions are in %s, no scores", features.path, path)
            return {}
        found = self._found(outputs["logits"])
        metrics = self.source.metrics_of(features.part)
        scores = metric_scores(metrics, self._found_in(features.targets), found)
        counts = self._record.get("label_counts")
        if counts and not self.multi_label:
            most = self.labels.index(max(counts, key=counts.get))
            constant = metric_scores(
                self.baselines or metrics, features.targets, np.full(len(found), most)
            )
            scores |= {BASELINE + name: value for name, value in constant.items()}
        return scores

    def _found(self, logits: np.ndarray) -> np.ndarray:
        """What the model says of each row, as the metrics take it."""
        return logits[:, 0] if self.source.regression else logits.argmax(axis=1)

    def _found_in(self, targets: np.ndarray) -> np.ndarray:
        """The same of the loss's targets."""
        return targets

    def _write(
        self, features: ClassificationFeatures, outputs: dict[str, np.ndarray], folder: Path
    ) -> Path:
        """Write the prediction file; its path."""
        found = self._found(outputs["logits"])
        answers: list[Label] = (
            found.tolist() if self.source.regression else [self.labels[number] for number in found]
        )
        return self.source.write_predictions(folder, features.part, features.ids, answers)


def class_weights(counts: np.ndarray) -> np.ndarray:
    """Weights of labels in inverse proportion to their rows, float64 [L]; their mean over all rows is 1.

    A label without a row has the weight 0.
    """
    present = counts > 0
    return np.where(present, counts.sum() / (present.sum() * np.maximum(counts, 1)), 0.0)
