"""Files in CoNLL's columns, their features and predictions."""

from __future__ import annotations

import bz2
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megabert.common.errors import UserError
from megabert.data.tokenizers.load import load_tokenizer
from megabert.tasks.tagging.conll import read_conll
from megabert.tasks.tagging.entity_spans import SCHEMES, Entity, tags_of
from tests.helpers.batch_rows import rows_of
from tests.helpers.tagging_files import entity, gold_labels, make, outputs_for, tokenizer


def write(path: Path, text: str) -> Path:
    """A file of this content, line ends as they are."""
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("pack", [bytes, lzma.compress, bz2.compress])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("separator", [" ", "\t", "  "])
def test_reads_columns(
    tmp_path: Path, pack: Callable[[bytes], bytes], end: str, separator: str
) -> None:
    rows = [
        "-DOCSTART- -X- O", "", "Ann NNP B-PER", "met VBD O", "Bob NNP B-PER", "", "", "In IN O",
        "New NNP B-LOC", "York NNP I-LOC",
    ]  # fmt: skip
    text = "\ufeff" + end.join(row.replace(" ", separator) for row in rows) + end
    path = tmp_path / "train.txt"
    path.write_bytes(pack(text.encode()))
    corpus = read_conll(path)
    assert corpus.texts == [["Ann", "met", "Bob"], ["In", "New", "York"]]
    assert corpus.entities == [[entity("PER", 0, 1), entity("PER", 2, 3)], [entity("LOC", 1, 3)]]
    assert (corpus.lines, corpus.scheme) == ([3, 8], "bio")
    assert not corpus.problems.counts


@settings(max_examples=40, deadline=None)
@given(
    scheme=st.sampled_from(sorted({*SCHEMES} - {"io"})),
    mark=st.sampled_from("-_"),
    lengths=st.lists(st.lists(st.integers(-3, 4), min_size=1, max_size=5), min_size=1, max_size=4),
)
def test_a_written_file_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, scheme: str, mark: str, lengths: list[list[int]]
) -> None:
    """Negative lengths are tokens outside."""
    sentences: list[tuple[list[str], list[Entity]]] = []
    for parts in lengths:
        entities, place = [], 0
        for number, size in enumerate(parts):
            if size > 0:
                entities.append(entity("XY"[number % 2], place, place + size))
            place += max(1, abs(size))
        sentences.append((["\u3000", "的", "x"] * place, entities))
        sentences[-1] = (sentences[-1][0][:place], entities)
    text = "\n\n".join(
        "\n".join(
            f"{token} {str(tag).replace('-', mark)}"
            for token, tag in zip(tokens, tags_of(entities, len(tokens), scheme))
        )
        for tokens, entities in sentences
    )
    corpus = read_conll(write(tmp_path_factory.mktemp("conll") / "f", text), scheme)
    assert corpus.texts == [tokens for tokens, _ in sentences]
    assert corpus.entities == [entities for _, entities in sentences]
    assert not corpus.problems.counts


def test_schemes_are_found_and_followed(tmp_path: Path) -> None:
    path = tmp_path / "f"
    assert read_conll(write(path, "a B-X\nb E-X\n")).scheme == "bioes"
    assert read_conll(write(path, "a B_X\nb M_X\nc E_X\nd S_X\n")).scheme == "bmes"
    assert read_conll(write(path, "a B-X\n"), "bmes").scheme == "bmes"
    with pytest.raises(UserError, match=r"f line 2: the tag E-X is not a tag of the scheme bio"):
        read_conll(write(path, "a B-X\nb E-X\n"), "bio")
    with pytest.raises(UserError, match=r"f line 3: the tag M-X is not a tag of a scheme with"):
        read_conll(write(path, "a B-X\nb I-X\nc M-X\n"))


def test_tags_out_of_order_are_counted(tmp_path: Path) -> None:
    corpus = read_conll(write(tmp_path / "f", "a B-X\nb I-Y\n\nc O\nd I-X\n"))
    assert corpus.entities == [[entity("X", 0, 1), entity("Y", 1, 2)], [entity("X", 1, 2)]]
    assert corpus.problems.counts == {"tag out of the order of bio": 2}
    assert corpus.problems.first == {"tag out of the order of bio": "line 2"}
    corpus = read_conll(write(tmp_path / "f", "a B-X\n\nb S-X\nc E-X\n"), "bioes")
    assert corpus.problems.counts == {"tag out of the order of bioes": 2}
    assert corpus.problems.first == {"tag out of the order of bioes": "line 1"}


def test_iob1_follows_its_own_order(tmp_path: Path) -> None:
    corpus = read_conll(write(tmp_path / "f", "a I-X\nb I-X\nc B-X\nd I-Y\ne O\n"))
    assert corpus.entities == [[entity("X", 0, 2), entity("X", 2, 3), entity("Y", 3, 4)]]
    assert not corpus.problems.counts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no token"),
        ("\n \n-DOCSTART- O\n", "has no token"),
        ("a O\nb\n", "line 2 has 1 columns, the first line 2"),
        ("a O\n\nb x O\n", "line 3 has 3 columns, the first line 2"),
        ("a\tO\nb O\n", "line 2 has 1 columns"),
        ("a\tO\n\tO\n", "line 2 begins with a tab"),
        ("a B-X\nb Q-X\n", "line 2: 'Q-X' is not a tag"),
        ("a B\n", "line 1: 'B' is not a tag"),
    ],
)
def test_wrong_files_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "file.txt", text)
    with pytest.raises(UserError) as caught:
        read_conll(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tokens_of_several_pieces_and_of_none(tmp_path: Path) -> None:
    words, task = tokenizer(tmp_path), make("conll")
    path = write(tmp_path / "f", "iPhone6\tB-X\n王明\tI-X\n \tI-X\n2\tO\n0\tO\n")
    features = task.train_features(path, words, None, 0)
    batch = rows_of(features, np.array([0]))
    expected = ["ip", "##hone", "##6", "王", "明", "[UNK]", "2", "[UNK]"]
    assert words.tokens(batch["input_ids"][0]) == ["[CLS]", *expected, "[SEP]"]
    assert batch["tag_positions"][0].tolist() == [1, 4, 6, 7, 8]
    names = [task.labels[label] for label in batch["tags"][0]]
    assert names == ["B-X", "I-X", "I-X", "O", "O"]
    assert features.found([np.array([1, 2, 2, 0, 0])]) == [[entity("X", 0, 3)]]


def test_predictions_are_what_conlleval_reads(tmp_path: Path) -> None:
    words, task = tokenizer(tmp_path), make("conll", max_length=5)
    text = "王 B_X\n明 M_X\n李 E_X\n在 O\n上 S_Y\n海 O\n\n的 O\n"
    path = write(tmp_path / "f", text)
    task.train_features(path, words, None, 0)
    assert task.labels == ("O", *(f"{p}-{t}" for t in "XY" for p in "BMES"))
    features = task.eval_features(path, words)
    gold = gold_labels(features)
    assert gold == [[1, 2, 3, 0, 8, 0], [0]]
    scores = task.score(features, outputs_for(features, gold), tmp_path)
    assert scores["f1"] == scores["f1_X"] == scores["accuracy"] == 100.0
    scores = task.score(features, outputs_for(features, [[1, 2, 2, 0, 0, 4], [0]]), tmp_path)
    assert (scores["span_precision"], scores["span_recall"]) == (50.0, 50.0)
    assert scores["f1_Y"] == 0.0
    lines = (tmp_path / "predictions.txt").read_text(encoding="utf-8").split("\n")
    assert lines == [
        "王 B-X B-X", "明 I-X I-X", "李 I-X I-X", "在 O O", "上 B-Y O", "海 O B-X", "", "的 O O", "",
        "",
    ]  # fmt: skip


def test_a_file_of_tokens_alone_is_predicted(tmp_path: Path) -> None:
    words, task = tokenizer(tmp_path), make("conll")
    task.train_features(write(tmp_path / "f", "王 B-X\n明 I-X\n"), words, None, 0)
    features = task.eval_features(write(tmp_path / "t", "李\n明\n\n在\n"), words)
    assert task.score(features, outputs_for(features, [[1, 2], [0]]), tmp_path) == {}
    lines = (tmp_path / "predictions.txt").read_text(encoding="utf-8").split("\n")
    assert lines == ["李 B-X", "明 I-X", "", "在 O", "", ""]
    with pytest.raises(UserError, match="has no labels"):
        make("conll").train_features(tmp_path / "t", words, None, 0)


@pytest.mark.parametrize(
    ("train", "item", "labels", "expected"),
    [
        ("王 B-X\n明 I-X\n", {"text": "去 王明"}, [0, 1, 2], ("王明", 2, 4)),
        ("王 B-X\n明 I-X\n", {"tokens": ["去", "王", "明"]}, [0, 1, 2], ("王明", 1, 3)),
        ("vs B-X\n明 I-X\n", {"text": " vs iPhone6-2"}, [0, 1, 2, 2], ("iPhone6-2", 4, 13)),
        ("vs B-X\n明 I-X\n", {"tokens": ["a", "vs", "b"]}, [0, 1, 2], ("vs b", 1, 3)),
        ("王 B-X\n明 I-X\n", {"text": " "}, [], None),
    ],
)
def test_items_and_answers(
    tmp_path: Path,
    train: str,
    item: dict[str, Any],
    labels: list[int],
    expected: tuple[str, int, int] | None,
) -> None:
    words, task = tokenizer(tmp_path), make("conll")
    task.train_features(write(tmp_path / "f", train), words, None, 0)
    features = task.item_features([item], words)
    (answer,) = task.answers(features, outputs_for(features, [labels], score=0.5))
    found = [tuple(e[key] for key in ("text", "start", "end")) for e in answer["entities"]]
    assert found == ([] if expected is None else [expected])
    assert all(e["type"] == "X" and e["score"] == 0.5 for e in answer["entities"])


def test_wrong_items(tmp_path: Path) -> None:
    words, task = tokenizer(tmp_path), make("conll")
    task.train_features(write(tmp_path / "f", "王 B-X\n"), words, None, 0)
    for item, message in (
        ({}, "'text' is missing or not a text"),
        ({"tokens": ["a", 1]}, "'tokens' is not a list"),
    ):
        with pytest.raises(UserError, match=f"item 2: {message}"):
            task.item_features([{"tokens": ["a"]}, item], words)


def test_the_published_files(shared_data: Path) -> None:
    words = load_tokenizer(shared_data / "vocab" / "bert-base-chinese-vocab.txt")
    folder, task = shared_data / "chinese_ner", make("conll", max_length=128)
    dev = task.train_features(folder / "example.dev.xz", words, None, 0)
    assert task.labels == ("O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER")
    sizes = dev.sizes()
    assert (sizes["texts"], sizes["tags"], sizes["entities"]) == (2318, 109870, 3819)
    assert (sizes["cut_texts"], sizes["problems"]) == (41, 0)
    found = dev.found([np.array(labels) for labels in gold_labels(dev)])
    assert found == dev.truths()
    test = task.eval_features(folder / "example.test.xz", words)
    assert (test.sizes()["texts"], test.sizes()["tags"]) == (4636, 219197)
    batch = rows_of(test, np.array([0, 1]))
    real = batch["attention_mask"].sum()
    assert real == test.lengths[:2].sum()


@pytest.mark.slow
def test_stray_tags_of_the_msra_file(shared_data: Path) -> None:
    corpus = read_conll(shared_data / "chinese_ner" / "msra.train.xz")
    assert len(corpus.texts) == 43029
    assert corpus.problems.counts == {"tag out of the order of bio": 6}
    assert corpus.problems.first == {"tag out of the order of bio": "line 623681"}


def test_objects_are_named_for_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    for content in ('{"tokens": ["a"], "ner_tags": [0]}\n', '[\n{"tokens": ["a"]}\n]'):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(
            UserError, match=r"holds JSON objects or Parquet; expected a token and its tag"
        ):
            read_conll(path)
