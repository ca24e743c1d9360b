"""Links, tags and quotes inside a section."""

import re
from dataclasses import dataclass
from functools import lru_cache

from mwparserfromhell import nodes
from mwparserfromhell.parser import Parser
from mwparserfromhell.wikicode import Wikicode

from megabert.data.text.pages import Site

EXTERNAL = "\ue000"  # marks where an external link stood
MAX_BLOCK = 20_000  # characters given to the parser at once
MAX_OPENERS = 150

# names that stand beside the local ones in every MediaWiki, and old names that dumps do not list
_FILE = ("file", "image", "media")
_CATEGORY = ("category",)
_ALIASES = {
    "zh": (("文件", "檔案", "档案", "图像", "圖像", "媒体"), ("分类", "分類")),
    "de": (("datei", "bild"), ("kategorie",)),
    "fr": (("fichier",), ("catégorie",)),
    "es": (("archivo", "imagen"), ("categoría",)),
    "it": (("immagine",), ("categoria",)),
    "pt": (("ficheiro", "imagem", "arquivo"), ("categoria",)),
    "ru": (("файл", "изображение"), ("категория",)),
    "ja": (("ファイル", "画像"), ("カテゴリ",)),
    "nl": (("bestand", "afbeelding"), ("categorie",)),
    "pl": (("plik", "grafika"), ("kategoria",)),
    "lv": (("attēls", "fails"), ("kategorija",)),
}
_FILE_END = re.compile(
    r"\.(?:jpe?g|png|svg|gif|tiff?|webp|og[gva]|webm|pdf|djvu|xcf|mid|wav|mp3|mp4|stl)\s*$",
    re.IGNORECASE,
)
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z]{2,12}){0,2}$|simple$")
_NO_LANGUAGE = {"doi", "rfc", "pmid", "voy", "hdl", "imdb", "oeis", "wmf", "tools"}
_SIMPLE_LINK = re.compile(r"\[\[([^\[\]|]*)((?:\|[^\[\]]*)?)\]\]")
_EXTERNAL_LINK = re.compile(
    r"\[(?:(?:https?|ftps?|ircs?|gopher|git|svn|news|mailto|tel|sftp|nntp|worldwind|urn|geo|magnet|xmpp)"
    r":|//)[^\s\[\]<>]*((?:(?=[\s<>])[^\[\]\n]*)?)\]",
    re.IGNORECASE,
)
_BARE_URL = re.compile(r"\b(?:https?|ftp)://[^\s\[\]<>\"|{}]+", re.IGNORECASE)
_BREAK = re.compile(r"<\s{0,5}/?\s{0,5}br\b[^<>]*>", re.IGNORECASE)
_BLOCK_TAG = re.compile(
    r"</?(?:p|div|blockquote|center|li|ul|ol|dl|dd|dt|poem|h[1-6]|hr|tr|td|th|caption)"
    r"\b[^<>]*>",
    re.IGNORECASE,
)
_INLINE_TAG = re.compile(
    r"</?(?:[bisu]|em|strong|small|big|su[bp]|span|font|code|tt|kbd|samp|var|cite|abbr|bdi|bdo|dfn"
    r"|del|ins|strike|q|mark|ruby|r[btp]|wbr|time|data|noinclude|onlyinclude|nowiki|includeonly"
    r"|langconvert|ref|references|gallery|math|center|a|img|tbody|table|caption|s|rtc|label)"
    r"\b[^<>]*>",
    re.IGNORECASE,
)
_RUBY_SIDE = re.compile(r"<r([tp])\b[^<>]*>[^<>]*</r\1\s*>", re.IGNORECASE)
_RESIDUE = re.compile(r"\[\[|\]\]|<[a-zA-Z/]")
_OPENER = re.compile(r"\[|<|\{\{")
_LEFT_OVER = re.compile(r"\[\[[^\[\]|\n]{0,200}\||\[\[|\]\]|</?[a-zA-Z][^<>\n]{0,200}>")
_DISAMBIGUATION = re.compile(r"[(（][^()（）]*[)）]$")
_QUOTES = re.compile(r"'{2,}")
_MAX_NESTING = 6


@dataclass(frozen=True)
class LinkRules:
    """What a link's prefix means on this wiki; names are casefolded."""

    files: frozenset[str]
    categories: frozenset[str]

    @staticmethod
    @lru_cache(maxsize=64)
    def of(site: Site, language: str) -> "LinkRules":
        """Rules from the dump's own namespace names and the commonest old ones."""
        files, categories = _ALIASES.get(language.lower().split("-")[0], ((), ()))
        return LinkRules(
            frozenset(n.casefold() for n in (*_FILE, *site.file_prefixes, *files)),
            frozenset(n.casefold() for n in (*_CATEGORY, *site.category_prefixes, *categories)),
        )

    def text(self, target: str, label: str | None) -> str:
        """What a reader sees of ``[[target|label]]`` in running text; "" for files,
        categories and links to other languages. ``label`` is None where there is no ``|``."""
        target = target.strip()
        shown = target.startswith(":")
        name = target[1:] if shown else target
        prefix, colon, rest = name.partition(":")
        if colon and not shown:
            key = prefix.strip().replace("_", " ").casefold()
            if key in self.files or key in self.categories or _FILE_END.search(name):
                return ""
            if _LANGUAGE.match(prefix) and prefix not in _NO_LANGUAGE:
                return ""
        if label is not None and label.strip():
            return label.strip(" \t")
        if label is not None:  # "[[Foo (bar)|]]"
            return _DISAMBIGUATION.sub("", (rest if colon else name).strip()).strip()
        name, hash_mark, anchor = name.partition("#")
        return (name or anchor).replace("_", " ") if hash_mark else name


def strip_inline(text: str, rules: LinkRules) -> str:
    """Text without links, tags, bold and italic marks; EXTERNAL marks each external link.

    Block tags become blank lines and ``<br>`` a space, so that nothing is glued.
    """
    if "<" in text:
        text = _BREAK.sub(" ", text)
        text = _BLOCK_TAG.sub("\n\n", _RUBY_SIDE.sub("", text))
        text = _INLINE_TAG.sub("", text)
    if "[" in text:
        text = _EXTERNAL_LINK.sub(lambda match: EXTERNAL + match.group(1).strip(), text)
        for _ in range(_MAX_NESTING):
            text, count = _SIMPLE_LINK.subn(lambda match: _simple(match, rules), text)
            if not count:
                break
    if _RESIDUE.search(text):
        blocks = re.split(r"(\n[ \t]*\n)", text)
        text = "".join(_parsed(b, rules) if _RESIDUE.search(b) else b for b in blocks)
    if "://" in text:
        text = _BARE_URL.sub(EXTERNAL, text)
    if "''" in text:
        text = "\n".join(strip_quotes(line) for line in text.split("\n"))
    return text


def _simple(match: re.Match[str], rules: LinkRules) -> str:
    target, rest = match.group(1), match.group(2)
    return rules.text(target, rest[1:] if rest else None)


def _parsed(block: str, rules: LinkRules) -> str:
    """The block through mwparserfromhell, or without its brackets where that could be slow."""
    if len(block) <= MAX_BLOCK and len(_OPENER.findall(block)) <= MAX_OPENERS:
        block = _visible(Parser().parse(block, skip_style_tags=True), rules)
    return _LEFT_OVER.sub("", block)


def _visible(code: Wikicode, rules: LinkRules) -> str:
    parts: list[str] = []
    for node in code.nodes:
        if isinstance(node, nodes.Text):
            parts.append(str(node.value))
        elif isinstance(node, nodes.Wikilink):
            label = None if node.text is None else _visible(node.text, rules)
            parts.append(rules.text(_visible(node.title, rules), label))
        elif isinstance(node, nodes.ExternalLink):
            label = _visible(node.title, rules) if node.brackets and node.title else ""
            parts.append(EXTERNAL + label)
        elif isinstance(node, nodes.Tag):
            if node.wiki_markup and node.contents is None:
                parts.append(str(node.wiki_markup))
            elif node.contents is not None:
                parts.append(_visible(node.contents, rules))
        elif isinstance(node, nodes.HTMLEntity | nodes.Heading):
            parts.append(str(node))
    return "".join(parts)


def strip_quotes(line: str) -> str:
    """Without bold and italic marks; an apostrophe that touches them is kept.

    MediaWiki's rule: four quotes are an apostrophe and bold, more than five leave the surplus;
    where bold and italic are both odd in a line, one triple is an apostrophe and italic
    (``L'''amour''``), preferably after a single letter, else after a word, else after a space.
    """
    runs = list(_QUOTES.finditer(line))
    if not runs:
        return line
    lengths = [min(len(run.group()), 5) for run in runs]
    bold = sum(length in (3, 4, 5) for length in lengths)
    italic = sum(length in (2, 5) for length in lengths)
    apostrophe = -1
    if bold % 2 and italic % 2:
        triples = [i for i, run in enumerate(runs) if len(run.group()) in (3, 4)]
        apostrophe = min(triples, key=lambda i: (_rank(line, runs[i].start()), i), default=-1)
    parts, position = [], 0
    for index, run in enumerate(runs):
        count = len(run.group())
        surplus = 1 if count == 4 else max(0, count - 5)
        parts.append(line[position : run.start()] + "'" * (surplus + (index == apostrophe)))
        position = run.end()
    return "".join(parts) + line[position:]


def _rank(line: str, start: int) -> int:
    before, second = line[start - 1 : start], line[start - 2 : start - 1]
    if not before or before == " ":
        return 2
    return 0 if not second or second == " " else 1
