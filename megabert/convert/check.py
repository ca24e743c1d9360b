"""Compares the outputs of a model before and after its conversion.

The tolerance (of fp32, 1e-5 in most formats) is relative to the largest output of that kind if it
exceeds 1: ``max |a - b| <= tolerance max(1, max |a|)``, over real tokens only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from megabert.convert.probe_inputs import (
    MASKED_PAIR,
    ProbeInputs,
    id_batch,
    ragged_batch,
    text_batch,
)
from megabert.convert.whole_model import ENCODER_ONLY, WholeModel, loaded_model
from megabert.data.tokenizers.base import Tokenizer
from megabert.model.heads import MASKED_LM, PRETRAINING

TOLERANCE = 1e-5
TOP = 5
VECTORS = "sequence vectors"
"""Output of pooling, [B, H]."""
PER_SEQUENCE = ("NSP logits", "pooler", VECTORS)
"""Outputs [B, ...], like those of a head on sequences; all others are [B, S, ...] and are compared
on real tokens."""

Outputs = dict[str, Tensor]
Side = Callable[[ProbeInputs], Outputs]


@dataclass
class Comparison:
    """Result of a check.

    Attributes:
        differences: output -> (largest absolute difference, largest absolute value).
        tokens: number of real tokens compared.
        sentence: the masked sentence.
        predictions: side -> the most probable words at the mask, with probabilities.
        tensors: number of tensors read back from the output, all bit-identical to the source's.
        note: the software that ran each side.
        tolerance: as above.
    """

    differences: dict[str, tuple[float, float]] = field(default_factory=dict)
    tokens: int = 0
    sentence: str = ""
    predictions: dict[str, list[tuple[str, float]]] = field(default_factory=dict)
    tensors: int = 0
    note: str = ""
    tolerance: float = TOLERANCE

    @property
    def failures(self) -> list[str]:
        """The outputs that differ, with their figures."""
        return [
            f"{name} differs by {difference:.3g} (largest value {largest:.3g})"
            for name, (difference, largest) in self.differences.items()
            if not difference <= self.tolerance * max(1.0, largest)
        ]

    def lines(self) -> list[str]:
        """The comparison as lines of text."""
        differences = [
            f"  {name}: largest difference {difference:.2e} of {largest:.2f}"
            for name, (difference, largest) in self.differences.items()
        ]
        text = [f"compared on {self.tokens} tokens (tolerance {self.tolerance:g}):", *differences]
        if self.tensors:
            text.insert(0, f"read back: {self.tensors} tensors, bit-identical")
        if self.note:
            text.append(f"  {self.note}")
        if self.predictions:
            text.append(f"  {self.sentence}")
        for side, words in self.predictions.items():
            best = ", ".join(f"{word} {probability:.3f}" for word, probability in words)
            text.append(f"  {side}: {best}")
        return text

    def as_dict(self) -> dict[str, Any]:
        """The comparison for the record."""
        return {
            "tolerance": self.tolerance,
            "tokens": self.tokens,
            "tensors_equal": self.tensors,
            "note": self.note,
            "largest_difference": {k: d for k, (d, _) in self.differences.items()},
            "largest_value": {k: v for k, (_, v) in self.differences.items()},
        }


def our_side(model: WholeModel) -> Side:
    """Forward pass of megabert's model with these weights."""
    ours: Any = loaded_model(model)
    head, has_pooler = model.head, model.has_pooler

    def run(batch: ProbeInputs) -> Outputs:
        inputs, shape = batch.padded(), batch.input_ids.shape
        if head is ENCODER_ONLY:
            hidden = ours.bert(inputs).unflatten(0, shape)  # [B, S, H]
            pooled = {"pooler": ours.bert.pooler(hidden[:, 0])} if has_pooler else {}
            return {"hidden states": hidden, **pooled}
        if head in (PRETRAINING, MASKED_LM):
            mlm, nsp = ours.logits(inputs)
            mlm = mlm.unflatten(0, shape)
            return {"MLM logits": mlm, **({"NSP logits": nsp} if head is PRETRAINING else {})}
        return {
            name: value.unflatten(0, shape)
            if len(value) == shape.numel() and not head.per_sequence
            else value
            for name, value in head.named_outputs(ours(inputs)).items()
        }

    return run


def compare(
    left: Side,
    right: Side,
    model: WholeModel,
    tokenizer: Tokenizer | None,
    names: tuple[str, str],
    tolerance: float = TOLERANCE,
) -> Comparison:
    """Run both sides on the sample text, on one sequence of random ids, and on three short ones.

    Args:
        left, right: the two sides.
        model: the model that both should be.
        tokenizer: the checkpoint's; without one, only the random ids are compared.
        names: of the sides.
        tolerance: of the result.
    """
    result = Comparison(tolerance=tolerance)
    config = model.config
    sizes = (config.vocab_size, config.max_position_embeddings, config.type_vocab_size)
    batches = [id_batch(*sizes), ragged_batch(*sizes)]
    masked = None
    if tokenizer is not None:
        batch, masked = text_batch(
            tokenizer, config.max_position_embeddings, config.type_vocab_size
        )
        batches.insert(0, batch)
    for number, batch in enumerate(batches):
        with torch.no_grad():
            ours, theirs = left(batch), right(batch)
        result.tokens += int(batch.attention_mask.sum())
        _compare_batch(result, ours, theirs, batch, model.head.per_sequence)
        if number == 0 and masked is not None and "MLM logits" in ours:
            assert tokenizer is not None
            real = batch.attention_mask[MASKED_PAIR].bool()
            result.sentence = tokenizer.decode(batch.input_ids[MASKED_PAIR][real].tolist())
            for side, outputs in zip(names, (ours, theirs)):
                scores = outputs["MLM logits"][MASKED_PAIR, masked]  # [V]
                result.predictions[side] = _best(scores, tokenizer)
    return result


def _compare_batch(
    result: Comparison, ours: Outputs, theirs: Outputs, batch: ProbeInputs, per_sequence: bool
) -> None:
    if ours.keys() != theirs.keys():
        raise AssertionError(f"the sides give {sorted(ours)} and {sorted(theirs)}")
    real = batch.attention_mask.bool()  # [B, S]
    for name, left in ours.items():
        right = theirs[name]
        if not per_sequence and name not in PER_SEQUENCE:
            left, right = left[real], right[real]
        difference = (left - right).abs().max().item()
        largest = max(left.abs().max().item(), right.abs().max().item())
        if not math.isfinite(difference):
            difference = math.inf
        old = result.differences.get(name, (0.0, 0.0))
        result.differences[name] = (max(old[0], difference), max(old[1], largest))


def _best(scores: Tensor, tokenizer: Tokenizer) -> list[tuple[str, float]]:
    probabilities = torch.softmax(scores.float(), 0)
    values, ids = probabilities.topk(min(TOP, len(probabilities)))
    return [(tokenizer.decode([int(i)]), float(v)) for i, v in zip(ids, values)]
