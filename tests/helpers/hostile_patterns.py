"""The compiled patterns of a package, and for each the texts that would make it slow.

The texts are made of the pattern itself: runs of its characters and of two of them in turn, and for each
repetition what precedes it and many times what it repeats, with and without a character that ends the match.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from types import ModuleType
from typing import Any

import megabert.data.text
from megabert.common.patterns import _LazyPattern

_REPEATS = (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT)
_LONG = 20  # repetitions that count as many
_TOKENS = 12
_PAIRED = 8
_ALTERNATIVES = 30
_OF_CATEGORY = {
    codes.CATEGORY_DIGIT: "1", codes.CATEGORY_NOT_DIGIT: "a", codes.CATEGORY_SPACE: " ",
    codes.CATEGORY_NOT_SPACE: "a", codes.CATEGORY_WORD: "a", codes.CATEGORY_NOT_WORD: "-",
}  # fmt: skip
_IN_CATEGORY = {
    codes.CATEGORY_DIGIT: str.isdigit,
    codes.CATEGORY_SPACE: str.isspace,
    codes.CATEGORY_WORD: lambda c: c.isalnum() or c == "_",
}
_OPPOSITE = {
    codes.CATEGORY_NOT_DIGIT: codes.CATEGORY_DIGIT,
    codes.CATEGORY_NOT_SPACE: codes.CATEGORY_SPACE,
    codes.CATEGORY_NOT_WORD: codes.CATEGORY_WORD,
}


@dataclass(frozen=True)
class Attack:
    """A text of any length: ``before``, many times ``unit``, ``after``."""

    before: str
    unit: str
    after: str = ""

    def text(self, size: int) -> str:
        """About ``size`` characters."""
        return self.before + self.unit * max(1, size // len(self.unit)) + self.after


def text_modules() -> Iterator[ModuleType]:
    """All modules of megabert.data.text."""
    package = megabert.data.text
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        yield importlib.import_module(module.name)


def _patterns_in(value: object) -> Iterator[re.Pattern[Any]]:
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, _LazyPattern):
        yield re.compile(value._source, value._flags)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _patterns_in(item)
    elif isinstance(value, Mapping):
        yield from _patterns_in(list(value.values()))


def module_patterns() -> dict[str, re.Pattern[Any]]:
    """Every pattern that is a value of a module, or is in one, by its name "module:NAME[place]"."""
    found: dict[str, re.Pattern[Any]] = {}
    seen: set[tuple[Any, int]] = set()
    for module in text_modules():
        for name, value in vars(module).items():
            for place, pattern in enumerate(_patterns_in(value)):
                key = pattern.pattern, pattern.flags
                if key not in seen:
                    seen.add(key)
                    short = module.__name__.removeprefix("megabert.data.text.")
                    found[f"{short}:{name}[{place}]"] = pattern
    return found


@cache
def anchored_names() -> frozenset[str]:
    """Names of patterns that the package uses with ``match`` and ``fullmatch`` alone."""
    methods: dict[str, set[str]] = {}
    for module in text_modules():
        for node in ast.walk(ast.parse(Path(module.__file__ or "").read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Attribute):
                continue
            value = node.value.value if isinstance(node.value, ast.Subscript) else node.value
            if isinstance(value, ast.Name):
                methods.setdefault(value.id, set()).add(node.attr)
    return frozenset(n for n, used in methods.items() if used <= {"match", "fullmatch"})


def made_in_functions() -> set[str]:
    """ "module:function" of each function that compiles a pattern."""
    found = set()
    for module in text_modules():
        tree = ast.parse(Path(module.__file__ or "").read_text(encoding="utf-8"))
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "re.compile":
                    short = module.__name__.removeprefix("megabert.data.text.")
                    found.add(f"{short}:{function.name}")
    return found


def attacks(pattern: re.Pattern[Any]) -> list[Attack]:
    """Texts that may make a pattern slow."""
    maker = _Maker()
    sample = maker.of(parser.parse(pattern.pattern, pattern.flags), "", {})
    tokens = list(dict.fromkeys([*list(dict.fromkeys(maker.tokens))[:_TOKENS], "a", " ", "\n"]))
    units = tokens + [a + b for a in tokens[:_PAIRED] for b in tokens[:_PAIRED] if a != b]
    found = [Attack("", unit) for unit in units]
    for before, unit in maker.pumps:
        found += [Attack(before, unit), Attack(before, unit, "\x01"), Attack("", before + unit)]
        found += [Attack("", before + 8 * unit), Attack((before or unit) * 1000, unit)]
    starts = [sample[:end] for end in range(1, len(sample) + 1)]
    for text in (*starts, *maker.alternatives[:_ALTERNATIVES]):
        found += [Attack("", text), Attack("", text[:-1] or text), Attack("", text + " ")]
    return list(dict.fromkeys(attack for attack in found if attack.unit))


@dataclass
class _Maker:
    """Walks over a parsed pattern, makes a short text that fits, and notes what it is made of."""

    pumps: list[tuple[str, str]] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    alternatives: list[str] = field(default_factory=list)

    def of(self, nodes: Any, before: str, groups: dict[Any, str]) -> str:
        text = ""
        for kind, value in nodes:
            text += self._node(kind, value, before + text, groups)
        return text

    def _node(self, kind: Any, value: Any, before: str, groups: dict[Any, str]) -> str:
        if kind is codes.LITERAL:
            self.tokens.append(chr(value))
            return chr(value)
        if kind is codes.NOT_LITERAL:
            return "b" if value == ord("a") else "a"
        if kind is codes.ANY:
            return "a"
        if kind is codes.IN:
            some = _some_of(value)
            self.tokens += some
            return some[0]
        if kind in _REPEATS:
            return self._repeat(value, before, groups)
        if kind is codes.SUBPATTERN:
            groups[value[0]] = self.of(value[3], before, groups)
            return groups[value[0]]
        if kind is codes.ATOMIC_GROUP:
            return self.of(value, before, groups)
        if kind is codes.BRANCH:
            made = [self.of(branch, before, groups) for branch in value[1]]
            self.alternatives += [before + text for text in made if before + text]
            return made[0]
        if kind is codes.ASSERT:
            text = self.of(value[1], before, groups)
            return text if value[0] < 0 and not before else ""
        if kind is codes.ASSERT_NOT:
            self.of(value[1], before, groups)
        return groups.get(value, "") if kind is codes.GROUPREF else ""

    def _repeat(self, value: Any, before: str, groups: dict[Any, str]) -> str:
        least, most, inner = value
        body = self.of(inner, before, groups)
        if most is codes.MAXREPEAT or most >= _LONG:
            single = len(inner) == 1 and inner[0][0] is codes.IN
            units = dict.fromkeys([body, *(_some_of(inner[0][1], 3) if single else [])])
            self.pumps += [(before, unit) for unit in units if unit]
        return body * least


def _some_of(items: Any, most: int = 2) -> list[str]:
    """Characters of a class."""
    if items[0][0] is codes.NEGATE:
        usual = [c for c in "aA1 .\n一(" if not any(_fits(item, c) for item in items[1:])]
        return usual[:most] or ["\x02"]
    found = []
    for kind, value in items:
        if kind is codes.LITERAL:
            found.append(chr(value))
        elif kind is codes.RANGE:
            found.append(chr(value[0]))
        elif kind is codes.CATEGORY:
            found.append(_OF_CATEGORY[value])
    return [found[0], found[len(found) // 2], found[-1]][:most] if len(found) > most else found


def _fits(item: Any, character: str) -> bool:
    kind, value = item
    if kind is codes.LITERAL:
        return bool(ord(character) == value)
    if kind is codes.RANGE:
        return bool(value[0] <= ord(character) <= value[1])
    if value in _OPPOSITE:
        return not _IN_CATEGORY[_OPPOSITE[value]](character)
    return bool(_IN_CATEGORY[value](character))
