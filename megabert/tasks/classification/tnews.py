"""TNEWS of CLUE (Xu et al. 2020): JSON lines of Chinese headlines in 15 classes.

A line is ``{"label": CODE, "label_desc": NAME, "sentence": TEXT, "keywords": ...}``; keywords are not
used, and a test file has ``id`` instead of the labels. A model's labels are the names, in the order of
their codes; where a file has codes only, the codes are the names. ``labels.json`` next to a file, with lines
``{"label", "label_desc"}``, adds labels without an example in the file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from megabert.common.files import write_bytes
from megabert.tasks.classification.data import Examples, Label
from megabert.tasks.files.faults import BadLines, Faults
from megabert.tasks.files.json_lines import read_json_lines, usual_keys
from megabert.tasks.files.names import example_ids, is_no_name

PREDICTIONS = "tnews_predict.json"
LABELS_FILE = "labels.json"
_FORM = '{"label": CODE, "label_desc": NAME, "sentence": TEXT}'


class Tnews:
    """The data set: a :class:`megabert.tasks.classification.data.Source`."""

    name = "tnews"
    fields = (("sentence", "text"),)
    regression = False
    labels: tuple[str, ...] = ()
    metrics = ("accuracy",)

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        """Code of each label met -> its name."""

    def metrics_of(self, part: str) -> tuple[str, ...]:
        """Accuracy."""
        return self.metrics

    def read(self, path: Path, bad_lines: BadLines) -> Examples:
        """Read a file.

        Raises:
            UserError: unreadable, empty, or a line that is not an object of this form, has a label where
                most have none, or a code that had another name before (``bad_lines`` "skip": they are
                left out and counted).
        """
        faults = Faults(path, bad_lines)
        texts: list[str] = []
        labels: list[Label] = []
        lines: list[int] = []
        ids: list[Any] = []
        read = list(read_json_lines(path))
        labelled = "label" in usual_keys(content for _, content in read)
        layout = f"JSON lines: text 'sentence', {'label' if labelled else 'no label'}"
        if all(isinstance(one, dict) and _code_of(one.get("label")) == "-1" for _, one in read):
            read = [(number, _without_label(content)) for number, content in read]
            labelled, layout = False, f"{layout}, which is -1 in every line: no labels"
        for number, content in read:
            fault = self._fault(content, labelled)
            if fault is not None or isinstance(content, str):
                faults.add(number, "unusable line", f"{fault}; expected {_FORM}")
                continue
            if labelled:
                labels.append(self.names[_code_of(content["label"])])
            texts.append(content["sentence"])
            lines.append(number)
            ids.append(content.get("id"))
        if not texts:
            detail = f" ({faults.problems})" if faults.problems.counts else ""
            raise UserError(f"{path} has no example{detail}; expected lines {_FORM}")
        names = example_ids(ids, lines, faults.problems)
        return Examples((texts,), labels if labelled else None, lines, names, faults, layout=layout)

    def _fault(self, content: dict[str, Any] | str, labelled: bool) -> str | None:
        """What is wrong with a line; the name of its label is stored. ``labelled``: most lines are."""
        if isinstance(content, str):
            return content
        if not isinstance(content.get("sentence"), str):
            return "'sentence' is missing or not a text"
        if labelled != ("label" in content):
            return f"{'no' if labelled else 'a'} 'label', unlike most lines"
        if "label" not in content:
            return None
        return _label_fault(content) or self._learn(content)

    def _learn(self, content: dict[str, Any]) -> str | None:
        """Remember the name of a label's code; what is wrong with it.

        A code first met without a name is its own name, even if a later line names it.
        """
        code = _code_of(content["label"])
        name = content.get("label_desc", self.names.get(code, code)).strip()
        known = self.names.setdefault(code, name)
        if known not in (name, code):
            return f"label {code!r} is named {name!r}, before {known!r}"
        return None

    def _learn_listed(self, path: Path) -> None:
        """The same for ``labels.json``, where there is one."""
        if not path.is_file():
            return
        for number, content in read_json_lines(path):
            if isinstance(content, str):
                wrong: str | None = content
            else:
                wrong = _label_fault(content) or self._learn(content)
            if wrong:
                raise UserError(f"{path} line {number}: {wrong}; correct it, or remove the file")

    def labels_of(self, path: Path) -> tuple[str, ...]:
        """Names of all labels met, and of those that ``labels.json`` next to ``path`` lists, by their
        codes: as numbers if all are numbers.

        Raises:
            UserError: none, or two codes of one name.
        """
        self._learn_listed(path.parent / LABELS_FILE)
        if not self.names:
            raise UserError(f"{path} names no labels; put {LABELS_FILE} next to it")
        numbers = all(code.isdecimal() for code in self.names)
        ordered = sorted(self.names, key=(lambda code: (int(code), code)) if numbers else None)
        labels = tuple(self.names[code] for code in ordered)
        for first, name in zip(ordered, labels):
            if self._code(name) != first:
                raise UserError(
                    f"{path}: labels {first!r} and {self._code(name)!r} are both named {name!r}"
                )
        return labels

    def _code(self, name: str) -> str:
        """Code of a label; its name if it has none."""
        return {known: code for code, known in self.names.items()}.get(name, name)

    def load_labels(self, labels: tuple[str, ...], record: dict[str, Any]) -> tuple[str, ...]:
        """The labels as they are, with the names that :meth:`record` kept.

        Raises:
            UserError: there are none.
        """
        if not labels:
            raise UserError("the checkpoint names no labels for tnews")
        self.names |= record.get("label_names", {})
        self.names |= {label: label for label in labels if label.isdecimal()}
        return labels

    def record(self) -> dict[str, Any]:
        """Names of labels by code."""
        return {"label_names": dict(self.names)}

    def write_predictions(
        self, folder: Path, part: str, ids: Sequence[Any], answers: Sequence[Label]
    ) -> Path:
        """Write JSON lines ``{"id", "label", "label_desc"}``; a label without a code is its own code."""
        codes = {name: self._code(name) for name in map(str, set(answers))}
        lines = [
            {"id": identity, "label": codes[name], "label_desc": name}
            for identity, name in zip(ids, map(str, answers), strict=True)
        ]
        content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        path = folder / PREDICTIONS
        write_bytes(path, content.encode(errors="replace"))
        return path


def _code_of(label: Any) -> str:
    """The code of a label as text, "" for another value."""
    return str(label).strip() if type(label) in (str, int) else ""


def _without_label(content: Any) -> dict[str, Any]:
    return {key: value for key, value in content.items() if not key.startswith("label")}


def _label_fault(content: dict[str, Any]) -> str | None:
    """What is wrong with an object's label."""
    if type(content.get("label")) not in (str, int):
        return "'label' is not a text or whole number"
    if not isinstance(content.get("label_desc", ""), str):
        return "'label_desc' is not a text"
    for key in ("label", "label_desc"):
        if key in content and is_no_name(str(content[key])):
            return f"{key!r} is {content[key]!r}, which names no label"
    return None
