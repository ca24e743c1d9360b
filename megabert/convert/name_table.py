"""The tensor names of a foreign format, and the functions that rename tensors by such a table.

A :class:`NameTable` describes a format completely: which of its names corresponds to which of ours,
which tensors repeat another one, which are left out on purpose, and how older files spell names.
Renaming accounts for every tensor: it is renamed, it is an equal copy of another, it is left out
for a reported reason, or an error names it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from megabert.common.errors import UserError

ENCODER = "encoder"
POOLER = "pooler"
MLM = "mlm"
NSP = "nsp"
QA = "qa"
SEQUENCE = "sequence"
TOKEN = "token"
CRF = "crf"


@dataclass(frozen=True)
class Name:
    """A tensor, or one per layer (``{i}`` in both names); ``transpose``: stored as [in, out]."""

    part: str
    ours: str
    theirs: str
    transpose: bool = False


def pair(
    part: str,
    ours: str,
    theirs: str,
    ends: tuple[str, str] = (".weight", ".bias"),
    *,
    transpose: bool = False,
) -> tuple[Name, Name]:
    """Weight and bias of a linear layer or of a LayerNorm; ``ends`` are added to ``theirs``."""
    weight, bias = ends
    return (
        Name(part, f"{ours}.weight", f"{theirs}{weight}", transpose),
        Name(part, f"{ours}.bias", f"{theirs}{bias}"),
    )


@dataclass(frozen=True)
class Copy:
    """A foreign tensor that must equal another one; it is read but never written."""

    theirs: str
    of: str


@dataclass(frozen=True)
class NameTable:
    """The tensor names of a foreign format.

    Attributes:
        format: its name, for messages.
        names: the tensors.
        copies: tensors that repeat another one.
        spellings: (pattern, replacement) pairs, applied to each foreign name in order with
            ``re.sub``.
        left_out: (pattern, reason) pairs; a name that matches completely is not needed.
    """

    format: str
    names: tuple[Name, ...]
    copies: tuple[Copy, ...] = ()
    spellings: tuple[tuple[str, str], ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()

    def expand(self, layers: int) -> Iterator[Name]:
        """All names, with ``{i}`` replaced by the number of each layer."""
        for name in self.names:
            if "{i}" not in name.ours:
                yield name
                continue
            for i in range(layers):
                yield Name(
                    name.part,
                    name.ours.replace("{i}", str(i)),
                    name.theirs.replace("{i}", str(i)),
                    name.transpose,
                )

    def parts(self) -> tuple[str, ...]:
        """The parts of a model that the table names (encoder, heads), in order."""
        return tuple(dict.fromkeys(name.part for name in self.names))

    def spell(self, name: str) -> str:
        """A foreign name as the table spells it."""
        for pattern, replacement in self.spellings:
            name = re.sub(pattern, replacement, name)
        return name


@dataclass
class Renamed:
    """Tensors under megabert's names; ``left_out`` holds the name and reason of all others."""

    tensors: dict[str, Tensor]
    parts: tuple[str, ...]
    left_out: list[tuple[str, str]] = field(default_factory=list)


def first_names(names: Iterable[str], most: int = 3) -> str:
    """``7 (a, b, c, ...)``: the number of names, and the first of them."""
    ordered = sorted(names)
    more = ", ..." if len(ordered) > most else ""
    return f"{len(ordered)} ({', '.join(ordered[:most])}{more})"


def check_depth(layers: int, tensors: int, source: object) -> None:
    """Check the number of layers before listing every tensor: a damaged number would fill memory.

    Raises:
        UserError: there are fewer tensors than layers.
    """
    if layers > tensors:
        raise UserError(
            f"{source} holds {tensors} tensors, but its configuration states {layers:,} layers"
        )


def to_ours(
    table: NameTable, foreign: Mapping[str, Tensor], layers: int, source: object
) -> Renamed:
    """Rename a foreign checkpoint.

    Args:
        table: the format.
        foreign: every tensor of the file(s), under the names found there.
        layers: number of encoder layers, according to its configuration.
        source: path, for messages.

    Raises:
        UserError: a tensor is missing, unknown, occurs twice or is not a plain array, or a copy
            differs from its original.
    """
    check_depth(layers, len(foreign), source)
    spelled: dict[str, Tensor] = {}
    for name, tensor in foreign.items():
        new = table.spell(name)
        if new in spelled:
            raise UserError(f"{source}: the tensor {new} occurs twice (the second time as {name})")
        spelled[new] = tensor

    left_out = _take_left_out(table, spelled)
    _check_plain(spelled, source)
    _take_copies(table, spelled, source)
    tensors: dict[str, Tensor] = {}
    parts = table.parts()
    missing: dict[str, list[str]] = {part: [] for part in parts}
    found: set[str] = set()
    for line in table.expand(layers):
        if line.theirs not in spelled:
            missing[line.part].append(line.theirs)
            continue
        tensor = spelled.pop(line.theirs)
        turned = line.transpose and tensor.dim() == 2  # another shape is reported later
        tensors[line.ours] = tensor.t().contiguous() if turned else tensor
        found.add(line.part)

    absent = [n for part in parts if part == ENCODER or part in found for n in missing[part]]
    problems = []
    if absent:
        problems.append(f"missing tensors: {first_names(absent)}")
    if spelled:
        problems.append(f"unexpected tensors: {first_names(spelled)}")
    if problems:
        raise UserError(
            f"{source} is not a {table.format} checkpoint of {layers} layers: {'; '.join(problems)}"
        )
    return Renamed(tensors, tuple(part for part in parts if part in found), left_out)


def _take_left_out(table: NameTable, spelled: dict[str, Tensor]) -> list[tuple[str, str]]:
    left_out = []
    for name in sorted(spelled):
        for pattern, reason in table.left_out:
            if re.fullmatch(pattern, name):
                left_out.append((name, reason))
                del spelled[name]
                break
    return left_out


def _check_plain(tensors: Mapping[str, Tensor], source: object) -> None:
    """Check for tensors that are not plain arrays: a pickle may hold sparse or empty ones.

    Raises:
        UserError: there is one; the message names it.
    """
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta:
            kind = "a tensor without content" if tensor.is_meta else f"of layout {tensor.layout}"
            raise UserError(f"{source}: {name} is {kind}; save it as a plain array")


def _take_copies(table: NameTable, spelled: dict[str, Tensor], source: object) -> None:
    for copy in table.copies:
        if copy.theirs not in spelled:
            continue
        repeated = spelled.pop(copy.theirs)
        original = spelled.get(copy.of)
        if original is None:
            spelled[copy.of] = repeated
        elif not torch.equal(original, repeated):
            raise UserError(
                f"{source}: {copy.theirs} differs from {copy.of}; megabert ties the two, so "
                "converting this checkpoint would change what it computes"
            )


def to_theirs(
    table: NameTable, ours: Mapping[str, Tensor], layers: int
) -> tuple[dict[str, Tensor], list[str]]:
    """Rename megabert's tensors to those of a foreign format.

    Returns:
        the tensors (each once, without copies), and those of our names that the format lacks.
    """
    by_ours = {name.ours: name for name in table.expand(layers)}
    theirs: dict[str, Tensor] = {}
    unmapped = []
    for ours_name, tensor in ours.items():
        name = by_ours.get(ours_name)
        if name is None:
            unmapped.append(ours_name)
        else:
            theirs[name.theirs] = (tensor.t() if name.transpose else tensor).contiguous()
    return theirs, unmapped
