"""NEZHA in both published layouts, and what the check says where transformers cannot run it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from megabert.common.errors import UserError
from megabert.config.model import ModelConfig
from megabert.convert.check import our_side
from megabert.convert.huggingface import config as bert_config
from megabert.convert.huggingface import model as huggingface
from megabert.convert.probe_inputs import text_batch
from megabert.convert.run import ConversionRequest, convert
from megabert.convert.whole_model import ENCODER_ONLY, empty_model, loaded_model
from megabert.data.tokenizers.load import load_tokenizer
from megabert.model.head_registry import Head
from megabert.model.heads import MASKED_LM, NEXT_SENTENCE, PRETRAINING
from megabert.model.task_heads import (
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
)
from megabert.model.weights import save_weights
from tests.helpers.convert_folders import SIZES, VOCABULARY
from tests.helpers.model_cases import batch_of

pytest.importorskip("transformers")

LONGEST, MOST, WIDTH = SIZES["max_position_embeddings"], 6, 8


def shapes(prefix: str) -> dict[str, tuple[int, ...]]:
    """Tensors of a pretraining model of NEZHA as its authors and transformers name them."""
    h, i, v = SIZES["hidden_size"], SIZES["intermediate_size"], SIZES["vocab_size"]
    found: dict[str, tuple[int, ...]] = {
        f"{prefix}.embeddings.word_embeddings.weight": (v, h),
        f"{prefix}.embeddings.token_type_embeddings.weight": (2, h),
        f"{prefix}.embeddings.LayerNorm.weight": (h,),
        f"{prefix}.embeddings.LayerNorm.bias": (h,),
        f"{prefix}.pooler.dense.weight": (h, h),
        f"{prefix}.pooler.dense.bias": (h,),
        "cls.predictions.bias": (v,),
        "cls.predictions.transform.dense.weight": (h, h),
        "cls.predictions.transform.dense.bias": (h,),
        "cls.predictions.transform.LayerNorm.weight": (h,),
        "cls.predictions.transform.LayerNorm.bias": (h,),
        "cls.seq_relationship.weight": (2, h),
        "cls.seq_relationship.bias": (2,),
    }
    for layer in range(2):
        here = f"{prefix}.encoder.layer.{layer}"
        for name, out, inner in (
            ("attention.self.query", h, h),
            ("attention.self.key", h, h),
            ("attention.self.value", h, h),
            ("attention.output.dense", h, h),
            ("intermediate.dense", i, h),
            ("output.dense", h, i),
        ):
            found |= {f"{here}.{name}.weight": (out, inner), f"{here}.{name}.bias": (out,)}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            found |= {f"{here}.{name}.weight": (h,), f"{here}.{name}.bias": (h,)}
    return found


def tensors(prefix: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return {n: 0.25 * torch.randn(s, generator=generator) for n, s in shapes(prefix).items()}


def position_buffer() -> torch.Tensor:
    """The sinusoids as a table of pairs [S, S, D], by the published loops over its elements."""
    table = [
        [
            (math.sin if column % 2 == 0 else math.cos)(
                row / 10000 ** ((column - column % 2) / WIDTH)
            )
            for column in range(WIDTH)
        ]
        for row in range(2 * MOST + 1)
    ]
    return torch.tensor(
        [
            [table[min(max(j - i, -MOST), MOST) + MOST] for j in range(LONGEST)]
            for i in range(LONGEST)
        ]
    )


def folder_of(folder: Path, weights: dict[str, torch.Tensor], **values: Any) -> Path:
    folder.mkdir()
    words = VOCABULARY + [f"w{i}" for i in range(101 - len(VOCABULARY))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    name = "config.json" if "model_type" in values else "bert_config.json"
    content = {**SIZES, "max_relative_position": MOST, **values}
    (folder / name).write_text(json.dumps(content), encoding="utf-8")
    if "model_type" in values:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        torch.save(weights, folder / "pytorch_model.bin")
    return folder


def of_transformers(folder: Path, **more: torch.Tensor) -> Path:
    weights = tensors("nezha") | more
    return folder_of(folder, weights, model_type="nezha", architectures=["NezhaForPreTraining"])


def of_the_authors(folder: Path, **more: torch.Tensor) -> Path:
    return folder_of(folder, tensors("bert") | more, use_relative_position=True)


def test_both_layouts_are_one_model(tmp_path: Path) -> None:
    """The same tensors from transformers' and the authors' files; extra tensors are reported."""
    buffers = {
        f"nezha.encoder.layer.{i}.attention.self.relative_positions_encoding.positions_encoding": (
            position_buffer()
        )
        for i in range(2)
    }
    first = huggingface.read(of_transformers(tmp_path / "a", **buffers))
    unused = {"bert.embeddings.position_embeddings.weight": torch.randn(LONGEST, 32)}
    second = huggingface.read(of_the_authors(tmp_path / "b", **unused))
    assert first.config == replace(second.config, name="a")
    assert first.config.position_embeddings == "relative"
    assert first.config.max_relative_position == MOST
    assert first.head.name == second.head.name == "pretraining"
    assert first.tensors.keys() == second.tensors.keys()
    assert all(torch.equal(second.tensors[n], t) for n, t in first.tensors.items())
    assert {name for name, _ in first.left_out} == set(buffers)
    assert [reason for _, reason in second.left_out] == [
        "a position table, which NEZHA does not use"
    ]


def test_another_position_table_is_refused(tmp_path: Path) -> None:
    """A buffer with one other value, or of another distance, would compute something else."""
    name = "nezha.encoder.layer.1.attention.self.relative_positions_encoding.positions_encoding"
    changed = position_buffer()
    changed[3, 5, 2] += 1e-2
    with pytest.raises(UserError, match=r"layer\.1.*does not hold the sinusoids"):
        huggingface.read(of_transformers(tmp_path / "a", **{name: changed}))
    nothing = torch.tensor(0.0)
    others = (position_buffer()[:, 1:].contiguous(), nothing, position_buffer() * math.nan)
    for number, other in enumerate(others):
        with pytest.raises(UserError, match="does not hold the sinusoids"):
            huggingface.read(of_transformers(tmp_path / str(number), **{name: other}))


@pytest.mark.parametrize("make", [of_transformers, of_the_authors])
def test_there_and_back(tmp_path: Path, make: Any) -> None:
    """Written as transformers had it; both sides of a folder run in the classes written with it."""
    source = make(tmp_path / "hf")
    there = convert(ConversionRequest("huggingface", source, "megabert", tmp_path / "ours"))
    back = convert(
        ConversionRequest("megabert", tmp_path / "ours", "huggingface", tmp_path / "back")
    )
    for result in (there, back):
        assert result.comparison is not None
        assert result.comparison.tensors == len(shapes("nezha"))
        assert "transformers with modeling_nezha.py" in "\n".join(result.comparison.lines())
        assert result.comparison.predictions
    after = load_file(tmp_path / "back" / "model.safetensors")
    expected = tensors("nezha" if make is of_transformers else "bert")
    assert after.keys() == tensors("nezha").keys()
    for name, tensor in expected.items():
        assert torch.equal(after[name.replace("bert.", "nezha.", 1)], tensor), name
    values = json.loads((tmp_path / "back" / "config.json").read_text())
    assert values["architectures"] == ["NezhaForPreTraining"]
    assert values["model_type"] == "nezha"
    assert values["max_relative_position"] == MOST
    assert "position_embedding_type" not in values


def reference(weights: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    """Hidden states [S, H] of one sequence by the published code's formulas, with every a_ij."""
    w = {name: tensor.double() for name, tensor in weights.items()}
    a = position_buffer().double()[: len(ids), : len(ids)]  # [S, S, D]

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ w[f"{name}.weight"].t() + w[f"{name}.bias"]

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, (32,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-12)

    x = w["nezha.embeddings.word_embeddings.weight"][ids]
    x = norm(
        "nezha.embeddings.LayerNorm", x + w["nezha.embeddings.token_type_embeddings.weight"][0]
    )
    for layer in range(2):
        here = f"nezha.encoder.layer.{layer}"
        q, k, v = (
            linear(f"{here}.attention.self.{part}", x).view(len(ids), 4, WIDTH)
            for part in ("query", "key", "value")
        )
        scores = torch.einsum("ihd,jhd->hij", q, k) + torch.einsum("ihd,ijd->hij", q, a)
        p = torch.softmax(scores / math.sqrt(WIDTH), -1)
        context = torch.einsum("hij,jhd->ihd", p, v) + torch.einsum("hij,ijd->ihd", p, a)
        out = linear(f"{here}.attention.output.dense", context.flatten(1))
        x = norm(f"{here}.attention.output.LayerNorm", x + out)
        up = F.gelu(linear(f"{here}.intermediate.dense", x))
        x = norm(f"{here}.output.LayerNorm", x + linear(f"{here}.output.dense", up))
    return x


@pytest.mark.parametrize("make", [of_transformers, of_the_authors])
def test_hidden_states_are_those_of_the_published_code(tmp_path: Path, make: Any) -> None:
    """Over every position, so that distances are clipped on both sides."""
    ours: Any = loaded_model(huggingface.read(make(tmp_path / "hf")))
    ids = torch.randint(101, (LONGEST,), generator=torch.Generator().manual_seed(2))
    weights = tensors("nezha" if make is of_transformers else "bert")
    expected = reference(
        {name.replace("bert.", "nezha.", 1): tensor for name, tensor in weights.items()}, ids
    )
    with torch.no_grad():
        hidden = ours.bert(batch_of(ids[None])).double()
    assert (hidden - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ("head", "labels"),
    [
        (PRETRAINING, 0),
        (MASKED_LM, 0),
        (NEXT_SENTENCE, 0),
        (ENCODER_ONLY, 0),
        (QUESTION_ANSWERING, 0),
        (SEQUENCE_CLASSIFICATION, 3),
        (TOKEN_CLASSIFICATION, 3),
    ],
    ids=lambda value: str(value),
)
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_every_head_runs_in_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: Head, labels: int, norm: Any
) -> None:
    """The folder's own code, found by the automatic class, gives our outputs, with padding too."""
    import transformers
    from transformers import dynamic_module_utils

    config = ModelConfig(
        name="toy",
        **SIZES,
        norm=norm,
        position_embeddings="relative",
        max_relative_position=MOST,
    )
    generator = torch.Generator().manual_seed(7)
    tensors = {
        name: 0.25 * torch.randn(parameter.shape, generator=generator)
        for name, parameter in empty_model(config, head, False, labels).named_parameters()
    }
    words = folder_of(tmp_path / "words", {}, model_type="nezha")
    save_weights(tmp_path / "run", config, tensors, words)
    result = convert(
        ConversionRequest("megabert", tmp_path / "run", "huggingface", tmp_path / "out")
    )
    assert "output by transformers with modeling_nezha.py" in result.comparison.note  # type: ignore[union-attr]
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "cache"))
    suffix = str(head.transformers_suffix)
    kind = "AutoModel" if suffix == "Model" else f"AutoModel{suffix}"
    theirs = getattr(transformers, kind).from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert type(theirs).__name__ == f"Nezha{suffix}"
    batch, _ = text_batch(load_tokenizer(words), LONGEST, 2)
    with torch.no_grad():
        given = theirs.eval()(**batch.as_dict())
        ours = our_side(result.model)(batch)
    real = batch.attention_mask.bool()
    for (name, expected), found in zip(ours.items(), given.to_tuple()):
        if expected.shape[:2] == real.shape:
            expected, found = expected[real], found[real]
        assert (expected - found).abs().max() < 1e-5 * expected.abs().max().clamp(min=1), name
    again = huggingface.read(tmp_path / "out")
    assert again.config.norm == norm
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in tensors.items())


def test_code_of_a_folder_is_not_run(tmp_path: Path) -> None:
    """Reading a folder runs the package's classes, whatever modeling_nezha.py there says."""
    source = of_transformers(tmp_path / "hf")
    for name in ("modeling_nezha.py", "configuration_nezha.py"):
        (source / name).write_text("raise SystemExit('run')", encoding="utf-8")
    values = json.loads((source / "config.json").read_text(encoding="utf-8"))
    auto = {"AutoConfig": "configuration_nezha.NezhaConfig"}
    (source / "config.json").write_text(json.dumps(values | {"auto_map": auto}), encoding="utf-8")
    convert(ConversionRequest("huggingface", source, "huggingface", tmp_path / "out"))
    assert "class NezhaModel" in (tmp_path / "out" / "modeling_nezha.py").read_text()


def test_wrong_folders(tmp_path: Path) -> None:
    """A place of the norms that is not known; a BERT folder without its position table."""
    folder = folder_of(tmp_path / "sandwich", tensors("nezha"), model_type="nezha", norm="both")
    with pytest.raises(
        UserError, match=r"config\.json: norm is 'both'; megabert supports only post"
    ):
        huggingface.read(folder)
    folder = folder_of(tmp_path / "bert", tensors("bert"))
    with pytest.raises(UserError, match=r"missing tensors: 1 \(bert\.embeddings\.position_emb"):
        huggingface.read(folder)
    assert bert_config.is_relative({"model_type": "nezha"})
