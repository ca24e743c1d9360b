"""Links: what a reader sees of ``[[target|label]]`` and ``[http://address label]``."""

import re
from dataclasses import dataclass
from functools import cache, lru_cache

from megabert.data.text.namespaces import assumed_names, local_names, name_key
from megabert.data.text.pages import CATEGORY_NAMESPACE, FILE_NAMESPACES, Site
from megabert.data.text.wikitext.holes import NEVER_CLOSED, hole
from megabert.data.text.wikitext.quotes import shown_text
from megabert.data.text.wikitext.tidy import MARK, gap
from megabert.data.text.wikitext.wiki_words import PROTOCOLS, language_codes

EXTERNAL = "\ue000"  # marks the place of an external link
_FILE_END = re.compile(
    r"\.(?:jpe?g|png|svg|gif|tiff?|webp|og[gva]|webm|pdf|djvu|xcf|mid|wav|mp3|mp4|stl)\s*$",
    re.IGNORECASE,
)
# options of a picture that are the same on every wiki
_OPTION = re.compile(
    r"(?:^|\|)\s*(?:thumb(?:nail)?|frame(?:d|less)?|border|left|right|center|none|upright"
    r"|(?:\d++(?:x\d++)?|x\d++) ?px)\s*(?:\||$)"
)
_SIMPLE = re.compile(r"\[(?=\[)\[([^\[\]|]*+)((?:\|[^\[\]]*+)?)\]\]")
_EXTERNAL = re.compile(
    rf"\[(?:{PROTOCOLS.replace(' ', '|')})[^\s\[\]<>]+((?:(?=[\s<>])[^\[\]\n]*)?)\]", re.IGNORECASE
)
_BARE_URL = re.compile(
    r"\b(?:https?|ftp)://[^\s\[\]<>\"|{}']+(?:'(?!')[^\s\[\]<>\"|{}']*)*", re.IGNORECASE
)
# the author forgot a bracket: "[target|label]]", "[[target|label]"
_HALF_OPEN = re.compile(r"\[(?<!\[\[)([^\[\]|\n]+)\|([^\[\]|\n]+)\]\]")
_HALF_CLOSED = re.compile(r"\[\[([^\[\]|\n]+)\|([^\[\]|\n]+)\](?!\])")
_LIST_SIGNS = " \t*#:;"
_STOPS = ",;.:!?"
_LEFT = re.compile(r"\[(?=\[)")
_BRACKETS = re.compile(r"\[\[|\]{2,}")
_BLANK = re.compile(r"(\n[ \t]*\n)")
_DISAMBIGUATION = re.compile(r"[(（][^()（）]*[)）]$")
_PASSES = 6
MAX_LINK_DEPTH = 20


@dataclass(frozen=True)
class LinkRules:
    """The meaning of link prefixes on a wiki; names are casefolded."""

    files: frozenset[str]
    categories: frozenset[str]
    languages: frozenset[str] = frozenset()

    @staticmethod
    @lru_cache(maxsize=64)
    def of(site: Site, language: str) -> "LinkRules":
        """Rules from the dump's own namespace names and those of its language."""
        local = assumed_names(language.lower().replace("_", "-"))

        def names(own: tuple[str, ...], *numbers: int) -> frozenset[str]:
            known = (name for name, number in local.items() if number in numbers)
            return frozenset((*map(name_key, own), *known))

        return LinkRules(
            names(site.file_prefixes, *FILE_NAMESPACES),
            names(site.category_prefixes, CATEGORY_NAMESPACE),
            language_codes(language),
        )

    def is_file(self, target: str) -> bool:
        """Whether the link shows a picture, sound or film: by a prefix of the wiki, or by that of
        another language if the target ends like a file."""
        prefix, colon, _ = target.partition(":")
        if not colon:
            return False
        key = name_key(prefix)
        return key in self.files or (
            key in _any_name(*FILE_NAMESPACES) and bool(_FILE_END.search(target))
        )

    def is_picture(self, name: str, label: str | None) -> bool:
        """Whether the link is a file's, or has an option of pictures and ends like a file, with any
        prefix (of a wiki that does not list its namespaces)."""
        if self.is_file(name):
            return True
        return bool(label) and bool(_FILE_END.search(name)) and bool(_OPTION.search(label or ""))

    def text(self, target: str, label: str | None) -> str:
        """What a reader sees of ``[[target|label]]`` in running text; "" for files, categories and
        links to other languages. ``label`` is None if there is no ``|``."""
        target = target.strip()
        shown = target.startswith(":")
        name = target[1:] if shown else target
        prefix, colon, rest = name.partition(":")
        if colon and not shown:
            key = name_key(prefix)
            if key in self.languages or key in self.categories or self.is_picture(name, label):
                return ""
            if key in _any_name(CATEGORY_NAMESPACE) and not rest[:1].isspace():
                return ""
        if label is not None and label.strip():
            return shown_text(label.strip(" \t"), True)
        if label is not None:  # "[[Foo (bar)|]]"
            return _DISAMBIGUATION.sub("", (rest if colon else name).strip()).strip()
        name, hash_mark, anchor = name.partition("#")
        return shown_text((name or anchor).replace("_", " ") if hash_mark else name, False)


@cache
def _any_name(*numbers: int) -> frozenset[str]:
    """Names of these namespaces in all languages."""
    return frozenset(
        name_key(name) for name, number in local_names("").items() if number in numbers
    )


def strip_links(text: str, rules: LinkRules, names: list[str] | None = None) -> str:
    """Replace links by what a reader sees; EXTERNAL marks each external link.

    Well-formed links are replaced first, innermost first; blocks that still have double brackets
    are then scanned with a stack. An address in the text leaves a hole if ``names`` is given. The
    time is linear in the text.
    """
    if "[" in text:
        text = _strip_simple(text, rules)
    if "[" in text:
        text = _EXTERNAL.sub(lambda match: _external(match, names), text)
        text = _strip_simple(text, rules)
    if _LEFT.search(text) or ("]" in text and "]]" in text):
        text = "".join(
            _strip_tangled(block, rules, names) if "[[" in block or "]]" in block else block
            for block in _BLANK.split(text)
        )
    if "://" in text:
        text = _BARE_URL.sub(lambda match: _bare(match.group(), names), text)
    return text


def _external(match: re.Match[str], names: list[str] | None) -> str:
    label = str(match.group(1)).strip()
    if not label and names is not None:
        before = match.string[max(0, match.start() - 2) : match.start()]
        after = match.string[match.end() : match.end() + 2]
        # the place of a word, not of a footnote
        if before[1:] == " " == after[:1] and before[0].isalnum() and after[1:].isalnum():
            return EXTERNAL + hole(names, "address")
    return EXTERNAL + label + (MARK if not label or label[-1] == "'" else "")


def _bare(address: str, names: list[str] | None) -> str:
    """The place of an address; as in MediaWiki, a stop that ends the sentence is not part of it."""
    end = len(address.rstrip(_STOPS))
    unpaired = address.count(")") - address.count("(")
    while unpaired > 0 and address[end - 1] == ")":
        unpaired -= 1
        end -= 1
        while address[end - 1] in _STOPS:
            end -= 1
    left = MARK if names is None else hole(names, "address")
    return EXTERNAL + left + address[end:]


def _strip_simple(text: str, rules: LinkRules) -> str:
    """Replace links without inner brackets; several passes reach links inside captions."""
    for _ in range(_PASSES):
        pieces = _SIMPLE.split(text)
        if len(pieces) == 1:
            break
        _show(pieces, rules)
        text = "".join(pieces)
    return text


def _show(pieces: list[str], rules: LinkRules) -> None:
    """Change ``pieces`` (text, target, label with its bar or "", text, target, ...) in place."""
    before = ""
    for index in range(1, len(pieces), 3):
        target, label = pieces[index], pieces[index + 1]
        before = pieces[index - 1] or before
        if ":" in target or "#" in target or label == "|":
            shown = rules.text(target, label[1:] if label else None)
            # between two links nothing may be left: "3[[File:a.png]][[4]]"
            after = pieces[index + 2] or ("[" if index + 3 < len(pieces) else "")
            pieces[index] = shown or gap(before, after)
        else:
            pieces[index] = label[1:].strip(" \t") or target.strip()
            if "'" in pieces[index]:
                pieces[index] = shown_text(pieces[index], label != "")
        before = pieces[index] or before
        pieces[index + 1] = ""


def _strip_tangled(block: str, rules: LinkRules, names: list[str] | None) -> str:
    """Replace links that hold single brackets, lack a bracket, or are never closed."""
    block = _HALF_OPEN.sub(lambda match: rules.text(match.group(1), match.group(2)), block)
    block = _HALF_CLOSED.sub(lambda match: rules.text(match.group(1), match.group(2)), block)
    stack: list[list[str]] = [[]]
    position = 0
    single = 0  # single brackets that are open outside links
    for match in _BRACKETS.finditer(block):
        between = block[position : match.start()]
        if between:  # pieces are never empty, so that the last one is the text before
            stack[-1].append(between)
        position = match.end()
        if len(stack) == 1:
            single = max(0, single + between.count("[") - between.count("]"))
        if match.group() == "[[":
            if len(stack) <= MAX_LINK_DEPTH:
                stack.append([])
            continue
        brackets = len(match.group())
        if len(stack) == 1:  # "a[b[0]]": what closes single brackets is not a link's
            if single:
                stack[0].append("]" * min(brackets, single))
            single = max(0, single - brackets)
            continue
        while brackets >= 2 and len(stack) > 1:
            body = "".join(stack.pop())
            if brackets % 2 and body.count("[") > body.count("]"):
                body += "]"  # "[[File:x.png|a caption [with a note]]]"
                brackets -= 1
            target, bar, label = body.partition("|")
            if not bar and 0 <= body.find("]") < (body.find("[") + 1 or len(body)):
                stack[-1].append(f"[[{body}]]")  # "[[1, 2], [3, 4]]"
            else:
                shown = rules.text(target, label if bar else None)
                if not shown and brackets == 2:
                    before = stack[-1][-1] if stack[-1] else ""
                    shown = gap(before, block[position : position + 3])
                if shown:
                    stack[-1].append(shown)
            brackets -= 2
        if brackets == 1:
            stack[-1].append("]")
    stack[-1].append(block[position:])
    while len(stack) > 1:
        before, body = "".join(stack[-2]), "".join(stack.pop())
        stack[-1] = [before, _never_closed(body, rules, names, before.rpartition("\n")[2])]
    return "".join(stack[0])


def _never_closed(body: str, rules: LinkRules, names: list[str] | None, before: str) -> str:
    """What remains of ``[[`` and the rest of its block; a file link loses its line, and leaves a hole
    in the text ``before`` it on this line."""
    line, newline, rest = body.partition("\n")
    target, bar, label = line.partition("|")
    if ":" in target and rules.is_picture(target, label):
        if names is not None and before.strip(_LIST_SIGNS):
            return hole(names, NEVER_CLOSED + "[[") + newline + rest
        return newline + rest
    return (label if bar else target) + newline + rest
