"""Which columns of a file hold the texts and the labels: named by flags, by the training file, or by their usual names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from megabert.common.errors import UserError
from megabert.config.values import suggestion
from megabert.tasks.files.names import NamedColumns

IDS = ("id", "idx", "index", "guid")
"""Usual names of what names an example."""
Choose = Callable[[Sequence[str]], "ChosenColumns"]
"""The columns of a file with these names; UserError if this is not clear."""


@dataclass(frozen=True)
class UsualNames:
    """Names of columns that need no flag; case is ignored.

    Attributes:
        texts: of a text.
        pairs: of the two texts of a pair.
        labels: of the labels.
    """

    texts: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class ChosenColumns:
    """Names of the columns of a file, as the file has them.

    ``texts``: one, or two for pairs; ``label`` and ``identity``: None where there is none.
    """

    texts: tuple[str, ...]
    label: str | None
    identity: str | None

    def named(self) -> NamedColumns:
        """The texts and the label, to look for in other files of the same run."""
        return NamedColumns(
            self.texts[0], self.texts[1] if len(self.texts) > 1 else None, self.label
        )

    def told(self, names: Sequence[str]) -> str:
        """The columns in words, and those of ``names`` that are not used."""
        texts = " and ".join(map(repr, self.texts))
        label = "no label" if self.label is None else f"label {self.label!r}"
        used = {*self.texts, self.label, self.identity}
        others = [repr(name) for name in names if name not in used]
        more = f", ... ({len(others)} columns)" if len(others) > 10 else ""
        unused = f", not used: {', '.join(others[:10])}{more}" if others else ""
        return f"{'text' if len(self.texts) == 1 else 'texts'} {texts}, {label}{unused}"


@dataclass(frozen=True)
class ColumnSearch:
    """How the columns of a file are chosen.

    Attributes:
        path: the file.
        usual: names that need no flag.
        given: columns that flags name.
        before: columns of the training file; a file without them has the usual ones.
        needs_label: whether a label must be there.
    """

    path: Path
    usual: UsualNames
    given: NamedColumns
    before: NamedColumns
    needs_label: bool

    def __call__(self, names: Sequence[str]) -> ChosenColumns:
        """The columns.

        Raises:
            UserError: a column is missing, or several may be meant; the message lists the columns.
        """
        texts = self._texts(names)
        label = self._label(names, texts)
        if label in texts or len(set(texts)) < len(texts):
            raise UserError(
                f"{self.path}: the column {(label if label in texts else texts[0])!r} cannot be two of text, second text and "
                f"label; it has {_listed(names)}"
            )
        found = [_find(names, name) for name in IDS]
        identity = next((name for name in found if name not in (None, label, *texts)), None)
        return ChosenColumns(texts, label, identity)

    def _texts(self, names: Sequence[str]) -> tuple[str, ...]:
        given = self.given
        if given.text is not None:
            texts = (self._named(names, given.text, "--text-column"),)
            if given.pair is None:
                return texts
            return (*texts, self._named(names, given.pair, "--text-pair-column"))
        if given.pair is not None:
            second = self._named(names, given.pair, "--text-pair-column")
            first = self._usual_text([name for name in names if name != second], names)
            return (first[0], second)
        before = [_find(names, name) for name in (self.before.text, self.before.pair) if name]
        if before and None not in before:
            return tuple(name for name in before if name)
        return self._usual_text(names, names)

    def _usual_text(self, among: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
        pairs = [tuple(_find(among, name) for name in pair) for pair in self.usual.pairs]
        complete = [tuple(name for name in pair if name) for pair in pairs if None not in pair]
        in_pairs = {name for pair in complete for name in pair}
        singles = [_find(among, name) for name in self.usual.texts]
        alone = [(name,) for name in singles if name and name not in in_pairs]
        found: list[tuple[str, ...]] = [*complete, *alone]
        if len(found) == 1:
            return found[0]
        if not found:
            known = ", ".join([*self.usual.texts, *(" and ".join(p) for p in self.usual.pairs)])
            raise UserError(
                f"{self.path}: no column has a usual name of a text ({known}): name it with --text-column; "
                f"it has {_listed(names)}"
            )
        several = " or ".join(" and ".join(map(repr, one)) for one in found)
        raise UserError(
            f"{self.path}: the text may be {several}: name it with --text-column; it has {_listed(names)}"
        )

    def _label(self, names: Sequence[str], texts: Sequence[str]) -> str | None:
        if self.given.label is not None:
            found = _find(names, self.given.label)
            if found is None and self.needs_label:
                self._named(names, self.given.label, "--label-column")
            return found
        before = _find(names, self.before.label) if self.before.label else None
        if before is not None or (self.before.label and not self.needs_label):
            return before
        usual = [_find(names, name) for name in self.usual.labels]
        labels = list(dict.fromkeys(name for name in usual if name and name not in texts))
        if len(labels) > 1:
            raise UserError(
                f"{self.path}: the label may be {' or '.join(map(repr, labels))}: name it with --label-column; "
                f"it has {_listed(names)}"
            )
        if not labels and self.needs_label:
            raise UserError(
                f"{self.path}: no column has a usual name of a label ({', '.join(self.usual.labels)}): name it "
                f"with --label-column; it has {_listed(names)}"
            )
        return labels[0] if labels else None

    def _named(self, names: Sequence[str], wanted: str, flag: str) -> str:
        found = _find(names, wanted)
        if found is None:
            raise UserError(
                f"{self.path} has no column {wanted!r} ({flag}){suggestion(wanted, names)}; it has {_listed(names)}"
            )
        return found


def _find(names: Sequence[str], wanted: str) -> str | None:
    """The column of a name; if none has it, the only one that has it in another case."""
    if wanted in names:
        return wanted
    alike = [name for name in names if name.lower() == wanted.lower()]
    return alike[0] if len(alike) == 1 else None


def _listed(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"the one column {_short(names[0])}"
    more = f", ... ({len(names)})" if len(names) > 20 else ""
    return f"the columns {', '.join(map(_short, names[:20]))}{more}"


def _short(name: str) -> str:
    return repr(name if len(name) <= 40 else f"{name[:40]}...")
