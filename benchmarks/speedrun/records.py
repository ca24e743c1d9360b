"""Records: one file for each finished run, ``records/TRACK/ENTRY-seedN.json``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.hour.machine import commit, version
from benchmarks.steps.rounds import cpu_name
from megabert.common.files import write_json
from megabert.common.json_text import read_json_object
from megabert.common.names import RUN_CONFIG
from megabert.common.yaml_text import read_yaml_value

if TYPE_CHECKING:
    from benchmarks.speedrun.race import Race

RECORDS = Path(__file__).resolve().parent / "records"
FORMAT = "megabert-speedrun-record"
_LEFT_OUT = {"run": None, "trackers": None}
_PATHS = {"data": ("data", "eval_data", "replay", "tokenizer")}


def make_record(race: Race, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a finished run; ``checkpoint``: the record of its last one."""
    journal = race.journal
    resolved = read_yaml_value(race.folder / "run" / RUN_CONFIG)
    resolved = {
        section: {k: v for k, v in values.items() if k not in _PATHS.get(section, ())}
        for section, values in resolved.items()
        if section not in _LEFT_OUT and isinstance(values, dict)
    }
    points = sorted(journal["scores"].values(), key=lambda point: point["step"])
    return {
        "format": FORMAT,
        "entry": race.entry.name,
        "about": race.entry.about,
        "track": race.track.name,
        "seed": race.seed,
        "finished": journal["finished_at"],
        "score": journal["final"],
        "weights": race.entry.weights,
        "updates": journal["steps"],
        "tokens": checkpoint["tokens"],
        "cpu_seconds": round(sum(piece["cpu_seconds"] for piece in journal["pieces"]), 1),
        "wall_seconds": round(sum(piece["wall_seconds"] for piece in journal["pieces"]), 1),
        "pieces": len(journal["pieces"]),
        "budget": {"seconds": race.budget, "counts": race.track.unit},
        "ranks": 1 if race.track.gpu else race.entry.ranks,
        "vocabulary": race.entry.vocabulary,
        "settings": race.entry.settings,
        "resolved": resolved,
        "curve": points,
        "fit": journal.get("fit"),
        "data": journal["data"],
        "commit": commit(),
        "machine": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name() if race.track.gpu else None,
            "torch": torch.__version__,
            "deepspeed": version("deepspeed"),
        },
    }


def write_record(record: dict[str, Any], folder: Path | None = None) -> Path:
    """Write it to its place; one of the same entry, track and seed is replaced."""
    path = (folder or RECORDS) / record["track"] / f"{record['entry']}-seed{record['seed']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record, indent=1)
    return path


def read_records(folder: Path | None = None) -> list[dict[str, Any]]:
    """All records, by track, entry and seed."""
    found = [read_json_object(path) for path in sorted((folder or RECORDS).glob("*/*.json"))]
    return sorted(found, key=lambda r: (r["track"], r["entry"], r["seed"]))
