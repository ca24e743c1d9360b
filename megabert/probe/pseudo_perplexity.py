"""Pseudo-perplexity of a text under a masked language model (Salazar et al. 2020, "Masked Language Model Scoring").

Of a sentence W of tokens w_1 ... w_n, each token is masked in turn, with all others visible:

    PLL(W)  = sum over t of log P(w_t | W without w_t)
    PPPL    = exp(-(sum of PLL(W) over all sentences) / N),   N = tokens of all sentences

[CLS] and [SEP] enclose each sentence; they are neither masked nor counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megabert.common.errors import TrainingStopped, UserError
from megabert.common.files import limited_lines
from megabert.common.log import show_alone
from megabert.common.packed_batch import PackedBatch
from megabert.common.progress import Progress
from megabert.common.storage import named_storage_errors
from megabert.config.sections.initial_weights import InitialWeightSettings
from megabert.data.tokenizers.base import Tokenizer
from megabert.model.heads import BertForPreTraining
from megabert.model.init import initialize_weights
from megabert.predict.predictor import AnswerOptions, Predictor, open_predictor
from megabert.probe.task_file import PerplexityProbe
from megabert.tasks.batches import draw_subset


def pseudo_perplexity(
    probe: PerplexityProbe, folder: Path, drawn: tuple[int, InitialWeightSettings] | None
) -> dict[str, float]:
    """The scores of the model in a megabert folder; of random weights ``drawn`` by a seed and this way.

    Raises:
        UserError: the text cannot be used, or is longer than the model's positions.
        TrainingStopped: the model's probabilities are not finite.
    """
    settings = probe.settings
    predictor = open_predictor(folder, AnswerOptions(max_length=settings.max_length))
    model = predictor.model
    assert isinstance(model, BertForPreTraining)
    if drawn is not None:
        seed, way = drawn
        initialize_weights(model, model.config, seed, way.init_scheme, way.init_local_heads)
    rows = chosen_sentences(probe, predictor.tokenizer)
    total, tokens = 0.0, sum(len(row) for row in rows)
    done, progress = 0, Progress("probe", tokens, interval=30.0)
    for ids, lengths, places, words in masked_batches(
        rows, predictor.tokenizer, settings.batch_size
    ):
        total += _log_likelihood(predictor, ids, lengths, places, words)
        done += len(words)
        progress.update(done, f"{probe.name}  {done:,} of {tokens:,} masked tokens")
    show_alone(None)
    if not math.isfinite(total):
        raise TrainingStopped("the probabilities of the model are not finite")
    return {
        "pseudo_perplexity": math.exp(min(-total / tokens, 700.0)),
        "pseudo_log_likelihood": total,
        "tokens": tokens,
        "sentences": len(rows),
    }


def chosen_sentences(probe: PerplexityProbe, tokenizer: Tokenizer) -> list[np.ndarray]:
    """The ids of the chosen sentences, int [n] with n > 0 each, without special tokens.

    Raises:
        UserError: the file is not UTF-8, or has no text.
    """
    path, settings = probe.text, probe.settings
    with named_storage_errors(path, "cannot be read"):
        total = sum(1 for line in limited_lines(path) if line.strip())
        chosen = set(draw_subset(total, settings.sentences, settings.seed).tolist())
        filled = (line for line in limited_lines(path) if line.strip())
        try:
            texts = [line.decode().strip() for n, line in enumerate(filled) if n in chosen]
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 text ({error.reason})") from error
    encoded = tokenizer.encode_sentences(texts, with_offsets=False)
    rows = [one.ids[: settings.max_length - 2] for one in encoded]
    rows = [row for row in rows if len(row)]
    if not rows:
        raise UserError(f"{path} has no text: {probe.name} needs a sentence per line")
    return rows


def masked_batches(
    rows: list[np.ndarray], tokenizer: Tokenizer, size: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Every token of every row masked once: at most ``size`` copies of rows at a time, the longest first.

    Yields:
        ids int [T], packed; lengths int [B]; where the masks are in ids, int [B]; the masked words, int [B].
    """
    special = tokenizer.special
    order = sorted(range(len(rows)), key=lambda number: -len(rows[number]))
    copies = [(number, place) for number in order for place in range(len(rows[number]))]
    for first in range(0, len(copies), size):
        part = copies[first : first + size]
        ids = [np.concatenate(([special.cls], rows[n], [special.sep])) for n, _ in part]
        lengths = np.asarray([len(row) for row in ids])
        starts = np.cumsum(lengths) - lengths
        places = starts + np.asarray([place for _, place in part]) + 1
        packed = np.concatenate(ids)
        words = packed[places]
        packed[places] = special.mask
        yield packed, lengths, places, words


@torch.inference_mode()
def _log_likelihood(
    predictor: Predictor,
    ids: np.ndarray,
    lengths: np.ndarray,
    places: np.ndarray,
    words: np.ndarray,
) -> float:
    """Sum of the words' log probabilities at their places, in float64."""
    model: Any = predictor.model
    batch = PackedBatch.from_lengths(ids, np.zeros_like(ids), lengths, int(lengths.max()))
    tensors = batch.map(torch.from_numpy).to(predictor.device)
    at, wanted = (
        torch.from_numpy(a.astype(np.int64)).to(predictor.device) for a in (places, words)
    )
    hidden = model.bert(tensors, at)
    logits = model.mlm(hidden, model.bert.embeddings.word_embeddings.weight)
    scores = logits[:, : model.config.vocab_size].float().log_softmax(dim=-1)
    return float(scores.gather(1, wanted[:, None]).double().sum())
