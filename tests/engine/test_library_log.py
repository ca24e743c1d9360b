"""DeepSpeed's messages go to the file of the run that is being made, one file per rank that has any."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from megabert.engine.library_log import log_deepspeed_to, prints_logged


@pytest.fixture
def library() -> Iterator[logging.Logger]:
    logger = logging.getLogger("DeepSpeed")
    handlers, level = list(logger.handlers), logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


def world(rank: int) -> Any:
    return SimpleNamespace(is_main=rank == 0, topology=SimpleNamespace(rank=rank))


def test_each_run_has_its_own_log(library: logging.Logger, tmp_path: Path) -> None:
    for name in ("one", "two"):
        log_deepspeed_to(tmp_path / f"{name}.log", world(0))
        library.info("message of %s", name)
    assert len(library.handlers) == 1
    for name, other in (("one", "two"), ("two", "one")):
        text = (tmp_path / f"{name}.log").read_text()
        assert f"message of {name}" in text
        assert other not in text


def test_other_ranks_write_warnings_only(library: logging.Logger, tmp_path: Path) -> None:
    log_deepspeed_to(tmp_path / "deepspeed.log", world(3))
    library.info("not written")
    assert not list(tmp_path.iterdir())
    library.warning("written")
    assert [path.name for path in tmp_path.iterdir()] == ["deepspeed-rank3.log"]
    assert "written" in (tmp_path / "deepspeed-rank3.log").read_text()


def test_what_deepspeed_prints_is_logged(
    library: logging.Logger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_deepspeed_to(tmp_path / "deepspeed.log", world(0))
    with prints_logged():
        print("MA 0.43 GB\n  CA 0.0 GB")
    assert capsys.readouterr().out == ""
    text = (tmp_path / "deepspeed.log").read_text()
    assert "MA 0.43 GB" in text
    assert "CA 0.0 GB" in text
