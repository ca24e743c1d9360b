"""The commands of data_tools as a user runs them: exit codes, one-line errors, JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from data_tools import inspect_shards, shard_wiki
from megabert.common.errors import UserError
from megabert.data.prepare.train_tokenizer import (
    KINDS,
    TrainingSettings,
    read_sentences,
    train_tokenizer,
)
from megabert.data.shards.manifest import ShardError
from megabert.data.tokenizers.load import load_tokenizer
from tests.helpers.small_dump import write_dump, write_vocabulary

SHARD = "shard_wiki.py"
INSPECT = "inspect_shards.py"
TRAIN = "train_tokenizer.py"
SAME = ("--shards", "2", "--eval-fraction", "0.2")


def call(root: Path, tool: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "data_tools" / tool), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def assert_refused(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in lines[0]


@pytest.fixture(scope="module")
def made(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A dump, a vocabulary, and the shards the command makes of them."""
    folder = tmp_path_factory.mktemp("cli")
    dump = write_dump(folder / "wiki.xml.bz2")
    vocabulary = write_vocabulary(folder / "vocab.txt")
    output = folder / "shards"
    done = call(
        root, SHARD, "--input", dump, "--tokenizer", vocabulary, "--output", output,
        "--workers", 2, *SAME,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "60 articles kept of 72 pages" in done.stdout
    assert "MB/s per core" in done.stdout
    return dump, vocabulary, output


def test_shards_are_shown(
    root: Path, made: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    done = call(root, INSPECT, made[2], "--verify", "--json", "--show", 2)
    assert done.returncode == 0, done.stderr
    body = json.loads(done.stdout)
    assert {"documents", "sentences", "tokens", "shards", "splits", "dropped", "tokenizer"} <= set(
        body
    )
    assert body["documents"] == 60
    assert body["dropped"] == {"namespace": 6, "redirect": 6}
    assert body["shards"] == sum(split["shards"] for split in body["splits"].values())
    assert body["tokens"] == sum(split["tokens"] for split in body["splits"].values())
    assert body["tokenizer"]["special"]["mask"] == 4
    assert body["verified"] is True
    assert len(body["samples"]) == 2
    assert any("is a town." in s for s in body["samples"][0]["sentences"])
    assert inspect_shards.main([str(made[2]), "--show", "1"]) == 0
    shown = capsys.readouterr().out
    assert "train:" in shown
    assert "is a town." in shown


def test_damage_is_refused(root: Path, made: tuple[Path, Path, Path], tmp_path: Path) -> None:
    assert_refused(call(root, INSPECT, tmp_path / "nowhere"), "nowhere", "no such folder")
    name = "train-00001-of-00002.h5"
    target = tmp_path / "bad"
    subprocess.run(["cp", "-r", made[2], target], check=True)
    path = target / name
    good = path.read_bytes()
    path.write_bytes(good[:-100])
    with pytest.raises(ShardError, match="truncated"):
        inspect_shards.main([str(target)])
    content = bytearray(good)
    content[len(good) // 2] ^= 4
    path.write_bytes(content)
    assert_refused(call(root, INSPECT, target, "--verify"), name, "damaged", "block")
    path.unlink()
    with pytest.raises(ShardError, match=f"{name}: this shard is missing"):
        inspect_shards.main([str(target), "--verify"])
    path.write_bytes(good)
    vocabulary = target / "tokenizer" / "vocab.txt"
    vocabulary.write_text(vocabulary.read_text().replace("river", "rover"))
    with pytest.raises(ShardError, match=r"vocab\.txt: damaged or edited"):
        inspect_shards.main([str(target), "--verify"])


def test_wrong_inputs_of_shard_wiki(
    root: Path, made: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    dump, vocabulary, output = made
    rest = ("--tokenizer", vocabulary, "--output", tmp_path / "out", "--workers", 1)
    cut = tmp_path / "cut.xml.bz2"
    cut.write_bytes(dump.read_bytes()[:2000])
    assert_refused(call(root, SHARD, "--input", cut, *rest), "cut.xml.bz2")

    def refused(match: str, *arguments: object) -> None:
        with pytest.raises(UserError, match=match):
            shard_wiki.main(["--input", *map(str, arguments)])

    refused(r"no\.bz2: no such file", tmp_path / "no.bz2", *rest)
    refused("Parquet", dump, *rest, "--input-format", "parquet")
    refused("not a vocabulary", dump, "--tokenizer", dump, "--output", tmp_path / "out")
    again = ("--tokenizer", vocabulary, "--output", output)
    refused("already holds finished shards", dump, *again)
    refused(r"another job \(its tokenizer differs\)", dump, *again, "--resume", "--cased")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="required: --tokenizer, --output"):
        shard_wiki.main(["--input", str(dump)])
    with pytest.raises(SystemExit) as usage:
        shard_wiki.main(["--help"])
    assert usage.value.code == 0
    assert shard_wiki.main(["--input", str(dump), *map(str, again), "--resume", *SAME]) == 0


def test_a_trained_vocabulary_makes_shards(
    root: Path, made: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for workers, folder in enumerate(folders, 1):  # two processes: hash maps differ in order
        done = call(
            root, TRAIN, "--input", made[0], "--type", "wordpiece", "--vocab-size", 150,
            "--workers", workers, "--output", folder,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    for path in folders[0].iterdir():
        assert path.read_bytes() == (folders[1] / path.name).read_bytes()
    done = call(
        root, SHARD, "--input", made[0], "--tokenizer", folders[0],
        "--output", tmp_path / "shards", "--workers", 1,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert_refused(
        call(root, TRAIN, "--input", made[0], "--output", folders[0]), "exists and is not empty"
    )


@pytest.fixture(scope="module")
def sentences(made: tuple[Path, Path, Path]) -> list[str]:
    return read_sentences([made[0]], start_method="fork")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lower_case", [True, False])
def test_trained_tokenizers(
    sentences: list[str], tmp_path: Path, kind: str, lower_case: bool
) -> None:
    settings = TrainingSettings(kind, 110, lower_case=lower_case)
    made = train_tokenizer(sentences, settings)
    assert train_tokenizer(sentences, settings).files() == made.files()
    made.save(tmp_path / "saved")
    tokenizer = load_tokenizer(tmp_path / "saved")
    assert (tokenizer.kind, tokenizer.vocab_size) == (kind, 110)
    assert tokenizer.lower_case == lower_case
    assert tokenizer.special.values() == (0, 1, 2, 3, 4)
    text = "The river of the mountain town."
    [encoded] = tokenizer.encode_sentences([text])
    assert tokenizer.special.unk not in encoded.ids
    assert encoded.word_starts.tolist().count(True) == 7
    decoded = tokenizer.decode(encoded.ids).replace(" .", ".")
    assert decoded == (text.lower() if lower_case else text)


def test_chinese_vocabularies_hold_the_characters() -> None:
    lines = ["北京大学在中国。", "上海是中国的城市，也是港口。"] * 4
    settings = TrainingSettings("wordpiece", 60, language="zh")
    with pytest.raises(UserError, match="at most"):
        train_tokenizer(lines, settings)
    tokenizer = train_tokenizer(lines, replace(settings, vocab_size=15, alphabet=10))
    entries = tokenizer.tokens(range(tokenizer.vocab_size))
    assert "京" in entries or "国" in entries
    assert not any(entry.startswith("##") for entry in entries)


@pytest.mark.parametrize(
    ("kind", "size"), [("wordpiece", 20_000), ("unigram", 20_000), ("bpe", 20), ("wordpiece", 20)]
)
def test_vocabulary_size_is_honoured_or_refused(sentences: list[str], kind: str, size: int) -> None:
    with pytest.raises(UserError, match=f"--vocab-size {size}"):
        train_tokenizer(sentences, TrainingSettings(kind, size))


def test_sentences_come_in_order_up_to_a_limit(
    made: tuple[Path, Path, Path], sentences: list[str]
) -> None:
    some = read_sentences([made[0]], max_characters=500, workers=2, start_method="fork")
    assert some == sentences[: len(some)]
    assert 500 <= sum(map(len, some)) < 700
