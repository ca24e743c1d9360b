#!/usr/bin/env python
"""Fine-tune an encoder for a task and score it; started by deepspeed, torchrun, srun, mpirun or alone."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megabert.common.log import run_command
from megabert.common.processes.cuda_environment import set_cuda_variables
from megabert.common.processes.stopping import stop_watch
from megabert.config import flags
from megabert.finetune.settings import (
    check_task_files,
    finetune_settings,
    resolve_finetuning,
)

DESCRIPTION = """\
Fine-tune a pretrained encoder for a task, evaluate it during training, and save its best model.

  python launch/finetune.py --task squad --checkpoint runs/p2 --train train-v1.1.json --eval dev-v1.1.json --output runs/squad
  deepspeed --num_gpus 8 launch/finetune.py --task mnli --checkpoint bert-base-uncased/ --train ... --eval ... --test ... --output ...
  python launch/finetune.py --checkpoint runs/squad/final --eval dev-v1.1.json --output runs/scored     (no training)
  python launch/finetune.py --task rte ... --epochs 10 --eval-interval 50 --patience 4                (early stopping)
  python launch/finetune.py --task rte ... --seeds 5 --lrs 2e-5,3e-5,5e-5 --output runs/rte          (15 runs and a table)
  The last command with --resume auto continues after an interruption; it reuses finished runs.

Precedence: flag > --config > DeepSpeed file > default. The run folder holds config.yaml (a valid --config),
metrics.jsonl, tensorboard/, final/ (the best model), its predictions, results.json, and test/ (predictions of
--test). With --seeds or --lrs each run has such a folder in RUN, for example RUN/2e-5-seed-42, and RUN/results.json
has the mean and standard deviation for each learning rate. If a run diverges, the command reports it,
continues with the other runs, and exits with status 1.
SIGTERM, SIGINT, SIGUSR1 and SIGHUP stop after the present update; final/ keeps a model. Exit status: 0 finished,
1 a fault, 2 wrong input, 3 stopped on request (--resume auto trains the stopped run again and keeps the finished
ones)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and fine-tune."""
    stop_watch().resumable("before its end; run it again with --resume auto")
    given = flags.parse(finetune_settings(), argv, "finetune.py", DESCRIPTION)
    settings = resolve_finetuning(given)
    if given.print_config:
        print(flags.to_yaml(settings), end="")
        return 0
    check_task_files(settings)
    set_cuda_variables(os.environ, settings.parallel.tensor_parallel)
    # torch is imported only now
    from megabert.finetune.command import finetune
    from megabert.finetune.inputs import log_unused

    log_unused(given, settings.task.task)
    finetune(settings)
    return 0


if __name__ == "__main__":
    run_command(main)
