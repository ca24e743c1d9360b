"""Wrong values end a benchmark before its work, and what run.sh calls exists and has room for its vocabulary."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_update, host_time
from data_tools import make_sample_wiki, train_tokenizer
from megabert.common.errors import UserError


@pytest.mark.parametrize(
    ("parse", "line", "message"),
    [
        (host_time.parse, "--layers 0", "--layers 0: expected a whole number from 1"),
        (host_time.parse, "--layers 2,x", "--layers 2,x: 'x': expected a whole number"),
        (host_time.parse, "--layers ''", "--layers '': expected a whole number"),
        (host_time.parse, "--rounds 0", "--rounds 0: expected a whole number from 1"),
        (gpu_update.parse, "--fill 7", "--fill 7: expected a number from 0.5 to 1"),
        (gpu_update.parse, "--precisions bf16,fp7", "'fp7': expected one of bf16, fp16, fp32, fp8"),
        (gpu_update.parse, "--micro-batch-size 0", "--micro-batch-size 0: expected a whole number"),
        (gpu_update.parse, "--gpus 0 --seq-length 0", "--seq-length 0: .*; --gpus 0: expected"),
        (gpu_update.parse, "--seq-length 513", "--seq-length 513: bert-large takes 512 at most"),
        (gpu_update.parse, "--models bert-tiny,none", "unknown model 'none'"),
        (gpu_update.parse, "--gpu v100-16", "--precisions bf16: .* does not support it"),
        (gpu_update.parse, "--json {folder}/none/x.json", "there is no folder {folder}/none"),
        (host_time.parse, "--json {folder}", "this is a folder; name a file"),
    ],
)
def test_wrong_values(
    parse: Callable[[list[str]], Any], line: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message.format(folder=tmp_path)):
        parse(shlex.split(line.format(folder=tmp_path)))


def test_values_are_read(tmp_path: Path) -> None:
    file = tmp_path / "new.json"
    given = gpu_update.parse(["--models", "bert-tiny,bert-mini", "--json", str(file)])
    assert (given.models, given.precisions) == (("bert-tiny", "bert-mini"), ("bf16",))
    assert given.json == file
    assert host_time.parse(["--layers", "2,4"]).layers == (2, 4)
    assert not file.exists()


@pytest.mark.parametrize(
    ("word", "status", "said"), [("--help", 0, ""), ("--foo", 2, "unexpected argument '--foo'")]
)
def test_run_sh_takes_no_arguments(
    word: str, status: int, said: str, root: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        ["bash", str(root / "benchmarks" / "run.sh"), word],
        env={"PATH": "/usr/bin:/bin", "WORK": str(tmp_path / "work")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == status
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == bool(said)
    assert ("make bench" in done.stdout) is (status == 0)
    assert not (tmp_path / "work").exists()


def test_what_run_sh_calls(root: Path, tmp_path: Path) -> None:
    """Its commands have the flags it gives, and its sample has words for its vocabulary."""
    text = (root / "benchmarks" / "run.sh").read_text(encoding="utf-8")
    calls = re.findall(r"python ((?:benchmarks|data_tools)/\S+\.py)(.*)", text)
    assert len(calls) > 10
    for script, line in calls:
        source = (root / script).read_text(encoding="utf-8")
        assert [flag for flag in re.findall(r"--[a-z-]+", line) if f'"{flag}"' not in source] == []
    sample, tokenizer = (shlex.split(line.replace("$work", str(tmp_path))) for _, line in calls[:2])
    make_sample_wiki.main(sample)
    assert train_tokenizer.main(tokenizer) == 0
