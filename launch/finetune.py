#!/usr/bin/env python
"""Fine-tune an encoder for a task and score it. Started by deepspeed, torchrun, srun, mpirun or alone."""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megabert import flags
from megabert.log import run_command
from megabert.task_config import FinetuneSettings

DESCRIPTION = """\
Fine-tune a pretrained encoder for a task, then score it.

  python launch/finetune.py --task squad --checkpoint runs/p2 --train train-v1.1.json --eval dev-v1.1.json --output runs/squad
  deepspeed --num_gpus 8 launch/finetune.py --task squad --checkpoint bert-base-uncased/ --train ... --eval ... --output ...
  python launch/finetune.py --checkpoint runs/squad/final --eval dev-v1.1.json --output runs/scored     (no training)

Precedence: flag > --config > DeepSpeed file > default. The run folder holds config.yaml (itself a --config),
metrics.jsonl, tensorboard/, final/ (the fine-tuned model), predictions.json, nbest_predictions.json, results.json."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and fine-tune."""
    given, config_file = flags.parse(FinetuneSettings, argv, "finetune.py", DESCRIPTION)
    from megabert.finetune import finetune

    finetune(given, config_file)
    return 0


if __name__ == "__main__":
    run_command(main)
