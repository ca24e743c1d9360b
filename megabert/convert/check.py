"""Does the converted model compute the same? Both sides are loaded anew and their outputs compared.

The tolerance is 1e-5 in fp32, relative to the largest output of that kind where it exceeds 1:
``max |a - b| <= 1e-5 max(1, max |a|)``, over real tokens only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megabert.common.errors import UserError
from megabert.convert.huggingface import model as huggingface
from megabert.convert.huggingface.config import read_object
from megabert.convert.huggingface.labels import label_values
from megabert.convert.probe_inputs import MASKED_PAIR, ProbeInputs, id_batch, same_ids, text_batch
from megabert.convert.whole_model import ENCODER_ONLY, WholeModel, build
from megabert.data.tokenizers.base import Tokenizer
from megabert.data.tokenizers.load import load_tokenizer
from megabert.model.heads import MASKED_LM, PRETRAINING

TOLERANCE = 1e-5
TOP = 5
PER_SEQUENCE = ("NSP logits", "pooler")
"""Outputs [B, ...], next to those of a head on sequences; all others are [B, S, ...] and compared on
real tokens."""

Outputs = dict[str, Tensor]
Side = Callable[[ProbeInputs], Outputs]


@dataclass
class Comparison:
    """Outcome of a check.

    Attributes:
        differences: output -> (largest absolute difference, largest absolute value).
        tokens: real tokens compared.
        predictions: side -> the best words for the masked one, with probabilities.
        sentence: the masked sentence.
        tensors: those read back from the output, all equal to the source's bit for bit.
        note: what ran on each side, where it was not the format's own software.
    """

    differences: dict[str, tuple[float, float]] = field(default_factory=dict)
    tokens: int = 0
    sentence: str = ""
    predictions: dict[str, list[tuple[str, float]]] = field(default_factory=dict)
    tensors: int = 0
    note: str = ""

    @property
    def failures(self) -> list[str]:
        """The outputs that differ, each with its figures."""
        return [
            f"{name} differs by {difference:.3g} (largest value {largest:.3g})"
            for name, (difference, largest) in self.differences.items()
            if not difference <= TOLERANCE * max(1.0, largest)
        ]

    def lines(self) -> list[str]:
        """The comparison for people."""
        told = [
            f"  {name}: largest difference {difference:.2e} of {largest:.2f}"
            for name, (difference, largest) in self.differences.items()
        ]
        text = [f"compared on {self.tokens} tokens (tolerance {TOLERANCE:g}):", *told]
        if self.tensors:
            text.insert(0, f"read back: {self.tensors} tensors, equal bit for bit")
        if self.note:
            text.append(f"  {self.note}")
        if self.predictions:
            text.append(f"  {self.sentence}")
        for side, words in self.predictions.items():
            best = ", ".join(f"{word} {probability:.3f}" for word, probability in words)
            text.append(f"  {side}: {best}")
        return text

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the record."""
        return {
            "tolerance": TOLERANCE,
            "tokens": self.tokens,
            "tensors_equal": self.tensors,
            "note": self.note,
            "largest_difference": {k: d for k, (d, _) in self.differences.items()},
            "largest_value": {k: v for k, (_, v) in self.differences.items()},
        }


def our_side(model: WholeModel) -> Side:
    """Forward pass of our own model with these weights."""
    ours: Any = build(model)
    head, has_pooler = model.head, model.has_pooler

    def run(batch: ProbeInputs) -> Outputs:
        inputs = (batch.input_ids, batch.token_type_ids, batch.attention_mask)
        if head is ENCODER_ONLY:
            hidden = ours.bert(*inputs)
            pooled = {"pooler": ours.bert.pooler(hidden[:, 0])} if has_pooler else {}
            return {"hidden states": hidden, **pooled}
        if head in (PRETRAINING, MASKED_LM):
            mlm, nsp = ours.logits(*inputs)
            return {"MLM logits": mlm, **({"NSP logits": nsp} if head is PRETRAINING else {})}
        return head.named_outputs(ours(*inputs))

    return run


def their_side(folder: Path, model: WholeModel, config: Path | None = None) -> Side:
    """Forward pass of transformers on a folder; its vocabulary is cut to the true one.

    Args:
        folder: what transformers loads.
        model: the same model as megabert sees it: says which class, and what may be absent.
        config: file with the configuration, where the folder has no config.json.

    Raises:
        UserError: transformers misses a tensor or meets one that nobody accounted for.
    """
    theirs = load_transformers(folder, model, config)
    head, has_pooler, words = model.head, model.has_pooler, model.config.vocab_size

    def run(batch: ProbeInputs) -> Outputs:
        output = theirs(**batch.as_dict())
        if head.transformers_outputs:
            return {
                name: getattr(output, theirs_name)
                for name, theirs_name in head.transformers_outputs
            }
        if head is ENCODER_ONLY:
            pooled = {"pooler": output.pooler_output} if has_pooler else {}
            return {"hidden states": output.last_hidden_state, **pooled}
        if head is MASKED_LM:
            return {"MLM logits": output.logits[..., :words]}
        return {
            "MLM logits": output.prediction_logits[..., :words],
            "NSP logits": output.seq_relationship_logits,
        }

    return run


def load_transformers(folder: Path, model: WholeModel, config: Path | None = None) -> Any:
    """The transformers model of a folder, in fp32 and evaluation mode; arguments as above.

    Raises:
        UserError: transformers cannot load it, or would start with made-up weights.
    """
    transformers = _transformers()
    name = huggingface.class_name(model)
    family = huggingface.family_of(model.config)
    more: dict[str, Any] = {}
    if config is not None:
        made = getattr(transformers, f"{family.class_prefix}Config")
        labels = label_values(model) if model.outputs else {}
        more["config"] = made(**{**read_object(config), **labels})
    try:
        theirs, told = getattr(transformers, name).from_pretrained(
            folder,
            output_loading_info=True,
            dtype=torch.float32,
            local_files_only=True,
            attn_implementation="eager",
            **more,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"transformers' {name} does not load {folder}: {str(error).splitlines()[0]}"
        ) from error
    table = family.table
    explained = {name for name, _ in model.left_out}
    explained |= {n.theirs for n in table.expand(0) if n.ours in explained}
    bare = model.head is ENCODER_ONLY and not model.has_pooler
    missing = {n for n in told["missing_keys"] if not (bare and n.startswith("pooler."))}
    unexpected = {n for n in told["unexpected_keys"] if table.spell(n) not in explained}
    problems = missing | unexpected | {str(n) for n in told["mismatched_keys"]}
    if problems:
        raise UserError(
            f"transformers' {name} does not load {folder} completely: {len(problems)} tensors "
            f"missing or unexpected (first: {min(problems)})"
        )
    return theirs.eval()


def compare(
    left: Side, right: Side, model: WholeModel, tokenizer: Tokenizer | None, names: tuple[str, str]
) -> Comparison:
    """Run both sides on the sample text and on one sequence of ids.

    Args:
        left, right: the two sides.
        model: what they should both be.
        tokenizer: the checkpoint's; without one, ids alone are compared.
        names: what to call the sides.
    """
    result = Comparison()
    config = model.config
    batches = [id_batch(config.vocab_size, config.max_position_embeddings, config.type_vocab_size)]
    masked = None
    if tokenizer is not None:
        batch, masked = text_batch(tokenizer, config.max_position_embeddings)
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


def check_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Compare the written tokenizer with the source's and with what transformers makes of it.

    Raises:
        UserError: transformers does not load it, or cuts the sample text otherwise.
    """
    if load_tokenizer(folder).sha256 != tokenizer.sha256:
        raise UserError(f"the tokenizer files written to {folder} are not those of the source")
    transformers = _transformers()
    try:
        theirs = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"transformers does not load the tokenizer: {first}") from error
    text = same_ids(tokenizer, theirs)
    if text is not None:
        raise UserError(
            f"transformers' tokenizer gives other ids for {text!r}; nothing was written"
        )


def _transformers() -> Any:
    """The transformers package, without its progress bars and warnings.

    Raises:
        UserError: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            "conversions are checked against transformers, which is not installed: "
            "pip install transformers"
        ) from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers
