"""Formats that other packages add: converted both ways, without a change of megabert's files."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from megabert.common import registry
from megabert.common.errors import UserError
from megabert.convert import formats
from megabert.convert.check import Side, our_side
from megabert.convert.foreign_model import foreign_reader, whole_model
from megabert.convert.format import Format, ModelSource
from megabert.convert.formats import find_format, looks_like, read_formats, register_format
from megabert.convert.huggingface.config import config_from, read_object
from megabert.convert.name_table import Name, NameTable, to_theirs
from megabert.convert.run import ConversionRequest, convert
from megabert.convert.tokenizer import complete
from megabert.convert.whole_model import WholeModel, check_tensors, expected_shapes
from megabert.data.tokenizers.base import Tokenizer
from tests.helpers.convert_folders import make

pytest.importorskip("transformers")


def _table(model_names: list[str]) -> NameTable:
    """The names of this format: ours, with slashes."""
    names = (Name("encoder", name, name.replace(".", "/")) for name in model_names)
    return NameTable("numpy", tuple(names))


def _read(path: Path, vocab_size: int | None, model_config: Path | None) -> WholeModel:
    with np.load(path / "model.npz") as file:
        found = {name: torch.from_numpy(file[name]) for name in file.files}
    shape = model_config or path / "shape.json"
    model = whole_model(
        _table([name.replace("/", ".") for name in found]),
        found,
        path / "model.npz",
        config=config_from(read_object(shape), shape),
        vocab_size=vocab_size,
        unsaid={},
    )
    check_tensors(model)
    return model


def _write(folder: Path, model: WholeModel, tokenizer: Tokenizer | None) -> None:
    theirs, _ = to_theirs(_table(list(model.tensors)), model.tensors, 0)
    np.savez(folder / "model.npz", **{name: tensor.numpy() for name, tensor in theirs.items()})
    (folder / "shape.json").write_text(json.dumps(model.config.to_dict()))
    if tokenizer is not None:
        complete(folder, tokenizer)


def _run(source: ModelSource, model: WholeModel) -> tuple[Side, str]:
    return our_side(model), f"numpy in {source.path.name}"


NUMPY = Format(read=foreign_reader(_read), write=_write, run=_run, marks=(("*.npz",),))


@pytest.fixture
def empty_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry of its own, so that tests register what they like."""
    places = {name: one.place for name, one in formats._BUILT_IN.items()}
    monkeypatch.setattr(
        formats, "_FORMATS", registry.Registry("format", places, "megabert.formats")
    )


@pytest.mark.usefixtures("empty_registry")
def test_a_format_from_outside_converts_both_ways(tmp_path: Path) -> None:
    """Hugging Face to the new format and back: every tensor keeps its bits, and hints know it."""
    assert register_format("numpy", NUMPY) is find_format("numpy")
    assert read_formats()[-1] == formats.written_formats()[-1] == "numpy"
    source = make(tmp_path / "hf")
    there = convert(ConversionRequest("huggingface", source, "numpy", tmp_path / "numpy"))
    assert there.comparison is not None
    assert there.comparison.note.startswith("input run by transformers, output by numpy in ")
    assert there.comparison.tensors == len(expected_shapes(there.model))
    convert(ConversionRequest("numpy", tmp_path / "numpy", "huggingface", tmp_path / "back"))
    ours, theirs = (
        load_file(source / "model.safetensors"),
        load_file(tmp_path / "back/model.safetensors"),
    )
    assert theirs.keys() <= ours.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert looks_like(tmp_path / "numpy") == {"numpy"}
    with pytest.raises(UserError, match=r"\(the files there look like --from numpy\)$"):
        convert(ConversionRequest("google-tf", tmp_path / "numpy", "megabert", tmp_path / "x"))


@pytest.mark.usefixtures("empty_registry")
def test_a_name_is_given_once() -> None:
    register_format("numpy", NUMPY)
    register_format("numpy", NUMPY)  # importing twice is not an error
    with pytest.raises(UserError, match="two objects are registered as format 'numpy'"):
        register_format("numpy", Format(read=NUMPY.read))
    with pytest.raises(UserError, match="'nvidia'"):
        register_format("nvidia", NUMPY)


@pytest.mark.usefixtures("empty_registry")
def test_a_format_of_an_installed_package(tmp_path: Path) -> None:
    """Entry points of megabert.formats are names at once, and loaded when they are asked for."""
    good = EntryPoint("numpy", "tests.convert.test_formats:NUMPY", "megabert.formats")
    broken = EntryPoint("broken", "nowhere.at_all:FORMAT", "megabert.formats")
    installed = {"numpy": good, "broken": broken}
    with patch.dict(formats._FORMATS.__dict__, _installed=installed):
        assert read_formats()[-2:] == ("numpy", "broken")
        assert find_format("numpy").write is not None
        with pytest.raises(
            UserError, match=r"format 'broken' of the package .* cannot be imported"
        ):
            find_format("broken")
        (tmp_path / "model.npz").write_bytes(b"")
        assert looks_like(tmp_path) == {"numpy"}


def test_only_packages_with_the_group_are_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The quick look at the installed metadata finds a package that declares the group."""
    assert not registry._any_package_has("megabert.formats")
    folder = tmp_path / "other-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    place = f"{__name__}:NUMPY"
    (folder / "entry_points.txt").write_text(f"[megabert.formats]\nnumpy = {place}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert registry._any_package_has("megabert.formats")
    made: registry.Registry[Format] = registry.Registry("format", {}, "megabert.formats")
    assert made.names() == ("numpy",)
    assert made.get("numpy").marks == NUMPY.marks


def test_help_needs_no_torch(root: Path) -> None:
    """The names and their help come without importing a format."""
    code = (
        "import sys; from launch.convert import parser; text = parser().format_help(); "
        "assert 'mindspore: the .ckpt file' in ' '.join(text.split()), text; "
        "assert not {'torch', 'numpy', 'importlib.metadata'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
