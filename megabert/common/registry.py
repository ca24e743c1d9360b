"""Things found by name: built in, registered from outside, or brought by an installed package.

The names are known without importing what they name, so that a command's ``--help`` and its errors
stay fast.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from megabert.common.errors import UserError
from megabert.common.log import get_logger

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")

ATTRIBUTE = "REGISTERED"
"""What a file that is found by its place in a folder calls the object it adds."""


class Registry(Generic[T]):
    """Objects of one kind by name.

    Args:
        kind: what they are, for messages, as "task".
        built_in: name -> "module:attribute"; imported when it is asked for.
        group: group of the entry points ("name = module:attribute") through which an installed
            package adds its own.
        folder: a package in whose folder every file ``some_name.py`` adds the object "some-name", its
            attribute :data:`ATTRIBUTE`; no other file has to name it.
        check: raises UserError for an object of another package that is not what the kind asks for.
    """

    def __init__(
        self,
        kind: str,
        built_in: Mapping[str, str],
        group: str,
        folder: str | None = None,
        check: Callable[[str, object], None] | None = None,
    ) -> None:
        self.kind, self.group, self.folder, self._check = kind, group, folder, check
        self._reported: set[str] = set()
        self._built_in = dict(built_in)
        self._registered: dict[str, T] = {}

    @cached_property
    def _installed(self) -> dict[str, EntryPoint]:
        files = [] if self.folder is None else _modules(self.folder)
        installed = _any_package_has(self.group)
        if not files and not installed:
            return {}
        from importlib.metadata import EntryPoint, entry_points  # 25 ms, which --help would notice

        points = list(entry_points(group=self.group)) if installed else []
        for stem in files:
            place = f"{self.folder}.{stem}:{ATTRIBUTE}"
            points.append(EntryPoint(stem.replace("_", "-"), place, self.group))
        return {point.name: point for point in points}

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
            raise UserError(
                f"unknown {self.kind} {name!r}; known: {known}; another one needs the package that adds it"
            )
        loaded = self._load(self._installed[name])
        if self._check is not None:
            self._check(name, loaded)
        self.register(name, loaded)
        return self._registered[name]

    def usable(self, names: Iterable[str]) -> Iterator[tuple[str, T]]:
        """(name, object) of those that can be had; the others are logged once and left out.

        A package that is broken must not stop runs that do not ask for what it brings.
        """
        for name in names:
            try:
                yield name, self.get(name)
            except UserError as error:
                if name not in self._reported:
                    self._reported.add(name)
                    get_logger().warning("%s", error)

    def _load(self, point: EntryPoint) -> T:
        try:
            thing: T = point.load()
        except Exception as error:  # whatever another package's module raises when it is imported
            package = point.dist.name if point.dist is not None else point.value
            reason = error if isinstance(error, ImportError | AttributeError) else repr(error)
            raise UserError(
                f"{self.kind} {point.name!r} of the package {package} cannot be imported: {reason}; "
                "repair or uninstall the package"
            ) from error
        return thing


def _modules(package: str) -> list[str]:
    """Names of the modules in a package's folder, without importing them."""
    from importlib.util import find_spec

    spec = find_spec(package)
    folders = spec.submodule_search_locations if spec is not None else None
    found = [path.stem for folder in folders or () for path in Path(folder).glob("*.py")]
    return sorted(name for name in found if not name.startswith("_"))


def _any_package_has(group: str) -> bool:
    """Whether the metadata of an installed package mentions a group of entry points."""
    return any(group.encode() in content for content in _entry_point_files(tuple(sys.path)))


@cache
def _entry_point_files(search_path: tuple[str, ...]) -> tuple[bytes, ...]:
    """The entry_points.txt of every package that is installed on a search path (1 ms)."""
    found = []
    for folder in search_path:
        try:
            with os.scandir(folder or ".") as entries:
                packages = [e.path for e in entries if e.name.endswith((".dist-info", ".egg-info"))]
        except OSError:  # a zip file, or a folder that does not exist
            continue
        for package in packages:
            try:
                found.append(Path(package, "entry_points.txt").read_bytes())
            except OSError:
                continue
    return tuple(found)
