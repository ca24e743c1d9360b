#!/usr/bin/env python
"""The side-by-side check of SQuAD fine-tuning: transformers' own model, everything else the same.

Takes the flags of launch/finetune.py, so that the same command line runs both. From megabert come the
features, the rows of each batch and their order, the initial weights of the new head, and the metric;
from transformers and torch the model, its dropout, AdamW, the schedule and clipping. One process; on
bf16 torch's autocast over float32 weights, as transformers users train.

  python benchmarks/squad_transformers.py --checkpoint HF_FOLDER --train train.json --eval dev.json \
      --output runs/squad-transformers --precision fp32
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch import nn
from transformers import BertForQuestionAnswering, get_linear_schedule_with_warmup

from megabert import flags
from megabert.convert import huggingface
from megabert.data.tokenization import load_tokenizer
from megabert.engine.checkpoint import write_json
from megabert.engine.config import resolve_batch, resolve_precision
from megabert.engine.exchange import portions
from megabert.finetune import TOKENS_PER_MICRO_STEP, resolve
from megabert.log import Progress, UserError, run_command
from megabert.model.init import initial_tensor
from megabert.naming import RUN_RESULTS
from megabert.task_config import FinetuneSettings
from megabert.tasks.base import Batch
from megabert.tasks.batches import BatchPlan, steps_for
from megabert.tasks.squad import Squad
from megabert.tasks.squad_features import SquadFeatures


class SideBySide:
    """transformers' model with the arguments and outputs that the task expects."""

    def __init__(self, settings: FinetuneSettings) -> None:
        place = settings.task
        assert place.checkpoint is not None
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.precision = resolve_precision(settings.parallel.precision, self.device.type == "cuda")
        folder, _ = huggingface.model_folder(place.checkpoint)
        model = BertForQuestionAnswering.from_pretrained(folder)
        weight = model.qa_outputs.weight
        head = initial_tensor(
            "qa.classifier.weight",
            tuple(weight.shape),
            huggingface.read(place.checkpoint).config,
            place.seed,
        )
        with torch.no_grad():
            weight.copy_(head)
            model.qa_outputs.bias.zero_()
        self.model = model.to(self.device)

    def __call__(self, ids: torch.Tensor, types: torch.Tensor, mask: torch.Tensor) -> Any:
        """Start and end logits [B, S]."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            output = self.model(input_ids=ids, token_type_ids=types, attention_mask=mask)
        return output.start_logits, output.end_logits

    def batch(self, features: SquadFeatures, rows: np.ndarray) -> Batch:
        """Rows on the device."""
        return {
            name: torch.from_numpy(value).to(self.device)
            for name, value in features.batch(rows).items()
        }


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay for all but biases and LayerNorms, as in transformers' trainer."""
    plain = [p for n, p in model.named_parameters() if n.endswith("bias") or "LayerNorm" in n]
    chosen = {id(parameter) for parameter in plain}
    decayed = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]


def train(
    side: SideBySide, task: Squad, features: SquadFeatures, settings: FinetuneSettings
) -> dict:
    """All updates; what results.json says about them."""
    optimizer_settings, seed = settings.optimizer, settings.task.seed
    batch = resolve_batch(settings.batch, 1, max(1, TOKENS_PER_MICRO_STEP // task.max_length))
    steps = optimizer_settings.steps or steps_for(
        len(features.lengths), batch.global_size, optimizer_settings.epochs
    )
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(
        parameter_groups(side.model, optimizer_settings.weight_decay),
        lr=optimizer_settings.lr or 0.0,
        betas=(optimizer_settings.beta1, optimizer_settings.beta2),
        eps=optimizer_settings.eps,
    )
    warmup = round(steps * (optimizer_settings.warmup_fraction or 0.0))
    schedule = get_linear_schedule_with_warmup(optimizer, warmup, steps)
    plan = BatchPlan(features.lengths, batch.global_size, steps, seed)
    progress = Progress("transformers", steps, interval=30.0)
    side.model.train()
    began, recent = time.monotonic(), 0.0
    for step in range(steps):
        rows, total = plan.rows(step), 0.0
        for first in range(0, batch.global_size, batch.micro_size):
            mine = rows[first : first + batch.micro_size]
            loss = task.loss(side, side.batch(features, mine)) / batch.accumulation
            loss.backward()
            total += loss.item()
        if optimizer_settings.gradient_clipping:
            nn.utils.clip_grad_norm_(side.model.parameters(), optimizer_settings.gradient_clipping)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        recent = total if step == 0 else 0.9 * recent + 0.1 * total
        progress.update(step + 1, f"step {step + 1}/{steps}  loss {recent:.4f}")
    seconds = time.monotonic() - began
    return {
        "train": features.sizes(),
        "steps": steps,
        "train_loss": recent,
        "train_seconds": seconds,
        "train_samples_per_second": steps * batch.global_size / seconds,
    }


@torch.no_grad()
def predict(side: SideBySide, task: Squad, features: SquadFeatures, size: int) -> dict[str, Any]:
    """The task's output for all rows, in their order."""
    side.model.eval()
    total = len(features.lengths)
    progress, seen = Progress("score", total, interval=30.0), 0
    whole: dict[str, np.ndarray] = {}
    for rows, _ in portions(features.lengths, size, 0, 1):
        for name, value in task.predict(side, side.batch(features, rows)).items():
            if name not in whole:
                whole[name] = np.zeros((total, *value.shape[1:]), value.cpu().numpy().dtype)
            whole[name][rows] = value.cpu().numpy()
        seen += len(rows)
        progress.update(seen, f"{seen:,} rows")
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, train, score."""
    given, config_file = flags.parse(FinetuneSettings, argv, "squad_transformers.py", __doc__ or "")
    settings, _ = resolve(given, config_file)
    place = settings.task
    if place.checkpoint is None or place.train is None or place.eval is None:
        raise UserError("--checkpoint, --train and --eval are all needed here")
    if settings.optimizer.optimizer != "adamw" or settings.optimizer.schedule != "linear":
        raise UserError("this check knows --optimizer adamw with --schedule linear only")
    if place.dropout is not None or place.random_init:
        raise UserError("this check takes weights and dropout from the checkpoint only")
    output = place.output or Path("runs/squad-transformers")
    output.mkdir(parents=True, exist_ok=False)
    task = Squad(settings.squad)
    tokenizer = load_tokenizer(huggingface.model_folder(place.checkpoint)[0])
    train_rows = task.train_features(place.train, tokenizer, place.max_train_examples, place.seed)
    eval_rows = task.eval_features(place.eval, tokenizer)
    side = SideBySide(settings)
    results: dict[str, Any] = train(side, task, train_rows, settings)
    began = time.monotonic()
    outputs = predict(side, task, eval_rows, settings.batch.eval_batch_size)
    seconds = time.monotonic() - began
    results |= {
        "eval": eval_rows.sizes(),
        "eval_seconds": seconds,
        "eval_samples_per_second": len(eval_rows.lengths) / seconds,
        **task.score(eval_rows, outputs, output),
        "precision": side.precision,
        "settings": flags.to_values(settings),
    }
    write_json(output / RUN_RESULTS, results)
    print(f"exact_match {results['exact_match']:.2f}  f1 {results['f1']:.2f}")
    return 0


if __name__ == "__main__":
    run_command(main)
