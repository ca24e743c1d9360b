"""Preparation compared with the reference pipeline: the same dump, the same machine, one run.

    python benchmarks/preparation/compare.py --dump en=dump.xml.bz2 --vocab vocab.txt \\
        --wikiextractor COMMAND --reference-python PYTHON \\
        --create-pretraining-data create_pretraining_data.py [--workers 1 2] [--json out.json]

Ours is data_tools/shard_wiki.py: dump in, shards out, from which both phases and every epoch are
read. The reference is three programs, none of them part of this project (how to get them:
docs/results/2026-11/preparation.md): wikiextractor, NLTK's sentence splitter, and the published
create_pretraining_data.py, which writes padded and masked samples, once for each copy
(dupe_factor) and each phase. Without those three flags only ours is measured.

CPU seconds are those of all processes of a program, MB are 10^6 bytes of page text (wikitext as
UTF-8, all pages). "Without start-up" takes off what the same programs need for a dump of two short
pages: on a large dump it is what counts. With --profile the stages of ours on one core follow,
which are the constants of benchmarks/preparation/plan.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.preparation.programs import (
    RECIPES,
    TINY_DUMP,
    Cost,
    Reference,
    fresh,
    measure_ours,
    measure_reference,
    recipe_cost,
)
from benchmarks.preparation.stages import profile_stages
from megabert.common.errors import UserError
from megabert.common.log import run_command
from megabert.data.text.input.sources import iter_pages

LEAST_SECONDS = 0.1
"""CPU time beyond start-up that is worth a rate."""


@dataclass(frozen=True)
class Comparison:
    """All costs over one dump with this many workers; ``startup``: the same over two short pages."""

    dump: str
    pages: int
    text_mb: float
    workers: int
    ours: Cost
    ours_startup: Cost
    reference: dict[str, Cost]
    reference_startup: dict[str, Cost]

    def as_json(self) -> dict[str, Any]:
        """Everything as JSON values, with the ratios."""
        return dataclasses.asdict(self) | {"ratios": self.ratios()}

    def ratios(self) -> dict[str, dict[str, float]]:
        """Reference by ours, for each recipe: CPU, CPU without start-up, wall, bytes written.

        Without start-up is left out where next to nothing but start-up was measured.
        """
        result = {}
        for recipe in RECIPES if self.reference else ():
            theirs = recipe_cost(self.reference, recipe)
            start = recipe_cost(self.reference_startup, recipe)
            result[recipe] = {
                "cpu": theirs.cpu / self.ours.cpu,
                "wall": theirs.wall / self.ours.wall,
                "bytes": theirs.output_bytes / self.ours.output_bytes,
            }
            net = theirs.cpu - start.cpu, self.ours.cpu - self.ours_startup.cpu
            if min(net) > LEAST_SECONDS:
                result[recipe]["cpu_without_startup"] = net[0] / net[1]
        return result

    def as_markdown(self) -> str:
        """Two tables: the stages, and the ratios."""
        lines = [
            f"\n### {self.dump}: {self.pages:,} pages, {self.text_mb:.1f} MB of page text, "
            f"{self.workers} {'worker' if self.workers == 1 else 'workers'}\n",
            "| stage | wall s | CPU s | of it start-up | MB a CPU second | the same without "
            "start-up | MB written |",
            "|---|---:|---:|---:|---:|---:|---:|",
            self._row("ours: dump to shards", self.ours, self.ours_startup),
        ]
        for name, cost in self.reference.items():
            lines.append(self._row(f"reference: {name}", cost, self.reference_startup[name]))
        if self.reference:
            lines += [
                "",
                "| reference recipe | wall s | CPU s | MB written | CPU, times ours | without "
                "start-up | wall, times ours | bytes, times ours |",
                "|---|---:|---:|---:|---:|---:|---:|---:|",
            ]
        for recipe, ratio in self.ratios().items():
            cost = recipe_cost(self.reference, recipe)
            net = ratio.get("cpu_without_startup")
            lines.append(
                f"| {recipe} | {cost.wall:.1f} | {cost.cpu:.1f} | {cost.output_bytes / 1e6:.1f} "
                f"| {ratio['cpu']:.1f} | {'-' if net is None else f'{net:.1f}'} "
                f"| {ratio['wall']:.1f} | {ratio['bytes']:.1f} |"
            )
        return "\n".join(lines)

    def _row(self, name: str, cost: Cost, startup: Cost) -> str:
        net = cost.cpu - startup.cpu
        rate = f"{self.text_mb / net:.2f}" if net > LEAST_SECONDS else "-"
        return (
            f"| {name} | {cost.wall:.2f} | {cost.cpu:.2f} | {startup.cpu:.2f} "
            f"| {self.text_mb / cost.cpu:.2f} | {rate} "
            f"| {cost.output_bytes / 1e6:.2f} |"
        )


def compare(
    dump: Path,
    language: str,
    vocab: Path,
    workers: int,
    reference: Reference | None,
    work: Path,
    runs: int,
) -> Comparison:
    """Measure both pipelines ``runs`` times; of each stage the run with the least CPU counts."""
    pages = texts = 0
    for page in iter_pages(dump):
        pages += 1
        texts += len(page.text.encode("utf-8", "replace"))
    tiny = work / "tiny.xml"
    tiny.write_text(TINY_DUMP, encoding="utf-8")
    keep_all = ("--eval-fraction", "0", "--min-document-tokens", "0")

    def least(costs: Sequence[Cost]) -> Cost:
        return min(costs, key=lambda cost: cost.cpu)

    def reference_costs(path: Path) -> dict[str, Cost]:
        if reference is None:
            return {}
        found = [measure_reference(path, reference, workers, work) for _ in range(runs)]
        return {name: least([costs[name] for costs in found]) for name in found[0]}

    return Comparison(
        dump.name,
        pages,
        texts / 1e6,
        workers,
        least([measure_ours(dump, language, vocab, workers, work) for _ in range(runs)]),
        least([measure_ours(tiny, "en", vocab, workers, work, keep_all) for _ in range(runs)]),
        reference_costs(dump),
        reference_costs(tiny),
    )


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--dump", action="append", required=True, metavar="LANGUAGE=PATH",
        help="a MediaWiki dump (.xml or .xml.bz2); may be given several times",
    )  # fmt: skip
    parser.add_argument("--vocab", type=Path, required=True, help="a WordPiece vocab.txt")
    parser.add_argument("--wikiextractor", metavar="COMMAND", help="how wikiextractor is called")
    parser.add_argument(
        "--reference-python", metavar="PYTHON", help="interpreter with nltk, h5py, tqdm"
    )
    parser.add_argument("--create-pretraining-data", type=Path, metavar="FILE")
    parser.add_argument("--workers", type=int, nargs="+", default=[1], metavar="N")
    parser.add_argument("--runs", type=int, default=1, help="the one of least CPU counts (1)")
    parser.add_argument("--profile", action="store_true", help="also the stages of ours")
    parser.add_argument("--json", type=Path, help="also write all figures here")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print Markdown tables."""
    args = build_parser().parse_args(argv)
    given = [args.wikiextractor, args.reference_python, args.create_pretraining_data]
    if any(given) and not all(given):
        raise UserError(
            "the reference needs all of --wikiextractor, --reference-python and "
            "--create-pretraining-data"
        )
    reference = None
    if all(given):
        reference = Reference(
            shlex.split(args.wikiextractor),
            args.reference_python,
            args.create_pretraining_data,
            args.vocab,
        )
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}  # one core each
    results: list[dict[str, Any]] = []
    stages: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="preparation-") as folder:
        for item in args.dump:
            language, _, path = item.partition("=")
            for workers in args.workers:
                comparison = compare(
                    Path(path), language, args.vocab, workers, reference, Path(folder), args.runs
                )
                print(comparison.as_markdown(), flush=True)
                results.append(comparison.as_json())
            if args.profile:
                profile = profile_stages(Path(path), language, args.vocab, fresh(Path(folder, "p")))
                print(profile.as_markdown(), flush=True)
                stages.append(profile.as_json())
    if args.json:
        args.json.write_text(json.dumps({"comparisons": results, "stages": stages}, indent=1))


if __name__ == "__main__":
    run_command(main)
