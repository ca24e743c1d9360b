"""The score of a model: nats per held-out word, and nats per predicted token.

    nats per word    = - sum of log P(piece) over the pieces of all scored words / number of scored words
    nats per token   = the mean loss of the masked language model, 15 % of single tokens predicted (80 % of them
                       [MASK], 10 % random, 10 % kept), on single segments of 128 tokens of the evaluation split

For the first, all pieces of all scored words of a passage are [MASK] at once, and nothing else is changed; which
words these are does not depend on the tokenizer (:mod:`benchmarks.speedrun.held_out`). A passage is one segment. If
it has more tokens than the model has trained positions, it is cut into parts of about equal size, never within a
scored word. The second compares models of one vocabulary only.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.speedrun.held_out import Passage, read_passages
from benchmarks.speedrun.prepared import open_prepared
from megabert.common.errors import UserError
from megabert.common.packed_batch import PackedBatch
from megabert.convert import own_weights
from megabert.convert.tokenizer import open_tokenizer
from megabert.data.samples.index import SampleSettings
from megabert.data.samples.loader import evaluation_batches
from megabert.data.samples.masking import MaskSettings
from megabert.data.samples.micro_steps import MicroSteps
from megabert.data.samples.source import EVALUATION_SEED, SampleSource
from megabert.data.shards.corpus import Corpus
from megabert.data.tokenizers.base import Tokenizer
from megabert.finetune.starting_weights import read_weights
from megabert.model.heads import MASKED_LM, PRETRAINING, BertForPreTraining
from megabert.model.weights import load_into, true_config
from megabert.parallel.layers import TensorParallel

SAMPLES = 1000
"""Samples for nats per token; the first passages and samples are also those of the curve."""
CURVE_SHARE = 0.2
"""The points of a curve are measured on this fraction of passages and samples."""
LENGTH = 128
_ROWS = 32


@dataclass(frozen=True)
class Score:
    """What a model scores.

    Attributes:
        nats_per_word, nats_per_token: see the module.
        words, pieces: scored words, and the tokens that they consist of.
        tokens: predicted tokens of the second score.
        parameters: of encoder and head.
        seconds: that it took.
    """

    nats_per_word: float
    nats_per_token: float
    words: int
    pieces: int
    tokens: int
    parameters: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Rounded, for a record."""
        values = asdict(self)
        return {k: round(v, 5) if isinstance(v, float) else v for k, v in values.items()}


@dataclass(frozen=True)
class HeldOut:
    """What models of one vocabulary are scored on.

    ``passages``: in the order in which they are used; ``shards``: with an evaluation split.
    """

    passages: Sequence[Passage]
    shards: Path
    samples: int = SAMPLES

    def part(self, share: float) -> HeldOut:
        """The first of them."""
        passages = self.passages[: max(1, round(share * len(self.passages)))]
        return replace(self, passages=passages, samples=max(1, round(share * self.samples)))


@dataclass(frozen=True)
class Row:
    """One sequence: ids with [CLS] and [SEP], and the places that are predicted."""

    ids: np.ndarray
    places: np.ndarray


def score(path: Path, held_out: HeldOut, weights: str = "trained") -> Score:
    """Score a run (its newest checkpoint), a checkpoint, or a folder with weights.

    Raises:
        UserError: it has no masked language model, or its tokenizer cannot spell a scored word.
    """
    began = time.monotonic()
    averaged = weights == "ema"
    source = own_weights.read(path, averaged=True) if averaged else read_weights(path)[0]
    if source.tokenizer is None or source.head not in (MASKED_LM, PRETRAINING):
        raise UserError(f"{path} needs a masked language model and a tokenizer to be scored")
    tokenizer = open_tokenizer(
        source.tokenizer, source.config.vocab_size, str(path), source.tokenizer_sha256
    )
    config = replace(
        true_config(source.config), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    model = BertForPreTraining(config, TensorParallel(), sentence_task=False)
    load_into(model, source.tensors, TensorParallel(), source=source.origin)
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu")).eval()
    positions = min(source.trained_positions, config.max_position_embeddings)
    words = sum(len(passage.words) for passage in held_out.passages)
    rows = [row for passage in held_out.passages for row in rows_of(passage, tokenizer, positions)]
    loss, pieces = _loss(model, _word_batches(rows, tokenizer))
    token_loss, tokens = _loss(model, _token_batches(held_out, min(LENGTH, positions)))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    seconds = time.monotonic() - began
    found = Score(loss / words, token_loss / tokens, words, pieces, tokens, parameters, seconds)
    if not math.isfinite(found.nats_per_word + found.nats_per_token):
        raise UserError(f"{path}: its losses are not finite")
    return found


def rows_of(passage: Passage, tokenizer: Tokenizer, positions: int) -> Iterator[Row]:
    """The passage as sequences of at most ``positions`` tokens, the pieces of its scored words masked.

    Raises:
        UserError: the tokenizer cannot spell a scored word.
    """
    special = tokenizer.special
    (encoded,) = tokenizer.encode_sentences([passage.text])
    begins, ends = encoded.offsets[:, 0], encoded.offsets[:, 1]
    masked = np.zeros(len(encoded.ids), bool)
    joined = np.zeros(len(encoded.ids), bool)  # to the token before, within a scored word
    for begin, end in passage.words:
        pieces = np.flatnonzero((begins < end) & (ends > begin))
        if not len(pieces) or (encoded.ids[pieces] == special.unk).any():
            raise UserError(
                f"the tokenizer cannot spell {passage.text[begin:end]!r}, which is scored: its vocabulary needs "
                "the letters a to z and the digits, at the beginning of words and within"
            )
        masked[pieces] = True
        joined[pieces[1:]] = True
    room = positions - 2
    parts = -(-len(encoded.ids) // room)
    cuts = [0]
    for part in range(1, parts):
        cut = part * len(encoded.ids) // parts
        while joined[cut]:
            cut -= 1
        cuts.append(cut)
    for first, stop in zip(cuts, [*cuts[1:], len(encoded.ids)]):
        ids = np.concatenate(([special.cls], encoded.ids[first:stop], [special.sep]))
        yield Row(ids.astype(np.int64), 1 + np.flatnonzero(masked[first:stop]))


def _word_batches(rows: Sequence[Row], tokenizer: Tokenizer) -> Iterator[PackedBatch[Any]]:
    """The rows by length, packed."""
    ordered = sorted(rows, key=lambda row: -len(row.ids))
    for first in range(0, len(ordered), _ROWS):
        part = ordered[first : first + _ROWS]
        ids = np.concatenate([row.ids for row in part])
        lengths = np.array([len(row.ids) for row in part])
        before = np.cumsum(lengths) - lengths
        places = np.concatenate([row.places + start for row, start in zip(part, before.tolist())])
        labels = {"masked_positions": places, "masked_labels": ids[places]}
        ids[places] = tokenizer.special.mask
        yield PackedBatch.from_lengths(
            ids, np.zeros_like(ids), lengths, int(lengths.max()), labels=labels
        ).map(torch.from_numpy)


def _token_batches(held_out: HeldOut, length: int) -> Iterator[PackedBatch[Any]]:
    settings = SampleSettings(
        seq_length=length,
        sentence_task="none",
        short_sequence_fraction=0.0,
        seed=EVALUATION_SEED,
    )
    source = SampleSource(Corpus.open(held_out.shards, "eval"), settings, MaskSettings())
    yield from evaluation_batches(source, MicroSteps(_ROWS, 0, 1), held_out.samples, packed=True)


@torch.inference_mode()
def _loss(model: BertForPreTraining, batches: Iterator[PackedBatch[Any]]) -> tuple[float, int]:
    """Sum of the losses at the predicted places in nats, and how many places there are."""
    device = next(model.parameters()).device
    total, count = 0.0, 0
    for batch in batches:
        output = model(batch.to(device))
        total += float(output.mlm_loss_sum.double())
        count += len(batch.labels["masked_positions"])
    return total, count


def open_held_out(data: Path, vocabulary: int) -> HeldOut:
    """What a model of this vocabulary is scored on; ``data`` is a folder of ``prepare``."""
    prepared = open_prepared(data)
    return HeldOut(read_passages(prepared.held_out), prepared.shards(vocabulary))


def print_score(path: Path, data: Path, weights: str) -> None:
    """The command ``score``."""
    vocabulary = read_weights(path)[0].config.vocab_size
    found = score(path, open_held_out(data, vocabulary), weights)
    print(
        f"{path}: {found.nats_per_word:.4f} nats per word ({found.words:,} words of {found.pieces:,} pieces), "
        f"{found.nats_per_token:.4f} nats per token ({found.tokens:,} tokens), {found.seconds:.0f} s"
    )
