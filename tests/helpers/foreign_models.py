"""Reference models for the tests of foreign checkpoints: transformers with random weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from megabert.convert.check import our_side
from megabert.convert.probe_inputs import ProbeInputs, id_batch
from megabert.convert.whole_model import WholeModel

LAYERS, WORDS, PADDED = 2, 101, 104
SIZES: dict[str, Any] = {
    "vocab_size": PADDED,
    "hidden_size": 128,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 160,
    "max_position_embeddings": 40,
    "type_vocab_size": 2,
}
CONFIG: dict[str, Any] = SIZES | {
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "initializer_range": 0.02,
}
"""A bert_config.json of that size."""


def reference(class_name: str = "BertForPreTraining", **more: Any) -> Any:
    """A transformers model in evaluation mode; weights large enough that every one of them counts."""
    import transformers

    torch.manual_seed(1)
    config = transformers.BertConfig(**(SIZES | more), attn_implementation="eager")
    model = getattr(transformers, class_name)(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return model.eval()


def batch() -> ProbeInputs:
    """One sequence over the words and all positions."""
    return id_batch(WORDS, SIZES["max_position_embeddings"], SIZES["type_vocab_size"])


def difference(model: WholeModel, theirs: list[Tensor]) -> float:
    """Largest absolute difference between our outputs, in their order, and these.

    Of a vocabulary with padding rows the words alone are compared.
    """
    with torch.no_grad():
        ours = list(our_side(model)(batch()).values())
    assert len(ours) == len(theirs)
    return max(
        (mine - other[..., : mine.shape[-1]]).abs().max().item()
        for mine, other in zip(ours, theirs)
    )


def outputs(model: Any, *names: str) -> list[Tensor]:
    """These outputs of a transformers model on the batch."""
    with torch.no_grad():
        found = model(**batch().as_dict())
    return [getattr(found, name) for name in names]
