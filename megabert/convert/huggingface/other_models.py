"""Configurations that state no ``model_type`` and describe another model than BERT.

Its tensors may have BERT's names and shapes while it computes something else: RoBERTa counts
positions from 2. So what a configuration says in other fields is evidence enough to refuse it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_CLASSES = (
    "Albert|Bart|BigBird|Camembert|ConvBert|Deberta|DebertaV2|DistilBert|EuroBert|Electra|Ernie|"
    "ErnieM|Esm|Flaubert|FNet|Funnel|GPT2|IBert|LayoutLM|Longformer|Luke|MarkupLM|MobileBert|"
    "ModernBert|MPNet|MRA|Nystromformer|QDQBert|Reformer|RemBert|RoCBert|RoFormer|Roberta|"
    "RobertaPreLayerNorm|Splinter|SqueezeBert|T5|Tapas|XLM|XLMRoberta|XLMRobertaXL|XLNet|"
    "Xmod|Yoso"
)
_CLASS = re.compile(rf"(?:TF|Flax)?({_CLASSES})(For\w+|Model|LMHeadModel|Discriminator|Generator)?")
_FIELDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("ALBERT", ("num_hidden_groups", "inner_group_num")),
    ("MobileBERT", ("trigram_input", "true_hidden_size", "num_feedforward_networks")),
    ("ConvBERT", ("head_ratio", "conv_kernel_size")),
    ("RemBERT", ("input_embedding_size",)),
    ("ELECTRA", ("embedding_size", "generator_size", "generator_hidden_size")),
    ("DistilBERT", ("n_heads", "n_layers", "hidden_dim", "sinusoidal_pos_embds")),
    ("DeBERTa", ("relative_attention", "pos_att_type")),
    ("RoFormer", ("rotary_value",)),
    ("ModernBERT", ("global_attn_every_n_layers", "local_attention", "norm_eps")),
    ("Longformer", ("attention_window",)),
    ("BigBird", ("num_random_blocks",)),
    ("ERNIE", ("use_task_id", "task_type_vocab_size")),
    ("MPNet", ("relative_attention_num_buckets",)),
    ("Funnel", ("block_sizes",)),
    ("SqueezeBERT", ("q_groups",)),
    ("XLNet or GPT", ("d_model", "n_embd", "n_layer")),
)
_ROBERTA = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_OFFSET = 2  # rows that RoBERTa's position table has before the first position


def evidence_against_bert(values: Mapping[str, Any]) -> str | None:
    """What in a configuration without ``model_type`` shows another model, and which; None if nothing does."""
    architectures = values.get("architectures")
    for name in architectures if isinstance(architectures, list) else ():
        if (match := _CLASS.fullmatch(str(name))) is not None:
            return f"architectures is {name!r}, a class of {match[1]}"
    for family, fields in _FIELDS:
        for name in fields:
            if name in values and values[name] is not None:
                return f"it has {name}, a field of {family}"
    if all(values.get(name) == number for name, number in _ROBERTA.items()):
        stated = ", ".join(f"{name} {number}" for name, number in _ROBERTA.items())
        return f"it has {stated}, as RoBERTa does"
    rows = values.get("max_position_embeddings")
    if isinstance(rows, int) and rows > 64 and (rows - _OFFSET) % 64 == 0:
        return (
            f"max_position_embeddings is {rows}, that is {rows - _OFFSET} + {_OFFSET}, as in RoBERTa's "
            "position table"
        )
    return None
