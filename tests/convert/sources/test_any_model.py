"""The format of a path is found by its content, and what is none is one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from megabert.common.errors import UserError
from megabert.convert.format import ModelSource
from megabert.convert.formats import find_format
from megabert.convert.sources.any_model import read_any_model
from tests.convert.mindspore.test_model import parameters_of
from tests.convert.nvidia.test_model import checkpoint, state_of
from tests.helpers.convert_folders import make
from tests.helpers.foreign_models import CONFIG, reference
from tests.helpers.mindspore_writer import write


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, Path]]:
    """Name -> format, path; with a folder of each format, and files where a format has them."""
    base = tmp_path_factory.mktemp("models")
    folder = make(base / "hf")
    found = {"folder of transformers": ("huggingface", folder)}
    for name in ("megabert", "google-tf"):
        writer = find_format(name).write
        assert writer is not None
        (base / name).mkdir()
        writer(base / name, find_format("huggingface").read(ModelSource(folder)), None)
        found[f"folder of {name}"] = (name, base / name)
    found["prefix"] = ("google-tf", base / "google-tf" / "bert_model.ckpt")
    found["index"] = ("google-tf", base / "google-tf" / "bert_model.ckpt.index")
    model = reference()
    for name, file in (("nvidia", "ckpt_7038.pt"), ("mindspore", "bert.ckpt")):
        (base / name).mkdir()
        (base / name / "bert_config.json").write_text(json.dumps(CONFIG))
        found[f"folder of {name}"] = (name, base / name)
        found[f"file of {name}"] = (name, base / name / file)
    torch.save(checkpoint(state_of(model)), base / "nvidia" / "ckpt_7038.pt")
    write(base / "mindspore" / "bert.ckpt", parameters_of(model))
    return found


def test_every_format_is_found(places: dict[str, tuple[str, Path]]) -> None:
    for case, (name, path) in places.items():
        expected = find_format(name).read(ModelSource(path))
        found = read_any_model(path, "--init-from")
        assert found.tensors.keys() == expected.tensors.keys(), case
        assert all(torch.equal(found.tensors[n], t) for n, t in expected.tensors.items()), case


def test_what_is_no_model(places: dict[str, tuple[str, Path]], tmp_path: Path) -> None:
    _, folder = places["folder of transformers"]
    text = tmp_path / "notes.txt"
    text.write_text("no weights")
    packed = tmp_path / "model.pt.gz"
    packed.write_bytes(b"\x1f\x8b" + bytes(30))
    cut = shutil.copytree(folder, tmp_path / "cut")
    content = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(content[:-100])
    index = shutil.copytree(folder, tmp_path / "index")
    (index / "model.safetensors").rename(index / "model-00001-of-00002.safetensors")
    listed = {"weight_map": {"bert.pooler.dense.bias": "model-00002-of-00002.safetensors"}}
    (index / "model.safetensors.index.json").write_text(json.dumps(listed))
    for path, message in (
        (tmp_path / "none", "does not exist"),
        (text, "is not a file of weights"),
        (packed, "compressed with gzip: unpack it first"),
        (folder / "model.safetensors", "with the folder that holds it"),
        (cut, "model.safetensors"),
        (index, "names model-00002-of-00002.safetensors, which does not exist"),
        (tmp_path, "holds no model; name a run"),
    ):
        with pytest.raises(UserError, match=message) as error:
            read_any_model(path, "--init-from")
        assert "\n" not in str(error.value)
