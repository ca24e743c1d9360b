"""What trackers have written, read back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_HEADER, _BLOCK, _RECORD = 7, 32768, 7


def _wandb_records(path: Path) -> Iterator[bytes]:
    """Records of an offline file of wandb, in the format of LevelDB's log."""
    content = path.read_bytes()
    assert content.startswith(b":W&B")
    place, parts = _HEADER, b""
    while place + _RECORD <= len(content):
        left = _BLOCK - place % _BLOCK
        if left < _RECORD:
            place += left
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        if not kind:
            return
        parts += content[place + _RECORD : place + _RECORD + size]
        place += _RECORD + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield parts
            parts = b""


def wandb_run(file: Path) -> dict[str, Any]:
    """id, config, history, summary, exit code (None: it did not end) and whether it was preempted."""
    from wandb.proto import wandb_internal_pb2

    run: dict[str, Any] = {"history": [], "summary": {}, "exit": None, "preempted": False}
    for content in _wandb_records(file):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run["id"], run["project"], run["name"] = (
                record.run.run_id, record.run.project, record.run.display_name,
            )  # fmt: skip
            for item in record.run.config.update:
                run.setdefault("config", {})[item.key] = json.loads(item.value_json)
        elif kind == "config":
            for item in record.config.update:
                run.setdefault("config", {})[item.key] = json.loads(item.value_json)
        elif kind == "history":
            row = {}
            for item in record.history.item:
                row[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
            run["history"].append(row)
        elif kind == "summary":
            for item in record.summary.update:
                run["summary"][item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        elif kind == "exit":
            run["exit"] = record.exit.exit_code
        elif kind == "preempting":
            run["preempted"] = True
    return run


def wandb_files(folder: Path) -> list[Path]:
    """The offline files below a run folder, in the order in which they were begun."""
    return sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)


def mlflow_run(store: Path, identity: str) -> dict[str, Any]:
    """Status, parameters, tags, and metric -> [(step, value)], from a store in files."""
    folder = next(store.glob(f"*/{identity}"))
    points = {}
    for file in (folder / "metrics").rglob("*"):
        if file.is_file():
            rows = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
            points[str(file.relative_to(folder / "metrics"))] = [
                (int(row[2]), float(row[1])) for row in rows
            ]
    status = next(
        line.split()[1]
        for line in (folder / "meta.yaml").read_text(encoding="utf-8").splitlines()
        if line.startswith("status:")
    )
    texts = {
        kind: {path.name: path.read_text(encoding="utf-8") for path in (folder / kind).iterdir()}
        for kind in ("params", "tags")
    }
    artifacts = sorted(path.name for path in (folder / "artifacts").iterdir())
    return {"status": int(status), "metrics": points, "artifacts": artifacts, **texts}


def children_named(name: str, parent: int) -> list[int]:
    """Numbers of the processes of this name that a process has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            known, _, rest = (folder / "stat").read_text(encoding="utf-8").rpartition(")")
        except OSError:
            continue
        if known.endswith(f"({name}") and int(rest.split()[1]) == parent:
            found.append(int(folder.name))
    return found
