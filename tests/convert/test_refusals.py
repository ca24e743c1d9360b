"""Inputs that are not what they should be: each is refused in one line that names it, and nothing is left."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from megabert.common.errors import UserError
from megabert.convert.formats import looks_like
from megabert.convert.google import names as google
from megabert.convert.google.tensor_bundle.reader import Bundle
from megabert.convert.google.tensor_bundle.writer import write_bundle
from megabert.convert.huggingface import names as huggingface
from megabert.convert.mindspore import names as mindspore
from megabert.convert.name_table import CRF, Name, NameTable
from megabert.convert.nvidia import names as nvidia
from megabert.convert.run import ConversionRequest, convert
from megabert.model.task_heads import (
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
)
from megabert.model.weights import load_weights
from tests.helpers.convert_folders import make
from tests.helpers.sums import without_sums

pytest.importorskip("transformers")

QUERY = {
    "huggingface": "bert.encoder.layer.1.attention.self.query.weight",
    "megabert": "bert.layers.1.attention.query.weight",
}
Change = Callable[[dict[str, torch.Tensor]], None]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model as a folder of each format that is written (do not change them)."""
    base = tmp_path_factory.mktemp("sources")
    source = make(base / "transformers", hidden_act="gelu")
    found = {}
    for target in ("huggingface", "megabert", "google-tf"):
        convert(ConversionRequest("huggingface", source, target, base / target))
        found[target] = base / target
    return found


def changed(source: Path, folder: Path, change: Change) -> Path:
    """A copy of a folder with other tensors."""
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    if (folder / "megabert.json").is_file():
        without_sums(folder)
    return folder


def stated(source: Path, folder: Path, **values: Any) -> Path:
    """A copy of a folder whose configuration or record says something else."""
    shutil.copytree(source, folder)
    path = next(p for n in ("megabert.json", "config.json") if (p := folder / n).is_file())
    if path.name == "megabert.json":
        without_sums(folder)
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return folder


def refusal(source: str, folder: Path) -> str:
    """The error of converting the folder; no other file may be next to it afterwards."""
    before = sorted(folder.parent.iterdir())
    with pytest.raises(UserError) as caught:
        convert(ConversionRequest(source, folder, "huggingface", folder.parent / "new" / "out"))
    assert sorted(folder.parent.iterdir()) == before
    said = str(caught.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize("source", ["huggingface", "megabert"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_values_that_are_not_finite(
    folders: dict[str, Path], tmp_path: Path, source: str, value: float
) -> None:
    """The tensor is named, not the outputs that differ because of it."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[QUERY[source]][3, 5] = value

    said = refusal(source, changed(folders[source], tmp_path / "in", change))
    assert f"NaN or infinite values in 1 ({QUERY['megabert']})" in said


def test_numbers_out_of_all_bounds(folders: dict[str, Path], tmp_path: Path) -> None:
    """Ten million layers, or a width of 10**12, are refused before anything of that size is made."""
    deep = {"num_hidden_layers": 10_000_000}
    said = refusal("huggingface", stated(folders["huggingface"], tmp_path / "a", **deep))
    assert "num_hidden_layers Input should be less than or equal to 1000" in said
    assert "[type=" not in said
    record = json.loads((folders["megabert"] / "megabert.json").read_text())["model"]
    said = refusal("megabert", stated(folders["megabert"], tmp_path / "b", model=record | deep))
    assert "num_hidden_layers Input should be less than or equal to 1000" in said
    said = refusal(
        "huggingface", stated(folders["huggingface"], tmp_path / "c", hidden_size=10**12)
    )
    assert "hidden_size Input should be less than or equal to" in said


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model": None}, "model is None"),
        ({"model": ["bert"]}, "model is ['bert']"),
        ({"model": {"hidden_size": "wide"}}, "hidden_size Input should be a valid integer"),
        ({"model": {"colour": 1}}, "unknown fields ['colour']"),
        ({"trained_positions": "many"}, "trained_positions is 'many', not of the type int"),
        ({"labels": 3}, "labels is 3"),
        ({"task_record": [1]}, "task_record is [1]"),
        ({"tokenizer_sha256": 3}, "tokenizer_sha256 is 3"),
    ],
)
def test_a_wrong_record(
    folders: dict[str, Path], tmp_path: Path, values: dict[str, Any], words: str
) -> None:
    """Fields of megabert.json that are missing or of another kind are named with the file."""
    said = refusal("megabert", stated(folders["megabert"], tmp_path / "in", **values))
    assert words in said
    assert "in/megabert.json" in said


def test_a_megabert_folder_of_other_types(folders: dict[str, Path], tmp_path: Path) -> None:
    """bf16 becomes fp32 of the same values; integers, and a folder without its weights, are named."""

    def half(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({name: tensor.bfloat16() for name, tensor in tensors.items()})

    def integers(tensors: dict[str, torch.Tensor]) -> None:
        tensors[QUERY["megabert"]] = tensors[QUERY["megabert"]].int()

    source = changed(folders["megabert"], tmp_path / "half", half)
    convert(ConversionRequest("megabert", source, "megabert", tmp_path / "out"))
    read = load_weights(tmp_path / "out")[1]
    for name, tensor in load_file(folders["megabert"] / "model.safetensors").items():
        assert torch.equal(read[name], tensor.bfloat16().float())
    said = refusal("megabert", changed(folders["megabert"], tmp_path / "whole", integers))
    assert f"{QUERY['megabert']} holds torch.int32" in said
    (source / "model.safetensors").unlink()
    assert "half/model.safetensors" in refusal("megabert", source)


def test_two_vocabularies_that_differ(folders: dict[str, Path], tmp_path: Path) -> None:
    """vocab.txt goes into the output and Google's code reads it: it must say what tokenizer.json says."""
    folder = tmp_path / "in"
    shutil.copytree(folders["huggingface"], folder)
    assert (folder / "tokenizer.json").is_file()
    words = (folder / "vocab.txt").read_text().splitlines()
    for content, said in (
        ("\n".join([*words[:5], *reversed(words[5:])]), "hold different words"),
        ("", "empty vocabulary"),
    ):
        (folder / "vocab.txt").write_text(content)
        message = refusal("huggingface", folder)
        assert said in message
        assert "in/vocab.txt" in message


@pytest.mark.parametrize("given", ["huggingface", "megabert", "google-tf", "nvidia", "mindspore"])
@pytest.mark.parametrize("is_one", ["huggingface", "megabert", "google-tf"])
def test_the_wrong_format(
    folders: dict[str, Path], tmp_path: Path, given: str, is_one: str
) -> None:
    """--from with another format's folder says which format that looks like."""
    assert looks_like(folders[is_one]) == {is_one}
    shutil.copytree(folders[is_one], tmp_path / "in")
    if given != is_one:
        said = refusal(given, tmp_path / "in")
        assert said.endswith(f"(the files there look like --from {is_one})")


def test_a_safetensors_file_is_not_nvidias(folders: dict[str, Path], tmp_path: Path) -> None:
    """torch.load would read it, and the exact gelu would only be guessed."""
    shutil.copy(folders["huggingface"] / "model.safetensors", tmp_path)
    assert "--from huggingface" in refusal("nvidia", tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"x": torch.eye(2).to_sparse()}, "x is of layout torch.sparse_coo"),
        ({"x": torch.empty(2, device="meta")}, "x is a tensor without content"),
        ({5: torch.ones(2)}, "pytorch_model.bin"),
    ],
    ids=["sparse", "meta", "number"],
)
@pytest.mark.parametrize("source", ["huggingface", "nvidia"])
def test_what_else_a_pickle_holds(
    folders: dict[str, Path], tmp_path: Path, source: str, entry: dict[Any, Any], words: str
) -> None:
    """Tensors that are not arrays, and names that are not text."""
    folder = tmp_path / "in"
    shutil.copytree(folders["huggingface"], folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({**tensors, **entry}, folder / "pytorch_model.bin")
    assert words in refusal(source, folder)


def test_a_kernel_of_three_dimensions(folders: dict[str, Path], tmp_path: Path) -> None:
    """If a tensor that must be transposed is not a matrix, the error gives its name and shape."""
    shutil.copytree(folders["google-tf"], tmp_path / "in")
    bundle = Bundle(tmp_path / "in" / "bert_model.ckpt")
    tensors = {name: bundle.read(name) for name in bundle.names}
    tensors["bert/pooler/dense/kernel"] = torch.ones(32, 32, 1)
    write_bundle(bundle.prefix, tensors)
    assert "bert.pooler.dense.weight has shape [32, 32, 1]" in refusal("google-tf", tmp_path / "in")


@pytest.mark.parametrize("name", ["x" * 300, "file/below", "link"])
def test_an_output_that_cannot_be(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    """Too long a name, a file in the way, a link to nothing."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"cannot be (?:written|read)|exists"):
        convert(
            ConversionRequest("huggingface", folders["huggingface"], "megabert", tmp_path / name)
        )
    assert sorted(tmp_path.iterdir()) == before


ENDS = ("", ".weight", ".bias", "/kernel", "/bias", "/gamma", "/beta", ".gamma", ".beta")
OUTPUTS = ("output_weights", "output_bias")


def documented(root: Path, column: int) -> list[tuple[str, str]]:
    """(ours, theirs) of each row of the table of names in docs/reference/conversion.md, layers as layer 0."""
    text = (root / "docs" / "reference" / "conversion.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `.*$", text[text.index("\n## Names") :], re.MULTILINE)
    found, layers = [], ("", "")
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        cell = cells[1] if cells[column] == "as Hugging Face" else cells[column]
        if cell.startswith(("--", "(")):
            continue
        ours, *others = re.findall(r"`([^`]+)`", cells[0])
        theirs = ours if cell.startswith("the same") else re.findall(r"`([^`]+)`", cell)[0]
        if "{i}" in ours:
            layers = ours.replace("{i}", "0"), theirs.replace("{i}", "0")
            continue
        ours = ours.replace("...", layers[0], 1)
        theirs = theirs.replace("...", layers[1], 1).removesuffix(OUTPUTS[0])
        found.append((ours, theirs))
        if ours.endswith("query"):
            found += [(ours.replace("query", n), theirs.replace("query", n)) for n in others]
    return found


def same_line(name: Name, ours: str, theirs: str) -> bool:
    """Whether a row of the documentation stands for a line of a table."""
    ends = (*ENDS, *OUTPUTS) if theirs.endswith("/") or not theirs else ENDS
    return name.ours in (ours, f"{ours}.weight", f"{ours}.bias") and any(
        name.theirs == theirs + end for end in ends
    )


@pytest.mark.parametrize(
    ("column", "tables"),
    [
        (
            1,
            (
                huggingface.with_heads(huggingface.BERT, QUESTION_ANSWERING, TOKEN_CLASSIFICATION),
                huggingface.with_heads(huggingface.BERT, SEQUENCE_CLASSIFICATION),
            ),
        ),
        (2, (google.BERT,)),
        (3, (nvidia.BERT, nvidia.BERT_TOKENS)),
        (4, tuple(mindspore.mindspore_table(token=t, relative=False) for t in (False, True))),
    ],
    ids=["huggingface", "google", "nvidia", "mindspore"],
)
def test_documented_names(root: Path, column: int, tables: tuple[NameTable, ...]) -> None:
    """Each row of the documentation is in the code's table, and each line there has a row."""
    names = {name for table in tables for name in table.expand(1) if name.part != CRF}
    rows = [row for row in documented(root, column) if not row[0].startswith("crf.")]
    assert len(rows) >= 19
    for name in names:
        assert sum(same_line(name, *row) for row in rows) == 1, name
    for row in rows:
        assert any(same_line(name, *row) for name in names), row
