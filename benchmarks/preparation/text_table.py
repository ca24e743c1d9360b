"""What the cleaner keeps, drops and leaves out, as one row per dump of a Markdown table.

    python benchmarks/preparation/text_table.py en=enwiki.xml.bz2 de=dewiki.xml.bz2 ... [--unknown 10]

To compare two versions, run the same script in both checkouts with PYTHONPATH set to each; a version
that does not count templates leaves these columns empty. Leftovers are marks of wikitext and HTML
in the sentences, per 10,000 words: brackets, braces, quotes, bars, tags, entities, switches,
conversions, addresses, empty brackets, names of pictures.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from megabert.common.log import run_command
from megabert.data.text.document import page_to_sentences
from megabert.data.text.input.sources import iter_pages

LEFTOVERS = re.compile(
    r"\[\[|\]\]|\{\{|\}\}|\{\||\|\}|''|\|\||==|</?[a-z]+[ />]|&[a-z#0-9]+;|-\{|\}-|https?:"
    r"|__[A-Z]+__|\( ?\)|（ ?）|\(,|, ,|\d+px|\w+\.(?:jpg|png|svg|gif)\b|[\ue000-\ue00f]"
)
_WORD = re.compile(r"[㐀-鿿\u3040-\u30ff]|[^\W_㐀-鿿\u3040-\u30ff]+")


def row(language: str, path: Path, unknown: int) -> tuple[str, list[tuple[str, int]]]:
    """The dump's row, and its most frequent unknown templates."""
    reasons: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    leftovers: Counter[str] = Counter()
    words = sentences = 0
    for page in iter_pages(path):
        cleaned = page_to_sentences(page, language)
        reasons[cleaned.drop_reason or "kept"] += 1
        counts.update(getattr(cleaned, "counts", {}))
        for sentence in (s for paragraph in cleaned.paragraphs for s in paragraph):
            sentences += 1
            words += len(_WORD.findall(sentence))
            leftovers.update(LEFTOVERS.findall(sentence))
    kept = reasons.pop("kept", 0)
    met = counts.get("templates", 0)
    share = f"{100 * counts['templates understood'] / met:.1f} %" if met else ""
    cells = [
        path.name,
        language,
        f"{kept:,}",
        ", ".join(f"{n:,} {reason}" for reason, n in sorted(reasons.items())) or "none",
        f"{sentences:,}",
        f"{words:,}",
        f"{met:,}" if met else "",
        share,
        f"{counts['holes']:,}" if met else "",
        f"{counts['brackets left out']:,}" if met else "",
        f"{1e4 * leftovers.total() / max(words, 1):.2f}",
    ]
    names = [
        (key.removeprefix("unknown: "), n) for key, n in counts.items() if key.startswith("unknown")
    ]
    names.sort(key=lambda item: (-item[1], item[0]))
    return "| " + " | ".join(cells) + " |", names[:unknown]


def main(arguments: Iterable[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("inputs", nargs="+", metavar="LANGUAGE=PATH")
    parser.add_argument("--unknown", type=int, default=0, help="unknown templates to list per dump")
    options = parser.parse_args(list(arguments) if arguments is not None else None)
    print("| dump | language | kept | dropped | sentences | words | calls | understood | sentences left out "
          "| remarks left out | leftovers per 10,000 words |\n|---|---|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    lists = []
    for item in options.inputs:
        language, _, name = item.partition("=")
        text, names = row(language, Path(name), options.unknown)
        print(text, flush=True)
        lists.append((Path(name).name, names))
    for name, names in lists if options.unknown else []:
        print(f"\n{name}: " + ", ".join(f"{template} {n}" for template, n in names))
    return 0


if __name__ == "__main__":
    run_command(main)
