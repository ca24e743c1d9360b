"""The sentence stage of the reference pipeline: wikiextractor's output to one sentence a line.

Runs in the reference's own environment (needs nltk, and nothing of this project):

    python reference_sentences.py EXTRACTED OUTPUT.txt [--part I --parts N]

Blank lines part documents, as create_pretraining_data.py wants it. NLTK's Punkt splitter runs with
its untrained parameters: the trained model is a download of its own, and training it on the text
costs more than splitting does. This stage stands for speed, not for quality.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from nltk.tokenize.punkt import PunktSentenceTokenizer


def documents(folder: Path) -> Iterator[list[str]]:
    """The lines of each ``<doc>`` block, without the title and without blank ones."""
    for path in sorted(folder.rglob("wiki_*")):
        lines: list[str] = []
        with path.open(encoding="utf-8") as file:
            for line in map(str.strip, file):
                if line.startswith("<doc "):
                    lines = []
                elif line.startswith("</doc>"):
                    yield lines[1:]
                elif line:
                    lines.append(line)


def main() -> None:
    """Split every ``parts``-th document, from document ``part`` on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("extracted", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--part", type=int, default=0)
    parser.add_argument("--parts", type=int, default=1)
    options = parser.parse_args()
    splitter = PunktSentenceTokenizer()
    with options.output.open("w", encoding="utf-8") as output:
        for number, lines in enumerate(documents(options.extracted)):
            if number % options.parts == options.part and lines:
                for line in lines:
                    output.writelines(f"{sentence}\n" for sentence in splitter.tokenize(line))
                output.write("\n")


if __name__ == "__main__":
    main()
