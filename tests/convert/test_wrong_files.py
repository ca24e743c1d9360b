"""A file of another kind than --from says: one line with what it is and which --from reads it."""

from __future__ import annotations

import gzip
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from megabert.common.downloads import check_downloaded, left_by_download
from megabert.common.errors import UserError
from megabert.convert.file_kinds import kind_of
from megabert.convert.run import ConversionRequest, convert
from megabert.data.tokenizers.load import load_tokenizer
from tests.helpers.convert_folders import copy_of, make
from tests.helpers.mindspore_writer import write as write_mindspore

pytest.importorskip("transformers")

LEFT = {
    "html": b"\n<!DOCTYPE html>\n<html><body>not found</body></html>",
    "xml": b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>',
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 400000\n",
    "answer": b"Entry not found",
    "empty": b"",
}
SAID = {
    "html": "a web page",
    "xml": "the error message of a server",
    "pointer": "run git lfs pull",
    "answer": "the answer of a server ('Entry not found')",
    "empty": "an empty file",
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder (do not change it)."""
    return make(tmp_path_factory.mktemp("source") / "hf", hidden_act="gelu")


def _lightning(path: Path, tensors: dict[str, torch.Tensor], **more: Any) -> None:
    state = {f"model.{name}": tensor for name, tensor in tensors.items()}
    content = {"epoch": 1, "pytorch-lightning_version": "2.4.0", "state_dict": state}
    torch.save(content, path, **more)


def _zip(path: Path, name: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, "content")


def _hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["layer"] = np.ones(3)


WRITERS: dict[str, Callable[[Path, dict[str, torch.Tensor]], object]] = {
    "lightning": _lightning,
    "old lightning": lambda p, t: _lightning(p, t, _use_new_zipfile_serialization=False),
    "torch": lambda p, t: torch.save(t, p),
    "safetensors": lambda p, t: save_file(t, p),
    "mindspore": write_mindspore,
    "zip": lambda p, t: _zip(p, "model/bert.ckpt"),
    "gzip": lambda p, t: p.write_bytes(gzip.compress(b"weights" * 100)),
    "hdf5": lambda p, t: _hdf5(p),
    "random": lambda p, t: p.write_bytes(b"\x07" + os.urandom(999)),
    "text": lambda p, t: p.write_text("some text\n" * 99),
}
KINDS = {
    "lightning": "a PyTorch Lightning checkpoint: load it in its program",
    "old lightning": "a PyTorch Lightning checkpoint: load it in its program",
    "torch": "a file of PyTorch (torch.save): use --from nvidia",
    "safetensors": "a safetensors file: use --from huggingface or --from megabert",
    "mindspore": "a MindSpore checkpoint: use --from mindspore",
    "zip": "a zip archive: unpack it first",
    "gzip": "compressed with gzip: unpack it first",
    "hdf5": "an HDF5 file",
}
READ_BY = {"torch": "nvidia", "mindspore": "mindspore"}
FILES = ("google-tf", "mindspore", "nvidia")


def refusal(given: str, path: Path, config: Path) -> str:
    """The error of converting what is at ``path``."""
    output = path.parent / "out"
    with pytest.raises(UserError) as caught:
        convert(ConversionRequest(given, path, "megabert", output, model_config=config))
    assert not output.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", [*WRITERS])
def test_a_ckpt_of_another_kind(source: Path, tmp_path: Path, name: str) -> None:
    """Given as a file, and as the only file of a folder."""
    folder = tmp_path / "in"
    folder.mkdir()
    path = folder / "model.ckpt"
    WRITERS[name](path, load_file(source / "model.safetensors"))
    config = source / "config.json"
    for given in FILES:
        if READ_BY.get(name) == given:
            continue
        said = refusal(given, path, config)
        if name in KINDS:
            assert said.startswith(f"{path} is {KINDS[name]}")
            assert refusal(given, folder, config).startswith(f"{path} is {KINDS[name]}")
        else:
            assert str(path) in said
            assert "--from" not in said
            assert kind_of(path) is None
    for given in ("huggingface", "megabert"):
        said = refusal(given, path, config)
        assert KINDS.get(name, "is not a folder") in said or "is not a folder" in said


def test_truncated_files_are_named_by_their_own_reader(source: Path, tmp_path: Path) -> None:
    tensors = load_file(source / "model.safetensors")
    for name, given, said in (
        ("torch", "nvidia", "is truncated: its end is missing"),
        ("mindspore", "mindspore", "is not a complete MindSpore checkpoint"),
    ):
        path = tmp_path / f"{name}.ckpt"
        WRITERS[name](path, tensors)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert said in refusal(given, path, source / "config.json")
        assert KINDS[name] in refusal("google-tf", path, source / "config.json")


def test_parts_of_a_tensorflow_checkpoint(source: Path, tmp_path: Path) -> None:
    """Its prefix, index and data: google-tf reads each, the others name it."""
    convert(ConversionRequest("huggingface", source, "google-tf", tmp_path / "tf"))
    for number, name in enumerate(("", ".index", ".data-00000-of-00001")):
        path = tmp_path / "tf" / f"bert_model.ckpt{name}"
        for given in ("mindspore", "nvidia", "huggingface", "megabert"):
            said = refusal(given, path, source / "config.json")
            assert "of a TensorFlow checkpoint: use --from google-tf" in said
        convert(ConversionRequest("google-tf", path, "megabert", tmp_path / f"out{number}"))


@pytest.mark.parametrize("name", [*LEFT])
def test_what_a_download_left(source: Path, tmp_path: Path, name: str) -> None:
    """In place of a checkpoint, of a weight file, of a configuration, of a vocabulary."""
    path = tmp_path / "model.ckpt"
    path.write_bytes(LEFT[name])
    for given in (*FILES, "huggingface", "megabert"):
        assert SAID[name] in refusal(given, path, source / "config.json")
    for file in ("model.safetensors", "config.json", "vocab.txt"):
        folder, _ = copy_of(source, tmp_path / file)
        (folder / file).write_bytes(LEFT[name])
        with pytest.raises(UserError) as caught:
            convert(ConversionRequest("huggingface", folder, "megabert", tmp_path / "out"))
        wanted = "an empty vocabulary" if (file, name) == ("vocab.txt", "empty") else SAID[name]
        assert str(folder / file) in str(caught.value)
        assert wanted in str(caught.value)
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    shutil.copy(source / "vocab.txt", folder)
    (folder / "tokenizer.json").write_bytes(LEFT[name])
    with pytest.raises(UserError) as caught:
        load_tokenizer(folder)
    assert SAID[name] in str(caught.value)


def test_good_files_are_not_taken_for_downloads(source: Path, tmp_path: Path) -> None:
    for path in source.iterdir():
        check_downloaded(path)
    assert left_by_download(tmp_path / "missing") is None
    (tmp_path / "page.txt").write_text("<htm")
    assert left_by_download(tmp_path / "page.txt") is None
