"""The only place that knows DeepSpeed.

DeepSpeed chooses its accelerator when it is first imported, and guesses where nothing is said; so it
is said here, before any module of this package imports it.
"""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
