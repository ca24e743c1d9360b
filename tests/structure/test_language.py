"""Texts of code and docs avoid the habits that :mod:`tests.structure.language` lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.structure.language import CHECKED, files, findings


@pytest.mark.parametrize("place", CHECKED)
def test_plain_english(root: Path, place: str) -> None:
    found = [line for path in files([root / place]) for line in findings(path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("one ratio a slice", "per"),
        ("12 bytes a token are kept", "per"),
        ("transformers' own, beside ours", "beside"),
        ("the run goes on", "go on"),
        ("x.json is no checkpoint", "is no X"),
        ("the reason is told in the log", "told"),
        ("all but for two", "but for"),
        ("bad lines are passed over", "skipped"),
        ("use at most so many examples", "pronoun"),
        ("a token stands first", "stand"),
    ],
)
def test_habits_are_found(tmp_path: Path, text: str, advice: str) -> None:
    page, module = tmp_path / "page.md", tmp_path / "module.py"
    page.write_text(text)
    module.write_text(f'"""{text}"""\n# {text}\nx = "{text}"\n')
    assert [advice in line for line in findings(page)] == [True]
    assert [advice in line for line in findings(module)] == [True] * 3


@pytest.mark.parametrize(
    "text",
    [
        "there is no checkpoint",
        "gives a rank its rows",
        "no longer",
        "it stands for PAD",
        "one of a kind",
    ],
)
def test_plain_sentences_pass(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    assert list(findings(page)) == []
