"""Whole tensors of a checkpoint by parameter name, read from the files of all ranks on access.

Stages 1 to 3 are read by :mod:`megabert.checkpoint.rank_files`. Stage 0 has no partitions: its ``mp_rank``
files hold tensor parallel parts. Parts of tensors are joined here; copies that tensor-parallel ranks hold
of one tensor are averaged, if no more than rounding is between them.

Nothing is trusted: names, shapes and element counts are compared with those of the unsplit model.
Nothing is written, and any number of processes may read at the same time.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megabert.checkpoint.deepspeed_files import read_deepspeed_file, zero_stage
from megabert.checkpoint.rank_files import RankFiles, is_state
from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.model.parameters import WholeParameter, merge
from megabert.optim.base import EMA

_ADAM = ("exp_avg", "exp_avg_sq")
"""State tensors of a checkpoint from before the first update, which holds none."""
_LARGEST_DIFFERENCE = 0.01
"""Between copies on tensor-parallel ranks, of the tensor's largest number: more is not rounding."""


class WholeCheckpoint(Mapping[str, dict[str, Tensor]]):
    """Whole tensors by parameter name, read on access (``items()``: one at a time).

    Attributes:
        step: updates that the optimizer has made.
        states: names of each parameter's state tensors.
        parameters: every whole parameter (padded vocabulary).
        largest_difference: between copies of a tensor that were read, of the tensor's largest number.
    """

    def __init__(
        self,
        parameters: Mapping[str, WholeParameter],
        step: int,
        states: Mapping[str, Sequence[str]],
        source: Path,
    ) -> None:
        self.parameters = dict(parameters)
        self.step = step
        if not any(states.values()):
            states = dict.fromkeys(self.parameters, _ADAM)
        self.states = {name: tuple(states.get(name, ())) for name in self.parameters}
        self.largest_difference = 0.0
        self._source = source

    def __iter__(self) -> Iterator[str]:
        return iter(self.parameters)

    def __len__(self) -> int:
        return len(self.parameters)

    def __contains__(self, name: object) -> bool:
        return name in self.parameters

    def weights(self, *, averaged: bool = False) -> dict[str, Tensor]:
        """All weights (not the moments): fp32, whole; or their moving average, if it is kept.

        A tensor without one has had no update, so its average is the weight itself.
        """
        return {
            name: self.read(name, EMA if averaged and EMA in self.states[name] else "weight")
            for name in self.parameters
        }

    def __getitem__(self, name: str) -> dict[str, Tensor]:
        """``weight`` and the optimizer's state of a parameter: fp32, whole, on the CPU."""
        return {kind: self.read(name, kind) for kind in ("weight", *self.states[name])}

    def read(self, name: str, kind: str) -> Tensor:
        """The weight or one state tensor of a parameter.

        Raises:
            UserError: it has another shape than in the unsplit model.
        """
        parts, dim = self._parts(name, kind), self.parameters[name].split_dim
        tensor = self._average(name, kind, parts) if dim is None else merge(parts, dim)
        tensor, shape = tensor.to(torch.float32), self.parameters[name].shape
        if tuple(tensor.shape) != tuple(shape):
            raise UserError(
                f"{self._source}: merging {name} ({kind}) gave shape {list(tensor.shape)} where the "
                f"model has {list(shape)}"
            )
        return tensor

    @abstractmethod
    def _parts(self, name: str, kind: str) -> list[Tensor]:
        """What each tensor-parallel rank holds of it."""

    def _average(self, name: str, kind: str, copies: Sequence[Tensor]) -> Tensor:
        """The mean of copies; the first one where all are equal."""
        if all(torch.equal(copies[0], copy) for copy in copies[1:]):
            return copies[0]
        stacked = torch.stack(list(copies)).detach().double()
        apart = float((stacked.amax(0) - stacked.amin(0)).max() / stacked.abs().max())
        if not apart <= _LARGEST_DIFFERENCE:
            raise UserError(
                f"{self._source}: {name} ({kind}) differs between tensor parallel ranks by "
                f"{100 * apart:.2g} % of its largest number, and must be the same on all except for "
                "rounding; use another checkpoint"
            )
        self.largest_difference = max(self.largest_difference, apart)
        return torch.where((stacked == stacked[0]).all(0), copies[0], stacked.mean(0).float())

    def log_difference(self) -> None:
        """Say how far apart the copies were that have been read."""
        if self.largest_difference:
            get_logger().warning(
                "%s: copies of tensors differ between tensor-parallel ranks, by up to %.2g of a tensor's "
                "largest number: their mean is used",
                self._source,
                self.largest_difference,
            )


class _Partitioned(WholeCheckpoint):
    """Stages 1 to 3."""

    def __init__(self, folder: Path, parameters: Mapping[str, WholeParameter]) -> None:
        self._files = RankFiles(folder)
        _compare_names(set(self._files.states), parameters, folder)
        step = one_step(self._files.steps, folder)
        super().__init__(parameters, step, self._files.states, folder)

    def _parts(self, name: str, kind: str) -> list[Tensor]:
        parameter = self.parameters[name]
        shape = list(parameter.shape)
        if parameter.split_dim is not None:
            shape[parameter.split_dim] //= self._files.degree
        return self._files.parts(name, kind, tuple(shape))


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
        states = {
            name: [key for key, value in part.items() if is_state(key, value)]
            for name, part in self._ranks[0].items()
        }
        super().__init__(parameters, one_step(steps, folder), states, folder)

    def _parts(self, name: str, kind: str) -> list[Tensor]:
        parts = []
        for rank in self._ranks:
            part = rank[name].get(kind)
            weight = rank[name]["weight"]
            parts.append(torch.zeros_like(weight) if part is None else part.view(weight.shape))
        return parts


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


def one_step(steps: set[int], source: Path) -> int:
    """The step that all parts of a checkpoint agree on; 0 if none has one.

    Raises:
        UserError: they disagree.
    """
    if len(steps) > 1:
        raise UserError(f"{source}: parts of it were saved at different steps: {sorted(steps)}")
    return steps.pop() if steps else 0


def whole_checkpoint(folder: Path, parameters: Mapping[str, WholeParameter]) -> WholeCheckpoint:
    """The whole tensors of a checkpoint.

    Args:
        folder: a checkpoint folder (``checkpoints/<tag>``).
        parameters: every parameter of the model, padded vocabulary.

    Raises:
        UserError: the checkpoint is damaged, or its tensors are not those of the model.
    """
    kind = _Plain if zero_stage(folder) == 0 else _Partitioned
    return kind(folder, parameters)
