"""GLUE's files: the real ones, and made ones of every form and fault."""

from __future__ import annotations

import gzip
import lzma
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megabert.common.errors import UserError
from megabert.tasks.classification.glue import GLUE
from megabert.tasks.files.tables import read_table

# task, file, examples, label -> examples (None: no labels)
REAL = [
    ("cola", "CoLA/train.tsv.xz", 8551, {"0": 2528, "1": 6023}),
    ("cola", "CoLA/dev.tsv", 1043, {"0": 322, "1": 721}),
    ("cola", "CoLA/test.tsv", 1063, None),
    ("sst2", "SST-2/train.tsv.xz", 67349, {"0": 29780, "1": 37569}),
    ("sst2", "SST-2/dev.tsv", 872, {"0": 428, "1": 444}),
    ("sst2", "SST-2/test.tsv.xz", 1821, None),
    ("mrpc", "MRPC/train.tsv.xz", 3668, {"0": 1194, "1": 2474}),
    ("mrpc", "MRPC/dev.tsv", 408, {"0": 129, "1": 279}),
    ("mrpc", "MRPC/test.tsv.xz", 1725, None),
    ("qnli", "QNLI/dev.tsv.xz", 5463, {"entailment": 2702, "not_entailment": 2761}),
    ("qnli", "QNLI/test.tsv.xz", 5463, None),
    ("rte", "RTE/train.tsv.xz", 2490, {"entailment": 1249, "not_entailment": 1241}),
    ("rte", "RTE/dev.tsv", 277, {"entailment": 146, "not_entailment": 131}),
    ("rte", "RTE/test.tsv.xz", 3000, None),
    ("wnli", "WNLI/train.tsv", 635, {"0": 323, "1": 312}),
    ("wnli", "WNLI/dev.tsv", 71, {"0": 40, "1": 31}),
    ("wnli", "WNLI/test.tsv", 146, None),
    ("stsb", "STS-B/test.tsv.xz", 1379, None),
    ("mnli", "AX/diagnostic.tsv.xz", 1104, None),
]


@pytest.mark.parametrize(("task", "name", "count", "labels"), REAL)
def test_real_files(
    shared_data: Path, task: str, name: str, count: int, labels: dict[str, int] | None
) -> None:
    source = GLUE[task]
    examples = source.read(shared_data / "glue" / name, "error")
    assert [len(texts) for texts in examples.texts] == [count] * len(source.fields)
    assert len(examples.ids) == len(examples.lines) == count
    assert not examples.faults.problems.counts
    if labels is None:
        assert examples.labels is None
        assert list(map(int, examples.ids)) == list(range(count))
    else:
        assert examples.labels is not None
        assert {label: examples.labels.count(label) for label in source.labels} == labels
    assert all(text for texts in examples.texts for text in texts)


def test_real_scores_of_stsb(shared_data: Path) -> None:
    for name, count in (("train", 5749), ("dev", 1500)):
        labels = GLUE["stsb"].read(shared_data / f"glue/STS-B/{name}.tsv.xz", "error").labels
        assert labels is not None
        assert len(labels) == count
        assert min(labels) == 0.0  # type: ignore[type-var]
        assert max(labels) == 5.0  # type: ignore[type-var]


def test_the_broken_line_of_the_real_qqp_file(shared_data: Path) -> None:
    path = shared_data / "glue" / "QQP" / "part.tsv.xz"
    with pytest.raises(UserError, match=r"part.tsv.xz line 1: wrong number of columns: 5, not 6; "):
        GLUE["qqp"].read(path, "error")
    examples = GLUE["qqp"].read(path, "skip")
    assert len(examples.lines) == 23496
    assert examples.lines[0] == 2
    assert str(examples.faults.problems) == "1 x wrong number of columns (first: line 1)"


def test_the_two_texts_and_the_label_are_the_right_columns(shared_data: Path) -> None:
    mrpc = GLUE["mrpc"].read(shared_data / "glue/MRPC/dev.tsv", "error")
    assert mrpc.texts[0][1].startswith("Magnarelli said Racicot hated")
    assert '"100 percent behind George Bush"' in mrpc.texts[1][1]
    assert mrpc.texts[1][0].startswith('"The foodservice pie business')  # an unbalanced quote
    assert mrpc.labels is not None
    assert mrpc.labels[:2] == ["1", "0"]
    assert mrpc.ids[:2] == [0, 1]
    qnli = GLUE["qnli"].read(shared_data / "glue/QNLI/dev.tsv.xz", "error")
    assert qnli.texts[0][0].startswith("What came into force")
    assert qnli.texts[1][0].startswith("As of that day")
    assert qnli.ids[:2] == ["0", "1"]


MNLI_DEV = (
    "index", "promptID", "pairID", "genre", "sentence1_binary_parse", "sentence2_binary_parse",
    "sentence1_parse", "sentence2_parse", "sentence1", "sentence2", "label1", "label2", "label3",
    "label4", "label5", "gold_label",
)  # fmt: skip


def mnli(path: Path, *labels: str) -> Path:
    """An MNLI development file, whose single annotators all say neutral."""
    lines = ["\t".join(MNLI_DEV)]
    for number, label in enumerate(labels):
        cells = [str(number), "p", "q", "fiction", *"wxyz", f"one {number}", f"two {number}"]
        lines.append("\t".join([*cells, *["neutral"] * 5, label]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_mnli_reads_the_gold_label_and_names_its_parts(tmp_path: Path) -> None:
    source = GLUE["mnli"]
    assert source.labels == ("contradiction", "entailment", "neutral")
    matched = source.read(mnli(tmp_path / "dev_matched.tsv", "entailment", "neutral"), "error")
    assert matched.labels == ["entailment", "neutral"]
    assert matched.texts == (["one 0", "one 1"], ["two 0", "two 1"])
    assert matched.part == "MNLI-m"
    mismatched = source.read(mnli(tmp_path / "dev_mismatched.tsv", "contradiction"), "error")
    assert mismatched.part == "MNLI-mm"
    with pytest.raises(UserError, match=r"dev.tsv line 3: unknown label: '-', not one of contrad"):
        source.read(mnli(tmp_path / "dev.tsv", "neutral", "-"), "error")
    headless = tmp_path / "headless.tsv"
    lines = (tmp_path / "dev_matched.tsv").read_text(encoding="utf-8").splitlines()[1:]
    headless.write_text("\n".join(lines), encoding="utf-8")
    assert source.read(headless, "error").texts == matched.texts
    assert source.read(headless, "error").labels == matched.labels


def test_diagnostics_are_their_own_part(shared_data: Path, tmp_path: Path) -> None:
    assert GLUE["mnli"].read(shared_data / "glue/AX/diagnostic.tsv.xz", "error").part == "AX"
    path = tmp_path / "diagnostic-full.tsv"
    header = "Lexical Semantics\tLogic\tPremise\tHypothesis\tLabel"
    path.write_text(f"{header}\n\t\tA cat.\tA dog.\tcontradiction\n", encoding="utf-8")
    full = GLUE["mnli"].read(path, "error")
    assert (full.part, full.labels, full.texts) == (
        "AX",
        ["contradiction"],
        (["A cat."], ["A dog."]),
    )
    assert GLUE["mnli"].metrics_of("AX") == ("accuracy", "matthews_correlation")


def test_byte_order_mark_crlf_packing_and_quotes(tmp_path: Path) -> None:
    text = '\ufeffsentence\tlabel\r\n"a b\t1\r\n\r\nc\u2028d " \t0\r\n'.encode()
    for name, content in (("a", text), ("b", gzip.compress(text)), ("c", lzma.compress(text))):
        path = tmp_path / name
        path.write_bytes(content)
        examples = GLUE["sst2"].read(path, "error")
        assert examples.texts == (['"a b', 'c\u2028d " '],)
        assert examples.labels == ["1", "0"]
        assert examples.lines == [2, 4]


@pytest.mark.parametrize(
    ("task", "content", "message"),
    [
        ("sst2", "", "has no line"),
        ("sst2", "\n\n", "has no line"),
        ("sst2", "sentence\tlabel\n", "has no line after its header"),
        ("sst2", "sentence\tlabel\na\t1\nb\n", "line 3: wrong number of columns: 1, not 2"),
        ("sst2", "sentence\tlabel\na\t2\n", "line 2: unknown label: '2', not one of 0, 1"),
        ("sst2", "sentence\tlabel\na\t\n", "line 2: unknown label: ''"),
        (
            "sst2",
            "sentence\tlabel\tsentence\na\t1\tb\n",
            "line 1: two columns have the name 'sentence'",
        ),
        ("cola", "x\t1\t\ta\nx\t1\t*\tb\tc\n", "line 2: wrong number of columns: 5, not 4"),
        ("rte", "0\ta\tb\tneutral\n", "line 1: unknown label: 'neutral'"),
        ("stsb", "sentence1\tsentence2\tscore\na\tb\t5.1\n", "line 2: unknown label: '5.1'"),
        ("stsb", "sentence1\tsentence2\tscore\na\tb\tnan\n", "not a score from 0 to 5"),
        ("stsb", "sentence1\tsentence2\tscore\na\tb\tx\n", "not a score from 0 to 5"),
        (
            "mrpc",
            "a\tb\n",
            "none of its 1 lines has 5 columns|line 1: wrong number of columns: 2, not 5",
        ),
    ],
)
def test_faults_are_named(tmp_path: Path, task: str, content: str, message: str) -> None:
    path = tmp_path / "dev.tsv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message) as error:
        GLUE[task].read(path, "error")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_skipped_lines_are_counted_by_kind(tmp_path: Path) -> None:
    path = tmp_path / "dev.tsv"
    path.write_text("sentence\tlabel\na\t1\nb\nc\t7\nd\t0\ne\t9\n", encoding="utf-8")
    examples = GLUE["sst2"].read(path, "skip")
    assert examples.texts == (["a", "d"],)
    assert examples.lines == [2, 5]
    assert examples.faults.problems.counts == {"wrong number of columns": 1, "unknown label": 2}
    assert examples.faults.problems.first["unknown label"] == "line 4"
    path.write_text("sentence\tlabel\nc\t7\n", encoding="utf-8")
    with pytest.raises(UserError, match="no line can be used"):
        GLUE["sst2"].read(path, "skip")


def test_test_files_of_qqp_are_named_by_id(tmp_path: Path) -> None:
    path = tmp_path / "test.tsv"
    path.write_text("id\tquestion1\tquestion2\n7\ta\tb\n8\tc\td\n", encoding="utf-8")
    examples = GLUE["qqp"].read(path, "error")
    assert (examples.labels, examples.ids, examples.texts) == (
        None,
        ["7", "8"],
        (["a", "c"], ["b", "d"]),
    )
    path.write_text(
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n9\t1\t2\ta\tb\t1\n", encoding="utf-8"
    )
    assert GLUE["qqp"].read(path, "error").labels == ["1"]


def test_submission_files(tmp_path: Path) -> None:
    path = GLUE["mnli"].write_predictions(
        tmp_path, "MNLI-mm", ["0", "1"], ["neutral", "entailment"]
    )
    assert path.name == "MNLI-mm.tsv"
    assert path.read_bytes() == b"index\tprediction\n0\tneutral\n1\tentailment\n"
    path = GLUE["stsb"].write_predictions(tmp_path, "", [0, 1, 2], [-0.2, 3.14159, 5.6])
    assert path.name == "STS-B.tsv"
    assert path.read_bytes() == b"index\tprediction\n0\t0.000\n1\t3.142\n2\t5.000\n"
    names = {task.official for task in GLUE.values()}
    assert names == {"CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI-m", "QNLI", "RTE", "WNLI"}


def test_labels_of_checkpoints() -> None:
    mnli = GLUE["mnli"]
    order = ("ENTAILMENT", "Neutral", "contradiction")
    assert mnli.load_labels(order, {}) == ("entailment", "neutral", "contradiction")
    assert mnli.load_labels((), {}) == mnli.labels
    assert GLUE["cola"].load_labels(("LABEL_0", "LABEL_1"), {}) == ("0", "1")
    assert GLUE["stsb"].load_labels(("LABEL_0",), {}) == ()
    for task, labels in (
        ("mnli", ("LABEL_0", "LABEL_1", "LABEL_2")),
        ("mnli", ("entailment", "neutral")),
        ("rte", ("entailment", "entailment")),
        ("stsb", ("0", "1")),
    ):
        with pytest.raises(UserError, match=f"are not those of {task}"):
            GLUE[task].load_labels(labels, {})


CELL = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters='\t\n\r\ufeff"'), max_size=8
)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.lists(CELL, min_size=3, max_size=3), min_size=1, max_size=6),
    end=st.sampled_from(("\n", "\r\n")),
    mark=st.booleans(),
    last=st.booleans(),
)
def test_any_cells_come_back(rows: list[list[str]], end: str, mark: bool, last: bool) -> None:
    lines = end.join("\t".join(cells) for cells in rows) + (end if last else "")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.tsv"
        path.write_bytes((("\ufeff" if mark else "") + lines).encode())
        kept = [cells for cells in rows if "".join(cells).strip()]
        read = lambda: read_table(path, lambda _: False)  # noqa: E731
        if not kept:
            with pytest.raises(UserError, match="has no line"):
                read()
            return
        table = read()
    assert table.cells == kept
    assert [rows[number - 1] for number in table.lines] == kept
    assert table.header is None
