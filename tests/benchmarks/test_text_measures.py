"""The measures of benchmarks/archive_2026_11/text_quality.py see what they should."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def measures(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "text_measures", root / "benchmarks/archive_2026_11/text_measures.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


WIKITEXT = """{{Infobox
| name = not prose although it is as long as a paragraph of prose has to be
}}
'''Alpha''' is the first of the letters that the [[Greek alphabet|Greeks]] wrote for a long time.
[[File:x.png|thumb|A caption of four words]]
== History ==
The second paragraph is here to be lost by the tool that is judged below.{{efn|A note in it.}}
* [[A list]]
"""


def test_what_is_lost_glued_and_left_is_counted(measures: ModuleType) -> None:
    raw = measures.raw_page(WIKITEXT)
    assert [section for section, _ in raw.paragraphs] == [0, 1]
    assert raw.headings == ["History"]
    assert raw.captions == ["A caption of four words"]

    score = measures.Score()
    first = "Alpha is the first of the letters that the Greeks wrote for a long time."
    second = "The second paragraph is here to be lost by the tool that is judged below."
    measures.judge(score, "T", [first, second], raw)
    assert (score.lost, score.damaged, score.lost_sections, score.glued) == (0, 0, 0, 0)
    assert score.leftovers.total() == score.captions == score.headings_as_text == 0

    score = measures.Score()
    bad = [first.replace(" wrote", "(, ) wrote"), "A caption of four words", "History.",
           "time.The [[end]]"]  # fmt: skip
    measures.judge(score, "T", bad, raw)
    assert (score.lost, score.lost_sections, score.glued) == (1, 1, 1)
    assert (score.captions, score.headings_as_text) == (1, 1)
    assert score.leftovers["[["] == score.leftovers["]]"] == 1
    assert score.leftovers["( ,"] >= 1


@pytest.mark.parametrize(
    ("kind", "text"),
    [("{{", "a {{b"), ("<tag>", "a <br/> b"), ("()", "甲（）乙"), ("-{", "-{甲"), ("px", "20px"),
     ("__X__", "__目录__"), ("entity", "&nbsp;"), (", ,", "a, , b"), ("formula_", "formula_3"),
     ("attribute", 'style="x"'), ("http", "http://x"), ("picture", "x.jpg"), ("File:", "File:x")],
)  # fmt: skip
def test_each_kind_of_leftover_is_seen(measures: ModuleType, kind: str, text: str) -> None:
    assert measures.leftovers([text])[kind] >= 1
    assert measures.leftovers(["Plain text, of f() and 3 < 4, 甲（乙）。"]).total() == 0
