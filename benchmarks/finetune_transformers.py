#!/usr/bin/env python
"""The side-by-side check of fine-tuning: transformers' own model, everything else the same.

Takes the flags of launch/finetune.py, so that the same command line runs both, for every task without
a CRF, also with several seeds. From megabert come the features, the rows of each batch and their order,
the initial weights of new heads, the learning rates (transformers' linear schedule spends its first
update at rate 0), and the metric; from transformers and torch the model, its dropout, AdamW and
clipping. One process; on bf16 torch's autocast over float32 weights, as transformers users train. The
last model is scored.

  python benchmarks/finetune_transformers.py --task rte --checkpoint HF_FOLDER --train train.tsv \
      --eval dev.tsv --output runs/rte-transformers --seeds 5
"""

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from megabert.common.errors import UserError
from megabert.common.files import write_json
from megabert.common.log import run_command
from megabert.common.names import RUN_RESULTS
from megabert.common.packed_batch import PackedBatch
from megabert.common.progress import Progress
from megabert.config import flags
from megabert.convert.huggingface import model as huggingface
from megabert.convert.huggingface.sentence_modules import encoder_folder
from megabert.data.tokenizers.base import Tokenizer
from megabert.data.tokenizers.load import load_tokenizer
from megabert.engine.broadcast import rank_batches
from megabert.engine.config import micro_batch_limit, resolve_batch, resolve_precision
from megabert.finetune.inputs import make_task_of
from megabert.finetune.settings import ResolvedFinetuning, finetune_settings, resolve_finetuning
from megabert.model.init import initial_tensor
from megabert.optim.schedule import learning_rate
from megabert.tasks.base import Features, Task
from megabert.tasks.batches import BatchPlan, batch_on_device, steps_for


class SideBySide:
    """transformers' model with the arguments and outputs that a task expects of ours."""

    def __init__(self, settings: ResolvedFinetuning, task: Task, seed: int) -> None:
        place = settings.task
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.precision = resolve_precision(settings.parallel.precision, self.device.type == "cuda")
        self.head = task.head
        ((our_layer, module),) = self.head.transformers_layers
        folder = encoder_folder(place.checkpoint)
        changed: dict[str, Any] = (
            {"num_labels": max(1, len(task.labels))} if self.head.labelled else {}
        )
        if place.dropout is not None:
            changed["hidden_dropout_prob"] = changed["attention_probs_dropout_prob"] = place.dropout
        model_class = getattr(transformers, f"Bert{self.head.transformers_suffix}")
        model = model_class.from_pretrained(folder, **changed)
        source = huggingface.read(place.checkpoint)
        new = {our_layer: getattr(model, module)}
        if self.head.reads_pooler and not source.has_pooler:
            new["bert.pooler.dense"] = model.bert.pooler.dense
        with torch.no_grad():
            for name, layer in new.items():
                drawn = initial_tensor(
                    f"{name}.weight", tuple(layer.weight.shape), source.config, seed
                )
                layer.weight.copy_(drawn)
                layer.bias.zero_()
        self.model = model.to(self.device)

    def __call__(self, batch: PackedBatch[Tensor]) -> Any:
        """Packed tokens, padded for transformers; outputs as our models give them."""
        lengths = batch.lengths
        mask = torch.arange(int(lengths.max()), device=self.device) < lengths[:, None]  # [P, S]
        ids, types = (torch.zeros_like(mask, dtype=torch.int64) for _ in range(2))
        ids[mask], types[mask] = batch.input_ids, batch.token_type_ids
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            output = self.model(input_ids=ids, token_type_ids=types, attention_mask=mask.long())
        if self.head.labelled:
            return output.logits if self.head.per_sequence else output.logits[mask]
        missing = batch.max_length - mask.size(1)
        sides = (output.start_logits, output.end_logits)
        return tuple(
            nn.functional.pad(side.masked_fill(~mask, -torch.inf), (0, missing), value=-torch.inf)
            for side in sides
        )


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Biases and LayerNorm are not decayed."""
    decayed, free = [], []
    for name, parameter in model.named_parameters():
        is_free = name.endswith("bias") or "LayerNorm" in name
        (free if is_free else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]


def train(
    side: SideBySide, task: Task, features: Features, settings: ResolvedFinetuning, seed: int
) -> dict[str, Any]:
    """All updates, as transformers' examples make them."""
    chosen = settings.optimizer
    batch = resolve_batch(settings.batch, 1, micro_batch_limit(task.max_length))
    steps = chosen.steps or steps_for(len(features.lengths), batch.global_size, chosen.epochs)
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(
        parameter_groups(side.model, chosen.weight_decay),
        lr=chosen.lr or 0.0,
        betas=(chosen.beta1, chosen.beta2),
        eps=chosen.eps,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda done: learning_rate(
            "linear", min(done + 1, steps), steps, 1.0, chosen.warmup_fraction or 0.0
        ),
    )
    plan = BatchPlan(features.lengths, batch.global_size, steps, seed)
    progress = Progress("transformers", steps, interval=30.0)
    side.model.train()
    losses: list[float] = []
    began = time.monotonic()
    for step in range(steps):
        rows, total = plan.rows(step), 0.0
        for first in range(0, batch.global_size, batch.micro_size):
            mine = rows[first : first + batch.micro_size]
            loss = (
                task.loss(side, batch_on_device(features, mine, task.max_length, side.device))
                / batch.accumulation
            )
            loss.backward()
            total += loss.item()
        if chosen.gradient_clipping:
            nn.utils.clip_grad_norm_(side.model.parameters(), chosen.gradient_clipping)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(total)
        progress.update(step + 1, f"step {step + 1}/{steps}  loss {total:.4f}")
    seconds = time.monotonic() - began
    return {
        "train": features.sizes(),
        "steps": steps,
        "losses": losses,
        "train_seconds": seconds,
        "train_samples_per_second": steps * batch.global_size / seconds,
    }


@torch.no_grad()
def predict(side: SideBySide, task: Task, features: Features, size: int) -> dict[str, np.ndarray]:
    """The task's output for all rows, in their order."""
    side.model.eval()
    total = len(features.lengths)
    progress, seen = Progress("score", total, interval=30.0), 0
    whole: dict[str, np.ndarray] = {}
    for rows, _ in rank_batches(features.lengths, size, 0, 1):
        for name, value in task.predict(
            side, batch_on_device(features, rows, task.max_length, side.device)
        ).items():
            if name not in whole:
                whole[name] = np.zeros((total, *value.shape[1:]), value.cpu().numpy().dtype)
            whole[name][rows] = value.cpu().numpy()
        seen += len(rows)
        progress.update(seen, f"{seen:,} rows")
    return whole


def one_run(
    settings: ResolvedFinetuning,
    task: Task,
    train_rows: Features,
    eval_rows: Features,
    output: Path,
) -> dict[str, Any]:
    """Train and score with the seed of ``settings``; the results are also in ``results.json``."""
    output.mkdir(parents=True)
    side = SideBySide(settings, task, settings.task.seed)
    results: dict[str, Any] = train(side, task, train_rows, settings, settings.task.seed)
    began = time.monotonic()
    outputs = predict(side, task, eval_rows, settings.batch.eval_batch_size)
    seconds = time.monotonic() - began
    scores = task.score(eval_rows, outputs, output)
    results |= {
        "task": task.name,
        "seed": settings.task.seed,
        "eval": eval_rows.sizes(),
        "eval_seconds": seconds,
        "eval_samples_per_second": len(eval_rows.lengths) / seconds,
        "scores": scores,
        "precision": side.precision,
        "settings": flags.to_values(settings),
    }
    write_json(output / RUN_RESULTS, results)
    print(f"seed {settings.task.seed}  " + "  ".join(f"{k} {v:.2f}" for k, v in scores.items()))
    return scores


def checked(settings: ResolvedFinetuning) -> None:
    """Refuse what this check does not do.

    Raises:
        UserError: such a setting.
    """
    place = settings.task
    if place.train is None or place.eval is None:
        raise UserError("--checkpoint, --train and --eval are all needed here")
    if settings.optimizer.optimizer != "adamw" or settings.optimizer.schedule != "linear":
        raise UserError("this check knows --optimizer adamw with --schedule linear only")
    if place.random_init or settings.of_task("tagging").crf:
        raise UserError("this check knows neither --random-init nor --crf")


def vocabulary(folder: Path) -> Tokenizer:
    """The tokenizer of a Hugging Face folder."""
    return load_tokenizer(encoder_folder(folder))


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, then train and score once a seed."""
    settings = resolve_finetuning(
        flags.parse(finetune_settings(), argv, "finetune_transformers.py", __doc__ or "")
    )
    checked(settings)
    place = settings.task
    assert place.train is not None
    assert place.eval is not None
    output = place.output
    if output.exists():
        raise UserError(f"{output} exists; choose another --output")
    task = make_task_of(settings)
    tokenizer = vocabulary(place.checkpoint)
    limit, runs = place.max_train_examples, []
    for seed in range(place.seed, place.seed + settings.selection.seeds):
        train_rows = task.train_features(place.train, tokenizer, limit, seed)
        eval_rows = task.eval_features(place.eval, tokenizer)
        one = replace(settings, task=replace(place, seed=seed))
        runs.append(one_run(one, task, train_rows, eval_rows, output / f"seed-{seed}"))
    summary = {
        name: {
            "mean": statistics.fmean(run[name] for run in runs),
            "deviation": statistics.stdev(run[name] for run in runs) if len(runs) > 1 else 0.0,
        }
        for name in runs[0]
    }
    write_json(output / RUN_RESULTS, {"task": task.name, "runs": runs, "scores": summary})
    for name, values in summary.items():
        print(f"{name}: {values['mean']:.2f} +- {values['deviation']:.2f}")
    return 0


if __name__ == "__main__":
    run_command(main)
