"""Records of checkpoints whose sums are right, but not what they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megabert.checkpoint.record import read_checkpoint_record
from megabert.common.errors import UserError
from tests.helpers.sums import record_with_sum

_ENTRY = {"bytes": 1, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["files"].update({"../../x.pt": _ENTRY}), "plain name"),
        (lambda r: r["files"].update({"/tmp/x.pt": _ENTRY}), "plain name"),
        (lambda r: r["files"].update({"..": _ENTRY}), "plain name"),
        (lambda r: r["files"].update({"a.pt": 3}), "files.a.pt"),
        (lambda r: r["files"].update({"a.pt": {"bytes": True, "sha256": "0" * 64}}), "a.pt.bytes"),
        (lambda r: r["files"].update({"a.pt": {"bytes": 1, "sha256": "x"}}), "a.pt.sha256"),
        (lambda r: r.update(files=[]), "files: input should be a valid dictionary"),
        (lambda r: r.update(step="4"), "step: input should be a valid integer"),
        (lambda r: r.update(step=True), "step: input should be a valid integer"),
        (lambda r: r.update(step=-1), "step"),
        (lambda r: r.update(step=10**100), "step"),
        (lambda r: r.update(consumed_samples=1.5), "consumed_samples"),
        (lambda r: r.update(model=[]), "model: input should be a valid dictionary"),
        (lambda r: r.update(heads="mlm"), "heads: input should be a valid list"),
        (lambda r: r.update(skipped_ranges=[[1]]), r"skipped_ranges\[0\]"),
        (lambda r: r.update(guard=["a"]), "guard"),
        (lambda r: r.update(work=3), "work"),
        (lambda r: r.update(world_size=0), "world_size"),
        (lambda r: r.update(global_batch_size=0), "global_batch_size"),
        (lambda r: r.update(version=[2]), "version"),
    ],
)
def test_a_record_with_right_sums(
    change: Callable[[dict[str, Any]], object], message: str, root: Path, tmp_path: Path
) -> None:
    source = root / "tests" / "fixtures" / "run_zero1_dp2" / "checkpoints"
    record = json.loads(next(source.glob("step-*/megabert.json")).read_text())
    path = tmp_path / "megabert.json"
    path.write_bytes(record_with_sum(record))
    assert read_checkpoint_record(tmp_path).step == record["step"]
    change(record)
    path.write_bytes(record_with_sum(record))
    with pytest.raises(UserError, match=message) as caught:
        read_checkpoint_record(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"[", b"[" * 5_000, b"1" * 5_000, b"\xff", b"[]", b"3", b'{"version": 2}', b""]
)
def test_a_record_that_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "megabert.json").write_bytes(content)
    with pytest.raises(UserError, match=r"megabert\.json"):
        read_checkpoint_record(tmp_path)
