#!/usr/bin/env python
"""Peak memory of real training runs on this CPU compared with what ``launch/plan.py`` predicts.

    python benchmarks/plan_memory.py                       # all cases
    python benchmarks/plan_memory.py --cases bert-mini     # those whose name holds a word
    python benchmarks/plan_memory.py --json FILE

Each case is a run of three updates on random text, one process per rank, through ``megabert.pretrain``.
Measured is the largest resident set of the first rank (VmHWM) less what it held after its imports, up to
the moment where the run would write its checkpoint. The plan's figure is its peak, less its constant
for the imports. To recalibrate after a change of the encoder: change ``LAYER`` and the constants below
it in megabert/planner/activations.py until the last column is near 1. ``--planned FILE`` prints the plan's
new figures next to those measured before (``--json``), without another run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

VOCABULARY = 30522


@dataclass(frozen=True)
class Case:
    """One run; ``batch``: sequences per micro step, ``steps``: micro steps per update."""

    model: str
    batch: int
    steps: int = 1
    length: int = 128
    ranks: int = 1
    zero: int = 1
    precision: str = "fp32"
    packing: str = "off"
    checkpointing: str = "off"
    tensor_parallel: int = 1

    def __str__(self) -> str:
        more = "" if self.tensor_parallel == 1 else f" tp {self.tensor_parallel}"
        more += " packed" if self.packing == "on" else ""
        more += " checkpointing" if self.checkpointing == "on" else ""
        return (
            f"{self.model} {self.precision} zero {self.zero} x {self.ranks}{more}, "
            f"{self.length} tokens, {self.batch} x {self.steps}"
        )

    def flags(self) -> list[str]:
        """Those that ``pretrain.py`` and ``plan.py`` share."""
        data = self.ranks // self.tensor_parallel
        return [
            "--model", self.model, "--seq-length", str(self.length),
            "--global-batch-size", str(self.batch * self.steps * data),
            "--micro-batch-size", str(self.batch), "--precision", self.precision,
            "--packing", self.packing, "--activation-checkpointing", self.checkpointing,
            "--tensor-parallel", str(self.tensor_parallel), "--steps", "3",
        ]  # fmt: skip


CASES = (
    Case("bert-mini", 16),
    Case("bert-mini", 64),
    Case("bert-mini", 64, zero=0),
    Case("bert-mini", 64, steps=2, zero=2),
    Case("bert-mini", 64, precision="bf16"),
    Case("bert-mini", 64, packing="on"),
    Case("bert-mini", 16, length=512),
    Case("bert-mini", 64, ranks=2),
    Case("bert-mini", 64, ranks=2, zero=2),
    Case("bert-mini", 64, ranks=2, tensor_parallel=2),
    Case("bert-mini", 64, checkpointing="on"),
    Case("bert-small", 32),
    Case("bert-small", 64, steps=2),
    Case("bert-small", 32, steps=2, ranks=2),
    Case("bert-small", 32, precision="bf16", zero=2),
    Case("bert-base", 8),
    Case("bert-base", 16, steps=2),
    Case("bert-base", 8, zero=0),
    Case("bert-base", 8, zero=2),
    Case("bert-base", 8, precision="bf16"),
    Case("bert-base", 4, length=512),
    Case("bert-base", 4, ranks=2),
    Case("bert-base", 4, ranks=2, zero=2),
)


def make_shards(folder: Path, documents: int = 120) -> Path:
    """Shards of random words, of the size of a real vocabulary."""
    from megabert.data.shards.manifest import SpecialIds, TokenizerInfo
    from megabert.data.shards.writer import Document, write_corpus

    rng = random.Random(0)

    def document(number: int) -> Document:
        lengths = [rng.randint(10, 40) for _ in range(120)]
        return Document(
            number,
            [([rng.randrange(1000, VOCABULARY) for _ in range(n)], [True] * n) for n in lengths],
        )

    tokenizer = TokenizerInfo("wordpiece", "ab" * 32, VOCABULARY, True, SpecialIds(0, 1, 2, 3, 4))
    write_corpus(folder, {"train": [[document(n) for n in range(documents)]]}, tokenizer)
    (folder / "tokenizer").mkdir()
    words = "\n".join(f"w{number}" for number in range(VOCABULARY))
    (folder / "tokenizer" / "vocab.txt").write_text(words + "\n", encoding="utf-8")
    return folder


def status(name: str) -> float:
    """Bytes of a line of /proc/self/status."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(name + ":"):
            return float(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {name}: this benchmark needs Linux")


def work(argv: list[str]) -> None:
    """One rank: train, print the figures in place of the first checkpoint, and leave."""
    import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401
    import torch._dynamo
    import torch.utils.tensorboard

    from megabert.config import flags
    from megabert.config.training import PretrainSettings
    from megabert.pretrain import command, loop
    from megabert.pretrain.settings import resolve_pretraining

    before = status("VmRSS")

    def stop(*_: object, **__: object) -> None:
        print(json.dumps({"before": before, "peak": status("VmHWM")}), flush=True)
        torch.distributed.barrier()
        os._exit(0)

    loop.save_checkpoint = stop
    command.pretrain(resolve_pretraining(flags.parse(PretrainSettings, argv, "pretrain.py", "")))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def measure(case: Case, shards: Path, output: Path) -> dict[str, float]:
    """Run a case on all its ranks; the first rank's figures, in bytes.

    Raises:
        RuntimeError: a rank failed; its last lines.
    """
    argv = [
        *case.flags(), "--zero-stage", str(case.zero), "--data", str(shards), "--lr", "1e-4",
        "--output", str(output), "--save-interval", "0", "--eval-interval", "0",
    ]  # fmt: skip
    port, processes = _free_port(), []
    for rank in range(case.ranks):
        environment = os.environ | {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(case.ranks),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
            "DS_ACCELERATOR": "cpu",
        }  # fmt: skip
        command = [sys.executable, __file__, "--worker", *argv]
        processes.append(
            subprocess.Popen(
                command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        )
    outputs = [process.communicate() for process in processes]
    for process, (_, errors) in zip(processes, outputs):
        if process.returncode:
            raise RuntimeError(f"{case}: {errors[-2000:]}")
    figures: dict[str, float] = json.loads(outputs[0][0].splitlines()[-1])
    return figures


def planned(case: Case) -> tuple[float, str]:
    """The plan's peak without its constant for imports, bytes, and its instant."""
    from megabert.config import flags
    from megabert.planner.machine import IMPORTS_CPU, RUN_CPU, Machine
    from megabert.planner.plan import Planner
    from megabert.planner.settings import CPU, PlanFlags, plan_settings, read_flags

    argv = [*case.flags(), "--zero", str(case.zero), "--gpu", CPU, "--gpus", str(case.ranks)]
    speed = {"fp32": 1e11, "bf16": 1e11}
    machine = Machine(CPU, 1e12, 1e10, speed, speed, 1e9, None, case.ranks, IMPORTS_CPU + RUN_CPU)
    settings = plan_settings(read_flags(flags.parse(PlanFlags, argv, "plan.py", "")))
    plan = Planner(settings, machine).plan(settings.layout)
    totals = {instant: sum(parts.values()) for instant, parts in plan.memory.items()}
    instant = max(totals, key=lambda name: totals[name])
    return totals[instant] - IMPORTS_CPU, instant


def main() -> None:
    """Measure all cases and print them next to the plan."""
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2:])
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--cases", default="", help="part of the names of the cases to run")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument(
        "--planned", type=Path, help="figures of --json to compare with, not measured again"
    )
    arguments = parser.parse_args()
    known: dict[str, dict[str, float]] = {}
    if arguments.planned is not None:
        found = json.loads(arguments.planned.read_text(encoding="utf-8"))
        known = {row["case"]: row for row in found}
    rows = []
    with tempfile.TemporaryDirectory(prefix="plan-memory-") as work_folder:
        shards = make_shards(Path(work_folder) / "shards")
        print(
            "| case | imports, MB | peak above, MB | planned, MB | its instant | planned / peak |"
        )
        print("|---|---:|---:|---:|---|---:|")
        for number, case in enumerate(case for case in CASES if arguments.cases in str(case)):
            if known and str(case) not in known:
                continue
            figures = known.get(str(case)) or measure(
                case, shards, Path(work_folder) / f"run-{number}"
            )
            above = figures["peak"] - figures["before"]
            plan, instant = planned(case)
            rows.append({**figures, "case": str(case), "planned": plan})
            print(
                f"| {case} | {figures['before'] / 1e6:.0f} | {above / 1e6:.0f} | {plan / 1e6:.0f} "
                f"| {instant} | {plan / above:.2f} |",
                flush=True,
            )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
