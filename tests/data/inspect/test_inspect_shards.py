"""inspect_shards: counts against plain Python, samples with masks shown, plot, refusals."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools import inspect_shards
from megabert.common import names
from megabert.common.errors import UserError
from megabert.data.inspect import plot, statistics
from megabert.data.inspect.findings import Findings, findings_lines
from megabert.data.inspect.report import WIDTH, histogram_lines, statistics_lines
from megabert.data.inspect.shown_samples import ShownSample, ShownToken, show_samples
from megabert.data.inspect.statistics import LengthCounts, read_statistics
from megabert.data.inspect.verify import verify_folder
from megabert.data.samples.index import SampleSettings
from megabert.data.samples.masking import MaskSettings
from megabert.data.samples.source import SampleSource
from megabert.data.shards.corpus import Corpus
from megabert.data.shards.manifest import ShardError, load_manifest
from megabert.data.shards.writer import Document, write_corpus
from megabert.data.tokenizers.load import load_tokenizer
from tests.helpers.small_dump import write_vocabulary

SHARDS, DOCUMENTS = 3, 10


def _document(number: int, vocabulary: int) -> Document:
    draw = random.Random(number)
    sentences = []
    for _ in range(draw.randint(1, 30)):
        size = draw.randint(1, 40)
        ids = [draw.choice((1, *range(5, vocabulary - 10))) for _ in range(size)]
        sentences.append((ids, [True] + [draw.random() < 0.7 for _ in range(size - 1)]))
    return Document(100 + number, sentences)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("inspect")
    tokenizer = load_tokenizer(write_vocabulary(home / "vocab.txt"))
    target = home / "shards"
    write_corpus(target, {"train": _shards(tokenizer.vocab_size)}, tokenizer.info())
    tokenizer.save(target / names.TOKENIZER_FOLDER)
    return target


def _shards(vocabulary: int) -> list[list[Document]]:
    return [
        [_document(number, vocabulary) for number in range(first, first + DOCUMENTS)]
        for first in range(0, SHARDS * DOCUMENTS, DOCUMENTS)
    ]


def _json(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    assert inspect_shards.main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


# --- statistics ------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60))
def test_length_counts_are_those_of_the_list(lengths: list[int]) -> None:
    counts = LengthCounts(np.bincount(lengths))
    assert counts.total == len(lengths)
    assert counts.mean == pytest.approx(np.mean(lengths))
    assert counts.extremes == (min(lengths), max(lengths))
    for share in (0.05, 0.25, 0.5, 0.75, 0.95):
        ranked = sorted(lengths)
        assert counts.quantile(share) == next(
            value for i, value in enumerate(ranked, 1) if i >= share * len(ranked)
        )
    assert counts.fraction_below(128) == sum(n < 128 for n in lengths) / len(lengths)
    bins = counts.histogram()
    for first, beyond, count in bins:
        assert beyond == 2 * first
        assert count == sum(first <= n < beyond for n in lengths)
    assert sum(count for _, _, count in bins) == len(lengths)
    assert bins[0][2] > 0 < bins[-1][2]
    assert all(len(line) <= WIDTH for line in histogram_lines(counts))
    assert max(line.count("#") for line in histogram_lines(counts)) > 20


def test_statistics_equal_a_plain_count(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "PIECE_TOKENS", 1500)
    monkeypatch.setattr(statistics, "PIECE_DOCUMENTS", 3)
    corpus = Corpus.open(folder, "train")
    tokenizer = load_tokenizer(folder / names.TOKENIZER_FOLDER)
    assert len(list(statistics._pieces(corpus.document_ends))) > SHARDS
    reports: list[tuple[int, int, str]] = []
    found = read_statistics(corpus, tokenizer, "nsp", lambda *report: reports.append(report))
    documents = [document for shard in _shards(tokenizer.vocab_size) for document in shard]
    sentences = [sentence for document in documents for sentence in document.sentences]
    tokens = Counter(token for ids, _ in sentences for token in ids)
    total = tokens.total()
    sizes = [sum(len(ids) for ids, _ in document.sentences) for document in documents]
    assert found.documents.counts.tolist() == np.bincount(sizes).tolist()
    assert found.sentences.counts.tolist() == np.bincount([len(i) for i, _ in sentences]).tolist()
    assert sum(found.shard_tokens) == total
    assert reports[-1][:2] == (total, total)

    words = found.vocabulary
    ordinary = {token: n for token, n in tokens.items() if token >= 5}
    assert words.tokens == total
    assert words.words == sum(sum(flags) for _, flags in sentences)
    assert words.tokens_per_word == total / words.words
    assert (words.entries, words.seen) == (tokenizer.vocab_size - 5, len(ordinary))
    assert words.seen < words.entries
    assert words.unknown_fraction == tokens[1] / total
    assert words.by_rank().tolist() == sorted(tokens.values(), reverse=True)
    assert words.frequent[0][1] == max(tokens.values())
    assert (
        dict(words.frequent).items()
        <= {tokenizer.tokens([token])[0]: n for token, n in tokens.items()}.items()
    )
    needed = words.entries_for(0.9)
    ranked = sorted(tokens.values(), reverse=True)
    assert sum(ranked[:needed]) >= 0.9 * total > sum(ranked[: needed - 1])

    for facts in found.epochs:
        source = SampleSource(corpus, SampleSettings(facts.seq_length))
        real = source.lengths(np.arange(source.samples_per_epoch))
        assert facts.samples == facts.measured_on == len(real)
        assert facts.padding == pytest.approx(1 - real.sum() / (len(real) * facts.seq_length))
    lines = statistics_lines(found)
    assert all(len(line) <= WIDTH for line in lines)
    assert f"{words.seen:,} of {words.entries:,} entries occur" in "\n".join(lines)


def test_statistics_of_the_command(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = _json(capsys, folder)
    assert {"statistics", "training_samples", "samples", "plot"}.isdisjoint(plain)
    body = _json(capsys, folder, "--statistics", "--sentence-task", "none")
    assert body["statistics"]["vocabulary"]["tokens"] == plain["splits"]["train"]["tokens"]
    assert body["statistics"]["document_tokens"]["count"] == plain["documents"]
    assert body["statistics"]["sentence_tokens"]["count"] == plain["sentences"]
    assert [e["seq_length"] for e in body["statistics"]["epochs"]] == [128, 512]
    assert {e["sentence_task"] for e in body["statistics"]["epochs"]} == {"none"}
    assert inspect_shards.main([str(folder), "--statistics"]) == 0
    text = capsys.readouterr().out
    assert "entries occur" in text
    assert "% padding" in text
    assert "\x1b" not in text


# --- samples with masks ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "masking"), [("nsp", "token"), ("sop", "whole-word"), ("none", "ngram")]
)
def test_shown_samples_are_the_training_samples(folder: Path, task: str, masking: str) -> None:
    corpus = Corpus.open(folder, "train")
    tokenizer = load_tokenizer(folder / names.TOKENIZER_FOLDER)
    settings = SampleSettings(64, task, seed=3)  # type: ignore[arg-type]
    source = SampleSource(corpus, settings, MaskSettings(masking))  # type: ignore[arg-type]
    count = min(40, source.samples_per_epoch)
    shown = show_samples(source, corpus, tokenizer, count)
    arrays = source.samples(np.arange(count))
    predicted = 0
    plan = source.plan(np.arange(count))
    for sample in shown:
        row = np.array([sample.number])
        texts = [corpus.read_tokens(part.take(row)) for part in (plan.first, plan.second)]
        assert len(sample.segments) == (1 if task == "none" else 2)
        for segment, tokens in zip(sample.segments, texts):
            assert [token.label or token.seen for token in segment] == tokenizer.tokens(tokens)
        ids = arrays.input_ids[sample.number]
        for token in (token for segment in sample.segments for token in segment):
            assert token.seen == tokenizer.tokens([ids[token.position]])[0]
            assert (token.kind == "text") == (token.label == "")
            assert (token.kind == "mask") == (token.seen == "[MASK]")
            assert (token.kind == "kept") == (token.seen == token.label)
        places = (plan.first, plan.second)[: len(sample.segments)]
        assert list(sample.page_ids) == [
            corpus.document_id(int(part.documents[sample.number])) for part in places
        ]
        assert sample.label == (None if task == "none" else plan.labels[sample.number])
        predicted += len(sample.predicted)
    assert predicted == len(arrays.masked_labels)
    kinds = Counter(token.kind for sample in shown for token in sample.predicted)
    assert kinds["mask"] > kinds["random"] > 0 < kinds["kept"]


def test_marks_and_joined_pieces() -> None:
    def shown(kind: str, *tokens: tuple[str, str, str]) -> str:
        segment = tuple(ShownToken(i, *token) for i, token in enumerate(tokens))  # type: ignore[arg-type]
        return ShownSample(0, 8, 8, "none", None, (1,), (segment,), kind).texts()[0]

    assert (
        shown(
            "wordpiece",
            ("the", "", "text"),
            ("land", "", "text"),
            ("##mine", "", "text"),
            ("[MASK]", "##s", "mask"),
            ("tower", "river", "random"),
            ("stone", "stone", "kept"),
            (".", "", "text"),
        )
        == "the landmine[MASK→##s] [tower→river] [=stone] ."
    )
    assert (
        shown(
            "unigram",
            ("▁the", "", "text"),
            ("[MASK]", "▁riv", "mask"),
            ("er", "", "text"),
            ("▁bed", "s", "random"),
        )
        == "the [MASK→▁riv]er[▁bed→s]"
    )


def test_samples_of_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(folder), "--samples", "5", "--seq-length", "32", "--seed", "1"]
    [*_, last] = _json(capsys, *arguments, "--sentence-task", "sop")["training_samples"]
    assert (last["number"], last["seq_length"], last["sentence_task"]) == (4, 32, "sop")
    assert last["label_meaning"] in ("A and B are in order", "A and B are swapped")
    assert last["predicted"]
    assert len(last["segments"]) == 2
    assert inspect_shards.main(arguments) == 0
    text = capsys.readouterr().out
    assert text.count("--- sample ") == text.count("\nA (page ") == text.count("\nB (page ") == 5
    assert "[MASK→" in text.split("--- sample 0")[1]
    assert "\x1b" not in text


def test_colour_marks_predicted_tokens(folder: Path) -> None:
    corpus = Corpus.open(folder, "train")
    tokenizer = load_tokenizer(folder / names.TOKENIZER_FOLDER)
    samples = show_samples(SampleSource(corpus, SampleSettings(64)), corpus, tokenizer, 3)
    found = Findings(samples=samples)
    plain, coloured = (
        "\n".join(findings_lines(folder, load_manifest(folder), found, colour))
        for colour in (False, True)
    )
    assert "\x1b[33m[MASK→" in coloured
    for code in ("\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"):
        coloured = coloured.replace(code, "")
    assert coloured == plain


# --- plot ------------------------------------------------------------------------------------


def test_plot_is_written(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    target = tmp_path / "figure.png"
    body = _json(capsys, folder, "--plot", target)
    assert body["plot"] == str(target)
    assert "statistics" not in body
    content = target.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(content) > 10_000
    assert list(tmp_path.iterdir()) == [target]
    assert inspect_shards.main([str(folder), "--plot", str(target)]) == 0
    assert target.read_bytes() == content  # no time and no version in it
    assert "matplotlib.pyplot" not in sys.modules  # no display is looked for


# --- refusals --------------------------------------------------------------------------------


def test_wrong_flags_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(match: str, *arguments: object) -> None:
        with pytest.raises(UserError, match=match):
            inspect_shards.main([str(folder), *map(str, arguments)])

    refused("--samples -1: expected a whole number of 0 or more", "--samples", -1)
    refused("sequence length 4 is too short", "--samples", 1, "--seq-length", 4)
    refused("the split 'eval' has no documents", "--statistics", "--split", "eval")
    refused(r"must end in \.png", "--plot", tmp_path / "figure.pdf")
    refused("there is no folder", "--plot", tmp_path / "no" / "figure.png")
    monkeypatch.setattr(plot.importlib.util, "find_spec", lambda name: None)
    refused("the extra plots", "--plot", tmp_path / "figure.png")
    assert not list(tmp_path.iterdir())


def test_foreign_and_unfinished_folders_give_different_errors(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="no such folder"):
        inspect_shards.main([str(tmp_path / "none")])
    (tmp_path / "train-00000-of-00001.h5").touch()
    with pytest.raises(ShardError, match="not a finished folder"):
        inspect_shards.main([str(tmp_path)])
    with h5py.File(tmp_path / "part_0.hdf5", "w") as file:
        file["input_ids"] = np.zeros((1, 128), np.int32)
    with pytest.raises(ShardError, match=r"another program.*import_shards"):
        inspect_shards.main([str(tmp_path)])


@pytest.mark.parametrize("flag", ["--statistics", "--samples=9999"])
def test_damage_is_found_where_it_is_read(
    root: Path, folder: Path, tmp_path: Path, flag: str
) -> None:
    target = tmp_path / "bad"
    subprocess.run(["cp", "-r", folder, target], check=True)
    path = target / names.shard_file("train", 1, SHARDS)
    content = bytearray(path.read_bytes())
    content[4096 + len(content) // 3] ^= 16
    path.write_bytes(content)
    command = [sys.executable, str(root / "data_tools" / "inspect_shards.py"), str(target), flag]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert path.name in errors[0]
    assert "damaged" in errors[0]
    assert not done.stdout


def test_a_split_of_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = load_tokenizer(write_vocabulary(tmp_path / "vocab.txt"))
    target = tmp_path / "one"
    write_corpus(
        target, {"train": [[_document(1, tokenizer.vocab_size)]], "eval": []}, tokenizer.info()
    )
    assert inspect_shards.main([str(target)]) == 0  # totals need no tokenizer
    tokenizer.save(target / names.TOKENIZER_FOLDER)
    capsys.readouterr()
    body = _json(capsys, target, "--statistics")
    for epoch in body["statistics"]["epochs"]:
        assert epoch["samples"] is None
        assert "one document only" in epoch["reason"]
    assert inspect_shards.main([str(target), "--statistics"]) == 0
    assert "no samples" in capsys.readouterr().out
    with pytest.raises(UserError, match="one document only"):
        inspect_shards.main([str(target), "--samples", "1"])


@pytest.mark.parametrize(
    ("number", "said"), [(4, "[MASK]"), (3, "[SEP]"), (2, "[CLS]"), (0, "[PAD]")]
)
def test_special_tokens_in_text_are_a_fault(tmp_path: Path, number: int, said: str) -> None:
    """The shard, the document and its page id are named; [UNK] is none."""
    tokenizer = load_tokenizer(write_vocabulary(tmp_path / "vocab.txt"))
    documents = [Document(70 + n, [([5, 1, 6], [True] * 3), ([8], [True])]) for n in range(4)]
    write_corpus(tmp_path / "good", {"train": [documents]}, tokenizer.info())
    tokenizer.save(tmp_path / "good" / names.TOKENIZER_FOLDER)
    verify_folder(tmp_path / "good")
    documents[2] = Document(72, [([5, 6], [True] * 2), ([8, number, 9], [True] * 3)])
    write_corpus(tmp_path / "bad", {"train": [documents[:1], documents]}, tokenizer.info())
    tokenizer.save(tmp_path / "bad" / names.TOKENIZER_FOLDER)
    with pytest.raises(ShardError) as caught:
        verify_folder(tmp_path / "bad")
    assert "bad/train-00001-of-00002.h5: document 2 (id 72) holds the special token" in str(
        caught.value
    )
    assert f"{said} (id {number}) at its token 3 as text" in str(caught.value)
