"""Outputs and inputs that are not regular files: nothing is replaced, and nothing is waited for."""

import os
import shutil
import socket
import stat
from pathlib import Path

import pytest

from megabert.common.errors import UserError
from megabert.common.files import new_file, new_folder, output_file, write_text
from tests.helpers.planted import called


def _make(kind: str, path: Path) -> None:
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    elif kind == "a folder":
        path.mkdir()
    elif os.geteuid() != 0:
        pytest.skip("only root can make a device")
    else:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("kind", ["a pipe", "a socket", "a folder", "a device"])
def test_only_files_are_replaced(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    output = Path("out")
    _make(kind, output)
    before = output.lstat()
    with pytest.raises(UserError, match=f"out is {kind}, not a file"):
        output_file(output)
    with pytest.raises(
        (UserError, IsADirectoryError), match=f"out is {kind}, not a file|folder|dir"
    ):
        write_text(output, "text")
    assert _names(Path()) == ["out"]
    assert output.lstat().st_ino == before.st_ino


def test_commands_keep_a_device(tmp_path: Path) -> None:
    run, node = tmp_path / "run", tmp_path / "node.png"
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0, "lr": 0.1}\n')
    _make("a pipe", node)
    line = called("launch/report.py", run, "--output", node).one_line(2)
    assert f"{node} is a pipe, not a file" in line
    line = called("data_tools/inspect_shards.py", tmp_path, "--plot", node).one_line(2)
    assert f"{node} is a pipe, not a file" in line
    line = called(
        "launch/predict.py", "--checkpoint", tmp_path, "--output", node, "--text", "a [MASK]"
    ).one_line(2)
    assert f"{node} is a pipe, not a file" in line
    assert node.is_fifo()


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_kept_and_its_file_written(there: bool, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    file, link = tmp_path / "far/file", tmp_path / "link"
    if there:
        file.write_text("old")
    link.symlink_to("far/file")
    write_text(output_file(link), "new")
    assert link.is_symlink()
    assert file.read_text() == "new"


def test_a_temporary_name_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("other")
    (tmp_path / "file.tmp").symlink_to("other")
    write_text(tmp_path / "file", "new")
    os.mkfifo(tmp_path / "file.tmp")
    with new_file(tmp_path / "file") as temporary:
        temporary.write_text("newer")
    assert (tmp_path / "file").read_text() == "newer"
    assert (tmp_path / "other").read_text() == "other"


def test_of_a_link_to_a_folder_only_the_link_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far/kept").write_text("kept")
    link = tmp_path / "link"
    link.symlink_to("far")
    with new_folder(link, replace_existing=True) as folder:
        (folder / "new").write_text("new")
    assert not link.is_symlink()
    assert _names(link) == ["new"]
    assert _names(tmp_path / "far") == ["kept"]
    shutil.rmtree(link)
    link.symlink_to("nowhere")
    for replace in (False, True):
        with (
            pytest.raises(UserError, match="is a link to nowhere, which is not there"),
            new_folder(link, replace_existing=replace),
        ):
            pass
    assert link.is_symlink()
