"""What is compiled at first use: the caches that keep it, and what Triton needs of the machine.

Triton, torch's extensions and our own library keep compiled code in the home folder. A home that is
missing, cannot be written, or is on a network file system is replaced by a folder of this user on a
local disk, unless the user has set the variable of that cache.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shutil
import stat
import sysconfig
import tempfile
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from megabert.common.log import get_logger

_CACHES = {
    "TRITON_CACHE_DIR": "triton",
    "TORCH_EXTENSIONS_DIR": "torch_extensions",
    "MEGABERT_CACHE": "megabert",
}
"""Variable -> folder of a local cache."""
_NETWORK = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "ceph", "glusterfs", "fuse.glusterfs",
    "fuse.sshfs", "lustre", "gpfs", "beegfs", "pvfs2", "panfs", "wekafs",
})  # fmt: skip
_MOUNTS = Path("/proc/mounts")


def file_system(place: Path, mounts: Path = _MOUNTS) -> str:
    """The type of the file system of ``place`` ("ext4", "nfs4"); "" if the system does not say it."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    absolute, kind, longest = place.resolve(), "", -1
    for fields in (line.split(" ") for line in lines):
        if len(fields) > 2:
            point = Path(fields[1].replace("\\040", " "))
            # of two mounts at one point the later one is seen
            if absolute.is_relative_to(point) and len(point.parts) >= longest:
                kind, longest = fields[2], len(point.parts)
    return kind


def unsuitable_home(home: str, mounts: Path = _MOUNTS) -> str | None:
    """Why compiled code is not kept in ``home``; None: it is.

    ``home``: as ``os.path.expanduser("~")`` returns it.
    """
    place = Path(home)
    if not place.is_absolute():
        return "this user has no home folder"
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        return f"the home folder {home} cannot be written"
    kind = file_system(place, mounts)
    return (
        f"the home folder {home} is on a network file system ({kind})" if kind in _NETWORK else None
    )


def private_folder(parent: Path) -> Path:
    """A folder in ``parent`` that only this user can write; others must not plant code there."""
    folder = parent / f"megabert-{os.geteuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077:
        return folder
    return Path(tempfile.mkdtemp(prefix="megabert-", dir=parent))


def set_caches(environment: MutableMapping[str, str], mounts: Path = _MOUNTS) -> str | None:
    """Set the caches that are not set, where the home folder is unsuitable; what was done, in a line."""
    missing = [name for name in _CACHES if not environment.get(name)]
    if environment.get("TRITON_HOME") and "TRITON_CACHE_DIR" in missing:
        missing.remove("TRITON_CACHE_DIR")
    reason = unsuitable_home(os.path.expanduser("~"), mounts) if missing else None  # noqa: PTH111
    if reason is None:
        return None
    folder = private_folder(Path(tempfile.gettempdir()))
    for name in missing:
        environment[name] = str(folder / _CACHES[name])
    return (
        f"compiled code is kept in {folder}, because {reason}; other folders: {', '.join(missing)}"
    )


@functools.cache
def prepare_caches() -> None:
    """:func:`set_caches` of this process, with a line in the log."""
    try:
        line = set_caches(os.environ)
    except OSError as error:
        line = f"no folder for compiled code: {error}; set {', '.join(_CACHES)}"
    if line is not None:
        get_logger().info("%s", line)


def _make_launcher() -> Any:
    """Have Triton compile its launcher of kernels, or read it from its cache."""
    from triton.runtime import driver

    return driver.active


def require_launcher(make: Callable[[], Any] = _make_launcher) -> None:
    """On a GPU: find out before a long start whether Triton can launch kernels.

    Raises:
        UserError: it cannot, and what to install.
    """
    if importlib.util.find_spec("triton") is None:
        return  # plain torch operators, with a warning where they are chosen
    try:
        make()
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(compiler_fault(os.environ) or _other_fault(reason)) from error


def compiler_fault(environment: Mapping[str, str]) -> str | None:
    """What is missing of that with which Triton compiles its launcher, and how to get it; None: nothing.

    Triton takes ``CC``, or gcc, or clang, and Python's headers (triton/runtime/build.py).
    """
    chosen = environment.get("CC")
    path = environment.get("PATH", os.defpath)
    cure = "apt install gcc python3-dev, or the like"
    if chosen is not None and shutil.which(chosen, path=path) is None:
        return (
            f"CC={chosen} in the environment is not a program: Triton compiles its launcher of GPU kernels "
            "with it, and takes no arguments; set CC to one program, or unset it"
        )
    if chosen is None and not any(shutil.which(name, path=path) for name in ("gcc", "clang")):
        return f"no C compiler (gcc, clang): Triton needs one to launch kernels on a GPU; {cure}"
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")
    header = Path(sysconfig.get_paths(scheme=scheme)["include"]) / "Python.h"
    if not header.is_file():
        return (
            f"{header} is missing: Triton needs Python's headers to launch kernels on a GPU; {cure}"
        )
    return None


def _other_fault(reason: str) -> str:
    return (
        f"Triton cannot compile its launcher of GPU kernels: {reason}; see the lines above, or uninstall "
        "triton to train with plain torch operators, which are slower"
    )
