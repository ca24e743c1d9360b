"""Things found by name: built in, registered from outside, or brought by an installed package.

The names are known without importing what they name, so that a command's ``--help`` and its errors
stay fast.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from megabert.common.errors import UserError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")


class Registry(Generic[T]):
    """Objects of one kind by name.

    Args:
        kind: what they are, for messages, as "task".
        built_in: name -> "module:attribute"; imported when it is asked for.
        group: group of the entry points ("name = module:attribute") through which an installed
            package adds its own.
    """

    def __init__(self, kind: str, built_in: Mapping[str, str], group: str) -> None:
        self.kind, self.group = kind, group
        self._built_in = dict(built_in)
        self._registered: dict[str, T] = {}

    @cached_property
    def _installed(self) -> dict[str, EntryPoint]:
        if not _any_package_has(self.group):
            return {}
        from importlib.metadata import entry_points  # takes 25 ms, which --help would notice

        return {point.name: point for point in entry_points(group=self.group)}

    def names(self) -> tuple[str, ...]:
        """All names, the built-in ones first; imports nothing."""
        return tuple(dict.fromkeys([*self._built_in, *self._registered, *self._installed]))

    def own_names(self) -> tuple[str, ...]:
        """The names that are not built in; imports nothing."""
        return tuple(name for name in self.names() if name not in self._built_in)

    def register(self, name: str, thing: T) -> None:
        """Add ``thing`` under ``name``.

        Raises:
            UserError: something else has this name.
        """
        if name in self._built_in or self._registered.get(name, thing) is not thing:
            raise UserError(f"two objects are registered as {self.kind} {name!r}; rename one")
        self._registered[name] = thing

    def get(self, name: str) -> T:
        """The object of this name, imported if need be.

        Raises:
            UserError: there is none, or its package cannot be imported.
        """
        if name in self._registered:
            return self._registered[name]
        if name in self._built_in:
            module, attribute = self._built_in[name].split(":")
            thing: T = getattr(import_module(module), attribute)
            return thing
        if name not in self._installed:
            known = ", ".join(self.names())
            raise UserError(f"unknown {self.kind} {name!r}; known: {known}")
        self.register(name, self._load(self._installed[name]))
        return self._registered[name]

    def _load(self, point: EntryPoint) -> T:
        try:
            thing: T = point.load()
        except (ImportError, AttributeError) as error:
            package = point.dist.name if point.dist is not None else point.value
            raise UserError(
                f"{self.kind} {point.name!r} of the package {package} cannot be imported: {error}; "
                "repair or uninstall the package"
            ) from error
        return thing


def _any_package_has(group: str) -> bool:
    """Whether the metadata of an installed package mentions a group of entry points (1 ms)."""
    for folder in map(Path, sys.path):
        for kind in ("*.dist-info", "*.egg-info"):
            for file in folder.glob(f"{kind}/entry_points.txt"):
                if group in file.read_text(encoding="utf-8", errors="replace"):
                    return True
    return False
