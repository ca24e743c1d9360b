"""Measures of extracted text, the same for every tool: leftovers, lost paragraphs, glued words.

Nothing here uses the cleaner: the raw page is looked at by plain rules of its own, so that the
measures are independent of what they judge. A word is a run of letters and digits, or one
ideograph or kana.
"""

import html
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

LEFTOVERS = {
    "[[": r"\[\[", "]]": r"\]\]", "{{": r"\{\{", "}}": r"\}\}", "{|": r"\{\|", "|}": r"\|\}",
    "<tag>": r"</?[a-zA-Z][^<>]{0,80}>|<ref", "''": r"''", "==": r"==", "|": r"\|",
    "__X__": r"__[^\W_]+__", "entity": r"&(?:#\d+|#x[0-9a-f]+|[a-z]+);",
    "()": r"(?<![A-Za-z0-9_])\(\s*[,;]?\s*\)|（\s*[，、；]?\s*）", "-{": r"-\{|\}-",
    "http": r"https?://", "( ,": r"[(（]\s*[,;，、；]|[,;，、；]\s*[)）]",
    ", ,": r"[,，、]\s*[,，、]", "BULLET": "BULLET::::", "formula_": r"(?:formula|codice)_\d",
    "File:": r"\b(?:File|Image|Category):\S", "picture": r"\.(?:jpe?g|png|svg|gif)\b",
    "px": r"\b\d+px\b", "thumb": r"\bthumb\|",
    "attribute": r"\b(?:style|class|align|valign|width|colspan|rowspan|bgcolor|cellpadding|border)"
    r"\s*=\s*[\"\w]",
}  # fmt: skip
"""Kind of leftover and its pattern. `|}` inside `||` and so on count once per kind."""

WORD = re.compile("[\u3400-\u9fff\u3040-\u30ff]|[^\\W\u3400-\u9fff\u3040-\u30ff_]+")
RUN_WORDS = 4
PARAGRAPH_WORDS = 10
_PATTERNS = {kind: re.compile(pattern, re.IGNORECASE) for kind, pattern in LEFTOVERS.items()}
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_DEPTH = re.compile(r"\{\{|\}\}|(?m:^[ \t:*#]*\{\|)|(?m:^[ \t:*#]*\|\}(?!\}))")
_HIDDEN = re.compile(
    r"<(ref|gallery|math|timeline|source|syntaxhighlight|nowiki|pre|poem|table|imagemap|score)\b"
    r"(?:[^<>]*/>|[^<>]*>.*?</\1\s*>)",
    re.DOTALL | re.IGNORECASE,
)
_HEADING = re.compile(r"^(={1,6})[ \t]*(.+?)[ \t]*\1[ \t]*$")
_MARKUP = re.compile(
    r"\[\[[^\[\]]*\]\]|\{\{[^{}]*\}\}|\[[^\[\]]*\]|</?[a-zA-Z][^<>]*>|&[#\w]+;|-\{|\}-|''+|[\[\]{}|]"
)
_CAPTION = re.compile(r"\[\[[^\[\]|:]+:[^\[\]|]+\.\w{3,4}\|(?:[^\[\]|]*\|)*([^\[\]|]+)\]\]")
_GLUED = re.compile(r"[^\W\d_]{2,}[.!?]?[^\W\d_]{2,}")
_TOUCHING_START = re.compile(r"^\w+")
_TOUCHING_END = re.compile(r"\w+$")
_VISIBLE = re.compile(r"\[\[(?:[^\[\]|]*\|)?|\]\]|''+")


def words(text: str) -> list[str]:
    """The words of a text, in order."""
    return WORD.findall(text)


def leftovers(lines: Iterable[str]) -> Counter[str]:
    """Pieces of markup by kind."""
    found: Counter[str] = Counter()
    for line in lines:
        for kind, pattern in _PATTERNS.items():
            if count := sum(1 for _ in pattern.finditer(line)):
                found[kind] += count
    return found


def leftover_places(lines: Iterable[str], around: int = 30) -> list[str]:
    """Each leftover with its kind and the text around it."""
    return [
        f"{kind}: …{line[max(0, m.start() - around) : m.end() + around]}…"
        for line in lines
        for kind, pattern in _PATTERNS.items()
        for m in pattern.finditer(line)
    ]


@dataclass(frozen=True)
class RawPage:
    """What plain rules see in a page's wikitext.

    paragraphs: (number of the section, runs of words outside any markup) of each line of prose.
    headings: in order, one a section from 1 on. captions: of pictures, without links inside.
    """

    visible: str
    paragraphs: Sequence[tuple[int, tuple[str, ...]]]
    headings: Sequence[str]
    captions: Sequence[str]


def raw_page(wikitext: str) -> RawPage:
    """Read a page by plain rules.

    A paragraph of prose is a line outside templates and tables that begins with a letter, a
    quote or an opening bracket of a link to an article and has PARAGRAPH_WORDS words in runs of
    RUN_WORDS or more outside any markup.
    """
    text = _HIDDEN.sub(" {{}} ", _COMMENT.sub("", wikitext))
    paragraphs: list[tuple[int, tuple[str, ...]]] = []
    headings: list[str] = []
    depth = 0
    for line in text.split("\n"):
        outside = depth == 0
        for match in _DEPTH.finditer(line):
            opens = match.group()[-1] in "{|" and "}" not in match.group()
            depth = max(0, depth + (1 if opens else -1))
        if not outside:
            continue
        if heading := _HEADING.match(line):
            headings.append(_VISIBLE.sub("", heading.group(2)).strip())
        elif depth == 0 and re.match(r"[^\W_]|''+\w|\[\[[^:\]]+\]\]", line):
            long = [run for run in _runs(line) if len(run) >= RUN_WORDS]
            if sum(map(len, long)) >= PARAGRAPH_WORDS:
                paragraphs.append((len(headings), tuple(" ".join(run) for run in long)))
    visible = html.unescape(_VISIBLE.sub("", wikitext))
    captions = [c for c in _CAPTION.findall(text) if len(words(c)) >= RUN_WORDS]
    return RawPage(visible, paragraphs, headings, captions)


def _runs(line: str) -> list[list[str]]:
    """Runs of words outside markup, without a word that touches markup ("[[dog]]s")."""
    pieces = _MARKUP.split(html.unescape(line.replace("&nbsp;", " ")))
    last = len(pieces) - 1
    runs = []
    for index, piece in enumerate(pieces):
        if index > 0:
            piece = _TOUCHING_START.sub("", piece)
        if index < last:
            piece = _TOUCHING_END.sub("", piece)
        runs.append(words(piece))
    return runs


@dataclass
class Score:
    """Sums over the pages of a source for one tool."""

    documents: int = 0
    words: int = 0
    leftovers: Counter[str] = field(default_factory=Counter)
    paragraphs: int = 0
    lost: int = 0
    damaged: int = 0
    sections: int = 0
    lost_sections: int = 0
    headings_as_text: int = 0
    captions: int = 0
    glued: int = 0
    examples: dict[str, list[str]] = field(default_factory=dict)

    def note(self, kind: str, example: str, limit: int = 400) -> None:
        """Keep an example."""
        kept = self.examples.setdefault(kind, [])
        if len(kept) < limit:
            kept.append(example)

    def per_10000(self) -> float:
        """Leftovers per 10,000 words."""
        return 1e4 * self.leftovers.total() / max(self.words, 1)


def judge(score: Score, title: str, lines: Sequence[str], raw: RawPage | None) -> None:
    """Add one page: ``lines`` is the tool's text, ``raw`` the page where it is at hand."""
    tokens = [words(line) for line in lines]
    score.documents += bool(lines)
    score.words += sum(map(len, tokens))
    score.leftovers += leftovers(lines)
    if raw is None:
        return
    stream = " " + " ".join(" ".join(token) for token in tokens) + " "
    _judge_paragraphs(score, title, stream, raw)
    shown = {line.rstrip(".").strip() for line in lines}
    for heading in raw.headings:
        if heading in shown:
            score.headings_as_text += 1
            score.note("heading", f"{title}: {heading}")
    for caption in raw.captions:
        run = " ".join(words(html.unescape(caption)))
        if f" {run} " in stream and raw.visible.count(caption) < 2:
            score.captions += 1
            score.note("caption", f"{title}: {caption}")
    for line in lines:
        for match in _GLUED.finditer(line):
            if _is_glued(match.group()) and match.group() not in raw.visible:
                score.glued += 1
                score.note(
                    "glued", f"{title}: {line[max(0, match.start() - 30) : match.end() + 30]}"
                )


def _is_glued(token: str) -> bool:
    """A small letter, or a stop after one, directly before a capital."""
    return any(b.isupper() and (a.islower() or a in ".!?") for a, b in itertools.pairwise(token))


def _judge_paragraphs(score: Score, title: str, stream: str, raw: RawPage) -> None:
    place = 0
    sections: dict[int, bool] = {}
    for section, runs in raw.paragraphs:
        found = 0
        for run in runs:
            at = stream.find(f" {run} ", place)
            if at < 0:  # an earlier run of few words may have been met too late in the page
                at = stream.find(f" {run} ")
            if at >= 0:
                found += 1
                place = at + len(run) + 1
            else:
                score.note("missing", f"{title}: {run}")
        score.paragraphs += 1
        is_lost = found * 2 < len(runs)
        score.lost += is_lost
        score.damaged += not is_lost and found < len(runs)
        if is_lost:
            score.note("lost", f"{title}: {' … '.join(runs)[:200]}")
        sections[section] = sections.get(section, False) or not is_lost
    score.sections += len(sections)
    score.lost_sections += sum(not kept for kept in sections.values())
