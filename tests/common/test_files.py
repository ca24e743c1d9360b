"""Files and folders appear whole or not at all, and in the right order on disk."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path

import pytest

from megabert.common import files
from megabert.common.errors import UserError
from tests.helpers.interrupts import interrupted_at_each_line

Events = list[tuple[str, str]]
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, of "abc"


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Events:
    """What is synced and renamed, in order, by names under ``tmp_path``."""
    found: Events = []
    real_sync, real_replace = os.fsync, Path.replace

    def name(path: Path) -> str:
        return path.relative_to(tmp_path).as_posix()

    def sync(descriptor: int) -> None:
        found.append(("sync", name(Path(f"/proc/self/fd/{descriptor}").readlink())))
        real_sync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        found.append(("rename to", name(target)))
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# ---------------------------------------------------------------- files


def test_content(tmp_path: Path) -> None:
    files.write_bytes(tmp_path / "bytes", b"\x00\xff")
    files.write_text(tmp_path / "text", "é\n")
    files.write_json(tmp_path / "json", {"é": [1]})
    files.write_json(tmp_path / "answers", {"é": 1}, indent=1, ensure_ascii=False)
    with files.new_text_file(tmp_path / "lines") as stream:
        stream.write("é\n")
        stream.write("b\n")
    assert (tmp_path / "bytes").read_bytes() == b"\x00\xff"
    assert (tmp_path / "text").read_bytes() == "é\n".encode()
    assert (tmp_path / "json").read_text() == '{\n  "\\u00e9": [\n    1\n  ]\n}\n'
    assert (tmp_path / "answers").read_text() == '{\n "é": 1\n}\n'
    assert (tmp_path / "lines").read_text() == "é\nb\n"
    assert len(names(tmp_path)) == 5


def test_a_file_is_replaced_only_when_its_content_is_on_disk(
    tmp_path: Path, events: Events
) -> None:
    files.write_text(tmp_path / "a", "old")
    with files.new_file(tmp_path / "a") as temporary:
        temporary.write_text("new")
        assert (tmp_path / "a").read_text() == "old"
        assert temporary.parent == tmp_path
    assert (tmp_path / "a").read_text() == "new"
    assert events == 2 * [("sync", "a.tmp"), ("rename to", "a"), ("sync", ".")]


def test_scratch_files_do_not_wait_for_the_disk(tmp_path: Path, events: Events) -> None:
    files.write_bytes(tmp_path / "a", b"a", durable=False)
    assert events == [("rename to", "a")]


def test_an_error_keeps_the_old_file_and_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")

    def write() -> None:
        with files.new_text_file(tmp_path / "a") as stream:
            stream.write("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("durable", [True, False])
def test_a_full_disk_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a").write_text("old")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left") as caught:
        files.write_bytes(tmp_path / "a", b"new", durable=durable)
    assert caught.value.filename == str(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_failing_sync_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "a").write_text("old")
    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"):
        files.write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_errors_name_the_file_and_not_its_temporary(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "missing" / "a", tmp_path / "folder"):
        with pytest.raises(OSError) as caught:
            files.write_text(path, "a")
        assert caught.value.filename == str(path)
        assert ".tmp" not in str(caught.value)
    assert names(tmp_path) == ["folder"]


def test_what_a_killed_writer_left_is_overwritten(tmp_path: Path) -> None:
    files.temporary_name(tmp_path / "a").write_text("half")
    files.write_text(tmp_path / "a", "whole")
    assert names(tmp_path) == ["a"]


def test_several_writers_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with files.new_file(path, unique=True) as one, files.new_file(path, unique=True) as other:
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"
    assert names(tmp_path) == ["a"]


def test_permissions_are_those_of_plain_files(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a", "")
    with files.new_folder(tmp_path / "b"):
        pass
    expected = {"a": 0o666 & ~files.umask(), "b": 0o777 & ~files.umask()}
    assert {n: stat.S_IMODE((tmp_path / n).stat().st_mode) for n in "ab"} == expected


# ---------------------------------------------------------------- folders


def test_an_interruption_at_any_line_leaves_the_old_folder_or_the_new_one(tmp_path: Path) -> None:
    output = tmp_path / "a" / "b"

    def write() -> None:
        with files.new_folder(output, replace_existing=True) as folder:
            (folder / "file").write_text("new")

    def write_first() -> None:
        with files.new_folder(output) as folder:
            (folder / "file").write_text("new")

    for _ in interrupted_at_each_line(write_first):
        assert names(tmp_path) in ([], ["a", "a/b", "a/b/file"])
        shutil.rmtree(tmp_path / "a", ignore_errors=True)

    write_first()
    results = set()
    for _ in interrupted_at_each_line(write):
        assert names(tmp_path) == ["a", "a/b", "a/b/file"]
        results.add((output / "file").read_text())
        (output / "file").write_text("old")
    assert results == {"old", "new"}


def test_a_folder_appears_whole(tmp_path: Path, events: Events) -> None:
    with files.new_folder(tmp_path / "out", unique=False) as folder:
        (folder / "a").write_text("a")
        (folder / "inner").mkdir()
        (folder / "inner" / "b").write_text("b")
        assert not (tmp_path / "out").exists()
    assert names(tmp_path) == ["out", "out/a", "out/inner", "out/inner/b"]
    inside, ending = set(events[:3]), events[3:]
    assert inside == {("sync", f"out.tmp/{name}") for name in ("a", "inner", "inner/b")}
    assert ending == [("sync", "out.tmp"), ("rename to", "out"), ("sync", ".")]


def test_a_folder_there_is_kept_or_replaced(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "old").write_text("old")
    with pytest.raises(UserError, match="out exists"), files.new_folder(output):
        pass
    with files.new_folder(output, replace_existing=True) as folder:
        (folder / "new").write_text("new")
        assert names(output) == ["old"]
    assert names(tmp_path) == ["out", "out/new"]


@pytest.mark.parametrize("unique", [True, False])
def test_a_folder_that_fails_leaves_no_trace(tmp_path: Path, unique: bool) -> None:
    def write() -> None:
        with files.new_folder(tmp_path / "new" / "parents" / "out", unique=unique) as folder:
            (folder / "a").write_text("a")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write()
    assert names(tmp_path) == []


def test_an_old_folder_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the new one cannot take the name, the old one has it again."""
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if target == output and self.name != "was":
            raise OSError(errno.EIO, "Input/output error")
        return real(self, target)

    output = tmp_path / "out"
    output.mkdir()
    (output / "old").write_text("old")
    monkeypatch.setattr(Path, "replace", replace)
    with (
        pytest.raises(OSError, match="Input/output"),
        files.new_folder(output, replace_existing=True) as folder,
    ):
        (folder / "new").write_text("new")
    assert names(tmp_path) == ["out", "out/old"]


def test_a_stale_folder_of_a_killed_run_is_removed(tmp_path: Path) -> None:
    (tmp_path / "out.tmp").mkdir()
    (tmp_path / "out.tmp" / "half").write_text("half")
    with files.new_folder(tmp_path / "out", unique=False):
        pass
    assert names(tmp_path) == ["out"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="cannot be written"),
        files.new_folder(tmp_path / "file" / "a"),
    ):
        pass


def test_removal_renames_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # killed before it removes anything
        files.remove_folder(tmp_path / "run")
    assert names(tmp_path) == ["run.removed.partial"]
    (tmp_path / "run").mkdir()
    files.remove_folder(tmp_path / "run")
    assert names(tmp_path) == []


def test_file_systems_that_cannot_sync_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", only_files)
    files.write_text(tmp_path / "a", "a")
    assert (tmp_path / "a").read_text() == "a"


# ---------------------------------------------------------------- SHA-256


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert files.sha256_of(b"abc") == files.sha256_of("abc") == ABC
    assert files.sha256_of_file(tmp_path / "a") == ABC
    assert files.sha256_of_parts([b"a", memoryview(b"bc")]) == ABC
    with pytest.raises(FileNotFoundError):
        files.sha256_of_file(tmp_path / "missing")
