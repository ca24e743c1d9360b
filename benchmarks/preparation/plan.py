"""How long a full dump takes, on how many cores, and what it needs: a model with measured constants.

    python benchmarks/preparation/plan.py --cores 1 64 512
    python benchmarks/preparation/plan.py --cores 64 --storage-gb-per-second 0.2 --tokens-billion 6

    python benchmarks/preparation/compare.py --dump en=dump.xml.bz2 --vocab vocab.txt --profile --json out.json
    python benchmarks/preparation/plan.py --profile out.json

Every constant is a flag. Those of one core are taken from the first dump of a --profile, where one
is given; sizes are those of a full English dump. The model:

    serial    start-up, SHA-256 of the dump, plan of the shards: one core, whatever there are
    prepare   find the blocks, decompress, read XML, clean, split, encode, write batches:
              the longest of CPU seconds / (cores x efficiency), those of unpacking and reading /
              readers, and bytes / storage bandwidth
    shards    gather batches into shards: one core a shard at a time, or the bytes' time again
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megabert.common.errors import UserError
from megabert.common.log import run_command


def _constant(default: float, help: str) -> float:
    value: float = field(default=default, metadata={"help": help})
    return value


@dataclass(frozen=True)
class Constants:
    """What is known of the dump, of one core, and of the machine."""

    dump_gb: float = _constant(22.0, "packed dump, GB")
    xml_gb: float = _constant(90.0, "the same unpacked, GB")
    text_gb: float = _constant(75.0, "page text in it, GB")
    articles_million: float = _constant(6.8, "articles kept, million")
    tokens_billion: float = _constant(4.5, "tokens of them, billion")

    mark_s_per_dump_gb: float = _constant(5.0, "find the blocks of a packed dump, s a GB")
    decompress_s_per_xml_gb: float = _constant(48.0, "unpack, s a GB of XML")
    read_s_per_xml_gb: float = _constant(18.0, "read XML, s a GB")
    clean_s_per_text_gb: float = _constant(55.0, "clean, s a GB of page text")
    split_s_per_million_tokens: float = _constant(0.06, "split sentences, s a million tokens")
    encode_s_per_million_tokens: float = _constant(0.81, "encode, s a million tokens")
    batches_s_per_million_tokens: float = _constant(0.035, "write batches, s a million tokens")
    shards_s_per_million_tokens: float = _constant(0.03, "write shards, s a million tokens")
    hash_s_per_dump_gb: float = _constant(0.7, "SHA-256 of the dump, s a GB, one core")
    plan_s_per_thousand_batches: float = _constant(0.35, "plan the shards, s, one core")
    startup_s: float = _constant(2.0, "start of all processes, s")

    batch_mb: float = _constant(1.05, "page text of a batch, MB")
    batch_bytes_per_token: float = _constant(2.3, "batch files, bytes per token")
    shard_bytes_per_token: float = _constant(2.3, "shards, bytes per token")
    tokens_per_shard_million: float = _constant(33.55, "tokens of a shard, million")

    cores_per_host: float = _constant(64, "cores of a host")
    readers: float = _constant(4096, "processes that unpack at most; 1 for one gzip or xz stream")
    efficiency: float = _constant(0.85, "share of the cores' speed that many workers reach, 0 to 1")
    worker_gb: float = _constant(0.2, "memory of a worker, GB")
    main_gb: float = _constant(1.0, "memory of the main process, GB")
    storage_gb_per_second: float = _constant(1.0, "bandwidth of the file system, all hosts, GB/s")


@dataclass(frozen=True)
class Plan:
    """Seconds of the three parts, CPU seconds by stage, bytes moved, and what limits."""

    cores: int
    stages: dict[str, float]
    serial_s: float
    prepare_s: float
    shards_s: float
    prepare_limit: str
    shards_limit: str
    read_gb: float
    written_gb: float
    disk_gb: float
    shards: int
    hosts: int
    memory_gb_per_host: float

    @property
    def total_s(self) -> float:
        """Seconds from start to manifest."""
        return self.serial_s + self.prepare_s + self.shards_s

    @property
    def limit(self) -> str:
        """The part that takes longest, and what bounds it."""
        parts = {
            "one core's serial work": self.serial_s,
            f"preparing: {self.prepare_limit}": self.prepare_s,
            f"writing shards: {self.shards_limit}": self.shards_s,
        }
        return max(parts, key=lambda name: parts[name])


def make_plan(c: Constants, cores: int) -> Plan:
    """The plan for this many cores (each with one worker)."""
    million_tokens = 1e3 * c.tokens_billion
    stages = {
        "find blocks": c.mark_s_per_dump_gb * c.dump_gb,
        "decompress": c.decompress_s_per_xml_gb * c.xml_gb,
        "read XML": c.read_s_per_xml_gb * c.xml_gb,
        "clean": c.clean_s_per_text_gb * c.text_gb,
        "split sentences": c.split_s_per_million_tokens * million_tokens,
        "encode": c.encode_s_per_million_tokens * million_tokens,
        "write batches": c.batches_s_per_million_tokens * million_tokens,
    }
    efficiency = c.efficiency if cores > 1 else 1.0
    batch_gb = c.batch_bytes_per_token * c.tokens_billion
    shard_gb = c.shard_bytes_per_token * c.tokens_billion
    prepare = {
        "CPU": sum(stages.values()) / (cores * efficiency),
        "readers": (stages["decompress"] + stages["read XML"]) / min(cores, c.readers),
        "storage": (2 * c.dump_gb + batch_gb) / c.storage_gb_per_second,  # marked, then read
    }
    shards = math.ceil(million_tokens / c.tokens_per_shard_million)
    one_shard = c.shards_s_per_million_tokens * million_tokens / shards
    writing = {
        "CPU": math.ceil(shards / cores) * one_shard,
        "storage": (batch_gb + 2 * shard_gb) / c.storage_gb_per_second,  # shards: written, hashed
    }
    batches = 1e3 * c.text_gb / c.batch_mb
    serial = (
        c.startup_s
        + max(c.hash_s_per_dump_gb, 1 / c.storage_gb_per_second) * c.dump_gb
        + c.plan_s_per_thousand_batches * batches / 1e3
    )
    hosts = math.ceil(cores / c.cores_per_host)
    return Plan(
        cores,
        stages | {"write shards": one_shard * shards},
        serial,
        max(prepare.values()),
        max(writing.values()),
        max(prepare, key=lambda name: prepare[name]),
        max(writing, key=lambda name: writing[name]),
        3 * c.dump_gb + batch_gb + shard_gb,
        batch_gb + shard_gb,
        c.dump_gb + batch_gb + shard_gb,
        shards,
        hosts,
        c.main_gb + min(cores, c.cores_per_host) * c.worker_gb,
    )


def measured(profile: dict[str, Any]) -> dict[str, float]:
    """Constants out of one dump's ``StageProfile`` as JSON."""
    seconds = profile["seconds"]
    unpacked_gb, text_gb = profile["unpacked_bytes"] / 1e9, profile["text_bytes"] / 1e9
    million_tokens = profile["tokens"] / 1e6
    return {
        "decompress_s_per_xml_gb": seconds["decompress"] / unpacked_gb,
        "read_s_per_xml_gb": seconds["read XML"] / unpacked_gb,
        "clean_s_per_text_gb": seconds["clean"] / text_gb,
        "split_s_per_million_tokens": seconds["split sentences"] / million_tokens,
        "encode_s_per_million_tokens": seconds["encode"] / million_tokens,
        "batches_s_per_million_tokens": seconds["write batches"] / million_tokens,
        "shards_s_per_million_tokens": seconds["write shards"] / million_tokens,
        "batch_bytes_per_token": profile["batch_bytes"] / profile["tokens"],
        "shard_bytes_per_token": profile["shard_bytes"] / profile["tokens"],
    }


def as_markdown(plans: Sequence[Plan]) -> str:
    """A table of stages and one of plans."""
    stages = plans[0].stages
    total = sum(stages.values())
    lines = ["| stage | CPU hours | share |", "|---|---:|---:|"]
    lines += [f"| {n} | {s / 3600:.2f} | {100 * s / total:.1f} % |" for n, s in stages.items()]
    lines += [f"| all | {total / 3600:.2f} | 100 % |", ""]
    rows = {
        "hosts": [f"{p.hosts}" for p in plans],
        "serial work": [_duration(p.serial_s) for p in plans],
        "prepare": [_duration(p.prepare_s) for p in plans],
        "write shards": [_duration(p.shards_s) for p in plans],
        "**in all**": [f"**{_duration(p.total_s)}**" for p in plans],
        "read in all, GB": [f"{p.read_gb:.0f}" for p in plans],
        "written in all, GB": [f"{p.written_gb:.0f}" for p in plans],
        "mean load of the file system, MB/s": [
            f"{1e3 * (p.read_gb + p.written_gb) / p.total_s:.0f}" for p in plans
        ],
        "disk at most, dump included, GB": [f"{p.disk_gb:.0f}" for p in plans],
        "memory per host, GB": [f"{p.memory_gb_per_host:.1f}" for p in plans],
        "takes longest": [p.limit for p in plans],
    }
    lines.append("| | " + " | ".join(_cores(p.cores) for p in plans) + " |")
    lines.append("|---|" + "---:|" * len(plans))
    lines += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items()]
    return "\n".join(lines)


def _cores(count: int) -> str:
    return "1 core" if count == 1 else f"{count} cores"


def _duration(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the plan as Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 64, 512], metavar="N")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="of preparation.py --json")
    for constant in dataclasses.fields(Constants):
        parser.add_argument(
            "--" + constant.name.replace("_", "-"), type=float, default=argparse.SUPPRESS,
            metavar="X", help=f"{constant.metadata['help']} (default: {constant.default:g})",
        )  # fmt: skip
    values = vars(parser.parse_args(argv))
    cores, profile = values.pop("cores"), values.pop("profile")
    if profile is not None:
        try:
            found = measured(json.loads(profile.read_text())["stages"][0])
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise UserError(
                f"--profile {profile}: not written by preparation.py --profile --json ({error!r})"
            ) from None
        values = found | values
    for name, value in [*values.items(), *(("cores", count) for count in cores)]:
        if value <= 0:
            raise UserError(f"--{name.replace('_', '-')} {value:g}: expected more than 0")
    constants = Constants(**values)
    print(as_markdown([make_plan(constants, count) for count in cores]))


if __name__ == "__main__":
    run_command(main)
