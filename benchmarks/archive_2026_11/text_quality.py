"""How clean the text is: pages kept and dropped, speed, leftovers, lost paragraphs, glued words.

    python benchmarks/archive_2026_11/text_quality.py en=dump.xml.bz2 zh=folder/ [--show 5] [--json out.json]
        [--wikiextractor COMMAND] [--save DIR] [--other NAME=DIR] [--worst 10]

Each input is LANGUAGE=PATH. Speed is that of one process: reading, cleaning and splitting, in MB
(10^6 bytes) of source text per second of CPU time. The measures are those of text_measures.py.
``--wikiextractor`` runs that program on each MediaWiki dump and judges its output by the same
measures. ``--save`` keeps the sentences, one JSON line per page; ``--other`` judges sentences
that were saved by another version. ``--worst`` shows the articles with the most leftovers, as
ranked by the first ``--other`` where there is one.
"""

import argparse
import html
import json
import random
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from text_measures import RawPage, Score, judge, leftover_places, leftovers, raw_page

from megabert.common.errors import UserError
from megabert.common.log import run_command
from megabert.data.text.document import page_to_sentences
from megabert.data.text.input.sources import iter_pages

Texts = dict[int, list[str]]
"""Page id to lines of text."""


@dataclass
class Source:
    """One input after our own run."""

    path: Path
    language: str
    texts: Texts = field(default_factory=dict)
    titles: dict[int, str] = field(default_factory=dict)
    raw: dict[int, RawPage | None] = field(default_factory=dict)
    figures: dict[str, object] = field(default_factory=dict)


def clean_source(path: Path, language: str, save: Path | None) -> Source:
    """Read, clean and split a source; the raw pages are read by the independent plain rules."""
    source = Source(path, language)
    reasons: Counter[str] = Counter()
    size = sentences = 0
    seconds, slowest = 0.0, (0.0, "")
    saved: list[str] = []
    start = time.process_time()
    for page in iter_pages(path):
        began = time.process_time()
        cleaned = page_to_sentences(page, language)
        now = time.process_time()
        slowest = max(slowest, (now - began, page.title))
        seconds += now - start
        reasons[cleaned.drop_reason or "kept"] += 1
        size += len(page.text.encode())
        if page.namespace == 0 and not page.redirect and page.model == "wikitext":
            lines = [sentence for paragraph in cleaned.paragraphs for sentence in paragraph]
            sentences += len(lines)
            source.texts[page.page_id] = lines
            source.titles[page.page_id] = page.title
            is_raw = page.markup == "wikitext"
            source.raw[page.page_id] = raw_page(page.text) if is_raw else None
            saved.append(json.dumps([page.page_id, lines], ensure_ascii=False))
        start = time.process_time()
    if save:
        save.mkdir(parents=True, exist_ok=True)
        (save / f"{path.name}.jsonl").write_text("\n".join(saved) + "\n", encoding="utf-8")
    source.figures = {
        "pages": dict(reasons),
        "sentences": sentences,
        "source_mb": round(size / 1e6, 2),
        "mb_per_second": round(size / 1e6 / seconds, 2),
        "slowest_page": [round(slowest[0], 3), slowest[1]],
    }
    return source


def saved_texts(folder: Path, source: Source) -> Texts | None:
    """Sentences that ``--save`` wrote, None where the folder has none of this source."""
    path = folder / f"{source.path.name}.jsonl"
    if not path.exists():
        return None
    return dict(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())


def wikiextractor_texts(command: str, path: Path) -> Texts:
    """Lines of text as wikiextractor writes them, its HTML escapes decoded.

    Raises UserError where the program fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*shlex.split(command), "--json", "-q", "-o", folder, str(path)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise UserError(f"{command}: exit status {done.returncode}: {done.stderr[-300:]}")
        texts: Texts = {}
        for file in sorted(Path(folder).rglob("wiki_*")):
            for line in file.read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                text = html.unescape(record["text"])
                texts[int(record["id"])] = [x.strip() for x in text.split("\n") if x.strip()]
    return texts


def score_texts(source: Source, texts: Texts) -> Score:
    """Judge one tool's text of all articles of a source."""
    score = Score()
    for number, raw in source.raw.items():
        judge(score, source.titles[number], texts.get(number, []), raw)
    return score


def show_worst(source: Source, tools: dict[str, Texts], count: int) -> None:
    """The articles with most leftovers in the last tool's text, and each tool's leftovers."""
    ranked = tools[list(tools)[-1]]
    totals = {number: leftovers(lines).total() for number, lines in ranked.items()}
    worst = sorted((n for n in totals if totals[n]), key=lambda n: (-totals[n], n))
    for number in worst[:count]:
        print(f"\n##### {source.path.name}: {source.titles.get(number, number)}")
        for name, texts in tools.items():
            places = leftover_places(texts.get(number, []))
            print(f"{name}: {len(places)}")
            for place in places[:12]:
                print(f"    {place}")


def show_sample(source: Source, count: int, seed: int) -> None:
    """Random articles, one sentence a line."""
    kept = [number for number, lines in source.texts.items() if lines]
    for number in random.Random(seed).sample(kept, min(count, len(kept))):
        print(f"\n##### {source.titles[number]}")
        print("\n".join(source.texts[number]))


def _row(name: str, score: Score) -> str:
    kinds = ", ".join(f"`{kind}` {n}" for kind, n in score.leftovers.most_common(6))
    return (
        f"| {name} | {score.documents:,} | {score.words:,} | {score.per_10000():.2f} ({kinds}) "
        f"| {score.lost:,} + {score.damaged:,} of {score.paragraphs:,} "
        f"| {score.lost_sections:,} of {score.sections:,} | {score.headings_as_text:,} "
        f"| {score.glued:,} | {score.captions:,} |"
    )


def _figures(score: Score) -> dict[str, object]:
    figures = {f.name: getattr(score, f.name) for f in fields(score) if f.name != "examples"}
    return figures | {"leftovers_per_10000_words": round(score.per_10000(), 3)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, print a table a source and, where asked for, articles."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("inputs", nargs="+", metavar="LANGUAGE=PATH")
    parser.add_argument("--wikiextractor", metavar="COMMAND", help="program to compare with")
    parser.add_argument("--save", type=Path, metavar="DIR", help="keep our sentences here")
    parser.add_argument(
        "--other", action="append", default=[], metavar="NAME=DIR", help="saved sentences"
    )
    parser.add_argument("--worst", type=int, default=0, help="worst articles to show")
    parser.add_argument("--show", type=int, default=0, help="random articles to print")
    parser.add_argument("--examples", type=int, default=0, help="examples of each fault to print")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random articles")
    parser.add_argument("--json", type=Path, help="also write all figures here")
    options = parser.parse_args(arguments)
    results = []
    for item in options.inputs:
        language, _, name = item.partition("=")
        source = clean_source(Path(name), language, options.save)
        tools = {"megabert": source.texts}
        if options.wikiextractor and any(source.raw.values()):
            tools["wikiextractor"] = wikiextractor_texts(options.wikiextractor, source.path)
        for other in options.other:
            label, _, folder = other.partition("=")
            if (texts := saved_texts(Path(folder), source)) is not None:
                tools[label] = texts
        scores = {tool: score_texts(source, texts) for tool, texts in tools.items()}
        print(f"\n{source.path.name}: {json.dumps(source.figures, ensure_ascii=False)}")
        print("| tool | documents | words | leftovers per 10,000 words | paragraphs lost + damaged "
              "| sections lost | headings as text | glued | captions |\n|---|---|---|---|---|---|---|---|---|")  # fmt: skip
        for tool, score in scores.items():
            print(_row(tool, score))
            for kind, examples in score.examples.items():
                for example in examples[: options.examples]:
                    print(f"    {kind}: {example}")
        show_worst(source, tools, options.worst)
        show_sample(source, options.show, options.seed)
        sys.stdout.flush()
        results.append(
            {"source": source.path.name, "language": language, **source.figures}
            | {tool: _figures(score) for tool, score in scores.items()}
        )
    if options.json:
        options.json.write_text(json.dumps(results, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main)
