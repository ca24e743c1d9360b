"""DeepSpeed: launching ranks, the joined configuration, the engine and its metrics.

Owns: everything that uses DeepSpeed, except checkpoint files (``megabert.checkpoint``).
May import: kernels, model, parallel, optim, data, config, common.
Start reading: ``training_engine.py``, then ``build.py`` and ``zero/partitions.py``.

DeepSpeed chooses its accelerator when it is first imported, and guesses if none is set. Therefore it
is set here, before any module of this package imports DeepSpeed. So is a placeholder for its autotuner,
which no run uses, and which imports mlflow: 2 s where that is installed.
"""

import os
import sys
from types import ModuleType

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

_tuner = ModuleType("deepspeed.autotuning.autotuner")
_tuner.__dict__["Autotuner"] = None
sys.modules.setdefault(_tuner.__name__, _tuner)
