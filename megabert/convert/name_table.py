"""What a foreign format calls our tensors, and the one engine that renames by such a table.

A format is described by a :class:`NameTable` and nothing else: which of its names is which of ours,
which tensors repeat another one, which are left out on purpose, and how older files spell the names.
Renaming accounts for every tensor: it is taken, it is a copy that proved equal, it is left out for a
reason that is told, or it is an error that names it.
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
    """One tensor (``{i}`` in both names: one a layer). ``transpose``: stored [in, out] there."""

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
    """Weight and bias of a linear layer or of a LayerNorm; ``ends``: what follows ``theirs``."""
    weight, bias = ends
    return (
        Name(part, f"{ours}.weight", f"{theirs}{weight}", transpose),
        Name(part, f"{ours}.bias", f"{theirs}{bias}"),
    )


@dataclass(frozen=True)
class Copy:
    """A foreign tensor that must hold the same values as another; it is read, never written."""

    theirs: str
    of: str


@dataclass(frozen=True)
class NameTable:
    """All that is known of a foreign format's tensor names.

    ``spellings``: (pattern, replacement) pairs applied to each foreign name in order, with
    ``re.sub``. ``left_out``: (pattern, reason) pairs; a name that matches fully is not needed.
    """

    format: str
    names: tuple[Name, ...]
    copies: tuple[Copy, ...] = ()
    spellings: tuple[tuple[str, str], ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()

    def expand(self, layers: int) -> Iterator[Name]:
        """The table's lines with ``{i}`` replaced by each layer's number."""
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
        """The encoder and the heads that the table names, in its order."""
        return tuple(dict.fromkeys(name.part for name in self.names))

    def spell(self, name: str) -> str:
        """A foreign name in the spelling of the table."""
        for pattern, replacement in self.spellings:
            name = re.sub(pattern, replacement, name)
        return name


@dataclass
class Renamed:
    """Tensors under our names, and what was left behind (name and reason)."""

    tensors: dict[str, Tensor]
    parts: tuple[str, ...]
    left_out: list[tuple[str, str]] = field(default_factory=list)


def first_names(names: Iterable[str], most: int = 3) -> str:
    """``7 (a, b, c, ...)``: how many names there are and the first of them."""
    ordered = sorted(names)
    more = ", ..." if len(ordered) > most else ""
    return f"{len(ordered)} ({', '.join(ordered[:most])}{more})"


def check_depth(layers: int, tensors: int, source: object) -> None:
    """Before a list is made of every tensor of every layer: a damaged number would fill the memory.

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
        layers: number of encoder layers its configuration states.
        source: path, for messages.

    Raises:
        UserError: a tensor is missing, unknown, given twice, no plain array, or a copy differs from
            its original.
    """
    check_depth(layers, len(foreign), source)
    spelled: dict[str, Tensor] = {}
    for name, tensor in foreign.items():
        new = table.spell(name)
        if new in spelled:
            raise UserError(f"{source}: the tensor {new} is there twice (again as {name})")
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
        turned = line.transpose and tensor.dim() == 2  # another shape is refused by its name later
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
    """Refuse what a pickle may hold beside arrays: sparse tensors, and those without content."""
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
                f"{source}: {copy.theirs} differs from {copy.of}; megabert ties the two, so this "
                "checkpoint cannot be converted without changing what it computes"
            )


def to_theirs(
    table: NameTable, ours: Mapping[str, Tensor], layers: int
) -> tuple[dict[str, Tensor], list[str]]:
    """Name our tensors as the foreign format does.

    Returns:
        the tensors (each written once, copies left to the reader), and those of our names that the
        format has no place for.
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
