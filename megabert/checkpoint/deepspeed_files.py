"""The files of a DeepSpeed checkpoint: read without running code, and checked before they are used.

They are pickles. :func:`read_deepspeed_file` makes tensors, plain containers and four classes of
DeepSpeed of them; whatever else a file names is refused when it is met, before anything is called.
Then the content is checked: plain values only, and names of parameters that cannot be paths.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address

from megabert.common.errors import UserError
from megabert.model.plain_pickles import load_plain_archive, only_plain

_OWN_CLASSES = (LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address)
"""The classes whose objects DeepSpeed saves."""
_HOLDERS = (LossScaler, DynamicLossScaler, fragment_address)
_PLAIN = (type(None), bool, int, float, str, bytes, torch.dtype, torch.Tensor, ZeroStageEnum)
_PARAMETER_NAME = re.compile(r"\w+(\.\w+)*")
_OF_OTHER_MODELS = ("ds_autoep_layers", "autoep_layers")
"""Entries by which DeepSpeed's converter would write further files; no model here has them."""
_MOST_NESTED = 20
_NUMBERS = (bool, int, float, torch.dtype)
_SCALER_VALUES = vars(DynamicLossScaler(1.0, 1, 1.0, 1, False)).keys()


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


def check_content(folder: Path, part: int = 0, parts: int = 1) -> None:
    """Read every ``parts``-th file of a checkpoint, mapped, and check its content.

    Raises:
        UserError: a file refers to code, holds what no checkpoint does, or is damaged.
    """
    for path in sorted(folder.glob("*.pt"))[part::parts]:
        read_deepspeed_file(path)


def read_deepspeed_file(path: Path, *, mapped: bool = True) -> dict[str, Any]:
    """One of DeepSpeed's files; with ``mapped``, its tensors stay in the file.

    Raises:
        UserError: it refers to code, holds what no checkpoint does, or is damaged.
    """
    content = load_plain_archive(path, _OWN_CLASSES, mapped=mapped)
    strange = "not a dictionary" if type(content) is not dict else _strange(content)
    if strange is not None:
        raise UserError(f"{path} is not a file of a megabert checkpoint: {strange}")
    return content


class CheckpointReader(TorchCheckpointEngine):
    """DeepSpeed's reader of files, replaced by :func:`read_deepspeed_file`."""

    def __init__(self) -> None:
        self.name = "megabert"

    def load(self, path: str, map_location: Any = None) -> dict[str, Any]:
        """The content of a file, on the CPU; DeepSpeed copies it to the device.

        Raises:
            UserError: see :func:`read_deepspeed_file`.
        """
        return read_deepspeed_file(Path(path), mapped=False)


@contextmanager
def only_checkpoint_content() -> Iterator[None]:
    """Within the block, DeepSpeed's own ``torch.load`` calls can make only what a checkpoint holds."""
    with only_plain(_OWN_CLASSES):
        yield


def _strange(content: dict[str, Any]) -> str | None:
    """What a file holds that DeepSpeed's loader or converter must not be given, or None."""
    if found := next((name for name in _OF_OTHER_MODELS if content.get(name) is not None), None):
        return f"it has {found}, which no model here has"
    inner = content.get("optimizer_state_dict")
    tables = [content.get("module"), content.get("param_shapes")]
    tables.append(inner.get("param_slice_mappings") if isinstance(inner, dict) else None)
    for table in tables:
        for names in table if isinstance(table, list) else [table]:
            for name in names if isinstance(names, dict) else ():
                if not isinstance(name, str) or not _PARAMETER_NAME.fullmatch(name):
                    return f"{name!r} is not the name of a parameter"
    return _not_plain(content, 0)


def _not_plain(value: Any, depth: int) -> str | None:
    """The first value in a file that is neither plain nor of the expected type, in words."""
    if depth > _MOST_NESTED:
        return f"it is nested deeper than {_MOST_NESTED}"
    if isinstance(value, dict):
        inner: Any = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set):
        inner = value
    elif type(value) in _HOLDERS:
        inner = vars(value).values()
        expected = {"numel", "start"} if type(value) is fragment_address else _SCALER_VALUES
        if not vars(value).keys() <= expected or any(type(v) not in _NUMBERS for v in inner):
            return f"a {type(value).__name__} holds more than its numbers"
        return None
    else:
        return None if type(value) in _PLAIN else f"it holds a {type(value).__name__}"
    return next((found for item in inner if (found := _not_plain(item, depth + 1))), None)


def base_optimizer(content: dict[str, Any]) -> dict[str, Any]:
    """State and groups of the optimizer itself in a rank's optimizer file of stages 1 to 3."""
    state = content["optimizer_state_dict"]
    return state.get("base_optimizer_state") or state.get("optimizer_state_dict") or {}
