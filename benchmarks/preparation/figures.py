"""Figures in the output that the article does not show.

    pip install mwparserfromhell==0.7.2
    python benchmarks/preparation/figures.py en=enwiki.xml.bz2 it=itwiki.xml.bz2 ... [--calls 20]

Every number of every sentence is looked up in the article as another program shows it: plain text
by mwparserfromhell (templates, tables and footnotes removed, tags as spaces), and the arguments of
templates. A number in neither is *false*: a part of a figure, figures glued together, or a figure
that a rule made up. Thousands separators are ignored ("1,500" is "1500"). Numbers that occur only
in templates are printed with what was shown, for reading (--calls).
"""

from __future__ import annotations

import argparse
import html
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from megabert.common.log import run_command
from megabert.data.text.document import page_to_sentences
from megabert.data.text.input.sources import iter_pages

_NUMBER = re.compile(r"\d+(?:[.,٫٬']\d+)*")
_SEPARATORS = re.compile(r"[.,٫٬']")
_TAG = re.compile(r"<[^<>]*>")


def numbers(text: str) -> Counter[str]:
    """The numbers of a text, without separators between their digits."""
    return Counter(_SEPARATORS.sub("", found) for found in _NUMBER.findall(text))


def shown_and_arguments(wikitext: str) -> tuple[set[str], set[str]]:
    """The numbers in the running text, and those anywhere in the wikitext, templates included."""
    import mwparserfromhell

    plain = html.unescape(wikitext.replace("'''", "").replace("''", ""))
    code = mwparserfromhell.parse(_TAG.sub(" ", plain), skip_style_tags=True)
    text = code.strip_code(normalize=True, collapse=False)
    return set(numbers(text)), set(numbers(_TAG.sub(" ", plain)))


def main(arguments: Iterable[str] | None = None) -> int:
    """Print the counts per dump and every false number with its sentence."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("inputs", nargs="+", metavar="LANGUAGE=PATH")
    parser.add_argument("--calls", type=int, default=0, help="sentences to show with such numbers")
    options = parser.parse_args(list(arguments) if arguments is not None else None)
    print("| dump | articles | numbers | in running text | only in templates | false |\n"
          "|---|---|---|---|---|---|")  # fmt: skip
    for item in options.inputs:
        language, _, name = item.partition("=")
        articles = total = in_text = in_calls = 0
        false: list[str] = []
        shown: list[str] = []
        for page in iter_pages(Path(name)):
            cleaned = page_to_sentences(page, language)
            if cleaned.drop_reason is not None:
                continue
            articles += 1
            text, anywhere = shown_and_arguments(page.text)
            for sentence in (s for paragraph in cleaned.paragraphs for s in paragraph):
                for number, count in numbers(sentence).items():
                    total += count
                    if number in text:
                        in_text += count
                    elif number in anywhere:
                        in_calls += count
                        shown.append(f"{page.title}: {number}: {sentence}")
                    else:
                        false.append(f"{page.title}: {number}: {sentence}")
        print(f"| {Path(name).name} | {articles:,} | {total:,} | {in_text:,} | {in_calls:,} "
              f"| {len(false):,} |", flush=True)  # fmt: skip
        for line in [*(f"  false: {text}" for text in false), *shown[: options.calls]]:
            print(line)
    return 0


if __name__ == "__main__":
    run_command(main)
