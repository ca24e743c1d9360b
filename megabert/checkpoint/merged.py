"""Whole tensors of a checkpoint by parameter name, after :mod:`megabert.checkpoint.universal` merged it.

Stages 1 to 3 are read from the merged folder. Stage 0 has no partitions, and DeepSpeed has no
converter for it: its ``mp_rank`` files hold tensor parallel parts, which are joined here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megabert.checkpoint.deepspeed_files import read_deepspeed_file
from megabert.checkpoint.universal import (
    CONVERTED,
    STATE_FILE,
    is_state,
    merge_partitions,
    one_step,
)
from megabert.common.errors import UserError
from megabert.common.json_text import read_json_object
from megabert.model.parameters import WholeParameter, merge
from megabert.model.plain_pickles import load_plain_archive

_WEIGHT = "fp32"
"""DeepSpeed's file name of a weight."""


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
        found = read_json_object(merged / STATE_FILE)
        super().__init__(parameters, found["step"], found["states"], source)
        self._files = dict(zip(self.states, CONVERTED), weight=_WEIGHT)

    def _read(self, name: str, kind: str) -> Tensor:
        path = self._zero / name / f"{self._files[kind]}.pt"
        if not path.is_file():
            raise UserError(f"{self._source} holds no {kind} of {name}")
        value = load_plain_archive(path, mapped=True)
        return value["param"] if isinstance(value, dict) else value


class _Plain(WholeCheckpoint):
    """Stage 0: one file per tensor parallel rank, each with the whole optimizer state of its part."""

    def __init__(self, folder: Path, parameters: Mapping[str, WholeParameter]) -> None:
        files = sorted(folder.glob("mp_rank_*_model_states.pt"))
        loaded = [read_deepspeed_file(path) for path in files]
        for path, state in zip(files, loaded):
            if state.get("mp_world_size", len(files)) != len(files):
                raise UserError(
                    f"{folder} holds {len(files)} mp_rank files of {state['mp_world_size']}: "
                    "the checkpoint is incomplete"
                )
            if state.get("optimizer") is None:
                raise UserError(f"{path} holds no optimizer state")
        self._ranks = [_parts_by_name(state, folder) for state in loaded]
        names = set(self._ranks[0])
        _compare_names(names, parameters, folder)
        steps = {int(p["step"]) for rank in self._ranks for p in rank.values() if "step" in p}
        parts = self._ranks[0].values()
        states = dict.fromkeys(k for p in parts for k, v in p.items() if is_state(k, v))
        super().__init__(parameters, one_step(steps, folder), tuple(states) or CONVERTED, folder)

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
                f"{self._source}: {name} ({kind}) differs between tensor parallel ranks, but must be "
                "the same on all; use another checkpoint"
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
