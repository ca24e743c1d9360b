"""The held-out passages, and the words in them that are scored: chosen without any tokenizer.

Articles are held out by the hash that ``shard_wiki.py`` uses, of seed, page id and title. Of their cleaned
sentences, passages of at most 64 words are made; the 2,000 passages with the lowest hashes are scored. A word is
a run of letters and digits. About 15 % of the words are scored, again by a hash: of page id, title and the word's
number in the article. Only words of the letters a to z and digits are scored, which every vocabulary can spell.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from megabert.common.files import limited_lines, new_text_file
from megabert.common.json_text import parse_json
from megabert.data.prepare.encode import in_eval_split
from megabert.data.text.document import page_to_sentences
from megabert.data.text.input.sources import iter_pages
from megabert.data.text.languages import AUTO, page_language
from megabert.data.text.pages import Page

SPLIT_SEED = 0
"""The default ``--seed`` of shard_wiki.py, which decides which articles are held out."""
PASSAGES = 2000
WORDS = 64
"""Most words of a passage."""
FEWEST_WORDS = 16
"""Shorter passages, such as captions, are left out."""
SHARE = 0.15
"""Of the words, this many are scored."""

_WORD = re.compile(r"\w+")
_SCORED = re.compile(r"[A-Za-z0-9]+")


@dataclass(frozen=True)
class Passage:
    """Neighbouring sentences of a held-out article.

    Attributes:
        page_id, title: of the article.
        number: of the passage in it.
        text: the sentences, joined by spaces.
        words: first character and stop of every word that is scored.
    """

    page_id: int
    title: str
    number: int
    text: str
    words: tuple[tuple[int, int], ...]

    @property
    def rank(self) -> float:
        """A hash that says which passages are used, and their order."""
        return _hash("passage", self.page_id, self.title, self.number)


def _hash(*parts: Any) -> float:
    """From 0 to 1, evenly."""
    digest = blake2b("\t".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2.0**64


def held_out_passages(
    inputs: Sequence[Path], fraction: float, count: int = PASSAGES
) -> list[Passage]:
    """The passages with the lowest hashes, in their order.

    Raises:
        UserError: the inputs cannot be read, or no article of them is held out.
    """
    found: dict[str, Passage] = {}
    for path in inputs:
        for page in iter_pages(path):
            if in_eval_split(page.page_id, page.title, SPLIT_SEED, fraction):
                for passage in passages_of(page):
                    found.setdefault(passage.text, passage)
    if not found:
        raise UserError(
            f"{inputs[0]}: of its articles none with text is held out at --eval-fraction {fraction}"
        )
    return sorted(found.values(), key=lambda passage: passage.rank)[:count]


def passages_of(page: Page) -> Iterator[Passage]:
    """The passages of an article that have enough words, and one to score."""
    cleaned = page_to_sentences(page, page_language(AUTO, page.site.language))
    sentences = [sentence for paragraph in cleaned.paragraphs for sentence in paragraph]
    first = 0
    for number, text in enumerate(_joined(sentences)):
        words = [match.span() for match in _WORD.finditer(text)]
        scored = tuple(
            span
            for place, span in enumerate(words, first)
            if _SCORED.fullmatch(text, *span)
            and _hash("word", page.page_id, page.title, place) < SHARE
        )
        first += len(words)
        if len(words) >= FEWEST_WORDS and scored:
            yield Passage(page.page_id, page.title, number, text, scored)


def _joined(sentences: Iterable[str]) -> Iterator[str]:
    """Whole sentences up to ``WORDS`` words; a longer sentence is cut before a word."""
    text, count = "", 0
    for sentence in sentences:
        for part in _cut(sentence):
            words = len(_WORD.findall(part))
            if text and count + words > WORDS:
                yield text
                text, count = "", 0
            text, count = f"{text} {part}" if text else part, count + words
    if text:
        yield text


def _cut(sentence: str) -> Iterator[str]:
    starts = [match.start() for match in _WORD.finditer(sentence)][WORDS::WORDS]
    for begin, end in zip([0, *starts], [*starts, len(sentence)]):
        yield sentence[begin:end].strip()


def write_passages(path: Path, passages: Iterable[Passage]) -> None:
    """One JSON object per line."""
    with new_text_file(path) as file:
        for one in passages:
            line = {
                "page_id": one.page_id, "title": one.title, "passage": one.number, "text": one.text,
                "words": one.words,
            }  # fmt: skip
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def read_passages(path: Path) -> list[Passage]:
    """What :func:`write_passages` wrote."""
    passages = []
    for line in limited_lines(path):
        one = parse_json(line)
        words = tuple((int(begin), int(end)) for begin, end in one["words"])
        passages.append(Passage(one["page_id"], one["title"], one["passage"], one["text"], words))
    return passages
