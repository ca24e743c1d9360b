"""Tensor names of the TensorFlow checkpoints of Google BERT and of NEZHA (no position table).

Kernels of dense layers are stored as [in, out], ``output_weights`` of every head as [out, in]. The
heads are those of the public scripts run_pretraining, run_squad and run_classifier.
"""

from __future__ import annotations

from dataclasses import replace

from megabert.convert.name_table import (
    ENCODER,
    MLM,
    NSP,
    POOLER,
    QA,
    SEQUENCE,
    Name,
    NameTable,
    pair,
)


def _dense(part: str, ours: str, theirs: str) -> tuple[Name, Name]:
    return pair(part, ours, theirs, ("/kernel", "/bias"), transpose=True)


def _norm(part: str, ours: str, theirs: str) -> tuple[Name, Name]:
    return pair(part, ours, f"{theirs}/LayerNorm", ("/gamma", "/beta"))


def _output(part: str, ours: str, scope: str) -> tuple[Name, Name]:
    return pair(part, ours, scope, ("output_weights", "output_bias"))


_EMBEDDINGS = (
    *(
        Name(ENCODER, f"bert.embeddings.{table}.weight", f"bert/embeddings/{table}")
        for table in ("word_embeddings", "position_embeddings", "token_type_embeddings")
    ),
    *_norm(ENCODER, "bert.embeddings.norm", "bert/embeddings"),
)

_OURS, _THEIRS = "bert.layers.{i}", "bert/encoder/layer_{i}"
_LAYER = (
    *_dense(ENCODER, f"{_OURS}.attention.query", f"{_THEIRS}/attention/self/query"),
    *_dense(ENCODER, f"{_OURS}.attention.key", f"{_THEIRS}/attention/self/key"),
    *_dense(ENCODER, f"{_OURS}.attention.value", f"{_THEIRS}/attention/self/value"),
    *_dense(ENCODER, f"{_OURS}.attention.output", f"{_THEIRS}/attention/output/dense"),
    *_norm(ENCODER, f"{_OURS}.attention_norm", f"{_THEIRS}/attention/output"),
    *_dense(ENCODER, f"{_OURS}.mlp.up", f"{_THEIRS}/intermediate/dense"),
    *_dense(ENCODER, f"{_OURS}.mlp.down", f"{_THEIRS}/output/dense"),
    *_norm(ENCODER, f"{_OURS}.mlp_norm", f"{_THEIRS}/output"),
)

_HEADS = (
    *_dense(POOLER, "bert.pooler.dense", "bert/pooler/dense"),
    *_dense(MLM, "mlm.dense", "cls/predictions/transform/dense"),
    *_norm(MLM, "mlm.norm", "cls/predictions/transform"),
    Name(MLM, "mlm.bias", "cls/predictions/output_bias"),
    *_output(NSP, "nsp.classifier", "cls/seq_relationship/"),
    *_output(QA, "qa.classifier", "cls/squad/"),
    *_output(SEQUENCE, "sequence.classifier", ""),
)

_LEFT_OUT = (
    (r".+/(adam|lamb)_[mv]", "optimizer slot"),
    (r".+/Adam(_1)?", "optimizer slot"),
    (r"(.+/)?beta[12]_power", "state of the optimizer"),
    (r"(current_)?loss_scale|(good|bad)_steps", "state of the loss scale"),
    (r"global_step", "number of updates"),
)

BERT = NameTable("Google BERT (TensorFlow)", (*_EMBEDDINGS, *_LAYER, *_HEADS), left_out=_LEFT_OUT)

NEZHA = replace(
    BERT,
    format="NEZHA (TensorFlow)",
    names=tuple(name for name in BERT.names if "position_embeddings" not in name.ours),
)
