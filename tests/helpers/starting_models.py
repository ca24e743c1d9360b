"""Models that a pretraining run starts from, shards that fit them, and what transformers says of both."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from megabert.data.samples.loader import evaluation_batches
from megabert.data.samples.micro_steps import MicroSteps
from megabert.data.shards.writer import Document, write_corpus
from megabert.data.tokenizers.base import Tokenizer
from tests.helpers.distributed import run_ranks
from tests.helpers.training_runs import _train, import_once, metrics, settings_of

SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
FLAGS = [
    "--seq-length", "32", "--global-batch-size", "8", "--micro-batch-size", "2", "--steps", "1", "--lr", "0",
    "--log-interval", "1", "--eval-interval", "0", "--eval-samples", "16", "--self-test", "off",
]  # fmt: skip
"""A run of one update with a learning rate of 0: its weights are those that it started from."""


def transformers_folder(
    folder: Path, class_name: str, vocabulary: list[str] | None, *, std: float = 0.4, **config: Any
) -> Path:
    """A folder that transformers wrote, with random weights and, given a vocabulary, its tokenizer."""
    import transformers

    size = len(vocabulary) if vocabulary is not None else 397
    made = transformers.BertConfig(**{**SHAPE, "vocab_size": size, **config})
    torch.manual_seed(1)
    model = getattr(transformers, class_name)(made)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=std)
    model.save_pretrained(folder)
    if vocabulary is not None:
        words = {word: number for number, word in enumerate(vocabulary)}
        transformers.BertTokenizer(vocab=words).save_pretrained(folder)
    return folder


def shards_of(tokenizer: Tokenizer, folder: Path, seed: int = 0) -> Path:
    """Documents of random tokens of a tokenizer."""
    rng = random.Random(seed)

    def document(number: int) -> Document:
        lengths = [rng.randint(3, 14) for _ in range(rng.randint(2, 20))]
        ids = [
            [
                rng.randrange(max(5, tokenizer.vocab_size // 4), tokenizer.vocab_size)
                for _ in range(n)
            ]
            for n in lengths
        ]
        return Document(number, [(row, [True] * len(row)) for row in ids])

    shards = [
        [document(100 * shard + i) for i in range(count)] for shard, count in enumerate((60, 20))
    ]
    write_corpus(folder, {"train": shards[:1], "eval": shards[1:]}, tokenizer.info())
    tokenizer.save(folder / "tokenizer")
    return folder


def start_from(
    source: Path, shards: Path, run: Path, *arguments: str, ranks: int = 1
) -> list[dict[str, Any]]:
    """Run ``launch/pretrain.py --init-from`` (:data:`FLAGS`); the lines of its metrics."""
    argv = [*FLAGS, "--data", str(shards), "--init-from", str(source), "--output", str(run)]
    import_once()
    run_ranks(_train, ranks, [*argv, *arguments], initialize=False, timeout=240.0)
    return metrics(run)


@torch.no_grad()
def transformers_mlm_loss(folder: Path, shards: Path, *arguments: str) -> float:
    """The MLM loss of a Hugging Face folder on the evaluation samples of a run, by transformers."""
    import transformers

    from megabert.pretrain.inputs import open_inputs

    inputs = open_inputs(settings_of([*FLAGS, "--data", str(shards), *arguments]))
    (corpus,) = inputs.evaluated
    assert corpus.evaluation is not None
    model = transformers.BertForMaskedLM.from_pretrained(folder, attn_implementation="eager")
    model.eval()
    total, count = 0.0, 0
    for batch in evaluation_batches(corpus.evaluation, MicroSteps(2, 0, 1), 16, packed=True):
        ends = batch.cu_seqlens.tolist()
        rows = [
            model(
                input_ids=batch.input_ids[None, first:last],
                token_type_ids=batch.token_type_ids[None, first:last],
            ).logits[0]
            for first, last in pairwise(ends)
        ]
        logits = torch.cat(rows)[batch.labels["masked_positions"]].double()
        labels = batch.labels["masked_labels"]
        total += float(F.cross_entropy(logits, labels, reduction="sum"))
        count += len(labels)
    return total / count
