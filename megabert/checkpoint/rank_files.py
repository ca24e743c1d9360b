"""Tensors in the optimizer files of ZeRO's ranks, stages 1 to 3: read where they lie, nothing is written.

Every rank's file holds flat partitions: fp32 weights and moments of a part of all tensors, end to end.
At stages 1 and 2 a file lists the places of its tensors (``param_slice_mappings``). At stage 3 they
follow from the tensors' shapes: each data-parallel rank has an equal part of each, the last ones less.
The files stay mapped, so that only what is asked for is read from the disk.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megabert.checkpoint.deepspeed_files import base_optimizer, read_deepspeed_file
from megabert.common.errors import UserError

_NAME = re.compile(r"(?:bf16_)?zero_pp_rank_(\d{1,6})_mp_rank_(\d{1,6})_optim_states\.pt")
_TENSOR_RANK = re.compile(r"mp_rank_(\d{1,6})_(?:model|optim)_states\.pt$")
_MODEL_NAME = "zero_pp_rank_0_mp_rank_{:02d}_model_states.pt"
_MALFORMED = (
    ArithmeticError,
    AttributeError,
    IndexError,
    KeyError,
    RuntimeError,
    TypeError,
    ValueError,
)


def is_state(key: str, value: Any) -> bool:
    """Whether an entry of an optimizer's state is one of its tensors (not a counter)."""
    return key != "weight" and isinstance(value, Tensor) and value.dim() > 0


@dataclass(frozen=True)
class _Fragment:
    """A part of one tensor in a rank's flat partition."""

    weights: Tensor
    state: Mapping[str, Any]
    start: int
    numel: int

    def read(self, kind: str) -> Tensor:
        flat = self.weights if kind == "weight" else self.state.get(kind)
        if flat is None:  # saved before the first update
            return torch.zeros(self.numel)
        return flat[self.start : self.start + self.numel].to(torch.float32)


class RankFiles:
    """The optimizer files of a checkpoint of stage 1, 2 or 3.

    Attributes:
        states: names of the optimizer's state tensors, by name of the parameter; none before the first
            update.
        steps: counters of updates, one if the files belong together.
        degree: of tensor parallelism.

    Raises:
        UserError: files are missing or damaged, or hold something else.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fragments: dict[str, dict[int, list[_Fragment]]] = {}
        self.states: dict[str, tuple[str, ...]] = {}
        self.steps: set[int] = set()
        shapes: dict[int, Any] = {}
        grid = _grid(folder)
        for (tensor_rank, data_rank), path in grid.items():
            content = read_deepspeed_file(path)
            try:
                own, base = content["optimizer_state_dict"], base_optimizer(content)
                ranks = own.get("partition_count", ())
                if any(len(grid) % n for n in (ranks if isinstance(ranks, list) else [ranks])):
                    raise _incomplete(folder, len(grid))
                holders = [*base.get("state", {}).values(), *base.get("param_groups", ())]
                self.steps |= {int(holder["step"]) for holder in holders if "step" in holder}
                if own.get("zero_stage") == 3 and tensor_rank not in shapes:
                    model = read_deepspeed_file(folder / _MODEL_NAME.format(tensor_rank))
                    shapes[tensor_rank] = model["param_shapes"]
                found = _fragments(own, base, shapes.get(tensor_rank), data_rank)
                for name, fragment in found:
                    parts = self._fragments.setdefault(name, {})
                    parts.setdefault(tensor_rank, []).append(fragment)
                    more = [k for k in fragment.state if k not in self.states.get(name, ())]
                    self.states[name] = (*self.states.get(name, ()), *more)
            except _MALFORMED as error:
                raise UserError(
                    f"{path} is not a rank's file of a checkpoint: {type(error).__name__} {error}"
                ) from error
        self.degree = tensor_rank + 1

    def parts(self, name: str, kind: str, shape: tuple[int, ...]) -> list[Tensor]:
        """A weight or state tensor of each tensor-parallel rank, fp32, of this shape.

        Raises:
            UserError: the files hold another number of its elements.
        """
        parts = []
        for _, fragments in sorted(self._fragments[name].items()):
            flat = torch.cat([fragment.read(kind) for fragment in fragments])
            if flat.numel() != math.prod(shape):
                raise UserError(
                    f"{self._folder}: its files hold {flat.numel()} elements of {name} ({kind}), and "
                    f"the model needs {math.prod(shape)}, {list(shape)}, of each tensor-parallel rank: "
                    "files are missing, or it is another model's"
                )
            parts.append(flat.view(shape))
        return parts


def _grid(folder: Path) -> dict[tuple[int, int], Path]:
    """File by tensor-parallel and data-parallel rank, in this order."""
    matches = [(_NAME.fullmatch(path.name), path) for path in folder.glob("*_optim_states.pt")]
    found = {(int(match[2]), int(match[1])): path for match, path in matches if match}
    saved = [match for path in folder.glob("*.pt") if (match := _TENSOR_RANK.search(path.name))]
    degree = max((int(match[1]) for match in saved), default=-1) + 1
    data_ranks = max((data_rank for _, data_rank in found), default=-1) + 1
    if not found or len(found) != degree * data_ranks:
        raise _incomplete(folder, len(found))
    return dict(sorted(found.items()))


def _incomplete(folder: Path, found: int) -> UserError:
    return UserError(
        f"{folder} holds the optimizer files of {found} ranks, and not those of all: it is incomplete"
    )


def _fragments(
    own: dict[str, Any], base: Mapping[str, Any], shapes: Any, data_rank: int
) -> Iterator[tuple[str, _Fragment]]:
    """Names and fragments of one rank's file; ``shapes``: of all tensors by sub-group, at stage 3."""
    if shapes is None:
        flats, places = own["single_partition_of_fp32_groups"], own["param_slice_mappings"]
    else:
        flats, ranks = own["fp32_flat_groups"], int(own["partition_count"])
        places = [_places(sub_group, ranks, data_rank) for sub_group in shapes]
    for number, (flat, mapping) in enumerate(zip(flats, places, strict=True)):
        state = base.get("state", {}).get(number, {})
        held = {key: value for key, value in state.items() if is_state(key, value)}
        for name, place in mapping.items():
            start, numel = (place.start, place.numel) if shapes is None else place
            end = start + numel
            if type(start) is not int or type(numel) is not int or start < 0 or numel < 0:
                raise ValueError(f"{name} is at no valid place")
            if any(value.dim() != 1 or value.numel() < end for value in (flat, *held.values())):
                raise ValueError(f"{name} reaches beyond the partition it is in")
            if numel:
                yield name, _Fragment(flat, held, start, numel)


def _places(shapes: Mapping[str, Any], ranks: int, rank: int) -> dict[str, tuple[int, int]]:
    """Start and length of a data-parallel rank's part of each tensor in a sub-group of stage 3."""
    places, start = {}, 0
    for name, shape in shapes.items():
        numel = math.prod(shape)
        part = -(-numel // ranks)
        places[name] = start, max(0, min(part, numel - rank * part))
        start += part
    return places
