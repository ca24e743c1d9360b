#!/usr/bin/env python
"""Forward and backward of one micro batch: our encoder beside transformers' BertForPreTraining.

    python benchmarks/step.py [--model bert-mini] [--batch 8] [--seq-length 128] [--rounds 7]

The same weights, the same batch with padding and dropout, interleaved in one process; prints the medians
and their ratio. Ours computes the vocabulary product at masked positions only; transformers' model
computes it at every position.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import BertConfig
from transformers import BertForPreTraining as Peer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megabert.config import ModelConfig, model_config
from megabert.model.heads import BertForPreTraining
from megabert.model.init import initialize_weights
from megabert.parallel.rng import DropoutStreams


def make_batch(config: ModelConfig, rows: int, length: int) -> dict[str, torch.Tensor]:
    """Random sequences, one in ten shorter, 15 % of the tokens predicted."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, config.vocab_size, (rows, length), generator=generator)
    mask = torch.ones(rows, length, dtype=torch.long)
    for row in range(0, rows, 10):
        mask[row, length // 2 :] = 0
    real = mask.flatten().nonzero().squeeze(1)
    picked = real[torch.rand(len(real), generator=generator) < 0.15]
    return {
        "input_ids": ids,
        "token_type_ids": torch.zeros_like(ids),
        "attention_mask": mask,
        "masked_positions": picked,
        "masked_labels": ids.flatten()[picked].clone(),
        "next_sentence_labels": torch.randint(0, 2, (rows,), generator=generator),
    }


def peer_model(config: ModelConfig) -> Peer:
    """transformers' model of the same shape."""
    names = (
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
        "max_position_embeddings", "hidden_dropout_prob", "attention_probs_dropout_prob",
    )  # fmt: skip
    return Peer(BertConfig(**{name: getattr(config, name) for name in names})).train()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="bert-mini")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seq-length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    config = model_config(arguments.model)
    batch = make_batch(config, arguments.batch, arguments.seq_length)
    streams = DropoutStreams(0)
    ours = BertForPreTraining(config, streams=streams).train()
    initialize_weights(ours, config, 0)
    peer = peer_model(config)
    labels = torch.full_like(batch["input_ids"], -100)
    labels.view(-1)[batch["masked_positions"]] = batch["masked_labels"]

    def our_step() -> None:
        streams.start(0)
        output = ours(**batch)
        (output.mlm_loss_sum / output.mlm_count + output.nsp_loss_sum / output.nsp_count).backward()
        ours.zero_grad(set_to_none=True)

    def peer_step() -> None:
        names = ("input_ids", "token_type_ids", "attention_mask")
        inputs = {name: batch[name] for name in names}
        peer(
            **inputs, labels=labels, next_sentence_label=batch["next_sentence_labels"]
        ).loss.backward()
        peer.zero_grad(set_to_none=True)

    times: dict[str, list[float]] = {"megabert": [], "transformers": []}
    steps: dict[str, Callable[[], None]] = {"megabert": our_step, "transformers": peer_step}
    for round_number in range(arguments.rounds + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if round_number:  # the first round warms up
                times[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, seconds in medians.items():
        print(f"{name:13} {seconds * 1000:8.1f} ms a micro batch")
    print(
        f"ratio {medians['transformers'] / medians['megabert']:.2f}  ({config.name}, fp32, "
        f"{arguments.batch} x {arguments.seq_length}, {torch.get_num_threads()} threads)"
    )


if __name__ == "__main__":
    main()
