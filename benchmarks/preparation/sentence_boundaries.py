"""Wrong cuts and wrong joins of sentence splitters, on treebanks whose sentence ends are known.

    python benchmarks/preparation/sentence_boundaries.py de=de_gsd-ud-test.conllu it=it_isdt-ud-test.conllu

Sentences that follow each other in a Universal Dependencies file (the same paragraph, where the
file marks paragraphs) are joined to lines of up to LINE sentences, and the lines are split again. A
line ends where a reader could not see the end of the sentence either: after a sentence without a
final stop, and before one that begins with a small letter. Counted are cuts inside a sentence of
the treebank (wrong cuts) and ends of sentences inside a line without a cut (wrong joins).
"""

import argparse
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

LINE = 6
_TEXT = "# text = "
_STOP = re.compile(r"[.!?…。！？؟۔।॥։][\"'’”“»«)\]）」』]*$")
_SMALL = re.compile(r"[\"'’”“»«(\[\-–— ]*[^\W\d_]", re.UNICODE)
_NO_SPACES = ("zh", "ja")
Splitter = Callable[[str, str], list[str]]


@dataclass
class Score:
    """Counts over the lines of one language."""

    sentences: int = 0
    ends: int = 0
    wrong_cuts: int = 0
    wrong_joins: int = 0
    seconds: float = 0.0
    characters: int = 0
    cuts: list[str] = field(default_factory=list)
    joins: list[str] = field(default_factory=list)


def paragraphs(path: Path) -> Iterator[list[str]]:
    """The sentences of a CoNLL-U file, by paragraph or document where it marks them.

    Marks are ignored in a file that calls nearly every sentence a document of its own.
    """
    sentences: list[str] = []
    current = False
    content = path.read_text(encoding="utf-8")
    use_marks = content.count("\n# newdoc") < 0.8 * content.count(_TEXT)
    for line in content.split("\n"):
        if use_marks and line.startswith(("# newdoc", "# newpar")) and sentences:
            # the marks precede or follow "# sent_id" of the sentence that they begin
            if not current:
                yield sentences
                sentences = []
            current = True
        elif line.startswith(_TEXT):
            sentences.append(" ".join(line[len(_TEXT) :].split()))
            current = False
    if sentences:
        yield sentences


def begins_small(sentence: str) -> bool:
    """Whether the first letter of a sentence is a small one."""
    match = _SMALL.match(sentence)
    return bool(match) and match.group()[-1].islower()


def lines(sentences: Iterable[str]) -> Iterator[list[str]]:
    """Sentences joined to lines as a reader could split them again."""
    line: list[str] = []
    for sentence in sentences:
        if line and (len(line) == LINE or not _STOP.search(line[-1]) or begins_small(sentence)):
            yield line
            line = []
        line.append(sentence)
    if line:
        yield line


def _letters(text: str) -> int:
    return len(text) - text.count(" ")


def _ends(pieces: Iterable[str]) -> list[int]:
    ends, total = [], 0
    for piece in pieces:
        total += _letters(piece)
        ends.append(total)
    return ends[:-1]


def _around(text: str, letters: int) -> str:
    count = 0
    for place, character in enumerate(text):
        count += character != " "
        if count == letters:
            return (
                f"{text[max(0, place - 45) : place + 1]} | {text[place + 1 : place + 40].strip()}"
            )
    return text


def measure(splitter: Splitter, language: str, paths: Iterable[Path]) -> Score:
    """Split the lines of treebanks and compare."""
    score = Score()
    glue = "" if language in _NO_SPACES else " "
    for path in paths:
        for paragraph in paragraphs(path):
            for line in lines(paragraph):
                text = glue.join(line)
                start = time.perf_counter()
                pieces = splitter(text, language)
                score.seconds += time.perf_counter() - start
                right, found = set(_ends(line)), set(_ends(pieces))
                score.characters += len(text)
                score.sentences += len(line)
                score.ends += len(right)
                score.wrong_cuts += len(found - right)
                score.wrong_joins += len(right - found)
                score.cuts += [_around(text, place) for place in sorted(found - right)]
                score.joins += [_around(text, place) for place in sorted(right - found)]
    return score


def project_splitter() -> Splitter:
    """The splitter of this project."""
    from megabert.data.text.sentences import split_sentences

    return split_sentences


def sentencex_splitter() -> Splitter:
    """sentencex alone."""
    import sentencex

    return lambda text, language: [p for p in sentencex.segment(language, text) if p.strip()]


def pysbd_splitter() -> Splitter:
    """pySBD; languages that it does not know are split by its English rules."""
    import pysbd
    from pysbd.languages import LANGUAGE_CODES

    made: dict[str, pysbd.Segmenter] = {}

    def split(text: str, language: str) -> list[str]:
        if language not in made:
            known = language if language in LANGUAGE_CODES else "en"
            made[language] = pysbd.Segmenter(language=known, clean=False)
        return [piece for piece in made[language].segment(text) if piece.strip()]

    return split


def punkt_splitter() -> Splitter:
    """NLTK's Punkt without a trained model."""
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    punkt = PunktSentenceTokenizer()
    return lambda text, language: punkt.tokenize(text)


def blingfire_splitter() -> Splitter:
    """BlingFire's one rule set for all languages."""
    import blingfire

    return lambda text, language: blingfire.text_to_sentences(text).split("\n")


SPLITTERS = {
    "megabert": project_splitter,
    "sentencex": sentencex_splitter,
    "pysbd": pysbd_splitter,
    "punkt": punkt_splitter,
    "blingfire": blingfire_splitter,
}


def main() -> None:
    """Print one row per language and splitter."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("treebanks", nargs="+", help="LANGUAGE=FILE, a file in CoNLL-U format")
    parser.add_argument("--splitters", nargs="+", default=["megabert"], choices=list(SPLITTERS))
    parser.add_argument("--show", type=int, default=0, help="places to print per kind of fault")
    options = parser.parse_args()
    files: dict[str, list[Path]] = {}
    for treebank in options.treebanks:
        language, _, path = treebank.partition("=")
        files.setdefault(language, []).append(Path(path))
    total: dict[str, Counter[str]] = {}
    for name in options.splitters:
        splitter = SPLITTERS[name]()
        print(f"\n| {name} | sentences | ends in lines | wrong cuts | wrong joins | MB/s |")
        print("|---|---:|---:|---:|---:|---:|")
        total[name] = Counter()
        for language, paths in sorted(files.items()):
            score = measure(splitter, language, paths)
            total[name].update(
                sentences=score.sentences,
                ends=score.ends,
                cuts=score.wrong_cuts,
                joins=score.wrong_joins,
            )
            print(
                f"| {language} | {score.sentences} | {score.ends} | {score.wrong_cuts} "
                f"| {score.wrong_joins} | {score.characters / score.seconds / 1e6:.1f} |"
            )
            for title, places in (("cut", score.cuts), ("join", score.joins)):
                for place in places[:: max(1, len(places) // options.show)] if options.show else ():
                    print(f"    {title}: {place}")
        counts = total[name]
        print(
            f"| all | {counts['sentences']} | {counts['ends']} | {counts['cuts']} | {counts['joins']} | |"
        )


if __name__ == "__main__":
    main()
