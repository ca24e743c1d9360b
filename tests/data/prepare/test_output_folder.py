"""The output folder is checked before any input is read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from data_tools import shard_wiki
from megabert.common import names
from megabert.common.errors import UserError
from megabert.data.prepare import job
from megabert.data.prepare.output_folder import (
    JOB_FILE,
    WORK_FOLDER,
    check_output,
    output_folder,
)
from tests.helpers.small_dump import write_dump, write_vocabulary


def _places(folder: Path) -> dict[str, tuple[Path, str]]:
    """Outputs that cannot be used, and what is said of each."""
    (folder / "file").write_text("mine")
    for name, content in (("other", "notes.txt"), ("done", names.MANIFEST)):
        (folder / name).mkdir()
        (folder / name / content).write_text("{}")
    work = folder / "begun" / WORK_FOLDER
    work.mkdir(parents=True)
    (work / JOB_FILE).write_text(json.dumps({"options": {}}))
    (folder / "link").symlink_to(folder / "nothing")
    return {
        "a file": (folder / "file", "is a file"),
        "below a file": (folder / "file" / "shards", "is a file: name another place"),
        "something else": (folder / "other", "neither empty nor the folder of an unfinished job"),
        "finished": (folder / "done", "already holds finished shards"),
        "unfinished": (folder / "begun", "unfinished job; continue it with --resume"),
        "a broken link": (folder / "link", "a link to nothing"),
    }


def test_it_is_refused_before_inputs_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_too_early(*_: object) -> None:
        raise AssertionError("the inputs were read first")

    monkeypatch.setattr(job, "survey_inputs", read_too_early)
    dump, vocabulary = write_dump(tmp_path / "d.xml.bz2"), write_vocabulary(tmp_path / "v.txt")
    for output, expected in _places(tmp_path).values():
        with pytest.raises(UserError, match=expected):
            shard_wiki.main(
                ["--input", str(dump), "--tokenizer", str(vocabulary), "--output", str(output)]
            )


def test_what_can_be_used(tmp_path: Path) -> None:
    places = _places(tmp_path)
    (tmp_path / "empty").mkdir()
    check_output(tmp_path / "empty", False)
    check_output(tmp_path / "new" / "folders", False)
    check_output(places["finished"][0], True)
    check_output(places["unfinished"][0], True)
    assert not (tmp_path / "new").exists()


def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(
        UserError, match=r"shards cannot be written: Permission denied; .* belongs to"
    ):
        check_output(tmp_path / "shards", False)


def test_a_job_that_cannot_be_resumed_begins_again(tmp_path: Path) -> None:
    """Interrupted it leaves nothing; what a killed one left is removed, and another job's work is not."""
    output, this = (
        tmp_path / "out",
        {"version": "1", "inputs": [], "tokenizer": "t", "options": {"a": 1}},
    )

    def interrupted() -> None:
        with output_folder(output, this, False, restarts=True) as work:
            (work / "batch-0").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not output.exists()
    (output / ".sharding").mkdir(parents=True)
    (output / ".sharding" / "job.json").write_text(json.dumps(this))
    (output / "train-00000-of-00001.h5").touch()
    check_output(output, False, restarts=True)
    with output_folder(output, this, False, restarts=True):
        assert not list(output.glob("*.h5"))
    (output / ".sharding").mkdir(parents=True)
    (output / ".sharding" / "job.json").write_text(json.dumps({**this, "options": {"a": 2}}))
    with (
        pytest.raises(UserError, match="work of another job"),
        output_folder(output, this, False, restarts=True),
    ):
        pass
