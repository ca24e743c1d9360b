"""model.onnx, run by onnxruntime: names, open axes, and outputs of every head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megabert.common.errors import UserError
from megabert.convert.check import our_side
from megabert.convert.format import OutputOptions
from megabert.convert.huggingface import model as huggingface
from megabert.convert.probe_inputs import ProbeInputs
from megabert.convert.run import ConversionRequest, convert
from megabert.convert.whole_model import WholeModel
from megabert.model.weights import load_weights, save_weights
from tests.helpers.convert_folders import make

runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytest.importorskip("transformers")
SHAPES = ((1, 1), (1, 40), (5, 7), (2, 33))


def compared(folder: Path, model: WholeModel, names: dict[str, str]) -> float:
    """Largest difference between onnxruntime's outputs and ours, over several shapes with padding."""
    session = runtime.InferenceSession(
        str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    assert [i.name for i in session.get_inputs()] == [
        "input_ids",
        "attention_mask",
        "token_type_ids",
    ]
    assert [i.shape for i in session.get_inputs()] == [["batch", "sequence"]] * 3
    assert [o.name for o in session.get_outputs()] == list(names.values())
    ours, worst = our_side(model), 0.0
    generator = torch.Generator().manual_seed(3)
    for rows, width in SHAPES:
        ids = torch.randint(5, model.config.vocab_size, (rows, width), generator=generator)
        mask = torch.ones_like(ids)
        if rows > 1:
            mask[-1, width // 2 :] = 0
        types = torch.randint(2, (rows, width), generator=generator)
        batch = ProbeInputs(ids, types, mask)
        with torch.no_grad():
            expected = ours(batch)
        given = {name: value.numpy() for name, value in batch.as_dict().items()}
        found = dict(zip(names, session.run(None, given)))
        for name, value in expected.items():
            left, right = value.numpy(), found[name]
            if left.shape[:2] == (rows, width):
                left, right = left[mask.bool().numpy()], right[mask.bool().numpy()]
            worst = max(worst, float(np.abs(left - right).max() / max(1, np.abs(left).max())))
    return worst


def exported(source: Path, out: Path, **options: Any) -> WholeModel:
    request = ConversionRequest(
        "huggingface", source, "onnx", out, options=OutputOptions(**options)
    )
    result = convert(request)
    assert result.comparison is not None
    assert "onnxruntime" in result.comparison.note
    assert {path.name for path in out.iterdir()} >= {
        *("model.onnx", "config.json", "vocab.txt", "tokenizer_config.json", "README.md")
    }
    assert not (out / "model.safetensors").exists()
    return result.model


@pytest.mark.slow
def test_pretraining(tmp_path: Path) -> None:
    """Words under the name that a masked language model has, pairs under their own."""
    source = make(tmp_path / "hf")
    model = exported(source, tmp_path / "out")
    names = {"MLM logits": "logits", "NSP logits": "seq_relationship_logits"}
    assert compared(tmp_path / "out", model, names) < 1e-4
    values = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert values["onnx_opset"] == 18
    assert values["model_type"] == "bert"


HEADS = {
    "BertModel": {"hidden states": "last_hidden_state", "pooler": "pooler_output"},
    "BertForMaskedLM": {"MLM logits": "logits"},
    "BertForQuestionAnswering": {"start logits": "start_logits", "end logits": "end_logits"},
    "BertForSequenceClassification": {"sequence logits": "logits"},
    "BertForTokenClassification": {"token logits": "logits"},
    "BertForNextSentencePrediction": {"NSP logits": "logits"},
    "MegatronBertForMaskedLM": {"MLM logits": "logits"},
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n == "BertForMaskedLM" else pytest.mark.slow) for n in HEADS],
)
def test_heads(tmp_path: Path, name: str) -> None:
    model = exported(make(tmp_path / "hf", name), tmp_path / "out", opset=20)
    assert compared(tmp_path / "out", model, HEADS[name]) < 1e-4


@pytest.mark.slow
def test_nezha(tmp_path: Path) -> None:
    from tests.convert.test_nezha import of_transformers

    model = exported(of_transformers(tmp_path / "hf"), tmp_path / "out")
    names = {"MLM logits": "logits", "NSP logits": "seq_relationship_logits"}
    assert compared(tmp_path / "out", model, names) < 1e-4


@pytest.mark.slow
def test_a_conditional_random_field(tmp_path: Path) -> None:
    """The graph gives emissions; the field's scores are next to it, and the report says so."""
    source = make(tmp_path / "hf", "BertForTokenClassification", num_labels=3)
    convert(ConversionRequest("huggingface", source, "megabert", tmp_path / "plain"))
    config, tensors, info = load_weights(tmp_path / "plain")
    field = {
        "crf.start": torch.randn(3),
        "crf.end": torch.randn(3),
        "crf.transitions": torch.randn(3, 3),
    }
    save_weights(
        tmp_path / "ours", config, tensors | field, tmp_path / "plain",
        tokenizer_sha256=info["tokenizer_sha256"],
    )  # fmt: skip
    result = convert(ConversionRequest("megabert", tmp_path / "ours", "onnx", tmp_path / "out"))
    assert any("crf.json" in line for line in result.left_out())
    scores = json.loads((tmp_path / "out" / "crf.json").read_text(encoding="utf-8"))
    for name, tensor in field.items():
        assert torch.equal(torch.tensor(scores[name.removeprefix("crf.")]), tensor)
    plain = huggingface.read(source)
    assert compared(tmp_path / "out", plain, {"token logits": "logits"}) < 1e-4


def test_an_opset_that_does_not_exist(tmp_path: Path) -> None:
    source = make(tmp_path / "hf", "BertModel")
    with pytest.raises(UserError, match="--opset 3: "):
        exported(source, tmp_path / "out", opset=3)
    assert not (tmp_path / "out").exists()
