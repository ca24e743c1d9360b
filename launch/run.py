#!/usr/bin/env python
"""Run a launcher, pass signals to its ranks, and exit with their status and their last line.

  python launch/run.py deepspeed --num_gpus 8 launch/pretrain.py ...
  python launch/run.py torchrun --nproc-per-node 8 launch/finetune.py ...

Use it in jobs that act on the exit status: 0 finished, 1 a fault, 2 wrong input, 3 stopped on request with a
checkpoint (continue with --resume auto). SIGTERM, SIGINT, SIGUSR1 and SIGHUP go to the ranks on this host, which
save and stop; a second one, more than 2 seconds later, stops them at once. The launcher gets no signal, so it does
not kill ranks that take longer than its 30 seconds to save. When this process ends, nothing of the run is left."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megabert.common.processes.supervisor import main

if __name__ == "__main__":
    sys.exit(main())
