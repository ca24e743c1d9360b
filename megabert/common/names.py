"""Names that two or more parts of the project must agree on: files, splits, special tokens."""

from __future__ import annotations

import re

TRAIN = "train"
EVAL = "eval"
SPLITS = (TRAIN, EVAL)

MANIFEST = "manifest.json"
DOCUMENT_INDEX = "document_lengths.bin"
TOKENIZER_FOLDER = "tokenizer"
SHARD_SUFFIX = ".h5"

LOCK_FILE = "in-use.json"

RUN_CONFIG = "config.yaml"
RUN_DEEPSPEED_CONFIG = "ds_config.json"
RUN_DEEPSPEED_LOG = "deepspeed.log"
RUN_METRICS = "metrics.jsonl"
RUN_RESULTS = "results.json"
RUN_TENSORBOARD = "tensorboard"
RUN_TRACKERS = "trackers.json"
RUN_CSV = "metrics.csv"
RUN_TENSORS_CSV = "tensors.csv"
RUN_CHECKPOINTS = "checkpoints"
RUN_FAULTS = "faults"
RUN_FINAL = "final"
RUN_MERGING = "merging.tmp"
CHECKPOINT_RECORD = "megabert.json"
LATEST = "latest"
BEST = "best"
RESUMED_FROM = "resumed-from"

WEIGHTS_RECORD = "megabert.json"
WEIGHTS_FILE = "model.safetensors"
WEIGHTS_FORMAT = "megabert-weights"

PAD_TOKEN = "[PAD]"
UNK_TOKEN = "[UNK]"
CLS_TOKEN = "[CLS]"
SEP_TOKEN = "[SEP]"
MASK_TOKEN = "[MASK]"
SPECIAL_TOKENS = (PAD_TOKEN, UNK_TOKEN, CLS_TOKEN, SEP_TOKEN, MASK_TOKEN)


def shard_file(split: str, index: int, count: int) -> str:
    """File name of shard ``index`` of ``count`` in a split: ``train-00003-of-00016.h5``."""
    return f"{split}-{index:05d}-of-{count:05d}{SHARD_SUFFIX}"


def checkpoint_tag(step: int) -> str:
    """Folder name of the checkpoint written after ``step`` updates: ``step-0000500``."""
    return f"step-{step:07d}"


_TAG = re.compile(r"step-(\d{7,})")


def step_of_tag(name: str) -> int:
    """The step in a checkpoint's folder name; -1 for another name (such as a user's copy)."""
    match = _TAG.fullmatch(name)
    return int(match[1]) if match else -1
