"""Tensor names of NVIDIA DeepLearningExamples' BERT for PyTorch.

Its ``modeling.py`` has the names of transformers' BERT, except that a linear layer with its
activation (``LinearActivation``) is called ``dense_act``: in the feed-forward block, the pooler and
the masked language model's head. Before August 2019 these were called ``dense`` too.
"""

from __future__ import annotations

import re
from dataclasses import replace

from megabert.convert.huggingface import names
from megabert.convert.name_table import NameTable
from megabert.model.task_heads import (
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
)

_FUSED = (r"\b(intermediate|pooler|transform)\.dense\.", r"\1.dense_act.")


def _names(table: NameTable) -> NameTable:
    return replace(
        table,
        format="BERT (NVIDIA DeepLearningExamples)",
        names=tuple(replace(name, theirs=re.sub(*_FUSED, name.theirs)) for name in table.names),
        spellings=((r"^(module\.)+", ""), *table.spellings, _FUSED),
    )


BERT = _names(names.with_heads(names.BERT, QUESTION_ANSWERING, SEQUENCE_CLASSIFICATION))
"""``classifier`` is the head of sequence classification (``run_glue.py``)."""
BERT_TOKENS = _names(names.with_heads(names.BERT, QUESTION_ANSWERING, TOKEN_CLASSIFICATION))
"""``classifier`` is the head of token classification (its ``BertForTokenClassification``)."""
