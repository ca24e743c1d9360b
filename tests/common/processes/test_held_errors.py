"""Standard error without the lines of a panic."""

from __future__ import annotations

import os

import pytest

from megabert.common.processes.held_errors import without_panic_lines


@pytest.mark.parametrize(
    "panic", ["", "\nthread '<unnamed>' (71) panicked at src/lib.rs:6:2:\ngives up\nnote: run\n"]
)
def test_lines_of_a_panic_are_dropped(panic: str, capfd: pytest.CaptureFixture[str]) -> None:
    os.write(2, b"before\n")
    with without_panic_lines():
        os.write(2, b"a warning\n")
        os.write(2, panic.encode())
        assert capfd.readouterr().err == "before\n"
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "a warning\nafter\n"
