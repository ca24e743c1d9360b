"""The data of GLUE in other forms than GLUE's: the original files, CSV, JSON lines, Parquet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megabert.common.errors import UserError
from megabert.tasks.classification.data import Examples
from megabert.tasks.classification.glue import GLUE
from megabert.tasks.classification.settings import ClassificationSettings
from megabert.tasks.classification.task import Classification


def read(path: Path, task: str, content: str | bytes, policy: Any = "error") -> Examples:
    """A file with this content, read for a task."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return GLUE[task].read(path, policy)


def sts(*more: str, score: str = "2.5", genre: str = "main-news") -> str:
    """A line of STS-B as SemEval publishes it."""
    return "\t".join([genre, "headlines", "2016", "0012", score, "A cat.", "A dog.", *more]) + "\n"


SOURCES = ("http://a.org/1", "http://a.org/2")


@pytest.mark.parametrize("policy", ["error", "skip"])
@pytest.mark.parametrize(
    "content",
    [
        sts() + sts(*SOURCES) + sts(),
        sts(*SOURCES) * 3,  # nine columns, as GLUE's test file has
        sts() * 3,
        sts(SOURCES[0]) + sts() * 2,
        "\ufeff" + (sts() * 3).replace("\n", "\r\n"),
    ],
)
def test_stsb_of_semeval(tmp_path: Path, content: str, policy: str) -> None:
    examples = read(tmp_path / "sts-train.csv", "stsb", content, policy)
    assert examples.texts == (["A cat."] * 3, ["A dog."] * 3)
    assert examples.labels == [2.5] * 3
    assert not examples.faults.problems.counts
    assert "genre, file, year, number, score, sentence1, sentence2" in examples.layout


def test_a_skipped_line_never_changes_the_columns(tmp_path: Path) -> None:
    path = tmp_path / "sts.csv"
    bad = "x\ty\n" + sts(score="good") + sts(genre="7") + sts("a", "b", "c")
    for content in (bad + sts() * 5, sts() * 5 + bad, sts(*SOURCES) * 5 + bad):
        examples = read(path, "stsb", content, "skip")
        assert examples.texts == (["A cat."] * 5, ["A dog."] * 5)
        assert examples.faults.problems.counts == {
            "wrong number of columns": 2, "unexpected column": 1, "unknown label": 1,
        }  # fmt: skip
    for policy in ("error", "skip"):
        with pytest.raises(UserError, match=r"sts.csv line 1: .*; expected columns genre, file"):
            read(path, "stsb", bad + "A cat.\tA dog.\t2.5\n" * 9, policy)


def test_stsb_of_glue_without_its_header(tmp_path: Path) -> None:
    row = "{}\tmain-news\theadlines\t2016\t0012\thttp://a\thttp://b\tA cat.\tA dog."
    labelled = read(tmp_path / "a", "stsb", "".join(f"{row.format(n)}\t2.5\n" for n in range(3)))
    assert (labelled.texts[0], labelled.labels) == (["A cat."] * 3, [2.5] * 3)
    test = read(tmp_path / "b", "stsb", "".join(f"{row.format(n)}\n" for n in range(3)))
    assert (test.texts[1], test.labels, test.ids) == (["A dog."] * 3, None, ["0", "1", "2"])


def test_labels_before_their_text_are_refused_not_guessed(tmp_path: Path) -> None:
    for policy in ("error", "skip"):
        with pytest.raises(
            UserError, match=r"line 1: unknown label: 'a film', not one of 0, 1; exp"
        ):
            read(tmp_path / "a", "sst2", "1\ta film\n0\ta bad film\n1\t1\n", policy)
        with pytest.raises(
            UserError, match="its columns are not known; expected columns source, label"
        ):
            read(tmp_path / "a", "cola", "1\tHe go.\n0\tHe goes.\n1\tHe went.\n", policy)


def test_original_files_of_cola_mrpc_and_qqp(tmp_path: Path) -> None:
    cola = read(
        tmp_path / "in_domain_train.tsv", "cola", "gj04\t1\t\tHe sat.\nks08\t0\t*\tHe sit.\n"
    )
    assert (cola.texts, cola.labels) == ((["He sat.", "He sit."],), ["1", "0"])
    titled = read(tmp_path / "a", "cola", "source\tlabel\tmark\tSentence\ngj04\t1\t\tHe sat.\n")
    assert (titled.texts, titled.labels) == ((["He sat."],), ["1"])
    header = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
    mrpc = read(tmp_path / "msr.txt", "mrpc", header + '1\t70\t71\t"Yes," he said.\tHe agreed.\r\n')
    assert (mrpc.texts, mrpc.labels) == ((['"Yes," he said.'], ["He agreed."]), ["1"])
    rows = (
        'id,qid1,qid2,question1,question2,is_duplicate\n"0","1","2","Why, then?","Is it\nso?","0"\n'
    )
    quora = read(tmp_path / "train.csv", "qqp", rows)
    assert (quora.texts, quora.labels) == ((["Why, then?"], ["Is it\nso?"]), ["0"])
    assert quora.layout.startswith("comma-separated: texts 'question1', 'question2', label")


def test_natural_language_inference_as_json_lines(tmp_path: Path) -> None:
    entry = {
        "annotator_labels": ["neutral"], "gold_label": "neutral", "pairID": "7",
        "sentence1": "A\u2028cat.", "sentence2": "A dog.",
    }  # fmt: skip
    lines = [entry, {**entry, "gold_label": "-"}, {**entry, "gold_label": None}, "x", {}, entry]
    content = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    path = tmp_path / "snli_1.0_train.jsonl"
    with pytest.raises(UserError, match=r"line 4: unusable line: no JSON object"):
        read(path, "mnli", content)
    with pytest.raises(UserError, match=r"line 2: unknown label: '-', not one of contradiction"):
        read(path, "mnli", "\n".join(map(json.dumps, lines[:3])))
    examples = read(path, "mnli", content, "skip")
    assert examples.texts == (["A\u2028cat."] * 2, ["A dog."] * 2)
    assert examples.labels == ["neutral"] * 2
    assert examples.faults.problems.counts == {"unusable line": 2, "unknown label": 2}
    # The text form of MultiNLI leaves columns of annotators out at the end of a line.
    header = "gold_label\tsentence1\tsentence2\tlabel1\tlabel2\n"
    found = read(tmp_path / "a.txt", "mnli", header + "neutral\tA.\tB.\tneutral\n")
    assert found.labels == ["neutral"]
    with pytest.raises(UserError, match="wrong number of columns: 2, not 5"):
        read(tmp_path / "a.txt", "mnli", header + "neutral\tA.\n")


@pytest.mark.parametrize("bad", [None, True, 1.0, 2, "", " ", "None", [0], {"a": 1}, -1, "1.0"])
def test_no_other_value_becomes_a_label(tmp_path: Path, bad: Any) -> None:
    lines = [
        {"sentence": "a", "label": 1},
        {"sentence": "b", "label": bad},
        {"sentence": "c", "label": "0"},
    ]
    content = "\n".join(map(json.dumps, lines))
    with pytest.raises(UserError, match="line 2: unknown label"):
        read(tmp_path / "a", "sst2", content)
    examples = read(tmp_path / "a", "sst2", content, "skip")
    assert (examples.texts, examples.labels) == ((["a", "c"],), ["1", "0"])


@pytest.mark.parametrize(
    "bad", ["", "nan", "inf", "-1", "5.01", "1_0", "٣", "0x1", "1,5", "None", True, None]
)
def test_no_other_value_becomes_a_score(tmp_path: Path, bad: Any) -> None:
    pair = {"sentence1": "a", "sentence2": "b"}
    content = "\n".join(json.dumps({**pair, "score": score}) for score in (1, 2.5, bad, "5.0"))
    examples = read(tmp_path / "a", "stsb", content, "skip")
    assert (examples.labels, examples.lines) == ([1.0, 2.5, 5.0], [1, 2, 4])


def test_numbers_for_names_are_refused_with_a_reason(tmp_path: Path) -> None:
    entry = {"premise": "a", "hypothesis": "b", "label": 2, "idx": 0}
    with pytest.raises(
        UserError, match=r"2, not one of contradiction.*number does not say which one"
    ):
        read(tmp_path / "a", "mnli", json.dumps(entry))


@pytest.mark.parametrize("label", [-1, "-1"])
def test_a_file_of_minus_ones_has_no_labels(tmp_path: Path, label: Any) -> None:
    lines = [
        {"sentence": "a", "label": label, "idx": 7},
        {"sentence": "b", "label": label, "idx": 8},
    ]
    examples = read(tmp_path / "a", "sst2", "\n".join(map(json.dumps, lines)))
    assert (examples.labels, examples.ids) == (None, [7, 8])
    assert "label -1 in every line: no labels" in examples.layout
    table = read(tmp_path / "b", "sst2", f"sentence\tlabel\na\t{label}\nb\t{label}\n")
    assert table.labels is None
    with pytest.raises(UserError, match=r"unknown label: '?-1"):
        read(tmp_path / "a", "sst2", json.dumps(lines[0]) + '\n{"sentence": "a", "label": 0}')


def test_splits_in_one_file_are_refused(tmp_path: Path) -> None:
    rows = [("train", "a", "b", "1"), ("test", "c", "d", "2")]
    header = "split\tsentence1\tsentence2\tscore\n"
    content = header + "".join("\t".join(row) + "\n" for row in rows)
    with pytest.raises(UserError, match="has the splits train, test in one file"):
        read(tmp_path / "stsbenchmark.tsv", "stsb", content)
    assert read(tmp_path / "a.tsv", "stsb", header + "\t".join(rows[0])).labels == [1.0]


def test_parquet_rows_are_read_as_objects(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "train.parquet"
    pq.write_table(
        pa.table({"sentence": ["a", None, "c"], "label": [1, 0, 0], "idx": [5, 6, 7]}), path
    )
    with pytest.raises(
        UserError, match=r"train.parquet line 2: unusable line: 'sentence' is missing"
    ):
        GLUE["sst2"].read(path, "error")
    examples = GLUE["sst2"].read(path, "skip")
    assert (examples.texts, examples.labels, examples.ids) == ((["a", "c"],), ["1", "0"], [5, 7])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"train.parquet: damaged Parquet file"):
        GLUE["sst2"].read(path, "error")


def test_a_json_list_is_refused_with_the_way_around(tmp_path: Path) -> None:
    for content in ('[{"sentence": "a", "label": 1}]', '[\n {"sentence": "a",\n "label": 1}\n]\n'):
        with pytest.raises(UserError, match=r"is one JSON list, but .* jq -c '.\[\]'"):
            read(tmp_path / "a.json", "sst2", content)
    assert read(tmp_path / "a", "sst2", "[sic] it\t1\n[a]\t0\n").labels == ["1", "0"]


def test_the_layout_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.helpers.tagging_files import tokenizer

    monkeypatch.setattr("megabert.tasks.classification.task.log.propagate", True)
    path = tmp_path / "train.tsv"
    path.write_text("sentence\tlabel\tsource\na b\t1\tx\n", encoding="utf-8")
    task = Classification(GLUE["sst2"], ClassificationSettings())
    task.train_features(path, tokenizer(tmp_path), None, 0)
    assert (
        f"{path} is read as tab-separated: texts 'sentence', label 'label', not used: 'source'"
        in caplog.messages
    )
