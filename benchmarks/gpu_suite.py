#!/usr/bin/env python
"""All benchmarks of one GPU, one after the other, within ten minutes.

    bash benchmarks/gpu_suite.sh SHARDS OUTPUT [--squad TRAIN] [--small] [--dry-run]

Each part is a command of its own with a time limit of its own; one that fails or takes too long does not
stop the others, and makes the exit status 1 at the end. OUTPUT, a new folder, gets

    PART.log       what the part printed and said
    PART.json      its figures (parts that have any)
    suite.json     all of them, with each part's command, seconds and outcome
    suite.md       a table of the encoder's steps, and below it what every part printed

--squad: a training file in SQuAD's format for the fine-tuning part, left out without it. --small: the
smallest model and few rounds, on any machine; --dry-run: print the commands only.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.steps.rounds import markdown_table, write_json
from megabert.common.errors import UserError
from megabert.common.log import run_command
from megabert.common.names import TOKENIZER_FOLDER

ROOT = Path(__file__).resolve().parent.parent

WHOLE_SECONDS = 590.0
"""For all parts together."""
STEP = ("step-phase1", "step-phase2")


@dataclass(frozen=True)
class Part:
    """One question: its command (without interpreter) and how many seconds it may take."""

    name: str
    question: str
    command: list[str]
    limit: float
    has_json: bool = True


@dataclass(frozen=True)
class Outcome:
    """How a part ended: "done", "failed (status N)", "too long" or "no time left"."""

    part: Part
    status: str
    seconds: float
    text: str
    result: Any

    @property
    def good(self) -> bool:
        """Whether it ended well."""
        return self.status == "done"


def parts(shards: Path, squad: Path | None, small: bool) -> list[Part]:
    """All parts in order; those of --small run everywhere in about two minutes."""
    names = "bert-tiny" if small else "bert-base,bert-large"
    one, two = ("bert-tiny", "bert-tiny") if small else ("bert-base", "bert-large")
    precision = "fp32" if small else "bf16"
    precisions = "fp32" if small else "bf16,fp8"
    peers = ["--peers", "transformers,plain"] if small else []
    few = "2" if small else "10"
    tests = (
        ["-m", "not gpu", "tests/model/test_flops.py"]
        if small
        else ["-m", "gpu", "-p", "no:xdist", "tests"]
    )
    scripts = "benchmarks"

    def step(length: int, samples: int) -> list[str]:
        size = str(2 if small else samples)
        return [
            f"{scripts}/step.py", str(shards), "--models", names, "--lengths", str(length),
            "--precisions", precisions, "--micro-batch-size", size, "--rounds", few, "--profile",
            *peers,
        ]  # fmt: skip

    found = [
        Part("step-phase1", "Forward and backward, 128 tokens", step(128, 256), 150),
        Part("step-phase2", "Forward and backward, 512 tokens", step(512, 64), 150),
        Part(
            "plan",
            "Whole runs compared with their plans",
            [
                f"{scripts}/plan_run.py", str(shards), "--model", two, "--precisions", precision,
                *(
                    ["--phases", "1", "--micro-tokens", "512", "--updates", "2", "--accumulation", "2"]
                    if small
                    else []
                ),
            ],
            150,
        ),
        Part(
            "optimizer",
            "One step of LAMB against the floor",
            [f"{scripts}/lamb.py", "--models", two, "--rounds", few],
            60,
        ),
        Part(
            "training",
            "Whole updates compared with transformers with DeepSpeed",
            [
                f"{scripts}/training.py", str(shards), "--model", one, "--precision", precision,
                "--micro-batch-size", "2" if small else "128", "--accumulation", "2",
                "--rounds", "2" if small else "5",
            ],
            90,
        ),
        Part(
            "jitter",
            "Compilations and jitter over real data",
            [
                f"{scripts}/jitter.py", str(shards), "--model", one, "--precision", precision,
                "--micro-batch-size", "2" if small else "64", "--steps", "5" if small else "200",
                "--warm-up", "2" if small else "10",
            ],
            60,
        ),
    ]  # fmt: skip
    if squad is not None:
        tokenizer = shards / TOKENIZER_FOLDER
        found.append(
            Part(
                "finetune",
                "Fine-tuning for SQuAD",
                [
                    f"{scripts}/finetune.py", str(squad), "--tokenizer", str(tokenizer),
                    "--model", one, "--precision", precision,
                    "--micro-batch-size", "2" if small else "32", "--rounds", few,
                    *(["--max-train-examples", "20"] if small else []),
                ],
                60,
            )
        )  # fmt: skip
    found.append(
        Part("kernels", "Are the GPU kernels right?", ["-m", "pytest", "-q", *tests], 150, False)
    )
    return found


def run_part(part: Part, output: Path, limit: float) -> Outcome:
    """Run it and wait, at most ``limit`` seconds; its log and JSON are in ``output``."""
    figures = output / f"{part.name}.json"
    command = [sys.executable, *part.command]
    if part.has_json:
        command += ["--json", str(figures)]
    began = time.monotonic()
    printed = output / f"{part.name}.log"
    with printed.open("w", encoding="utf-8") as log, (output / f"{part.name}.err").open("w") as err:
        child = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=err, start_new_session=True)
        try:
            code = child.wait(timeout=limit)
            status = "done" if code == 0 else f"failed (status {code})"
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            status = f"too long (over {limit:.0f} s)"
    result = None
    if part.has_json and figures.is_file():
        result = json.loads(figures.read_text(encoding="utf-8"))
    text = printed.read_text(encoding="utf-8", errors="replace")
    return Outcome(part, status, time.monotonic() - began, text, result)


def run_all(todo: Sequence[Part], output: Path) -> list[Outcome]:
    """Every part within its limit and within that of all."""
    deadline = time.monotonic() + WHOLE_SECONDS
    found = []
    for part in todo:
        left = deadline - time.monotonic()
        if left <= 1:
            found.append(Outcome(part, "no time left", 0.0, "", None))
            continue
        print(f"{part.name}: {part.question}", flush=True)
        found.append(run_part(part, output, min(part.limit, left)))
        print(f"{part.name}: {found[-1].status}, {found[-1].seconds:.0f} s", flush=True)
    return found


def step_table(outcomes: Sequence[Outcome]) -> str:
    """The encoder's steps: a row a model, length and precision."""
    header = (
        "model", "length", "precision", "samples/s", "real tokens/s", "TFLOP/s", "of the ceiling",
        "of the published peak", "x transformers", "x compiled", "x plain torch", "x padded",
    )  # fmt: skip
    rows = []
    cases = [
        case
        for one in outcomes
        if one.part.name in STEP and one.result
        for case in one.result["cases"]
    ]
    for case in cases:
        own = {one["name"]: one for one in case["contestants"]}
        packed = own["megabert packed"]
        peak = case["published_peak_gflops"]

        def times(name: str, own: dict[str, Any] = own) -> float | None:
            return 1 / own[name]["times_packed"] if name in own else None

        rows.append(
            (
                case["model"], case["length"], case["precision"], packed["samples_per_second"],
                packed["tokens_per_second"], packed["gflops"] / 1e3, f"{packed['mfu']:.1%}",
                f"{packed['gflops'] / peak:.1%}" if peak else None,
                packed["times_transformers"], times("transformers compiled"), times("plain torch"),
                times("megabert padded"),
            )
        )  # fmt: skip
    return markdown_table(header, rows)


def report(outcomes: Sequence[Outcome]) -> str:
    """The Markdown file."""
    lines = [
        "# One GPU",
        "",
        step_table(outcomes),
        "",
        "| part | outcome | seconds |",
        "|---|---|---|",
    ]
    lines += [f"| {one.part.name} | {one.status} | {one.seconds:.0f} |" for one in outcomes]
    for one in outcomes:
        command = shlex.join(["python", *one.part.command])
        lines += [
            "",
            f"## {one.part.question}",
            "",
            f"`{command}`",
            "",
            one.text.strip() or one.status,
        ]
    return "\n".join(lines) + "\n"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line.

    Raises:
        UserError: no shards, or the output folder exists.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", type=Path)
    parser.add_argument("output", type=Path, help="a new folder")
    parser.add_argument("--squad", type=Path, help="training file in SQuAD's format")
    parser.add_argument("--small", action="store_true", help="smallest sizes, on any machine")
    parser.add_argument("--dry-run", action="store_true", help="print the commands only")
    arguments = parser.parse_args(argv)
    if not (arguments.shards / "manifest.json").is_file():
        raise UserError(
            f"{arguments.shards}: no shards here; make some with data_tools/shard_wiki.py"
        )
    if arguments.output.exists() and not arguments.dry_run:
        raise UserError(f"{arguments.output} exists; name a new folder")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run everything; 1 if a part did not end well."""
    arguments = parse(argv)
    squad = arguments.squad.resolve() if arguments.squad else None
    todo = parts(arguments.shards.resolve(), squad, arguments.small)
    if arguments.dry_run:
        for part in todo:
            print(shlex.join(["python", *part.command]), f"# at most {part.limit:.0f} s")
        return 0
    output = arguments.output.resolve()
    output.mkdir(parents=True)
    outcomes = run_all(todo, output)
    content = [
        {
            "part": one.part.name,
            "command": one.part.command,
            "status": one.status,
            "seconds": one.seconds,
            "result": one.result,
        }
        for one in outcomes
    ]
    write_json(output / "suite.json", {"parts": content})
    (output / "suite.md").write_text(report(outcomes), encoding="utf-8")
    bad = [one for one in outcomes if not one.good]
    for one in bad:
        print(
            f"{one.part.name}: {one.status}; see {output / one.part.name}.log and .err",
            file=sys.stderr,
        )
    print(output / "suite.md")
    return 1 if bad else 0


if __name__ == "__main__":
    run_command(main)
