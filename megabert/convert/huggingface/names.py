"""Tensor names of Hugging Face transformers, one table per family of classes.

``BertFor...`` (post-LN), ``MegatronBertFor...`` (pre-LN), and ``NezhaFor...`` (relative positions),
which transformers had up to version 4; the authors' own PyTorch files of NEZHA use BERT's names.
:func:`with_heads` adds task heads, some of which share a name there (``classifier``).
"""

from __future__ import annotations

import re
from dataclasses import replace

from megabert.convert.name_table import (
    ENCODER,
    MLM,
    NSP,
    POOLER,
    Copy,
    Name,
    NameTable,
    pair,
)
from megabert.model.head_registry import Head

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
    for name in pair(ENCODER, f"bert.layers.{{i}}.{ours}", f"bert.encoder.layer.{{i}}.{theirs}")
)

_POST_NORMS = (
    *pair(ENCODER, "bert.embeddings.norm", "bert.embeddings.LayerNorm"),
    *pair(
        ENCODER,
        "bert.layers.{i}.attention_norm",
        "bert.encoder.layer.{i}.attention.output.LayerNorm",
    ),
    *pair(ENCODER, "bert.layers.{i}.mlp_norm", "bert.encoder.layer.{i}.output.LayerNorm"),
)

_PRE_NORMS = (
    *pair(ENCODER, "bert.layers.{i}.attention_norm", "bert.encoder.layer.{i}.attention.ln"),
    *pair(ENCODER, "bert.layers.{i}.mlp_norm", "bert.encoder.layer.{i}.ln"),
    *pair(ENCODER, "bert.final_norm", "bert.encoder.ln"),
)

_HEADS = (
    *pair(POOLER, "bert.pooler.dense", "bert.pooler.dense"),
    *pair(MLM, "mlm.dense", "cls.predictions.transform.dense"),
    *pair(MLM, "mlm.norm", "cls.predictions.transform.LayerNorm"),
    Name(MLM, "mlm.bias", "cls.predictions.bias"),
    *pair(NSP, "nsp.classifier", "cls.seq_relationship"),
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

POSITION_TABLES = r"(.*\.)?relative_positions_encoding\.positions_encoding"
"""NEZHA's buffers of sinusoids, one per layer, [S, S, D]; only read for comparison."""


def _nezha(name: str) -> str:
    return name.replace("bert.", "nezha.", 1) if name.startswith("bert.") else name


def _nezha_names(*tables: tuple[Name, ...]) -> tuple[Name, ...]:
    return tuple(
        replace(name, theirs=_nezha(name.theirs))
        for table in tables
        for name in table
        if "position_embeddings" not in name.ours
    )


NEZHA = NameTable(
    "NEZHA (transformers, or its authors')",
    _nezha_names(_EMBEDDINGS, _LAYER, _POST_NORMS, _HEADS),
    tuple(Copy(copy.theirs, _nezha(copy.of)) for copy in _COPIES),
    (*_SPELLINGS[:2], (r"^(embeddings|encoder|pooler)\.", r"nezha.\1."), (r"^bert\.", "nezha.")),
    (
        *((pattern.replace("bert", "nezha", 1), reason) for pattern, reason in _LEFT_OUT),
        (
            r"nezha\.embeddings\.position_embeddings\.weight",
            "a position table, which NEZHA does not use",
        ),
    ),
)


PRE_NEZHA = replace(
    NEZHA,
    format="pre-LN NEZHA (megabert's classes for transformers)",
    names=_nezha_names(_EMBEDDINGS, _LAYER, _PRE_NORMS, _HEADS),
)
"""As Megatron-BERT places its norms."""


def with_heads(table: NameTable, *heads: Head) -> NameTable:
    """The same names and those of task heads, which must not share a name."""
    added = (
        name
        for head in heads
        for ours, theirs in head.transformers_layers
        for name in pair(head.modules[0], ours, theirs)
    )
    return replace(table, names=(*table.names, *added))


def without_layer(table: NameTable, layer: str) -> NameTable:
    """The same names, with a layer that is the head of a task that megabert does not have."""
    reason = "the head of a task that megabert does not have"
    pattern = rf"{re.escape(layer)}\.(weight|bias)"
    return replace(table, left_out=(*table.left_out, (pattern, reason)))
