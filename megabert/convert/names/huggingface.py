"""Tensor names of Hugging Face transformers: ``BertFor...`` (post-LN), ``MegatronBertFor...`` (pre-LN)."""

from __future__ import annotations

from megabert.convert.names.table import ENCODER, MLM, NSP, POOLER, QA, Copy, Name, NameTable


def _linear(part: str, ours: str, theirs: str) -> tuple[Name, Name]:
    """The weight and the bias of a linear layer or of a LayerNorm."""
    return (
        Name(part, f"{ours}.weight", f"{theirs}.weight"),
        Name(part, f"{ours}.bias", f"{theirs}.bias"),
    )


_EMBEDDINGS = tuple(
    Name(ENCODER, f"bert.embeddings.{table}.weight", f"bert.embeddings.{table}.weight")
    for table in ("word_embeddings", "position_embeddings", "token_type_embeddings")
)

_LAYER = tuple(
    name
    for ours, theirs in (
        ("attention.query", "attention.self.query"),
        ("attention.key", "attention.self.key"),
        ("attention.value", "attention.self.value"),
        ("attention.output", "attention.output.dense"),
        ("mlp.up", "intermediate.dense"),
        ("mlp.down", "output.dense"),
    )
    for name in _linear(ENCODER, f"bert.layers.{{i}}.{ours}", f"bert.encoder.layer.{{i}}.{theirs}")
)

_POST_NORMS = (
    *_linear(ENCODER, "bert.embeddings.norm", "bert.embeddings.LayerNorm"),
    *_linear(
        ENCODER,
        "bert.layers.{i}.attention_norm",
        "bert.encoder.layer.{i}.attention.output.LayerNorm",
    ),
    *_linear(ENCODER, "bert.layers.{i}.mlp_norm", "bert.encoder.layer.{i}.output.LayerNorm"),
)

_PRE_NORMS = (
    *_linear(ENCODER, "bert.layers.{i}.attention_norm", "bert.encoder.layer.{i}.attention.ln"),
    *_linear(ENCODER, "bert.layers.{i}.mlp_norm", "bert.encoder.layer.{i}.ln"),
    *_linear(ENCODER, "bert.final_norm", "bert.encoder.ln"),
)

_HEADS = (
    *_linear(POOLER, "bert.pooler.dense", "bert.pooler.dense"),
    *_linear(MLM, "mlm.dense", "cls.predictions.transform.dense"),
    *_linear(MLM, "mlm.norm", "cls.predictions.transform.LayerNorm"),
    Name(MLM, "mlm.bias", "cls.predictions.bias"),
    *_linear(NSP, "nsp.classifier", "cls.seq_relationship"),
    *_linear(QA, "qa.classifier", "qa_outputs"),
)

_COPIES = (
    Copy("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
    Copy("cls.predictions.decoder.bias", "cls.predictions.bias"),
)

_SPELLINGS = (
    (r"(LayerNorm)\.gamma$", r"\1.weight"),
    (r"(LayerNorm)\.beta$", r"\1.bias"),
    (r"^(embeddings|encoder|pooler)\.", r"bert.\1."),
)

_LEFT_OUT = (
    (r"bert\.embeddings\.position_ids", "a buffer: 0, 1, 2, ..."),
    (r"bert\.embeddings\.token_type_ids", "a buffer of zeros"),
    (r"classifier\.(weight|bias)", "the head of a task that megabert does not convert"),
)

BERT = NameTable(
    "BERT (transformers)",
    (*_EMBEDDINGS, *_LAYER, *_POST_NORMS, *_HEADS),
    _COPIES,
    _SPELLINGS,
    _LEFT_OUT,
)

MEGATRON_BERT = NameTable(
    "Megatron-BERT (transformers)",
    (*_EMBEDDINGS, *_LAYER, *_PRE_NORMS, *_HEADS),
    _COPIES,
    _SPELLINGS,
    _LEFT_OUT,
)
