"""Whole tensors out of a DeepSpeed checkpoint of any ZeRO stage, data and tensor parallel degree.

Stages 1 to 3 go through DeepSpeed's universal checkpoint: its converter splits the ranks' flat
partitions into fragments per tensor, joins the fragments of the data-parallel ranks, and then the
tensor parallel parts, one tensor at a time. It finds how each tensor was split from the patterns that
:func:`universal_checkpoint_info` makes from the model and every save stores. Stage 0 has no partitions,
and DeepSpeed has no converter for it: its ``mp_rank`` files hold tensor parallel parts, which
``model.parameters`` joins here.

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
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from megabert.checkpoint.deepspeed_files import (
    base_optimizer,
    check_pickles,
    load,
    partition_steps,
    slice_lengths,
    zero_stage,
)
from megabert.common.errors import UserError
from megabert.common.files import rename
from megabert.model.parameters import WholeParameter, merge

_WEIGHT = "fp32"
_CONVERTED = ("exp_avg", "exp_avg_sq")
"""DeepSpeed's file names of a weight, and of the two states that its converter moves."""

UNIVERSAL_VERSION = 0.2
"""Layout of the patterns below (no fused tensors, so none of the later fields)."""


_STATE_FILE = "state.json"
"""Step and names of the optimizer's state, next to the merged tensors."""
_DISK_FULL = ("PytorchStreamWriter failed", "unexpected pos")
"""What torch.save says when the disk is full."""


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


class WholeCheckpoint(Mapping[str, dict[str, Tensor]]):
    """Whole tensors by parameter name, read on access (``items()``: one at a time).

    Attributes:
        step: updates that the optimizer has made.
        states: names of the optimizer's state tensors.
        parameters: every whole parameter (padded vocabulary).
    """

    def __init__(
        self,
        parameters: Mapping[str, WholeParameter],
        step: int,
        states: Sequence[str],
        source: Path,
    ) -> None:
        self.parameters = dict(parameters)
        self.step = step
        self.states = tuple(states)
        self._source = source

    def __iter__(self) -> Iterator[str]:
        return iter(self.parameters)

    def __len__(self) -> int:
        return len(self.parameters)

    def __contains__(self, name: object) -> bool:
        return name in self.parameters

    def weights(self) -> dict[str, Tensor]:
        """All weights (not the moments): fp32, whole."""
        return {name: self.read(name, "weight") for name in self.parameters}

    def __getitem__(self, name: str) -> dict[str, Tensor]:
        """``weight`` and the optimizer's state of a parameter: fp32, whole, on the CPU."""
        return {kind: self.read(name, kind) for kind in ("weight", *self.states)}

    def read(self, name: str, kind: str) -> Tensor:
        """The weight or one state tensor of a parameter.

        Raises:
            UserError: it has another shape than in the unsplit model.
        """
        tensor = self._read(name, kind).to(torch.float32)
        shape = self.parameters[name].shape
        if tensor.shape != shape and tensor.dim() == 1 and tensor.numel() == _count(shape):
            tensor = tensor.view(shape)  # stage 3 without tensor parallelism stays flat
        if tuple(tensor.shape) != tuple(shape):
            raise UserError(
                f"{self._source}: merging {name} ({kind}) gave shape {list(tensor.shape)} where the "
                f"model has {list(shape)}"
            )
        return tensor

    def _read(self, name: str, kind: str) -> Tensor:
        raise KeyError(name)


def _count(shape: Iterable[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


class _Universal(WholeCheckpoint):
    """Stages 1 to 3: the folder that DeepSpeed's converter wrote."""

    def __init__(
        self, merged: Path, parameters: Mapping[str, WholeParameter], source: Path
    ) -> None:
        self._zero = merged / "zero"
        _compare_names({p.name for p in self._zero.iterdir() if p.is_dir()}, parameters, source)
        found = json.loads((merged / _STATE_FILE).read_text(encoding="utf-8"))
        super().__init__(parameters, found["step"], found["states"], source)
        self._files = dict(zip(self.states, _CONVERTED), weight=_WEIGHT)

    def _read(self, name: str, kind: str) -> Tensor:
        path = self._zero / name / f"{self._files[kind]}.pt"
        if not path.is_file():
            raise UserError(f"{self._source} holds no {kind} of {name}")
        value = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return value["param"] if isinstance(value, dict) else value


class _Plain(WholeCheckpoint):
    """Stage 0: one file per tensor parallel rank, each with the whole optimizer state of its part."""

    def __init__(self, folder: Path, parameters: Mapping[str, WholeParameter]) -> None:
        files = sorted(folder.glob("mp_rank_*_model_states.pt"))
        loaded = [load(path) for path in files]
        for path, state in zip(files, loaded):
            if state.get("mp_world_size", len(files)) != len(files):
                raise UserError(
                    f"{folder} holds {len(files)} mp_rank files of {state['mp_world_size']}: "
                    "the checkpoint is not whole"
                )
            if state.get("optimizer") is None:
                raise UserError(f"{path} holds no optimizer state")
        self._ranks = [_parts_by_name(state, folder) for state in loaded]
        names = set(self._ranks[0])
        _compare_names(names, parameters, folder)
        steps = {int(p["step"]) for rank in self._ranks for p in rank.values() if "step" in p}
        parts = self._ranks[0].values()
        states = dict.fromkeys(k for p in parts for k, v in p.items() if _is_state(k, v))
        super().__init__(parameters, _one_step(steps, folder), tuple(states) or _CONVERTED, folder)

    def _read(self, name: str, kind: str) -> Tensor:
        parts = []
        for rank in self._ranks:
            part = rank[name].get(kind)
            weight = rank[name]["weight"]
            parts.append(torch.zeros_like(weight) if part is None else part.view(weight.shape))
        dim = self.parameters[name].split_dim
        if dim is not None:
            return merge(parts, dim)
        if any(not torch.equal(parts[0], part) for part in parts[1:]):
            raise UserError(
                f"{self._source}: {name} ({kind}) is the same on all tensor parallel ranks in a sound "
                "checkpoint, and differs here"
            )
        return parts[0]


def _parts_by_name(state: dict[str, Any], folder: Path) -> dict[str, dict[str, Any]]:
    """Weight, moments and step of each parameter in one stage-0 file."""
    optimizer = state["optimizer"]
    masters: list[Tensor] | None = None
    if "fp32_groups" in optimizer:  # half precision: the fp32 masters are stored next to the state
        masters = [tensor for group in optimizer["fp32_groups"] for tensor in group]
        optimizer = optimizer["optimizer_state_dict"]
    elif "optimizer_state_dict" in optimizer:
        optimizer = optimizer["optimizer_state_dict"]
    groups = optimizer["param_groups"]
    names = [n for group in groups for n in group.get("names", group.get("param_names", ()))]
    indices = [index for group in groups for index in group["params"]]
    if len(names) != len(indices):
        raise UserError(f"{folder} does not name the parameters of its optimizer")
    module = state["module"]
    parts: dict[str, dict[str, Any]] = {name: {"weight": tensor} for name, tensor in module.items()}
    for place, (name, index) in enumerate(zip(names, indices)):
        part = parts.setdefault(name, {})
        part.update(optimizer["state"].get(index, {}))
        if masters is not None:
            part["weight"] = masters[place].view(module[name].shape)
    return parts


def _compare_names(found: set[str], parameters: Mapping[str, WholeParameter], source: Path) -> None:
    missing = sorted(set(parameters) - found)
    unexpected = sorted(found - set(parameters))
    if missing or unexpected:
        first = (missing or unexpected)[0]
        raise UserError(
            f"{source} belongs to another model: {len(missing)} tensors missing, {len(unexpected)} "
            f"unexpected (first: {first})"
        )


def _one_step(steps: set[int], source: Path) -> int:
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
    check_pickles(folder)
    output.mkdir(parents=True, exist_ok=True)
    if zero_stage(folder) == 0:
        return
    from deepspeed.checkpoint import ds_to_universal

    step = _one_step(partition_steps(folder), folder)
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
        with contextlib.redirect_stdout(output_text), contextlib.redirect_stderr(output_text):
            ds_to_universal.main(arguments)
    except OSError as error:
        if error.errno == errno.ENOSPC:
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
    (output / _STATE_FILE).write_text(json.dumps(found), encoding="utf-8")


def _is_state(key: str, value: Any) -> bool:
    return key != "weight" and isinstance(value, Tensor) and value.dim() > 0


def _state_names(folder: Path) -> list[str]:
    """Names of the optimizer's state tensors; those of Adam before the first update.

    Raises:
        UserError: more than DeepSpeed's converter can move.
    """
    names: dict[str, None] = {}
    for path in sorted(folder.glob("*_optim_states.pt")):
        for state in base_optimizer(load(path))["state"].values():
            names |= dict.fromkeys(key for key, value in state.items() if _is_state(key, value))
    if len(names) > len(_CONVERTED):
        raise UserError(
            f"{folder}: its optimizer has {len(names)} state tensors ({', '.join(names)}), and "
            f"DeepSpeed's converter moves {len(_CONVERTED)}; resume on the layout that wrote it"
        )
    return sorted(names) or list(_CONVERTED)


def _with_moments(folder: Path, copy: Path, states: Sequence[str]) -> Path:
    """``folder``, or a copy whose state has the names that DeepSpeed's converter expects.

    The converter requires ``exp_avg`` and ``exp_avg_sq``. A checkpoint from before the first update
    has no state, and an optimizer may have one tensor or other names: zeros replace what is missing.
    """
    paths = sorted(folder.glob("*_optim_states.pt"))
    empty = not any(base_optimizer(load(path))["state"] for path in paths)
    if tuple(states) == _CONVERTED and not empty:
        return folder
    copy.mkdir()
    for path in folder.glob("*.pt"):
        if path not in paths:
            (copy / path.name).symlink_to(path.resolve())
    for path in paths:
        content = load(path)
        found = base_optimizer(content)["state"]
        for number, size in enumerate(slice_lengths(content)):
            own = found.get(number, {})
            named = dict(zip(_CONVERTED, (own.get(name) for name in states)))
            found[number] = {"step": own.get("step", 0)}
            for name in _CONVERTED:
                value = named.get(name)
                found[number][name] = torch.zeros(size) if value is None else value
        torch.save(content, copy / path.name)
    return copy


def _explain(error: Exception) -> str:
    """DeepSpeed's error in one line; its check of replicated tensors raises one without a text."""
    text = str(error).strip()
    if isinstance(error, AssertionError) and not text:
        return "a tensor that is the same on all tensor parallel ranks in a sound checkpoint differs here"
    if isinstance(error, IndexError):
        return "a part of a tensor is in none of its files"
    if isinstance(error, KeyError) and text in ("'exp_avg'", "'exp_avg_sq'", "0"):
        return "it holds no moments; save it after at least one update"
    return text.splitlines()[0] if text else type(error).__name__


def open_merged(
    folder: Path, merged: Path, parameters: Mapping[str, WholeParameter]
) -> WholeCheckpoint:
    """Read what :func:`merge_partitions` wrote; several processes may do so at the same time.

    Args:
        folder: the checkpoint folder (stage 0 is read from it directly).
        merged: what was ``output``.
        parameters: every parameter of the model, padded vocabulary.

    Raises:
        UserError: its tensors are not those of the model.
    """
    if (merged / "zero").is_dir():
        return _Universal(merged, parameters, folder)
    return _Plain(folder, parameters)


@contextmanager
def whole_checkpoint(
    folder: Path,
    parameters: Mapping[str, WholeParameter],
    *,
    scratch: Path | None = None,
    workers: int = 1,
) -> Iterator[WholeCheckpoint]:
    """Merge and read a checkpoint in one process; the merged copy is removed when the block ends.

    Args:
        folder, parameters, workers: as above.
        scratch: folder for the merged copy (the system's temporary folder).
    """
    with tempfile.TemporaryDirectory(prefix="megabert-merge-", dir=scratch) as temporary:
        merge_partitions(folder, Path(temporary), workers=workers)
        yield open_merged(folder, Path(temporary), parameters)
