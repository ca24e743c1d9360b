"""Merges a DeepSpeed checkpoint of any ZeRO stage and parallel degrees into whole tensors.

Stages 1 to 3 go through DeepSpeed's universal checkpoint: its converter splits the ranks' flat
partitions into fragments per tensor, joins the fragments of the data-parallel ranks, and then the
tensor parallel parts, one tensor at a time. It finds how each tensor was split from the patterns that
:func:`universal_checkpoint_info` makes from the model and every save stores. Stage 0 needs no merging:
:mod:`megabert.checkpoint.merged` reads its files, and the merged folders.

Nothing is trusted: names, shapes and element counts are compared with those of the unsplit model.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from megabert.checkpoint.deepspeed_files import (
    base_optimizer,
    check_content,
    only_checkpoint_content,
    partition_steps,
    read_deepspeed_file,
    slice_lengths,
    zero_stage,
)
from megabert.common.errors import UserError
from megabert.common.files import rename
from megabert.common.storage import is_storage_error
from megabert.model.parameters import WholeParameter

CONVERTED = ("exp_avg", "exp_avg_sq")
"""Names of the two states that DeepSpeed's converter moves, and of their files."""

UNIVERSAL_VERSION = 0.2
"""Layout of the patterns below (no fused tensors, so none of the later fields)."""


STATE_FILE = "state.json"
"""Step and names of the optimizer's state, next to the merged tensors."""
_DISK_FULL = ("PytorchStreamWriter failed", "unexpected pos")
"""Errors of torch.save on a full disk."""


def universal_checkpoint_info(parameters: Mapping[str, WholeParameter]) -> dict[str, Any]:
    """How DeepSpeed's converter must join each parameter of a model over tensor parallel ranks.

    Goes into the ``client_state`` of every save under the key ``universal_checkpoint_info``. Each
    pattern is anchored and matches at least one of the given names: DeepSpeed joins on dimension 0
    any tensor that no pattern matches, and refuses patterns that match nothing.

    The padding of the vocabulary is the same for every tensor parallel degree, so no vocabulary
    pattern is needed: padding rows stay with the tensor.
    """
    replicated: set[str] = set()
    row: set[str] = set()
    for name, parameter in parameters.items():
        pattern = "^" + re.sub(r"(?<=\\\.)\d+(?=\\\.)", r"\\d+", re.escape(name)) + "$"
        if parameter.split_dim is None:
            replicated.add(pattern)
        elif parameter.split_dim == 1:
            row.add(pattern)
    return {
        "universal_checkpoint_version": UNIVERSAL_VERSION,
        "tp_replicated_parameter_patterns": sorted(replicated),
        "parameter_with_row_parallelism_patterns": sorted(row),
    }


def one_step(steps: set[int], source: Path) -> int:
    """The step that all parts of a checkpoint agree on; 0 if none has one.

    Raises:
        UserError: they disagree.
    """
    if len(steps) > 1:
        raise UserError(f"{source}: parts of it were saved at different steps: {sorted(steps)}")
    return steps.pop() if steps else 0


def merge_partitions(folder: Path, output: Path, *, workers: int = 1) -> None:
    """Stages 1 to 3: have DeepSpeed write the whole tensors under ``output`` (one process does this).

    Stage 0 needs no merging and leaves ``output`` empty.

    Args:
        folder: a checkpoint folder (``checkpoints/<tag>``).
        output: a new folder on a disk with room for twice the optimizer state (24 bytes per parameter);
            nothing is written next to it.
        workers: processes that extract and merge.

    Raises:
        UserError: the checkpoint is damaged or cannot be merged.
    """
    check_content(folder)
    output.mkdir(parents=True, exist_ok=True)
    if zero_stage(folder) == 0:
        return
    from deepspeed.checkpoint import ds_to_universal

    step = one_step(partition_steps(folder), folder)
    states = _state_names(folder)
    arguments = SimpleNamespace(
        input_folder=str(_with_moments(folder, output / "moments", states)),
        output_folder=str(output / "universal"),
        num_extract_workers=workers,
        num_merge_workers=workers,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=False,
    )
    output_text = io.StringIO()
    try:
        with (
            only_checkpoint_content(),
            contextlib.redirect_stdout(output_text),
            contextlib.redirect_stderr(output_text),
        ):
            ds_to_universal.main(arguments)
    except OSError as error:
        if is_storage_error(error):
            raise
        raise UserError(f"{folder} cannot be merged: {error}") from error
    except (AssertionError, RuntimeError, ValueError, LookupError) as error:
        if any(sign in str(error) for sign in _DISK_FULL):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(output)) from error
        raise UserError(f"{folder} cannot be merged: {_explain(error)}") from error
    rename(output / "universal" / "zero", output / "zero", durable=False)
    shutil.rmtree(output / "universal")
    shutil.rmtree(output / "moments", ignore_errors=True)
    (output / "latest_universal").unlink()
    found = {"step": step, "states": states}
    (output / STATE_FILE).write_text(json.dumps(found), encoding="utf-8")


def is_state(key: str, value: Any) -> bool:
    """Whether an entry of an optimizer's state is one of its tensors (not a counter)."""
    return key != "weight" and isinstance(value, Tensor) and value.dim() > 0


def _state_names(folder: Path) -> list[str]:
    """Names of the optimizer's state tensors; those of Adam before the first update.

    Raises:
        UserError: more than DeepSpeed's converter can move.
    """
    names: dict[str, None] = {}
    for path in sorted(folder.glob("*_optim_states.pt")):
        for state in base_optimizer(read_deepspeed_file(path))["state"].values():
            names |= dict.fromkeys(key for key, value in state.items() if is_state(key, value))
    if len(names) > len(CONVERTED):
        raise UserError(
            f"{folder}: its optimizer has {len(names)} state tensors ({', '.join(names)}), and "
            f"DeepSpeed's converter moves {len(CONVERTED)}; resume on the layout that wrote it"
        )
    return sorted(names) or list(CONVERTED)


def _with_moments(folder: Path, copy: Path, states: Sequence[str]) -> Path:
    """``folder``, or a copy whose state has the names that DeepSpeed's converter expects.

    The converter requires ``exp_avg`` and ``exp_avg_sq``. A checkpoint from before the first update
    has no state, and an optimizer may have one tensor or other names: zeros replace what is missing.
    """
    paths = sorted(folder.glob("*_optim_states.pt"))
    empty = not any(base_optimizer(read_deepspeed_file(path))["state"] for path in paths)
    if tuple(states) == CONVERTED and not empty:
        return folder
    copy.mkdir()
    for path in folder.glob("*.pt"):
        if path not in paths:
            (copy / path.name).symlink_to(path.resolve())
    for path in paths:
        content = read_deepspeed_file(path)
        found = base_optimizer(content)["state"]
        for number, size in enumerate(slice_lengths(content)):
            own = found.get(number, {})
            named = dict(zip(CONVERTED, (own.get(name) for name in states)))
            found[number] = {"step": own.get("step", 0)}
            for name in CONVERTED:
                value = named.get(name)
                found[number][name] = torch.zeros(size) if value is None else value
        torch.save(content, copy / path.name)
    return copy


def _explain(error: Exception) -> str:
    """DeepSpeed's error in one line; its check of replicated tensors raises one without a text."""
    text = str(error).strip()
    if isinstance(error, AssertionError) and not text:
        return "a tensor that must be the same on all tensor parallel ranks differs between them"
    if isinstance(error, IndexError):
        return "a part of a tensor is in none of its files"
    if isinstance(error, KeyError) and text in ("'exp_avg'", "'exp_avg_sq'", "0"):
        return "it holds no moments; save it after at least one update"
    return text.splitlines()[0] if text else type(error).__name__
