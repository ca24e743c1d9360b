"""The programs of both preparation pipelines: how they are called, and what a call costs."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megabert.common.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
PHASES = {128: 20, 512: 80}  # sequence length: predictions at most
RECIPES = {
    "phase 1, one copy": ((128, 1),),
    "phase 1, five copies": ((128, 5),),
    "both phases, five copies": ((128, 5), (512, 5)),
}
TINY_DUMP = (
    '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="en">'
    "<siteinfo><sitename>Test</sitename><dbname>testwiki</dbname><base>https://example.org/wiki/"
    '</base><namespaces><namespace key="0" case="first-letter" /></namespaces></siteinfo>\n'
    + "".join(
        f"  <page>\n    <title>Page {n}</title>\n    <ns>0</ns>\n    <id>{n}</id>\n    <revision>\n"
        f"      <id>{n}</id>\n      <model>wikitext</model>\n      <format>text/x-wiki</format>\n"
        f'      <text xml:space="preserve">Page {n} is a short page of text. It has a second '
        "sentence of some words. It has a third one, too, and that is where it ends.</text>\n"
        "    </revision>\n  </page>\n"
        for n in (1, 2)
    )
    + "</mediawiki>\n"
)


@dataclass(frozen=True)
class Cost:
    """What one stage took: wall and CPU seconds, and the bytes it left. Costs add up."""

    wall: float
    cpu: float
    output_bytes: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.wall + other.wall, self.cpu + other.cpu, self.output_bytes + other.output_bytes
        )


@dataclass(frozen=True)
class Reference:
    """The programs of the reference pipeline."""

    wikiextractor: Sequence[str]
    python: str
    create: Path
    vocab: Path


def run_together(commands: Sequence[Sequence[str | Path]], output: Path) -> Cost:
    """Run programs side by side and wait for all.

    Raises UserError with the end of its output when one fails.
    """
    began = time.monotonic()
    cpu = 0.0
    with tempfile.TemporaryFile() as log:
        started = [subprocess.Popen([*map(str, c)], stdout=log, stderr=log) for c in commands]
        statuses = []
        for process in started:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            statuses.append(process.returncode)
            cpu += usage.ru_utime + usage.ru_stime
        wall = time.monotonic() - began
        for command, status in zip(commands, statuses):
            if status:
                log.seek(0)
                tail = log.read().decode("utf-8", "replace").strip()[-500:]
                raise UserError(f"{shlex.join(map(str, command))}: exit status {status}: {tail}")
    return Cost(wall, cpu, size_of(output))


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
    return sum(file.stat().st_size for file in files)


def fresh(folder: Path) -> Path:
    """The folder, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def measure_ours(
    dump: Path, language: str, vocab: Path, workers: int, work: Path, more: Sequence[str] = ()
) -> Cost:
    """Cost of shard_wiki.py."""
    output = fresh(work / "ours") / "shards"
    command = [
        sys.executable, ROOT / "data_tools" / "shard_wiki.py", "--input", dump,
        "--tokenizer", vocab, "--language", language, "--workers", str(workers),
        "--output", output, *more,
    ]  # fmt: skip
    return run_together([command], output)


def measure_reference(
    dump: Path, reference: Reference, workers: int, work: Path
) -> dict[str, Cost]:
    """Cost of each stage: "extract", "sentences", and "samples L xK" for each phase and copies."""
    extracted = fresh(work / "extracted")
    command = [*reference.wikiextractor, "--processes", str(workers), "-q", "-o", extracted, dump]
    costs = {"extract": run_together([command], extracted)}
    texts = fresh(work / "texts")
    parts = [texts / f"part-{part}.txt" for part in range(workers)]
    script = ROOT / "benchmarks" / "preparation" / "reference_sentences.py"
    commands = [
        [reference.python, script, extracted, path, "--part", str(part), "--parts", str(workers)]
        for part, path in enumerate(parts)
    ]
    costs["sentences"] = run_together(commands, texts)
    for length, copies in sorted({stage for stages in RECIPES.values() for stage in stages}):
        samples = fresh(work / "samples")
        commands = [
            [
                reference.python, reference.create, "--input_file", path,
                "--output_file", samples / f"{path.stem}.hdf5", "--vocab_file", reference.vocab,
                "--max_seq_length", str(length), "--max_predictions_per_seq", str(PHASES[length]),
                "--dupe_factor", str(copies),
            ]
            for path in parts
        ]  # fmt: skip
        costs[f"samples {length} x{copies}"] = run_together(commands, samples)
    return costs


def recipe_cost(costs: dict[str, Cost], recipe: str) -> Cost:
    """Cost of a whole recipe: extraction and sentences once, samples for each of its parts."""
    total = costs["extract"] + costs["sentences"]
    for length, copies in RECIPES[recipe]:
        total += costs[f"samples {length} x{copies}"]
    return total
