"""Caches of compiled code, and machines without a compiler."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

import pytest

from megabert.common.errors import UserError
from megabert.kernels.compiling import (
    compiler_fault,
    file_system,
    private_folder,
    require_launcher,
    set_caches,
    unsuitable_home,
)

NAMES = ("MEGABERT_CACHE", "TORCH_EXTENSIONS_DIR", "TRITON_CACHE_DIR")


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    """A table of mounts in which homes are on a server, as ``/proc/mounts`` shows it."""
    home = tmp_path / "my homes"
    (home / "ann").mkdir(parents=True)
    table = tmp_path / "mounts"
    shown = str(home).replace(" ", "\\040")
    table.write_text(
        f"/dev/sda / ext4 rw 0 0\nserver:/homes {shown} nfs4 rw 0 0\ntmpfs {tmp_path}/x tmpfs rw 0 0\n"
    )
    return table


def test_file_systems(tmp_path: Path, mounts: Path) -> None:
    assert file_system(tmp_path / "my homes" / "ann", mounts) == "nfs4"
    assert file_system(tmp_path / "my homes 2", mounts) == "ext4"
    assert file_system(tmp_path, tmp_path / "missing") == ""


def test_which_homes_are_unsuitable(tmp_path: Path, mounts: Path) -> None:
    assert unsuitable_home(str(tmp_path), mounts) is None
    assert "(nfs4)" in str(unsuitable_home(str(tmp_path / "my homes" / "ann"), mounts))
    assert "cannot be written" in str(unsuitable_home("/nonexistent", mounts))
    assert unsuitable_home("~", mounts) == "this user has no home folder"


def test_caches_move_to_a_local_folder_of_this_user(
    tmp_path: Path, mounts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    environment: dict[str, str] = {}
    assert set_caches(environment, mounts) is None
    assert not environment
    monkeypatch.setenv("HOME", str(tmp_path / "my homes" / "ann"))
    environment["TRITON_CACHE_DIR"] = "/chosen"
    line = set_caches(environment, mounts)
    local = tmp_path / f"megabert-{os.geteuid()}"
    assert line is not None
    assert str(local) in line
    assert sorted(environment) == list(NAMES)
    assert environment["TRITON_CACHE_DIR"] == "/chosen"
    assert environment["MEGABERT_CACHE"] == str(local / "megabert")
    assert local.stat().st_mode & 0o777 == 0o700
    assert set_caches(dict.fromkeys(NAMES, "/chosen"), mounts) is None


def test_a_folder_that_others_may_write_is_not_used(tmp_path: Path) -> None:
    planted = tmp_path / f"megabert-{os.geteuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    assert private_folder(tmp_path) != planted
    planted.chmod(0o700)
    assert private_folder(tmp_path) == planted


def test_what_triton_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = {"PATH": str(tmp_path)}
    assert "no C compiler (gcc, clang)" in str(compiler_fault(nothing))
    assert "CC=ccache gcc in the environment is not a program" in str(
        compiler_fault({"CC": "ccache gcc", **nothing})
    )
    compiler = tmp_path / "clang"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setattr(sysconfig, "get_paths", lambda **_: {"include": str(tmp_path)})
    assert "apt install gcc python3-dev" in str(compiler_fault(nothing))
    (tmp_path / "Python.h").touch()
    assert compiler_fault(nothing) is None


def test_tritons_own_build_without_a_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = pytest.importorskip("triton.runtime.build")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"no C compiler \(gcc, clang\): Triton needs one"):
        require_launcher(lambda: build.compile_module_from_src("int x;", "x"))


def test_another_fault_of_triton_is_quoted() -> None:
    def fail() -> None:
        raise AssertionError("libcuda.so cannot found!")

    with pytest.raises(
        UserError, match=r"Triton cannot compile its launcher .*libcuda.so cannot f"
    ):
        require_launcher(fail)
    require_launcher(lambda: None)
