#!/usr/bin/env python
"""LAMB against its float64 reference: ZeRO stage x tensor parallel x data parallel x precision.

    python benchmarks/lamb_matrix.py [--steps 20] [--max-ranks 8] [--json FILE]

Each cell trains a model of split, copied and tied tensors for --steps updates (clipping, decay and a
tied tensor included, one update in the middle made to overflow on one rank) on gloo ranks of this
machine, and shows the largest error of any weight, relative to its tensor's largest value, against
one unpartitioned float64 process. The gradients are known numbers that fp16 and bf16 hold exactly,
so every precision must reach the same fp32 masters. Exits with 1 if a cell is above 1e-6, if a moment
is, if the gradient norm is, if the model's weights are not the rounded masters, if the overflow moved
anything, or if the number of collectives is not the documented one.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megabert.engine.zero.fixes import grad_norm
from megabert.engine.zero.whole_tensors import read_state
from tests.helpers.distributed import run_ranks
from tests.helpers.lamb_runs import PEAK, TOLERANCE, Case, Run, full_gradient, relative, worlds

PRECISIONS = {
    "fp32": ("fp32", False),
    "bf16": ("bf16", False),
    "bf16, fp32 sums": ("bf16", True),
    "fp16": ("fp16", False),
}
ACCUMULATIONS = (1, 4)
MOST_NORM_ERROR = 1e-6


def cell(run: Run, steps: int) -> float:
    """Train one case; the largest relative error of its weights.

    Raises:
        AssertionError: something else than the weights is wrong; says what.
    """
    reference = run.case.reference()
    last = run.world.topology.rank == run.world.topology.world_size - 1
    for step in range(steps):
        if step == steps // 2:
            run.train(step, poison=math.nan if last else 0.0)
            assert run.engine.skipped_steps == 1, f"{run.case}: the overflow was not skipped"
        run.train(step)
        reference.step(full_gradient(step, run.parts()), PEAK)
        error = abs(grad_norm(run.engine) / reference.norm - 1.0)
        assert error < MOST_NORM_ERROR, f"{run.case}: the gradient norm is off by {error:.1e}"
    assert run.schedule.applied_steps == steps, f"{run.case}: the schedule moved on an overflow"
    run.check(reference, str(run.case))
    state = read_state(run.engine, run.world.tp)
    return max(relative(v["weight"], reference.weights[name]) for name, v in state.items())


def rank_main(
    rank: int, world_size: int, tensor_parallel: int, cases: list[Case], steps: int
) -> list[float | str]:
    """Every case in one world; errors as text, in the order of the cases."""
    found: list[float | str] = []
    sys.stdout = sys.stderr  # DeepSpeed prints there; the table is the parent's
    for world in worlds(tensor_parallel):
        for case in cases:
            run = Run(world, case)
            try:
                found.append(cell(run, steps))
            except AssertionError as error:
                found.append(str(error))
            run.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20, help="updates of each cell [20]")
    parser.add_argument("--max-ranks", type=int, default=8, help="largest world [8]")
    parser.add_argument("--json", type=Path, help="write the cells there too")
    arguments = parser.parse_args()
    columns = [(name, a) for name in PRECISIONS for a in ACCUMULATIONS]
    print("| ZeRO | TP | DP | " + " | ".join(f"{name}, x{a}" for name, a in columns) + " |")
    print("|---" * (3 + len(columns)) + "|")
    began, wrong, cells = time.monotonic(), [], []
    for tensor_parallel in (1, 2):
        for data_parallel in (1, 2, 4):
            ranks = tensor_parallel * data_parallel
            if ranks > arguments.max_ranks:
                continue
            wanted: dict[tuple[int, str, int], Case] = {}
            for stage in range(4):
                for name, a in columns:
                    precision, sums = PRECISIONS[name]
                    if not (stage == 0 and sums):  # DeepSpeed has no such mode
                        small = 100 if stage == 3 and a == 1 else 1_000_000
                        wanted[stage, name, a] = Case(
                            stage, precision, a, fp32_sums=sums, sub_group=small
                        )
            results: list[Any] = run_ranks(
                rank_main, ranks, tensor_parallel, list(wanted.values()), arguments.steps,
                initialize=False, timeout=3600.0,
            )  # fmt: skip
            for number, (key, case) in enumerate(wanted.items()):
                values = [result[number] for result in results]
                worst = next((v for v in values if isinstance(v, str)), None) or max(values)
                if isinstance(worst, str) or worst > TOLERANCE:
                    wrong.append(f"TP {tensor_parallel} DP {data_parallel} {case}: {worst}")
                cells.append({"tp": tensor_parallel, "dp": data_parallel, "zero": key[0],
                              "precision": key[1], "accumulation": key[2], "error": worst})  # fmt: skip
            by_key = {
                (c["zero"], c["precision"], c["accumulation"]): c for c in cells[-len(wanted) :]
            }
            for stage in range(4):
                shown = []
                for name, a in columns:
                    found = by_key.get((stage, name, a), {}).get("error", "-")
                    shown.append(f"{found:.0e}" if isinstance(found, float) else str(found)[:9])
                row = [str(stage), str(tensor_parallel), str(data_parallel), *shown]
                print("| " + " | ".join(row) + " |", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(cells, indent=1) + "\n", encoding="utf-8")
    print(f"\n{len(cells)} cells, {len(wrong)} wrong, {time.monotonic() - began:.0f} s")
    for line in wrong:
        print("wrong:", line)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
