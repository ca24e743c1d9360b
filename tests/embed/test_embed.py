"""launch/embed.py: vectors in the order of the input, options, and what is refused."""

from __future__ import annotations

import io
import json
import lzma
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from launch.embed import main
from megabert.common.errors import UserError
from megabert.embed import command
from megabert.embed.embedder import EmbeddingOptions, open_embedder
from tests.helpers.convert_folders import WORDS, make

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("embed") / "hf", "BertForMaskedLM")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Of many lengths, some longer than the model's positions, one empty."""
    generator = np.random.default_rng(1)
    rows = [" ".join(generator.choice(WORDS, size)) for size in generator.integers(1, 60, 70)]
    return [*rows[:30], "", *rows[30:]]


def written(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def states(folder: Path, text: str, layer: int) -> torch.Tensor:
    """Hidden states [S, H] of one text by transformers."""
    model = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(text, truncation=True, max_length=40, return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
    found: torch.Tensor = output.hidden_states[layer][0]
    return found


def run(folder: Path, output: Path, *more: object) -> np.ndarray:
    arguments = ["--checkpoint", folder, "--output", output, *more]
    assert main([str(value) for value in arguments]) == 0
    return np.load(output)


def test_vectors_of_files_in_their_order(folder: Path, tmp_path: Path, texts: list[str]) -> None:
    """Plain, packed and JSON lines; small chunks and batches give what one batch gives."""
    first = written(tmp_path / "a.txt", texts[:50])
    second = tmp_path / "b.jsonl.xz"
    second.write_bytes(
        lzma.compress("".join(json.dumps({"body": t}) + "\n" for t in texts[50:]).encode())
    )
    found = run(
        folder,
        tmp_path / "v.npy",
        "--input",
        first,
        second,
        "--text-field",
        "body",
        "--batch-size",
        2,
    )
    assert found.dtype == np.float32
    assert found.shape == (len(texts), 32)
    for row in (0, 30, 49, 50, 70):
        expected = states(folder, texts[row], 2).mean(0)
        assert np.abs(found[row] - expected.numpy()).max() < 1e-5
    whole = written(tmp_path / "all.txt", texts)
    together = run(folder, tmp_path / "w.npy", "--input", whole, "--batch-size", 1000)
    assert np.abs(found - together).max() < 1e-5
    assert np.load(tmp_path / "w.npy", mmap_mode="r").shape == found.shape
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("a.txt", "all.txt", "b.jsonl.xz", "v.npy", "w.npy")
    ]


def test_pooling_layer_and_length(folder: Path, tmp_path: Path, texts: list[str]) -> None:
    source, text = written(tmp_path / "a.txt", texts[:3]), texts[0]
    for layer in (0, 1, 2):
        found = run(
            folder, tmp_path / "v.npy", "--input", source, "--pooling", "cls", "--layer", layer
        )
        assert np.abs(found[0] - states(folder, text, layer)[0].numpy()).max() < 1e-5
    unit = run(folder, tmp_path / "v.npy", "--input", source, "--normalize", "on")
    mean = states(folder, text, 2).mean(0)
    assert np.abs(unit[0] - (mean / mean.norm()).numpy()).max() < 1e-5
    short = run(folder, tmp_path / "v.npy", "--input", source, "--max-length", 3)
    word = written(tmp_path / "b.txt", [text.split()[0]])
    assert np.abs(short[0] - run(folder, tmp_path / "w.npy", "--input", word)[0]).max() < 1e-5


def test_standard_input(
    folder: Path, tmp_path: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = written(tmp_path / "a.txt", texts[:5])
    stdin = SimpleNamespace(buffer=io.BytesIO(source.read_bytes()), isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", stdin)
    piped = run(folder, tmp_path / "v.npy")
    assert np.array_equal(piped, run(folder, tmp_path / "w.npy", "--input", source))


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        ("", [], "no text"),
        ('{"text": "a"}\n{"body": "b"}\n', [], "line 2: 'text' is missing or not a text"),
        ('{"text": 5}\n', [], "line 1: 'text' is missing"),
        ("a\n", ["--layer", "3"], "--layer 3: .* has 2 layers"),
        ("a\n", ["--max-length", "41"], "--max-length 41 is longer than the position table"),
        ("a\n", ["--max-length", "2"], "leaves no room"),
    ],
)
def test_wrong_inputs(
    folder: Path, tmp_path: Path, content: str, flags: list[str], message: str
) -> None:
    """One line, and no file."""
    source = tmp_path / "a.txt"
    source.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        run(folder, tmp_path / "v.npy", "--input", source, *flags)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="its folder does not exist"):
        run(folder, tmp_path / "gone" / "v.npy", "--input", source, *flags)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_failure_leaves_the_file_before(
    folder: Path, tmp_path: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The output appears only when it is complete."""
    source = written(tmp_path / "a.txt", texts)
    before = run(folder, tmp_path / "v.npy", "--input", source)
    calls: list[Any] = []
    compute = command.Embedder.vectors

    def failing(self: command.Embedder, chunk: list[str]) -> Any:
        calls.append(chunk)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return compute(self, chunk)

    monkeypatch.setattr(command.Embedder, "vectors", failing)
    with pytest.raises((UserError, OSError)):
        run(folder, tmp_path / "v.npy", "--input", source, "--batch-size", 1, "--pooling", "cls")
    assert len(calls) == 2
    assert np.array_equal(np.load(tmp_path / "v.npy"), before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "v.npy"]


def test_modules_that_are_not_applied_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, "BertModel")
    kinds = ("Transformer", "Pooling", "Dense")
    modules = [
        {"path": f"{n}_{kind}" if n else "", "type": f"library.{kind}"}
        for n, kind in enumerate(kinds)
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    open_embedder(tmp_path, EmbeddingOptions())
    assert (
        "1_Pooling/, 2_Dense/ of sentence-transformers are not applied" in capsys.readouterr().err
    )
