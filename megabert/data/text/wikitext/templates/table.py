"""Looks template calls up in the tables of a language."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from megabert.data.text.namespaces import core_names, local_names
from megabert.data.text.wikitext.templates.pattern import Pattern, PatternError, read_pattern
from megabert.data.text.wikitext.templates.rules import RULES, Call, Rule
from megabert.data.text.wikitext.templates.wording import PLAIN, Figures, Wording

_FOLDER = "megabert.data.text.wikitext.tables"
_COMMON = "common"
_SAME_TEMPLATES = {"simple": "en", "yue": "zh"}
_SPACES = re.compile(r"[\s_]+")
_INNER = "rest"
_REMEMBERED = 10_000
_LONGEST_NAME = 60  # characters of a name that is remembered
_TEMPLATE = 10  # number of the namespace
_MOST_PREFIXES = 8  # before the name of a template
# what may precede the name of a template in a call, besides the namespace
_PREFIXES = ("subst", "safesubst", "msg", "msgnw", "raw")
_KEYS = {
    "months", "first_day", "figures", "nothing", "spoken", "unknown", "called", "show", "alike", "prefix", "suffix",
    "function", "map",
}  # fmt: skip


@dataclass
class TemplateTable:
    """What is known of the templates of one language.

    Attributes:
        calls: patterns (the first that fits counts) or a rule by name; an empty tuple means
            "shows nothing".
        functions: the same for parser functions (``{{lc:X}}``), whose operand is argument "1".
        prefixes, suffixes: the same for names that begin or end with a text; the rest of the name
            is the argument "rest".
        codes: calls without arguments and what they show, as they are written: ``{{COL}}`` is a
            country, ``{{col}}`` a column.
        namespaces: names of the template namespace, lower case.
        wording: what patterns and rules need of the language.
    """

    language: str
    calls: dict[str, tuple[Pattern, ...] | Rule] = field(default_factory=dict)
    functions: dict[str, tuple[Pattern, ...] | Rule] = field(default_factory=dict)
    prefixes: dict[str, tuple[Pattern, ...] | Rule] = field(default_factory=dict)
    codes: dict[str, str] = field(default_factory=dict)
    namespaces: set[str] = field(default_factory=set)
    suffixes: dict[str, tuple[Pattern, ...] | Rule] = field(default_factory=dict)
    prefix_names: tuple[str, ...] = ()
    suffix_names: tuple[str, ...] = ()
    wording: Wording = PLAIN
    # what :meth:`_entry` found for names as they are written
    _remembered: dict[str, tuple[tuple[Pattern, ...] | Rule | None, str]] = field(
        default_factory=dict
    )

    def text_of(self, body: str, title: str = "") -> str | None:
        """What a reader sees of ``{{body}}``: "" if nothing, None if that is not known.

        Args:
            body: the call's content, without inner templates.
            title: title of the page.
        """
        head, bar, rest = body.partition("|")
        for _ in range(_MOST_PREFIXES):
            if not bar and (code := head.strip()) in self.codes:
                return self.codes[code]
            entry, inner = self._remembered.get(head) or self._entry(head)
            if entry is not None:
                if not entry:
                    return ""
                return self._shown(entry, Call(_split(rest, bar), title, self, head), inner)
            prefix, colon, operand = head.partition(":")
            prefix = _name(prefix).strip()
            function = self.functions.get(prefix) if colon else None
            if function is not None:
                parts = [operand, *_split(rest, bar)]
                return self._shown(function, Call(parts, title, self, prefix))
            if prefix not in self.namespaces or not operand.strip():
                return None
            head = operand
        return None

    def _entry(self, head: str) -> tuple[tuple[Pattern, ...] | Rule | None, str]:
        """The entry for a name as it is written, or for its beginning or end and then the rest of
        the name; None without one."""
        name = _name(head)
        prefix = name.partition(":")[0].strip() if ":" in name else ""
        found: tuple[tuple[Pattern, ...] | Rule | None, str] = (self.calls.get(name), "")
        if found[0] is None and not (prefix in self.functions or prefix in self.namespaces):
            found = self._by_part(name)
        if len(self._remembered) < _REMEMBERED and len(head) <= _LONGEST_NAME:
            self._remembered[head] = found
        return found

    def _by_part(self, name: str) -> tuple[tuple[Pattern, ...] | Rule | None, str]:
        """The entry for the beginning or the end of a name, and the rest of the name."""
        if name.startswith(self.prefix_names):
            part = max((p for p in self.prefix_names if name.startswith(p)), key=len)
            return self.prefixes[part], name[len(part) :]
        if name.endswith(self.suffix_names):
            part = max((p for p in self.suffix_names if name.endswith(p)), key=len)
            return self.suffixes[part], name[: -len(part)]
        return None, ""

    @staticmethod
    def _shown(entry: tuple[Pattern, ...] | Rule, call: Call, inner: str = "") -> str | None:
        if not isinstance(entry, tuple):
            return entry(call)
        if not entry:
            return ""
        if len(call.parts) == 1 and entry[0].shows_first:
            value = call.parts[0]
            if "=" not in value and (value := value.strip()):
                return value
        arguments = call.arguments
        extra: dict[str, str] = {}
        if inner:
            extra[_INNER] = inner
        if any(pattern.named for pattern in entry):
            extra["0"] = _SPACES.sub(" ", call.name.strip())
        if extra:
            arguments = {**arguments, **extra}
        for pattern in entry:
            text = pattern.shown(arguments, extra)
            if text is not None:
                return text
        return None


def _name(head: str) -> str:
    name = head.strip().lower()
    return _SPACES.sub(" ", name) if "_" in name or "  " in name or "\n" in name else name


def _split(rest: str, bar: str) -> list[str]:
    return split_arguments(rest) if bar else []


def split_arguments(body: str) -> list[str]:
    """Split at every ``|`` outside ``[[links]]`` and ``-{conversions}-``."""
    if "[[" not in body and "-{" not in body:
        return body.split("|")
    parts, depth, start = [], 0, 0
    for match in re.finditer(r"\[\[|\]\]|-\{|\}-|\|", body):
        token = match.group()
        if token == "|":
            if depth == 0:
                parts.append(body[start : match.start()])
                start = match.end()
        elif token in ("[[", "-{"):
            depth += 1
        else:
            depth = max(0, depth - 1)
    parts.append(body[start:])
    return parts


@lru_cache(maxsize=64)
def template_table(language: str) -> TemplateTable:
    """The table of a language: the common one and, where there is one, the language's own.

    Args:
        language: a code such as "fr" or "zh-tw", of which the part before "-" counts.

    Raises:
        PatternError: a table cannot be read (an error in the program's own data).
    """
    code = re.split("[-_]", language.lower())[0]
    code = _SAME_TEMPLATES.get(code, code)
    contents: list[tuple[Traversable, dict[str, Any]]] = []
    for name in (_COMMON, code):
        file = resources.files(_FOLDER) / f"{name}.toml"
        if re.fullmatch("[a-z]+", name) and file.is_file():
            try:
                contents.append((file, tomllib.loads(file.read_text(encoding="utf-8"))))
            except tomllib.TOMLDecodeError as error:
                raise PatternError(f"{file}: {error}") from None
    table = TemplateTable(code, namespaces=_namespaces(code))
    for file, content in contents:
        try:
            table.wording = _wording(contents[-1][1])
            _add(table, content)
        except ValueError as error:
            raise PatternError(f"{file}: {error}") from None
    table.prefix_names = tuple(table.prefixes)
    table.suffix_names = tuple(table.suffixes)
    return table


def _namespaces(code: str) -> set[str]:
    """What may precede the name of a template in a call, in the form of :func:`_name`."""
    names = {**local_names(""), **local_names(code), **core_names()}
    return {*_PREFIXES, *(_name(name) for name, number in names.items() if number == _TEMPLATE)}


def _wording(content: Mapping[str, Any]) -> Wording:
    figures = Figures.like(content["figures"]) if "figures" in content else Figures()
    months = tuple(content.get("months", ()))
    return Wording(months, content.get("first_day", ""), figures, content.get("map", {}))


def _add(table: TemplateTable, content: Mapping[str, Any]) -> None:
    if unknown := content.keys() - _KEYS:
        raise PatternError(f"unknown key {', '.join(sorted(unknown))}")
    maps = table.wording.maps
    for name in content.get("unknown", ()):
        table.calls.pop(name, None)
    for name in content.get("called", ()):
        if name not in maps:
            raise PatternError(f"no map {name!r}")
        table.codes.update(maps[name])
    entries: tuple[tuple[str, tuple[Pattern, ...] | Rule], ...]
    entries = (("nothing", ()), ("spoken", RULES["spoken"]))
    for key, silent in entries:
        for name in content.get(key, ()):
            known = table.calls
            if name.endswith(":"):
                known = table.functions
            elif name.endswith("*"):
                known = table.prefixes
            known[name.rstrip(":*")] = silent
    for section, known in (
        ("show", table.calls),
        ("prefix", table.prefixes),
        ("suffix", table.suffixes),
        ("function", table.functions),
    ):
        for names, entry in content.get(section, {}).items():
            read = _entry(entry, table.wording)
            for name in _names(names):
                known[name] = read
    for group in content.get("alike", ()):
        read = _entry(group["shows"], table.wording)
        for name in group["names"]:
            table.calls.update(dict.fromkeys(_names(name), read))


def _names(text: str) -> Iterator[str]:
    for name in text.split(" | "):
        if name != name.lower() or "_" in name or "  " in name:
            raise PatternError(f"{name!r}: a name is written in lower case, with single spaces")
        yield name


def _entry(entry: str | Sequence[str], wording: Wording) -> tuple[Pattern, ...] | Rule:
    if isinstance(entry, str) and entry.startswith("@"):
        if entry[1:] not in RULES:
            raise PatternError(f"{entry!r}: no such rule; there are {', '.join(sorted(RULES))}")
        return RULES[entry[1:]]
    patterns = [entry] if isinstance(entry, str) else entry
    return tuple(read_pattern(text, wording) for text in patterns)
