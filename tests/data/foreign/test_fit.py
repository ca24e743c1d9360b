"""A tokenizer that did not make the shards is found before a model is built, or anything is written."""

from __future__ import annotations

import dataclasses
import lzma
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from launch import pretrain
from megabert.common.errors import UserError
from megabert.data.foreign import fit
from megabert.data.foreign.files import open_foreign
from megabert.data.foreign.importing import ImportOptions, import_shards
from megabert.data.foreign.static import StaticSample
from megabert.data.prepare.train_tokenizer import TrainingSettings, train_tokenizer
from megabert.data.tokenizers.base import Tokenizer
from megabert.data.tokenizers.load import load_tokenizer
from megabert.pretrain.inputs import open_inputs
from tests.helpers.foreign_shards import write_fixed, write_variable
from tests.helpers.training_runs import TINY, last_given, settings_of

WORDS = [
    "river",
    "bridge",
    "stone",
    "hill",
    "light",
    "water",
    "green",
    "north",
    "old",
    "long",
    "small",
    "rising",
    "falling",
    "standing",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = [*".,", *WORDS, *(f"##{part}" for part in ("s", "ly", "ing", "er", "side", "land"))]
WIDTH = 40


def texts(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    endings = ("", "s", "ly", "er", "side", "lands", "erly")
    words = (draw.choice(WORDS) + draw.choice(endings) for _ in range(12 * count))
    return [f"{next(words)}, " + " ".join(next(words) for _ in range(11)) for _ in range(count)]


def vocabulary(path: Path, pieces: Sequence[str], special: Sequence[str] = SPECIAL) -> Tokenizer:
    path.write_text("\n".join([*special, *pieces]) + "\n")
    return load_tokenizer(path)


def shard(path: Path, tokenizer: Tokenizer, count: int = 40, mask: int | None = None) -> Path:
    """Samples [CLS] A [SEP] B [SEP] of text, one token in seven masked."""
    encoded = [e.ids.astype(np.int64)[:18] for e in tokenizer.encode_sentences(texts(2 * count))]
    special, samples = tokenizer.special, []
    draw = random.Random(1)
    for first, second in zip(encoded[::2], encoded[1::2]):
        ids = np.concatenate(([special.cls], first, [special.sep], second, [special.sep]))
        segments = np.repeat([0, 1], [len(first) + 2, len(second) + 1])
        places = np.flatnonzero((ids != special.sep) & (ids != special.cls)).tolist()
        positions = np.array(sorted(draw.sample(places, len(places) // 7)))
        labels = ids[positions]
        ids[positions] = special.mask if mask is None else mask
        samples.append(StaticSample(ids, segments, positions, labels, 0))
    return write_fixed(path, samples, WIDTH)


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Tokenizer]:
    tokenizer = vocabulary(tmp_path / "right.txt", PIECES)
    folder = tmp_path / "shards"
    folder.mkdir()
    return shard(folder / "a.hdf5", tokenizer).parent, tokenizer


def flags(data: Path, tokenizer: Path, run: Path) -> list[str]:
    given = ["--data", str(data), "--tokenizer", str(tokenizer), "--output", str(run)]
    return last_given([*TINY, *given, "--seq-length", str(WIDTH)])


def refused(folder: Path, tokenizer: Path, tmp_path: Path) -> str:
    """What training and importing say; neither builds or leaves anything."""
    with pytest.raises(UserError) as caught:
        open_inputs(settings_of(flags(folder, tokenizer, tmp_path / "run")))
    with pytest.raises(UserError) as again:
        import_shards(ImportOptions((folder,), tokenizer, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "run").exists()
    assert str(caught.value) == str(again.value)
    assert "\n" not in str(caught.value)
    assert "give --tokenizer the one that made" in str(caught.value)
    return str(caught.value)


def test_the_right_one(made: tuple[Path, Tokenizer], tmp_path: Path) -> None:
    folder, tokenizer = made
    fit.check_fit(open_foreign([folder]).files, tokenizer)
    report = import_shards(ImportOptions((folder,), tmp_path / "right.txt", tmp_path / "out"))
    assert report.counts.respelled == report.counts.sentences > 0


@pytest.mark.parametrize(
    ("pieces", "special", "said"),
    [
        (PIECES[:12], SPECIAL, "outside the vocabulary of 17"),
        (
            PIECES,
            [SPECIAL[i] for i in (0, 1, 3, 2, 4)],
            "begins with id 2 and ends with 3, not with",
        ),
        (PIECES, ["[unused1]", *SPECIAL], "begins with id 2 and ends with 3, not with [CLS] 3"),
        (
            PIECES,
            [*SPECIAL[:4], "[unused1]", "[MASK]"],
            "predicted tokens is [MASK], which has id 5",
        ),
        ([".", "[PAD]", *PIECES[2:]], ["[unused1]", *SPECIAL[1:]], "is [PAD] (id 6)"),
        (PIECES[::-1], SPECIAL, "words of several pieces to other ids"),
        (["[unused1]", *PIECES[:-1]], SPECIAL, "words of several pieces to other ids"),
    ],
    ids=["small", "cls and sep", "moved", "mask", "pad", "reversed", "shifted"],
)
def test_another_one(
    made: tuple[Path, Tokenizer], tmp_path: Path, pieces: list[str], special: list[str], said: str
) -> None:
    vocabulary(tmp_path / "wrong.txt", pieces, special)
    assert said in refused(made[0], tmp_path / "wrong.txt", tmp_path)


def test_the_command(made: tuple[Path, Tokenizer], tmp_path: Path) -> None:
    """launch/pretrain.py ends with the same line, before the run has a folder."""
    vocabulary(tmp_path / "wrong.txt", PIECES[::-1])
    with pytest.raises(UserError, match="made with another vocabulary"):
        pretrain.main(flags(made[0], tmp_path / "wrong.txt", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_sentencepiece(tmp_path: Path, kind: str) -> None:
    rules = TrainingSettings(kind, 60, coverage=1.0)
    right = train_tokenizer(texts(60), rules)
    wrong = train_tokenizer([text[::-1] for text in texts(60, 1)], rules)
    right.save(tmp_path / "right")
    wrong.save(tmp_path / "wrong")
    (tmp_path / "shards").mkdir()
    folder = shard(tmp_path / "shards" / "a.hdf5", right).parent
    fit.check_fit(open_foreign([folder]).files, right)
    said = refused(folder, tmp_path / "wrong", tmp_path)
    assert "words of several pieces" in said


def test_every_file_is_looked_at(
    made: tuple[Path, Tokenizer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder with one file of another vocabulary, and a sample in the middle of a file."""
    folder, right = made
    wrong = vocabulary(tmp_path / "wrong.txt", ["[unused1]", *PIECES])
    shard(folder / "b.hdf5", wrong)
    with pytest.raises(UserError, match=r"b\.hdf5: sample \d+: token id 27 is outside"):
        fit.check_fit(open_foreign([folder]).files, right)
    assert fit._spread(10, 64) == list(range(10))
    assert fit._spread(1000, 4) == [0, 333, 666, 999]
    assert fit._spread(1, 4) == [0]


@pytest.mark.parametrize(
    ("place", "role", "said"), [(3, "cls", "[CLS] (id 2)"), (2, "pad", "[PAD] (id 0)")]
)
@pytest.mark.parametrize("hidden", [False, True])
def test_special_tokens_in_the_text(
    made: tuple[Path, Tokenizer],
    tmp_path: Path,
    place: int,
    role: str,
    said: str,
    hidden: bool,
) -> None:
    """A shard made from text that a tokenizer took for special tokens; under a mask, importing finds it."""
    folder, tokenizer = made
    [file] = open_foreign([folder]).files
    samples = [file.read(row) for row in range(file.samples)]
    ids = samples[7].unmasked()
    ids[place] = tokenizer.special[role]
    positions = np.array([place if hidden else 1])
    labels = ids[positions]
    ids[positions] = tokenizer.special.mask
    samples[7] = dataclasses.replace(samples[7], input_ids=ids, positions=positions, labels=labels)
    write: Callable[..., Path] = write_variable
    other = tmp_path / "other"
    other.mkdir()
    write(other / "a.hdf5", samples)
    with pytest.raises(UserError, match=f"sample 7: its token {place} is ") as caught:
        import_shards(ImportOptions((other,), tmp_path / "right.txt", tmp_path / "out"))
    assert said in str(caught.value)
    if not hidden:
        with pytest.raises(UserError, match=f"sample 7: its token {place} is "):
            fit.check_fit(open_foreign([other]).files, tokenizer)


def test_published_vocabularies(shared_data: Path) -> None:
    """bert-base-uncased, -cased and -chinese: the words show which one is right."""
    source = shared_data / "wikitext" / "wiki.test.raw.xz"
    with lzma.open(source, "rt", encoding="utf-8") as file:
        paragraphs = [line for line in file if len(line) > 400]
    found = {}
    kinds = {
        name: load_tokenizer(shared_data / "vocab" / f"bert-base-{name}-vocab.txt")
        for name in ("uncased", "cased", "chinese")
    }
    for made_with, one in kinds.items():
        encoded = one.encode_batch(paragraphs[:80]).split()
        segments = [e.ids.astype(np.int64)[3:90] for e in encoded]
        for name, other in kinds.items():
            inside = [ids[ids < other.vocab_size] for ids in segments]
            wrong, words, _ = fit._words_encoded_otherwise(inside, other)
            found[made_with, name] = wrong / words
            print(f"{made_with} ids, {name}: {wrong} of {words} words, {wrong / words:.1%}")
    assert all((share == 0) == (one == other) for (one, other), share in found.items())
    assert min(share for share in found.values() if share) > 2 * fit._MOST_OTHER
