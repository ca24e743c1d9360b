"""How clean the text is: pages kept and dropped, speed, and leftovers of markup.

    python benchmarks/text_quality.py en=dump.xml.bz2 zh=folder/ [--show 5] [--json out.json]

Each input is LANGUAGE=PATH. Speed is that of one process: reading, cleaning and splitting, in MB
(10^6 bytes) of source text a second. Leftovers are counted in the sentences that would go into
shards, per 10,000 words, where a run of letters and digits is a word and so is each ideograph.
"""

import argparse
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from megabert.data.text.document import page_to_sentences
from megabert.data.text.sources import iter_pages
from megabert.log import run_command

LEFTOVERS = {
    "[[": r"\[\[", "]]": r"\]\]", "{{": r"\{\{", "}}": r"\}\}", "{|": r"\{\|", "|}": r"\|\}",
    "<ref": r"<ref", "<tag>": r"</?[a-zA-Z][^<>]{0,80}>", "''": r"''", "==": r"==", "|": r"\|",
    "thumb|": r"thumb\|", "__X__": r"__[^\W_]+__", "entity": r"&(?:#\d+|#x[0-9a-f]+|[a-z]+);",
    "()": r"(?<![A-Za-z0-9_])\(\s*[,;]?\s*\)|（\s*[，、；]?\s*）", "-{": r"-\{|\}-", "http": r"https?://",
    "( ,": r"[(（]\s*[,;，、；]|[,;，、；]\s*[)）]", ", ,": r"[,，、]\s*[,，、]",
    "BULLET": "BULLET::::", "formula_": r"formula_\d", "File:": r"\b(?:File|Image|Category):",
}  # fmt: skip
WORD = re.compile("[\u3400-\u9fff\u3040-\u30ff]|[^\\W\u3400-\u9fff\u3040-\u30ff]+")


def measure(path: Path, language: str, show: int, seed: int) -> dict[str, object]:
    """Figures of one source; prints ``show`` random articles."""
    reasons: Counter[str] = Counter()
    found: Counter[str] = Counter()
    sentences = words = size = paragraphs = 0
    seconds = 0.0
    slowest = (0.0, "")
    rng = random.Random(seed)
    sample: list[tuple[str, list[list[str]]]] = []
    kept = 0
    patterns = {name: re.compile(pattern) for name, pattern in LEFTOVERS.items()}
    start = time.process_time()
    for page in iter_pages(path):
        began = time.process_time()
        cleaned = page_to_sentences(page, language)
        took = time.process_time() - began
        slowest = max(slowest, (took, page.title))
        seconds += time.process_time() - start
        reasons[cleaned.drop_reason or "kept"] += 1
        size += len(page.text.encode())
        if cleaned.drop_reason is None:
            kept += 1
            if len(sample) < show:
                sample.append((page.title, cleaned.paragraphs))
            elif show and rng.randrange(kept) < show:
                sample[rng.randrange(show)] = (page.title, cleaned.paragraphs)
        for paragraph in cleaned.paragraphs:
            paragraphs += 1
            for sentence in paragraph:
                sentences += 1
                words += sum(1 for _ in WORD.finditer(sentence))
                for name, pattern in patterns.items():
                    found[name] += sum(1 for _ in pattern.finditer(sentence))
        start = time.process_time()
    for title, text in sample:
        print(f"\n##### {title}")
        for paragraph in text:
            print("\n".join(paragraph), end="\n\n")
    return {
        "source": path.name,
        "language": language,
        "pages": dict(reasons),
        "paragraphs": paragraphs,
        "sentences": sentences,
        "words": words,
        "source_mb": round(size / 1e6, 2),
        "mb_per_second": round(size / 1e6 / seconds, 2),
        "slowest_page": [round(slowest[0], 3), slowest[1]],
        "leftovers": {name: found[name] for name in LEFTOVERS if found[name]},
        "leftovers_per_10000_words": round(1e4 * found.total() / max(words, 1), 3),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and print one line of JSON a source."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("inputs", nargs="+", metavar="LANGUAGE=PATH")
    parser.add_argument("--show", type=int, default=0, help="random articles to print")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random articles")
    parser.add_argument("--json", type=Path, help="also write all figures here")
    options = parser.parse_args(arguments)
    results = []
    for item in options.inputs:
        language, _, path = item.partition("=")
        results.append(measure(Path(path), language, options.show, options.seed))
        print(json.dumps(results[-1], ensure_ascii=False), file=sys.stderr)
    if options.json:
        options.json.write_text(json.dumps(results, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main)
