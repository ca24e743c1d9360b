#!/usr/bin/env python
"""Pretrain a BERT encoder on shards of text; started by deepspeed, torchrun, srun, mpirun or alone."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megabert.common.log import run_command
from megabert.common.processes.cuda_environment import set_cuda_variables
from megabert.common.processes.stopping import stop_watch
from megabert.config import flags
from megabert.config.training import PretrainSettings

DESCRIPTION = """\
Pretrain a BERT encoder on shards made by data_tools/shard_wiki.py.

  deepspeed --num_gpus 8 launch/pretrain.py --model bert-large --data data/wiki --phase 1 --output runs/p1
  deepspeed --num_gpus 8 launch/pretrain.py --model bert-large --data data/wiki --phase 2 --init-from runs/p1 --output runs/p2
  deepspeed --num_gpus 8 launch/pretrain.py --data data/reviews --phase continue --init-from bert-base-uncased --output runs/reviews

Precedence: flag > --config > DeepSpeed file > the phase's published recipe > default.
The run folder holds config.yaml (a valid --config), metrics.jsonl, tensorboard/, checkpoints/, results.json.
SIGTERM, SIGINT, SIGUSR1 and SIGHUP save a checkpoint and stop. Exit status: 0 finished, 1 a fault, 2 wrong input,
3 stopped on request with a checkpoint (--resume auto continues)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and train."""
    stop_watch().resumable("before its first update; start it again with --resume auto")
    given = flags.parse(PretrainSettings, argv, "pretrain.py", DESCRIPTION)
    from megabert.pretrain.lengths.durations import derived
    from megabert.pretrain.settings import check_files, resolve_pretraining

    settings = resolve_pretraining(given)
    if given.print_config:
        print(flags.to_yaml(settings, derived=derived(settings)), end="")
        return 0
    check_files(settings)
    set_cuda_variables(os.environ, settings.parallel.tensor_parallel)
    from megabert.pretrain.command import pretrain  # only this imports torch

    pretrain(settings)
    return 0


if __name__ == "__main__":
    run_command(main)
