"""Readers that do what none may do, which a campaign has to find."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.faults.fuzz.mutations import bits
from tests.faults.fuzz.reader import FuzzedReader

_CONTENT = b"a valid file"


def _make(folder: Path) -> Path:
    path = folder / "a"
    path.write_bytes(_CONTENT)
    return path


def _reader(name: str, wrong: Callable[[], object]) -> FuzzedReader:
    def read(path: Path) -> None:
        if path.read_bytes() != _CONTENT:
            wrong()

    return FuzzedReader(name, _make, read, (bits,), quick=40)


def _raise() -> None:
    raise TypeError("not ours")


def _hang() -> None:
    while True:
        pass


def _crash() -> None:
    os.kill(os.getpid(), 11)


def _write_outside() -> None:
    (Path.cwd().parent / "fuzz-outside").touch()
    (Path.cwd().parent / "fuzz-outside").unlink()


WRONG: tuple[FuzzedReader, ...] = (
    _reader("raises", _raise),
    _reader("hangs", _hang),
    _reader("takes memory", lambda: bytearray(3 << 30)),
    _reader("writes outside", _write_outside),
    _reader("runs code", lambda: subprocess.run(["true"], check=True)),
    _reader("crashes", _crash),
)
