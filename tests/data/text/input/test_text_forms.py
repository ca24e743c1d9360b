"""Text in a form that is not read, or that is a table: it is named by its first lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megabert.common.errors import UserError
from megabert.data.text.input.sources import iter_pages
from megabert.data.text.reading import ReadingRules
from tests.helpers.wrapped_text import sentences, wrapped

LINES = sentences(0, 12)
WORDS = "\n".join(f"{n}\tword\tword\tX\t_\t_\t0\troot\t_\t_" for n in range(1, 9))
HEADERS = "From: Ann <ann@x.org>\nSubject: boats\n and ships\nDate: Mon, 1 Jan 2001\n\n"
FORMS = {
    "YAML": ("\n".join(f"- id: {n}\n  text: >\n    {s}" for n, s in enumerate(LINES)), "YAML"),
    "YAML blocks": ("\n".join(f"key{n}: |\n  {s}" for n, s in enumerate(LINES)), "YAML"),
    "gettext": (
        "\n\n".join(f'#: a.c:{n}\nmsgid "{s}"\nmsgstr "{s}"' for n, s in enumerate(LINES)),
        "a catalogue of gettext",
    ),
    "mbox": (f"From ann@x.org Mon Jan  1 10:00:00 2001\n{HEADERS}{wrapped(1)}", "mail or news"),
    "mail": (HEADERS + wrapped(1), "mail or news"),
    "CoNLL-U": (
        "\n\n".join(f"# sent_id = {n}\n# text = {s}\n{WORDS}" for n, s in enumerate(LINES)),
        "CoNLL-U.*sed -n",
    ),
    "CoNLL-U without text": (f"{WORDS}\n\n{WORDS}\n", "CoNLL-U.*join the words"),
    "COPY": (
        "COPY public.a (id, body) FROM stdin;\n"
        + "\n".join(f"{n}\t{s}" for n, s in enumerate(LINES)),
        "a SQL dump",
    ),
    "JavaScript": (
        "var data = " + json.dumps([{"text": s} for s in LINES]) + ";",
        "the literal of a",
    ),
    "list of a program": (
        "[\n" + "".join(f"  '{s}',\n" for s in LINES) + "]\n",
        "the literal of a",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_that_is_not_read_is_named(tmp_path: Path, form: str) -> None:
    text, what = FORMS[form]
    for end in ("\n", "\r\n"):
        (tmp_path / "a").write_bytes(text.replace("\n", end).encode())
        with pytest.raises(UserError, match=what):
            list(iter_pages(tmp_path / "a"))
        assert list(iter_pages(tmp_path / "a", ReadingRules(input_format="text")))


def test_text_that_is_similar_is_read(tmp_path: Path) -> None:
    dialog = "\n".join(f"{'Ann' if n % 2 else 'Bob'}: {s}" for n, s in enumerate(LINES))
    letter = "From: Ann\n\n" + wrapped(1)
    front = "---\ntitle: Boats\nauthor: Ann\n---\n\n" + "\n\n".join(wrapped(n) for n in range(9))
    items = "\n".join(f"- {s}" for s in LINES)
    copied = "Copy the letters from the old book.\n" + "\n".join(LINES)
    for text in (dialog, letter, front, items, copied):
        (tmp_path / "a").write_text(text)
        assert list(iter_pages(tmp_path / "a"))


def test_a_table_with_vertical_bars(tmp_path: Path) -> None:
    rows = "".join(f'{n}|"Well," said he. {s}|en\n' for n, s in enumerate(LINES))
    for name in ("a.txt", "a.csv"):
        (tmp_path / name).write_text("id|text|lang\n" + rows)
        texts = [page.text for page in iter_pages(tmp_path / name)]
        assert texts == [f'"Well," said he. {s}' for s in LINES]


@pytest.mark.parametrize("separator", [",", ";"])
def test_a_table_of_numbered_rows_without_names(tmp_path: Path, separator: str) -> None:
    (tmp_path / "a.txt").write_text("".join(f"{n}{separator}{s}\n" for n, s in enumerate(LINES)))
    with pytest.raises(UserError, match="--text-field N reads column N"):
        list(iter_pages(tmp_path / "a.txt"))
    texts = [page.text for page in iter_pages(tmp_path / "a.txt", ReadingRules(text_field="2"))]
    assert texts == LINES
    (tmp_path / "b.txt").write_text("".join(f"{1900 + n}, {s}\n" for n, s in enumerate(LINES)))
    assert len(list(iter_pages(tmp_path / "b.txt"))) == len(LINES)


def test_a_value_of_json_is_named_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"text": ["A."]}]')
    with pytest.raises(UserError, match=r"value 1 \(it ends in line 1\): the field 'text' is a"):
        list(iter_pages(tmp_path / "a.json"))
