#!/usr/bin/env python
"""The tests of the kernels, by name, with what each one says that fails.

    python benchmarks/hour/kernel_tests.py [--interpreted] [--json FILE] [PATH...]

By default the tests marked gpu: each runs a CUDA kernel and compares it with the reference operators.
--interpreted runs some of the same checks in Triton's interpreter, on a CPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.steps.rounds import write_json
from megabert.common.log import run_command

PATHS = ("tests/kernels", "tests/optim/lamb", "tests/model")
INTERPRETED = ("tests/kernels/triton/test_kernels.py", "-k", "interpreter and same_masks")


class Collected:
    """A plugin of pytest: how each test ended, and what a failed one said; written after each one."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.passed: list[str] = []
        self.skipped: dict[str, str] = {}
        self.failed: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called after set-up, call and tear-down of each test."""
        if report.failed:
            lines = [line for line in report.longreprtext.splitlines() if line.startswith("E ")]
            self.failed[report.nodeid] = lines[0].removeprefix("E ").strip() if lines else "failed"
        elif report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
            self.skipped[report.nodeid] = reason
        elif report.when == "call":
            self.passed.append(report.nodeid)
        if report.when == "teardown":
            write_json(self.path, self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"passed": self.passed, "skipped": self.skipped, "failed": self.failed}


def main(argv: Sequence[str] | None = None) -> int:
    """Run them; pytest's exit status, or 1 if none of them ran."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="*", default=list(PATHS), help="files or folders of tests")
    parser.add_argument("--interpreted", action="store_true", help="a few, on a CPU")
    parser.add_argument("--json", type=Path, help="write everything there too")
    given = parser.parse_args(argv)
    chosen = list(INTERPRETED) if given.interpreted else ["-m", "gpu", *given.paths]
    collected = Collected(given.json)
    flags = ["-vv", "-p", "no:xdist", "-p", "no:cacheprovider", "--tb=short", "--durations=10"]
    status = int(pytest.main([*flags, *chosen], plugins=[collected]))
    write_json(given.json, collected.to_dict())
    return status or int(not collected.passed)


if __name__ == "__main__":
    run_command(main)
