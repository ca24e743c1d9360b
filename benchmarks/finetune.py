#!/usr/bin/env python
"""Fine-tuning for SQuAD: training steps of our model, packed and padded, compared with transformers'.

    python benchmarks/finetune.py TRAIN --tokenizer PATH [--model bert-mini] [--max-length 384]
        [--micro-batch-size 8] [--rounds 5] [--precision fp32]

TRAIN is a file in SQuAD's format. Features, rows of a batch and their order are those of
launch/finetune.py, which pads to the longest row of a batch. A step is forward, backward, clipping and
torch's fused AdamW, alike for all; they start from the same random weights and take turns, round by
round. Losses without dropout are compared first (within 1e-4 in fp32, 2e-2 in bf16). bf16: weights,
gradients and moments in bf16, for the comparison of speed only.

benchmarks/finetune_transformers.py compares scores of whole runs; this compares speed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.step import DTYPES, TOLERANCES
from benchmarks.steps.peers import transformers_bert, whole_tensors
from benchmarks.steps.rounds import (
    CLOCKS,
    choose_device,
    environment,
    markdown_table,
    paired_ratio,
    timed,
    turns,
    write_json,
)
from megabert.common.errors import UserError
from megabert.common.log import run_command
from megabert.common.packed_batch import PackedBatch
from megabert.config.model import ModelConfig, model_config
from megabert.data.tokenizers.load import load_tokenizer
from megabert.model.init import initialize_weights
from megabert.model.task_heads import QUESTION_ANSWERING, BertForQuestionAnswering
from megabert.parallel.rng import DropoutSeeds
from megabert.tasks.batches import BatchPlan
from megabert.tasks.squad.features import SquadFeatures
from megabert.tasks.squad.settings import SquadSettings
from megabert.tasks.squad.task import Squad

LR, CLIP = 5e-5, 1.0
PACKED, PADDED, THEIRS = "megabert packed", "megabert padded", "transformers"


@dataclass(frozen=True)
class QaBatch:
    """The rows of a step, padded and packed."""

    padded: PackedBatch[Tensor]
    packed: PackedBatch[Tensor]

    @property
    def rows(self) -> dict[str, Tensor]:
        """input_ids, token_type_ids, attention_mask int64 ``[B, S]``, as transformers takes them."""
        mask = self.padded.attention_mask
        assert mask is not None
        return {
            "input_ids": self.padded.input_ids.view_as(mask),
            "token_type_ids": self.padded.token_type_ids.view_as(mask),
            "attention_mask": mask,
        }


@dataclass(frozen=True)
class Trainee:
    """A model, its optimizer, and start and end logits ``[B, S]`` of a batch."""

    name: str
    model: nn.Module
    logits: Callable[[QaBatch], tuple[Tensor, Tensor]]
    optimizer: torch.optim.Optimizer

    def loss(self, batch: QaBatch) -> Tensor:
        """Mean of the cross-entropies of start and end over real positions."""
        labels = batch.packed.labels
        targets = labels["start_positions"], labels["end_positions"]
        sides = zip(self.logits(batch), targets, strict=True)
        start, end = (F.cross_entropy(logits.float(), target) for logits, target in sides)
        return (start + end) / 2

    @torch.no_grad()
    def evaluate(self, batch: QaBatch) -> float:
        """The loss without dropout."""
        self.model.eval()
        loss = float(self.loss(batch))
        self.model.train()
        return loss

    def step(self, batch: QaBatch) -> float:
        """One update."""
        loss = self.loss(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())


def qa_batch(
    features: SquadFeatures, rows: np.ndarray, longest: int, device: torch.device
) -> QaBatch:
    """These rows, longest first; ``longest``: of all rows of the run."""
    packed = replace(features.batch(rows, longest), sample_numbers=rows)
    lengths = packed.lengths
    real = np.arange(lengths.max()) < lengths[:, None]  # [B, S]
    ids, types = (np.zeros(real.shape, dtype=np.int64) for _ in range(2))
    ids[real], types[real] = packed.input_ids, packed.token_type_ids
    padded = PackedBatch.from_padded(ids, types, real.astype(np.int64), rows)
    on_device = [batch.map(torch.from_numpy).to(device) for batch in (padded, packed)]
    return QaBatch(*on_device)


def trainees(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> list[Trainee]:
    """All start from the same weights; each has its own."""
    ours = {}
    for name in (PACKED, PADDED):
        ours[name] = BertForQuestionAnswering(config, dropout_seeds=DropoutSeeds(0))
        initialize_weights(ours[name], config, 0)
    theirs = transformers_bert(config, whole_tensors(ours[PACKED], config), QUESTION_ANSWERING)

    def hide_padding(sides: Sequence[Tensor], batch: QaBatch) -> tuple[Tensor, Tensor]:
        padding = batch.padded.attention_mask == 0
        start, end = (logits.masked_fill(padding, -torch.inf) for logits in sides)
        return start, end

    def padded_logits(batch: QaBatch) -> tuple[Tensor, Tensor]:
        return hide_padding(ours[PADDED](batch.padded), batch)

    def their_logits(batch: QaBatch) -> tuple[Tensor, Tensor]:
        output = theirs(**batch.rows)
        return hide_padding((output.start_logits, output.end_logits), batch)

    fields = (
        (PACKED, ours[PACKED], lambda batch: ours[PACKED](batch.packed)),
        (PADDED, ours[PADDED], padded_logits),
        (THEIRS, theirs, their_logits),
    )
    found = []
    for name, model, logits in fields:
        model.to(device=device, dtype=dtype).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=LR, fused=True)
        found.append(Trainee(name, model, logits, optimizer))
    return found


def measure(arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Compare the losses, then time the steps.

    Raises:
        UserError: losses differ by more than rounding.
    """
    tokenizer = load_tokenizer(arguments.tokenizer)
    task = Squad(SquadSettings(), arguments.max_length)
    features = task.train_features(arguments.train, tokenizer, arguments.max_train_examples, 0)
    config = model_config(
        arguments.model,
        vocab_size=tokenizer.vocab_size,
        hidden_dropout_prob=arguments.dropout,
        attention_probs_dropout_prob=arguments.dropout,
    )
    plan = BatchPlan(features.lengths, arguments.micro_batch_size, arguments.rounds + 1, 0)
    batches = [
        qa_batch(features, plan.rows(step), task.max_length, device)
        for step in range(arguments.rounds + 1)
    ]
    field = trainees(config, device, DTYPES[arguments.precision])
    losses = {one.name: one.evaluate(batches[0]) for one in field}
    for name, loss in losses.items():
        if not abs(loss - losses[PACKED]) <= TOLERANCES[arguments.precision] * losses[PACKED]:
            raise UserError(f"the loss of {name} is {loss:.6f}, ours packed {losses[PACKED]:.6f}")
    named = {one.name: one for one in field}
    times: dict[str, list[float]] = {name: [] for name in named}
    for number, batch in enumerate(batches):
        for name in turns(list(named), number):
            seconds, _ = timed(partial(named[name].step, batch), device, arguments.clock)
            if number:
                times[name].append(seconds)
    padded = sum(batch.padded.input_ids.numel() for batch in batches[1:])
    tokens = sum(batch.packed.real_tokens for batch in batches[1:])
    return {
        "environment": environment(device),
        "model": arguments.model,
        "precision": arguments.precision,
        "max_length": arguments.max_length,
        "micro_batch_size": arguments.micro_batch_size,
        "padding": 1 - tokens / padded,
        "contestants": [
            {
                "name": name,
                "ms": statistics.median(own) * 1e3,
                "rows_per_second": arguments.micro_batch_size / statistics.median(own),
                "tokens_per_second": tokens / sum(own),
                "times_transformers": paired_ratio(times[THEIRS], own),
                "loss_without_dropout": losses[name],
            }
            for name, own in times.items()
        ],
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train", type=Path, help="JSON in SQuAD's format")
    parser.add_argument("--tokenizer", type=Path, required=True, help="file or folder")
    parser.add_argument("--model", default="bert-mini", help="preset (bert-mini)")
    parser.add_argument("--precision", choices=sorted(DTYPES), default="fp32")
    parser.add_argument("--max-length", type=int, default=384, help="tokens of a row (384)")
    parser.add_argument("--micro-batch-size", type=int, default=8, help="rows per step (8)")
    parser.add_argument(
        "--max-train-examples", type=int, default=1000, help="questions read (1000)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each (5)")
    parser.add_argument("--dropout", type=float, default=0.1, help="hidden and attention (0.1)")
    parser.add_argument("--threads", type=int, help="CPU threads (torch's own)")
    parser.add_argument(
        "--clock", choices=sorted(CLOCKS), default="wall", help="cpu: of all threads"
    )
    parser.add_argument("--json", type=Path, help="write everything there too")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    arguments = parse(argv)
    result = measure(arguments, choose_device(arguments.threads))
    print(
        f"{result['model']}, {result['precision']}, {result['micro_batch_size']} rows of at most "
        f"{result['max_length']} tokens, padding {result['padding']:.1%}\n"
    )
    header = ("step", "ms", "rows/s", "real tokens/s", "x transformers", "loss without dropout")
    print(markdown_table(header, [list(one.values()) for one in result["contestants"]]))
    print("\n" + ", ".join(f"{key} {value}" for key, value in result["environment"].items()))
    write_json(arguments.json, result)
    return 0


if __name__ == "__main__":
    run_command(main)
