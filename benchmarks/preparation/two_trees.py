"""Preparation by two versions of this project: the same dumps, alternately, in one run.

    python benchmarks/preparation/two_trees.py ../before . --tokenizer vocab.txt \\
        --dump en=a.xml.bz2,b.xml.bz2 --dump it=c.xml.bz2 [--times 6] [--runs 5]

Each tree is a checkout of a commit. One run of data_tools/shard_wiki.py with one worker is measured:
CPU seconds of all its processes, the minimum and the median of the runs. With --times N, the pages
of the first dump are prepared N times over as well, each time with other titles and ids, so that the
time in which the processes start counts less.
"""

from __future__ import annotations

import argparse
import bz2
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megabert.common.errors import UserError
from megabert.common.log import run_command

_PAGE = re.compile(r"<page>.*?</page>", re.DOTALL)


def repeated(dumps: Sequence[Path], times: int, folder: Path) -> Path:
    """A dump with the pages of bzip2 dumps, ``times`` times; its head is that of the last one."""
    texts = [bz2.decompress(path.read_bytes()).decode() for path in dumps]
    pages = [page for text in texts for page in _PAGE.findall(text)]
    path = folder / "repeated.xml.bz2"
    with bz2.open(path, "wt", encoding="utf-8") as file:
        file.write(texts[-1][: texts[-1].index("<page>")])
        for number in range(times * len(pages)):
            turn, place = divmod(number, len(pages))
            page = pages[place]
            if turn:
                page = page.replace("</title>", f" {turn}</title>", 1)
            file.write(re.sub(r"<id>\d+</id>", f"<id>{number + 1}</id>", page, count=1) + "\n")
        file.write("</mediawiki>\n")
    return path


def cpu_seconds(tree: Path, dumps: Sequence[Path], language: str, tokenizer: Path) -> float:
    """CPU seconds of one preparation, all its processes together."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "data_tools/shard_wiki.py", "--workers", "1", "--language", language,
             "--tokenizer", tokenizer, "--output", f"{folder}/shards", "--input", *dumps],
            cwd=tree, env={**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode:
        raise UserError(f"{tree}: exit {done.returncode}: {done.stderr.strip()[-500:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(argv: Sequence[str] | None = None) -> int:
    """Measure both trees on each dump and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trees", nargs=2, type=Path, metavar="TREE")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--dump", action="append", required=True, metavar="LANGUAGE=FILE[,FILE]")
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args(argv)
    trees = [tree.resolve() for tree in options.trees]
    cases = []
    for dump in options.dump:
        language, _, names = dump.partition("=")
        cases.append((language, [Path(name).resolve() for name in names.split(",")]))
    with tempfile.TemporaryDirectory() as folder:
        if options.times > 1:
            language, dumps = cases[0]
            cases.append((language, [repeated(dumps, options.times, Path(folder))]))
        print("| dump | runs | minimum, s | ratio | median, s | ratio |")
        print("|---|---|---|---|---|---|")
        for language, dumps in cases:
            found: list[list[float]] = [[], []]
            for _ in range(options.runs):
                for tree, seconds in zip(trees, found, strict=True):
                    seconds.append(cpu_seconds(tree, dumps, language, options.tokenizer.resolve()))
            cells = []
            for kind in (min, statistics.median):
                first, second = (kind(seconds) for seconds in found)
                cells.append(f"{first:.2f} → {second:.2f} | {second / first:.2f}")
            name = ", ".join(path.name for path in dumps)
            print(f"| {name} ({language}) | {options.runs} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    run_command(main)
