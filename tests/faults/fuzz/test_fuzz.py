"""Every reader of the table on damaged inputs: our one line or success, and nothing else.

The short run takes 500 inputs of each reader. The slow one takes MEGABERT_FUZZ_INPUTS of each
(100,000), and starts at MEGABERT_FUZZ_FIRST (0).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_ENVIRONMENT = {
    "PYTHONDONTWRITEBYTECODE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
}


def _campaign(root: Path, *arguments: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "tests.faults.fuzz.campaign", *arguments]
    environment = os.environ | _ENVIRONMENT | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def _assert_sound(results: list[dict[str, Any]]) -> None:
    assert results
    faults = [
        f"{result['reader']}, input {fault['number']} ({fault.get('mutations')}): {fault['fault']}"
        for result in results
        for fault in result["faults"]
    ]
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults[:5])
    for result in results:
        assert result["read"] + result["refused"] == result["inputs"], result
        assert result["refused"] > 0, result  # the mutations do reach the reader


@pytest.mark.parametrize("group", ["plain", "models"])
def test_damaged_files_end_in_one_line(group: str, root: Path) -> None:
    results = _campaign(root, "--readers", group)
    _assert_sound(results)
    assert min(result["inputs"] for result in results) >= 500


@pytest.mark.parametrize(
    ("reader", "number"),
    [
        ("text parquet", 9969),  # the name of a column is not UTF-8
        ("tokenizer_config.json", 952),  # a special token of several words
        ("task features.jsonl", 5661),  # a whole number that no float holds
        ("mlperf hdf5", 1028),  # lists that are read without end
    ],
)
def test_what_was_found(reader: str, number: int, root: Path) -> None:
    (result,) = _campaign(root, "--readers", reader, "--inputs", "1", "--first", str(number))
    assert not result["faults"]
    assert result["read"] + result["refused"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("group", ["plain", "models"])
def test_many_damaged_files(group: str, root: Path) -> None:
    inputs = os.environ.get("MEGABERT_FUZZ_INPUTS", "100000")
    first = os.environ.get("MEGABERT_FUZZ_FIRST", "0")
    _assert_sound(_campaign(root, "--readers", group, "--inputs", inputs, "--first", first))


def test_the_campaign_itself(root: Path) -> None:
    """Readers that do what none may do are found out."""
    results = _campaign(root, "--readers", "wrong", "--inputs", "1")
    for result, words in zip(
        results, ("TypeError", "takes longer", "MemoryError", "outside", "code", "SIGSEGV")
    ):
        assert any(words in fault["fault"] for fault in result["faults"]), (words, result)
    assert len(results) == 6
