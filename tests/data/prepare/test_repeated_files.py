"""Files that are given twice are found by path, link and content."""

from __future__ import annotations

from pathlib import Path

import pytest

from megabert.common.files import sha256_of_file
from megabert.data.prepare.notices.repeated import log_repeated, same_contents, same_places


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    a, b, c, d, empty, void = (tmp_path / name for name in ("a", "b", "c", "d", "empty", "void"))
    a.write_text("words")
    b.write_text("other")
    c.symlink_to(a)
    d.write_text("words")
    empty.touch()
    void.touch()
    return [a, b, c, d, tmp_path / "." / "b", empty, void, tmp_path / "missing"]


def test_links_paths_and_copies(files: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    places = same_places(files)
    assert places == {2: 0, 4: 1}
    found = same_contents(files, lambda index: sha256_of_file(files[index]), places)
    assert found == {2: 0, 3: 0, 4: 1}
    log_repeated(files, found)
    [line] = capsys.readouterr().err.splitlines()
    assert "3 of 8 input files repeat an earlier one" in line
    assert f"{files[3]} = {files[0]}" in line
    log_repeated(files, {})
    assert not capsys.readouterr().err


def test_only_files_of_equal_size_are_digested(tmp_path: Path) -> None:
    files = [tmp_path / str(n) for n in range(4)]
    for n, path in enumerate(files):
        path.write_text("x" * (n + 1))
    assert same_contents(files, lambda _: pytest.fail("digested"), {}) == {}


def test_a_copy_of_a_link_target_that_is_itself_a_copy(tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    a.write_text("words")
    b.write_text("words")
    c.symlink_to(b)
    files = [a, b, c]
    found = same_contents(files, lambda n: sha256_of_file(files[n]), same_places(files))
    assert found == {1: 0, 2: 0}
