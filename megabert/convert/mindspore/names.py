"""Tensor names of MindSpore's BERT (``official/nlp/Bert`` of the MindSpore models).

The encoder (class ``BertModel``) is two levels deep in every network that its scripts train, hence
``bert.bert.``; heads are one level deep. Weights of ``nn.Dense`` are [out, in], as in PyTorch.
"""

from __future__ import annotations

from dataclasses import replace

from megabert.convert.name_table import (
    CRF,
    ENCODER,
    MLM,
    NSP,
    POOLER,
    QA,
    SEQUENCE,
    TOKEN,
    Name,
    NameTable,
    pair,
)

_ENCODER = "bert.bert"
_LAYER = f"{_ENCODER}.bert_encoder.layers.{{i}}"
_POSTPROCESSOR = f"{_ENCODER}.bert_embedding_postprocessor"


def _norm(part: str, ours: str, theirs: str) -> tuple[Name, Name]:
    return pair(part, ours, f"{theirs}.layernorm", (".gamma", ".beta"))


_POSITIONS = Name(
    ENCODER,
    "bert.embeddings.position_embeddings.weight",
    f"{_POSTPROCESSOR}.full_position_embedding.embedding_table",
)

_EMBEDDINGS = (
    Name(
        ENCODER,
        "bert.embeddings.word_embeddings.weight",
        f"{_ENCODER}.bert_embedding_lookup.embedding_table",
    ),
    Name(
        ENCODER,
        "bert.embeddings.token_type_embeddings.weight",
        f"{_POSTPROCESSOR}.token_type_embedding.embedding_table",
    ),
    *_norm(ENCODER, "bert.embeddings.norm", _POSTPROCESSOR),
)

_LAYERS = (
    *(
        name
        for ours, theirs in (
            ("attention.query", "attention.attention.query_layer"),
            ("attention.key", "attention.attention.key_layer"),
            ("attention.value", "attention.attention.value_layer"),
            ("attention.output", "attention.output.dense"),
            ("mlp.up", "intermediate"),
            ("mlp.down", "output.dense"),
        )
        for name in pair(ENCODER, f"bert.layers.{{i}}.{ours}", f"{_LAYER}.{theirs}")
    ),
    *_norm(ENCODER, "bert.layers.{i}.attention_norm", f"{_LAYER}.attention.output"),
    *_norm(ENCODER, "bert.layers.{i}.mlp_norm", f"{_LAYER}.output"),
)

_HEADS = (
    *pair(POOLER, "bert.pooler.dense", f"{_ENCODER}.dense"),
    *pair(MLM, "mlm.dense", "bert.cls1.dense"),
    *_norm(MLM, "mlm.norm", "bert.cls1"),
    Name(MLM, "mlm.bias", "bert.cls1.output_bias"),
    *pair(NSP, "nsp.classifier", "bert.cls2.dense"),
    *pair(QA, "qa.classifier", "bert.dense1"),
    Name(CRF, "crf.transitions", "loss.transitions"),
)

# each cell without its parents' prefixes (an encoder saved alone has fewer), and old table names
_SPELLINGS = (
    (r"^(bert\.)*(bert_embedding_lookup|bert_embedding_postprocessor|bert_encoder)\.", r"bert.bert.\2."),
    (r"^(bert\.)*dense\.", "bert.bert.dense."),
    (r"^(bert\.)*(cls1|cls2|dense1|dense_1)\.", r"bert.\2."),
    (r"(postprocessor)\.embedding_table$", r"\1.token_type_embedding.embedding_table"),
    (r"(postprocessor)\.full_position_embeddings$", r"\1.full_position_embedding.embedding_table"),
)  # fmt: skip

_LEFT_OUT = (
    (r"(adam_[mv]|lamb_[mv]|moments|moment[12]|vhat)\..*", "optimizer slot"),
    (r"accu_grads\..*", "gradient sum"),
    (
        r"global_step|learning_rate.*|momentum|beta[12]_power|loss_scale|scale_sense|"
        r"current_iterator_step|last_overflow_iterator_step|epoch_num|step_num|local_step|"
        r"accu_overflow|accu_loss|random_op",
        "training state",
    ),
    (r"total_num|start_num|end_num", "counter of an evaluation"),
)

RELATIVE_TABLES = (
    r"(bert\.)*bert_encoder\.layers\.\d+\.attention\.attention\."
    r"_generate_relative_positions_embeddings\.embeddings_table"
)
"""Trained tables of relative positions, one per layer, [2 m + 1, head size]."""


def mindspore_table(*, token: bool, relative: bool) -> NameTable:
    """The names of a model.

    Args:
        token: ``dense_1`` is the head of token classification, else of sequence classification,
            which have the same name.
        relative: the model has relative positions, and does not use its position table.
    """
    part, ours = (TOKEN, "token.classifier") if token else (SEQUENCE, "sequence.classifier")
    names = (*_EMBEDDINGS, *_LAYERS, *_HEADS, *pair(part, ours, "bert.dense_1"))
    made = NameTable("BERT (MindSpore)", (_POSITIONS, *names), (), _SPELLINGS, _LEFT_OUT)
    if not relative:
        return made
    unused = (
        _POSITIONS.theirs.replace(".", r"\."),
        "a position table, which the model does not use",
    )
    return replace(made, names=names, left_out=(*_LEFT_OUT, unused))
