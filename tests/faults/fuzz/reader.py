"""What a fuzzed reader is: its valid input, its mutations, and how sums are made right after them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.fuzz.mutations import Mutation

Sealed = Callable[[bytes], bytes]


@dataclass(frozen=True)
class FuzzedReader:
    """A reader of the table.

    Attributes:
        name: in the table.
        make: writes a small valid input into a folder and returns the file that is changed.
        read: reads what is at this path, to its end.
        mutations: what happens to the file.
        quick: inputs in ``make test``.
        seal: makes the sums of a changed file right; half of the inputs go through it. It may raise
            anything for a file in which there is no place for sums; the file then stays as it is.
        unpack: the content in which half of the mutations take place (``pack`` is its inverse), of
            files that are compressed.
    """

    name: str
    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    mutations: tuple[Mutation, ...]
    quick: int = 500
    seal: Sealed | None = None
    unpack: Sealed | None = None
    pack: Sealed | None = None
