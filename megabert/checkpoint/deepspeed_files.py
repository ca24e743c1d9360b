"""The files of a DeepSpeed checkpoint, opened only after a check.

They are pickles. Before they are opened, :func:`check_pickles` reads the names of all code that they
refer to; these must be among those that DeepSpeed itself writes.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from megabert.common.errors import UserError

_KNOWN_CODE = re.compile(
    r"(deepspeed\.(runtime\.fp16\.loss_scaler\.\w+"
    r"|runtime\.zero\.config\.ZeroStageEnum"
    r"|utils\.tensor_fragment\.(fragment_address|tensor_fragment))"
    r"|collections\.(OrderedDict|defaultdict)"
    r"|numpy\.(dtype|_core\.multiarray\.scalar|core\.multiarray\.scalar)"
    r"|builtins\.(dict|list|set|tuple|int|float|str|bool))"
)


def zero_stage(folder: Path) -> int:
    """ZeRO stage of a DeepSpeed checkpoint folder, from its files.

    Raises:
        UserError: not a DeepSpeed checkpoint.
    """
    if any(folder.glob("*zero_pp_rank_*_mp_rank_*_model_states.pt")):
        return 3
    partitions = sorted(folder.glob("*zero_pp_rank_*_optim_states.pt"))
    if partitions:
        state = read_deepspeed_file(partitions[0])["optimizer_state_dict"]
        return int(state.get("zero_stage", 1))
    if any(folder.glob("mp_rank_*_model_states.pt")):
        return 0
    raise UserError(f"{folder} is not a DeepSpeed checkpoint: it has no *_model_states.pt")


def check_pickles(folder: Path) -> None:
    """Check that a checkpoint's files refer only to code that DeepSpeed writes.

    Raises:
        UserError: a file refers to other code, or is damaged.
    """
    for path in sorted(folder.glob("*.pt")):
        try:
            used = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        except (
            OSError,
            RuntimeError,
            ValueError,
            EOFError,
            pickle.PickleError,
            zipfile.BadZipFile,
        ) as error:
            raise UserError(f"{path} is damaged: {error}") from error
        unknown = [name for name in used if not _KNOWN_CODE.fullmatch(name)]
        if unknown:
            raise UserError(
                f"{path} is not opened: it refers to {unknown[0]}, which a megabert checkpoint never does"
            )


def read_deepspeed_file(path: Path) -> dict[str, Any]:
    """One of DeepSpeed's files, memory-mapped; :func:`check_pickles` must have passed."""
    try:
        return torch.load(path, map_location="cpu", weights_only=False, mmap=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def base_optimizer(content: dict[str, Any]) -> dict[str, Any]:
    """State and groups of the optimizer itself in a rank's optimizer file of stages 1 to 3."""
    state = content["optimizer_state_dict"]
    return state.get("base_optimizer_state") or state.get("optimizer_state_dict") or {}


def slice_lengths(content: dict[str, Any]) -> list[int]:
    """Lengths of the rank's flat moments, from the same file (its fp32 weights may lack padding)."""
    state = content["optimizer_state_dict"]
    flats = state.get("fp32_flat_groups") or state["single_partition_of_fp32_groups"]
    paddings = state.get("group_paddings") or [0] * len(flats)
    return [flat.numel() + padding for flat, padding in zip(flats, paddings)]


def partition_steps(folder: Path) -> set[int]:
    """The step counters in the ranks' optimizer files of stages 1 to 3."""
    steps = set()
    for path in sorted(folder.glob("*zero_pp_rank_*_optim_states.pt")):
        base = base_optimizer(read_deepspeed_file(path))
        holders = [*base.get("state", {}).values(), *base.get("param_groups", ())]
        steps |= {int(holder["step"]) for holder in holders if "step" in holder}
    return steps
