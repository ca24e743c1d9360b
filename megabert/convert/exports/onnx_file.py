"""The format "onnx": model.onnx with its config.json and tokenizer files.

torch's exporter traces transformers' model of the tensors (of NEZHA, the classes of
:mod:`megabert.convert.huggingface.nezha_code`), with the numbers of sequences and of tokens left open.
Inputs and outputs have the names that Optimum's ``ORTModelFor...`` expect. A conditional random field
is not part of the graph, which gives its emissions; its scores are in crf.json.

The check runs onnxruntime on the written file, with inputs of several shapes.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from megabert.common.errors import UserError
from megabert.common.json_text import read_json_object
from megabert.convert.check import Outputs, Side, our_side
from megabert.convert.exports.model_card import write_card
from megabert.convert.exports.packages import optional_package
from megabert.convert.format import CARD_OPTIONS, Format, ModelSource, OutputOptions
from megabert.convert.huggingface.model import write
from megabert.convert.huggingface.transformers_model import load_transformers
from megabert.convert.probe_inputs import ProbeInputs, ragged_batch
from megabert.convert.whole_model import ENCODER_ONLY, WholeModel, without_embedding
from megabert.data.tokenizers.base import Tokenizer
from megabert.model.heads import MASKED_LM, PRETRAINING

MODEL = "model.onnx"
OPSET = 18
"""Version of ONNX's operators, if none is given, and the first that the exporter writes."""
_LAST_OPSET = 23  # of torch 2.13
TOLERANCE_ONNX = 1e-4
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_MOST_BYTES = 1_900_000_000
"""Weights in the file itself; larger ones are in model.onnx.data (protobuf holds 2 GiB)."""
_CRF = "crf."
_LOADING = """\
import onnxruntime
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
session = onnxruntime.InferenceSession("FOLDER/{model}")
inputs = tokenizer(["A text.", "Another text."], padding=True, truncation=True, return_tensors="np")
names = [i.name for i in session.get_inputs()]
outputs = session.run(None, {{name: inputs[name].astype("int64") for name in names}})
# in this order: {outputs}
"""


def _outputs(model: WholeModel) -> dict[str, tuple[str, str]]:
    """Name of each output in the comparison -> transformers' field, name in the file."""
    head = model.head
    if head is ENCODER_ONLY:
        names = {"hidden states": ("last_hidden_state", "last_hidden_state")}
        return names | ({"pooler": ("pooler_output",) * 2} if model.has_pooler else {})
    if head is PRETRAINING:
        pairs = "seq_relationship_logits"
        return {"MLM logits": ("prediction_logits", "logits"), "NSP logits": (pairs, pairs)}
    if head is MASKED_LM:
        return {"MLM logits": ("logits", "logits")}
    return {ours: (theirs, theirs) for ours, theirs in head.transformers_outputs}


class _Graph(nn.Module):
    """A model of transformers with plain tensors for inputs and outputs."""

    def __init__(self, model: nn.Module, fields: list[str]) -> None:
        super().__init__()
        self.model, self.fields = model, fields

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor
    ) -> tuple[Tensor, ...]:
        """Outputs in their order."""
        output = self.model(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        )
        return tuple(getattr(output, field) for field in self.fields)


def _prepared(model: WholeModel) -> WholeModel:
    """The model with what the graph lacks in ``left_out``."""
    model = without_embedding(model)
    reason = "the conditional random field: outputs are its emissions; its scores are in crf.json"
    crf = [(name, reason) for name in model.tensors if name.startswith(_CRF)]
    return replace(model, left_out=[*model.left_out, *crf])


def _emissions(model: WholeModel) -> WholeModel:
    """The model without its conditional random field."""
    kept = {name: t for name, t in model.tensors.items() if not name.startswith(_CRF)}
    return replace(model, tensors=kept)


def _write(
    folder: Path, model: WholeModel, tokenizer: Tokenizer | None, options: OutputOptions
) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        optional_package(package, "--to onnx")
    opset = options.opset or OPSET
    if not OPSET <= opset <= _LAST_OPSET:
        raise UserError(f"--opset {opset}: torch's exporter writes {OPSET} to {_LAST_OPSET}")
    plain = _emissions(model)
    write(folder, plain, tokenizer)
    theirs = load_transformers(folder, plain)
    names = _outputs(plain)
    config = model.config
    batch = ragged_batch(config.vocab_size, config.max_position_embeddings, config.type_vocab_size)
    _export(
        _Graph(theirs, [field for field, _ in names.values()]).eval(),
        batch,
        folder / MODEL,
        [name for _, name in names.values()],
        opset,
    )
    (folder / "model.safetensors").unlink()
    _write_config(folder / "config.json", model, opset)
    loading = _LOADING.format(model=MODEL, outputs=", ".join(name for _, name in names.values()))
    write_card(folder, plain, options, loading)


def _write_config(path: Path, model: WholeModel, opset: int) -> None:
    values = read_json_object(path)
    values["onnx_opset"] = opset
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    scores = {
        n.removeprefix(_CRF): t.tolist() for n, t in model.tensors.items() if n.startswith(_CRF)
    }
    if scores:
        (path.parent / "crf.json").write_text(json.dumps(scores) + "\n", encoding="utf-8")


def _export(
    graph: nn.Module, batch: ProbeInputs, path: Path, outputs: list[str], opset: int
) -> None:
    """Write the graph.

    Raises:
        UserError: the exporter does not support the model, or the opset.
    """
    axes = {0: "batch", 1: "sequence"}
    size = sum(p.numel() * p.element_size() for p in graph.parameters())
    given = batch.as_dict()
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                graph,
                tuple(given[name] for name in _INPUTS),
                path,
                input_names=list(_INPUTS),
                output_names=outputs,
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=tuple(axes for _ in _INPUTS),
                external_data=size > _MOST_BYTES,
                verbose=False,
            )
    except Exception as error:  # the exporter's errors have many types
        if isinstance(error, OSError | MemoryError):
            raise
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        raise UserError(
            f"torch's ONNX exporter cannot write this model with opset {opset}: "
            f"{type(error).__name__} {reason}"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own messages."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)


def _run(source: ModelSource, model: WholeModel) -> tuple[Side, str]:
    """Runs onnxruntime on a CPU."""
    runtime = optional_package("onnxruntime", "--to onnx")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = runtime.InferenceSession(
        str(source.path / MODEL), options, providers=["CPUExecutionProvider"]
    )
    names = _outputs(model)
    words = model.config.vocab_size

    def run(batch: ProbeInputs) -> Outputs:
        given = {name: value.numpy() for name, value in batch.as_dict().items()}
        wanted = [name for _, name in names.values()]
        found = dict(zip(names, map(torch.from_numpy, session.run(wanted, given))))
        if "MLM logits" in found:
            found["MLM logits"] = found["MLM logits"][..., :words]
        return found

    return run, f"onnxruntime {runtime.__version__}"


def _read(source: ModelSource) -> WholeModel:
    raise UserError(
        f"{source.path}: onnx can be written but not read; name the folder that it was made from"
    )


def _configured(options: OutputOptions) -> Format:
    return Format(
        read=_read,
        write=lambda folder, model, tokenizer: _write(folder, model, tokenizer, options),
        run=_run,
        reads_back=False,
        options=("opset", *CARD_OPTIONS),
        configured=_configured,
        prepare=_prepared,
        reference=lambda model: our_side(_emissions(model)),
        tolerance=TOLERANCE_ONNX,
    )


FORMAT = _configured(OutputOptions())
