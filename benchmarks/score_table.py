#!/usr/bin/env python
"""A table of scores: runs of launch/finetune.py compared with those of benchmarks/finetune_transformers.py.

    python benchmarks/score_table.py OURS THEIRS [OURS THEIRS ...]

OURS and THEIRS are run folders of one task at the same settings, of one seed or of several. Of every
score that both have come mean and sample deviation over the seeds, and the difference of the means;
majority baselines have a column of their own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.steps.rounds import markdown_table
from megabert.common.errors import UserError
from megabert.common.log import run_command
from megabert.common.names import RUN_RESULTS

BASELINES = ("majority_", "all_o_")
HEADER = ("task", "score", "seeds", "megabert", "transformers", "difference", "baseline")


def runs_of(folder: Path) -> tuple[str, list[dict[str, float]]]:
    """The task and the scores of each run of a folder.

    Raises:
        UserError: no finished run there.
    """
    path = folder / RUN_RESULTS
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}; name a finished run") from error
    if "runs" not in results:
        return results["task"], [results["scores"]]
    scores = [run.get("scores", run) for run in results["runs"]]
    return results["task"], scores


def spread(values: Sequence[float]) -> str:
    """Mean, and deviation of several."""
    mean = f"{statistics.fmean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.2f}"


def rows(ours: Path, theirs: Path) -> list[tuple[str, ...]]:
    """Lines of the table for one pair of folders.

    Raises:
        UserError: they are of different tasks or numbers of seeds.
    """
    (task, left), (other, right) = runs_of(ours), runs_of(theirs)
    if (task, len(left)) != (other, len(right)):
        raise UserError(
            f"{ours} is {len(left)} runs of {task}, {theirs} is {len(right)} runs of {other}"
        )
    made = []
    for name in left[0]:
        if name not in right[0] or name.startswith(BASELINES):
            continue
        a, b = ([run[name] for run in runs] for runs in (left, right))
        base = [
            spread([run[f"{prefix}{name}"] for run in left])
            for prefix in BASELINES
            if f"{prefix}{name}" in left[0]
        ]
        difference = f"{statistics.fmean(a) - statistics.fmean(b):+.2f}"
        made.append((task, name, str(len(a)), spread(a), spread(b), difference, *(base or [""])))
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    folders = parser.parse_args(arguments).folders
    if len(folders) % 2:
        raise UserError("folders come in pairs: ours, transformers'")
    lines = [line for pair in zip(folders[::2], folders[1::2]) for line in rows(*pair)]
    print(markdown_table(HEADER, lines))
    return 0


if __name__ == "__main__":
    run_command(main)
