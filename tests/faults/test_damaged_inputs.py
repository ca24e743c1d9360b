"""Weights, records, tokenizers and task files that are damaged: one line that names the file, nothing written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.helpers.finetune_runs import CONVERT, FINETUNE, PREDICT, arguments
from tests.helpers.planted import called, called_apart, content_of
from tests.helpers.sums import without_sums

NAN, INFINITE = float("nan"), float("inf")
READERS = (FINETUNE, PREDICT, CONVERT)
"""Commands that read a checkpoint."""
Change = Callable[[bytes], bytes | None]
"""The new content of a file; None: it is removed."""


def _change(file: Path, change: Change) -> None:
    content = change(file.read_bytes())
    file.unlink() if content is None else file.write_bytes(content)


def _refused(checkpoint: Path, folder: Path, tools: tuple[str, ...], *named: str) -> None:
    """Every command says one of these words in one line, writes nothing and changes nothing."""
    before, beside = content_of(checkpoint), checkpoint.parent
    calls = [(tool, arguments(tool, folder, checkpoint, beside / "out")) for tool in tools]
    for tool, one in zip(tools, called_apart(*calls), strict=True):
        line = one.one_line(2)
        assert str(checkpoint) in line, (tool, line)
        assert all(word in line for word in named), (tool, line)
    assert list(beside.iterdir()) == [checkpoint]
    assert content_of(checkpoint) == before


def _slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


def _half(content: bytes) -> bytes:
    return content[: len(content) // 2]


# ---------------------------------------------------------------- weights and records

WEIGHTS, RECORD, WORDS = "final/model.safetensors", "final/megabert.json", "final/vocab.txt"


@pytest.mark.parametrize("value", [NAN, *map(_slow, (INFINITE, -INFINITE))])
def test_a_weight_that_is_not_finite(folder: Path, tmp_path: Path, value: float) -> None:
    shutil.copytree(folder / "run", tmp_path / "run")
    without_sums(tmp_path / "run" / "final")
    file, name = tmp_path / "run" / WEIGHTS, "bert.layers.1.mlp.up.weight"
    tensors = {key: tensor.clone() for key, tensor in load_file(file).items()}
    tensors[name][3, 4] = value
    save_file(tensors, file, metadata={"format": "pt"})
    _refused(tmp_path / "run", folder, READERS, "NaN or infinite values in 1", name)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (WEIGHTS, _half, "is not a complete safetensors file: "),
        _slow(WEIGHTS, lambda c: c[:-1], "is not a complete safetensors file: "),
        _slow(WEIGHTS, lambda c: c + bytes(8), "is not a complete safetensors file: "),
        _slow(WEIGHTS, lambda c: c[:4], "is not a complete safetensors file: "),
        _slow(WEIGHTS, lambda c: b"", "is an empty file (truncated, or not downloaded)"),
        (WEIGHTS, lambda c: c[:8] + b"x" + c[9:], "is not a complete safetensors file: "),
        _slow(WEIGHTS, lambda c: b"\xff" * 8 + c[8:], "is not a complete safetensors file: "),
        _slow(WEIGHTS, lambda c: None, "cannot be read: No such file or directory"),
        (RECORD, _half, "cannot be read as JSON: "),
        _slow(RECORD, lambda c: b"", "cannot be read as JSON: "),
        _slow(RECORD, lambda c: b"\xff\xfe\0", "not UTF-8"),
        _slow(RECORD, lambda c: b"[]", "does not describe a megabert folder"),
        _slow(
            RECORD, lambda c: c.replace(b'"hidden_size": 32', b'"hidden_size": 64'), "larger model"
        ),
    ],
)
def test_weights_and_their_record(
    folder: Path, tmp_path: Path, name: str, change: Change, words: str
) -> None:
    shutil.copytree(folder / "run", tmp_path / "run")
    without_sums(tmp_path / "run" / "final")
    _change(tmp_path / "run" / name, change)
    _refused(tmp_path / "run", folder, READERS, f"/{name}", words)


MODEL = "checkpoints/step-0000004/mp_rank_00_model_states.pt"
CHECKPOINT = "checkpoints/step-0000004/megabert.json"


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (MODEL, _half, " bytes instead of "),
        _slow(MODEL, lambda c: bytes(64) + c[64:], "the checkpoint is damaged"),
        _slow(MODEL, lambda c: None, "is missing"),
        (CHECKPOINT, _half, "holds no complete checkpoint: "),
        _slow(CHECKPOINT, lambda c: b"", "holds no complete checkpoint: "),
        _slow(CHECKPOINT, lambda c: None, "holds no complete checkpoint: "),
        _slow("tokenizer/vocab.txt", lambda c: c.replace(b"\nthe\n", b"\nzz\n"), "tokenizer"),
        _slow("tokenizer/tokenizer.json", _half, "tokenizer"),
    ],
)
def test_a_pretraining_run(
    root: Path, folder: Path, tmp_path: Path, name: str, change: Change, words: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(root / "tests" / "fixtures" / "run_zero1_dp2", run)
    _change(run / name, change)
    _refused(run, folder, READERS, words)


# ---------------------------------------------------------------- tokenizers

OTHER = "is not the one that "


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.replace(b"\na\n", b"\nzz\n"), OTHER),
        _slow(lambda c: c + b"more\n", OTHER),
        _slow(lambda c: c[:-5], OTHER),
        _slow(_half, OTHER),
        (lambda c: b"", "an empty vocabulary"),
        _slow(lambda c: c[:40] + b"\xff\xfe" + c[40:], "not UTF-8"),
    ],
)
def test_another_tokenizer(folder: Path, tmp_path: Path, change: Change, words: str) -> None:
    shutil.copytree(folder / "run", tmp_path / "run")
    _change(tmp_path / "run" / WORDS, change)
    _refused(tmp_path / "run", folder, READERS, "run/final", words)


def test_no_tokenizer(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder / "run", run)
    (run / WORDS).unlink()
    _refused(run, folder, (FINETUNE, PREDICT), "has no tokenizer; put its vocab.txt")


@pytest.mark.slow
def test_a_conversion_without_a_tokenizer(folder: Path, tmp_path: Path) -> None:
    """It needs none, says so, and takes none but the model's own by ``--tokenizer``."""
    run, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(folder / "run", run)
    (run / WORDS).unlink()
    usual = arguments(CONVERT, folder, run, out)
    other = tmp_path / "vocab.txt"
    other.write_bytes((folder / "run" / WORDS).read_bytes() + b"more\n")
    wrong, none = called_apart((CONVERT, [*usual, "--tokenizer", other]), (CONVERT, usual))
    assert f"the tokenizer in {other} is not the one that " in wrong.one_line(2)
    assert none.status == 0
    assert f"{run}/final has no tokenizer files, so none are written" in none.errors
    assert not (out / "vocab.txt").exists()


# ---------------------------------------------------------------- task files

FILES = {
    "sst2": b"sentence\tlabel\n" + b"ann met bob\t1\nbob met ann\t0\n" * 4 + b"cid\t\n",
    "mrpc": b"label\t1\t2\tsentence1\tsentence2\n" + b"1\tx\ty\tann\tbob\n" * 4 + b"0\tx\ty\tann\n",
    "tnews": b'{"label": "1", "label_desc": "a", "sentence": "ann"}\n' * 8
    + b'{"label": "1", "la\n',
    "cluener": b'{"text": "ann", "label": {"x": {"ann": [[0, 2]]}}}\n' * 8
    + b'{"text": "ann", "lab\n',
    "conll": b"ann B-x\nbob I-x\n\ncid O\n\n" * 4 + b"bo\n",
}
"""Lines, of which the last one is cut."""
KINDS = ("empty", "cut", "not UTF-8")


def _damaged(task: str, folder: Path) -> tuple[bytes, dict[str, bytes]]:
    """A sound file of a task, and what is made of it."""
    if task == "squad":
        sound = (folder / "train.json").read_bytes()
        damaged = (b"", _half(sound), sound.replace(b"met Ann", b"met \xff\xfe"))
    else:
        lines = FILES[task].splitlines(keepends=True)
        sound = b"".join(lines[:-1])
        damaged = (b"", FILES[task], sound + b"\xff\xfe" + lines[0])
    return sound, dict(zip(KINDS, damaged, strict=True))


def _task_flags(task: str, folder: Path, out: Path, **files: Path) -> list[object]:
    given = [word for flag, file in files.items() for word in (f"--{flag}", file)]
    usual = ["--task", task, "--checkpoint", folder / "start", "--max-length", "40"]
    query = ["--max-query-length", "8", "--doc-stride", "12"] if task == "squad" else []
    return [*usual, *query, "--steps", "1", "--output", out, *given]


@pytest.mark.parametrize("task", ["squad", *FILES])
def test_a_task_file(folder: Path, tmp_path: Path, task: str) -> None:
    """The file of ``--train``, ``--eval`` and ``--test``: the line in which it is, if it has lines."""
    good, out = tmp_path / "good", tmp_path / "out"
    content, damaged = _damaged(task, folder)
    good.write_bytes(content)
    calls, files = [], {}
    for kind in KINDS:
        files[kind] = tmp_path / kind
        files[kind].write_bytes(damaged[kind])
        for flag in ("train", "eval", "test"):
            given = {"train": good, flag: files[kind]}
            calls.append((FINETUNE, _task_flags(task, folder, out, **given)))
    before = content_of(tmp_path)
    for place, one in enumerate(called_apart(*calls)):
        kind, line = KINDS[place // 3], one.one_line(2)
        assert str(files[kind]) in line
        if kind != "empty":
            number = 1 if task == "squad" else content.count(b"\n") + 1
            assert f"line {number}" in line, line
        if kind == "not UTF-8":
            assert kind in line
    assert content_of(tmp_path) == before


LATER: list[tuple[Callable[[Path], object], str]] = [
    (lambda file: file.unlink(), ": no such file"),
    (lambda file: file.write_bytes(b""), "has no "),
    (lambda file: file.write_bytes(file.read_bytes()[:-9]), "line "),
    (lambda file: (file.unlink(), file.mkdir()), "cannot be read (Is a directory)"),
]
"""What happens to a file after it was looked at, and what is said then."""


@pytest.mark.parametrize("flag", ["train", "eval", "test"])
def test_a_task_file_changes_after_the_first_look(
    folder: Path, tmp_path: Path, flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the checkpoint is read."""
    from megabert.finetune import inputs

    good, out, calls = tmp_path / "good", tmp_path / "out", []
    content, _ = _damaged("tnews", folder)
    good.write_bytes(content)
    files = [tmp_path / f"file-{number}" for number in range(len(LATER))]
    for file in files:
        file.write_bytes(content)
        calls.append((FINETUNE, _task_flags("tnews", folder, out, **{"train": good, flag: file})))
    todo, read = list(zip(files, LATER, strict=True)), inputs.read_weights

    def read_and_change(path: Path) -> Any:
        file, (change, _) = todo.pop(0)
        change(file)
        return read(path)

    monkeypatch.setattr(inputs, "read_weights", read_and_change)
    for file, (_, words), one in zip(files, LATER, called_apart(*calls), strict=True):
        line = one.one_line(2)
        assert str(file) in line
        assert words in line
    assert not out.exists()


# ---------------------------------------------------------------- inputs of predictions

SOUND = b'{"question": "Met?", "context": "Ann met Bob."}\n'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "has no "),
        (SOUND + _half(SOUND), "line 2: "),
        (SOUND + b'{"question": "Met?", "context": "\xff\xfe"}\n', "line 2 is not UTF-8"),
        (SOUND + b'{"question": "Met?"}\n', "line 2: "),
    ],
)
def test_inputs_of_predictions(folder: Path, tmp_path: Path, content: bytes, words: str) -> None:
    file, out = tmp_path / "in.jsonl", tmp_path / "out"
    file.write_bytes(content)
    given = ["--checkpoint", folder / "run", "--input", file, "--output", out]
    line = called(PREDICT, *given).one_line(2)
    assert str(file) in line
    assert words in line
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_bytes() == content


@pytest.mark.parametrize("when", ["open_predictor", "_detected"])
@pytest.mark.parametrize(("change", "words"), LATER)
def test_inputs_that_change_after_the_first_look(
    when: str,
    change: Callable[[Path], object],
    words: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the checkpoint is read, and once their form is known."""
    from megabert.predict import command, inputs

    file, out = tmp_path / "in.jsonl", tmp_path / "out"
    file.write_bytes(SOUND * 3)
    module = command if when == "open_predictor" else inputs
    usual = getattr(module, when)

    def and_change(*given: Any) -> Any:
        found = usual(*given)
        change(file)
        return found

    monkeypatch.setattr(module, when, and_change)
    given = ["--checkpoint", folder / "run", "--input", file, "--output", out]
    line = called(PREDICT, *given).one_line(2)
    assert str(file) in line
    assert words in line
    assert not out.exists()
