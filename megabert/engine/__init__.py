"""DeepSpeed: launching ranks, the joined configuration, the engine and its metrics.

Owns: everything that uses DeepSpeed, except checkpoint files (``megabert.checkpoint``).
May import: kernels, model, parallel, optim, data, config, common.
Start reading: ``training_engine.py``, then ``build.py`` and ``zero/partitions.py``.

DeepSpeed chooses its accelerator when it is first imported, and guesses if none is set. Therefore it
is set here, before any module of this package imports DeepSpeed.
"""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
