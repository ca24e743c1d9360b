"""BERT for pretraining in plain torch: padded, scaled_dot_product_attention, MLM head on masked rows.

What a careful user writes by hand in an afternoon: the yardstick between transformers and us.
Shapes: B sequences, S tokens, H hidden, N heads, M masked positions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megabert.common.packed_batch import PackedBatch
from megabert.config.model import ModelConfig


class PlainLayer(nn.Module):
    """Attention and MLP, each with residual sum and LayerNorm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, inner, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
        self.heads, self.hidden_drop = config.num_attention_heads, config.hidden_dropout_prob
        self.attention_drop = config.attention_probs_dropout_prob
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output, self.attention_norm = nn.Linear(width, width), nn.LayerNorm(width, eps)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.mlp_norm = nn.LayerNorm(width, eps)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``[B, S, H]``, bool ``[B, 1, 1, S]`` -> ``[B, S, H]``."""
        q, k, v = (
            linear(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        drop = self.attention_drop if self.training else 0.0
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=drop)
        y = self.output(context.transpose(1, 2).flatten(2))
        x = self.attention_norm(x + F.dropout(y, self.hidden_drop, self.training))
        y = self.down(F.gelu(self.up(x)))
        return self.mlp_norm(x + F.dropout(y, self.hidden_drop, self.training))


class PlainBert(nn.Module):
    """Embeddings, layers, and both pretraining losses."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.norm != "post" or config.hidden_act != "gelu":
            raise ValueError("PlainBert knows LayerNorm after the blocks and exact GELU only")
        width, eps = config.hidden_size, config.layer_norm_eps
        self.drop = config.hidden_dropout_prob
        self.words = nn.Embedding(config.vocab_size, width)
        self.positions = nn.Embedding(config.max_position_embeddings, width)
        self.types = nn.Embedding(config.type_vocab_size, width)
        self.norm = nn.LayerNorm(width, eps)
        self.layers = nn.ModuleList(PlainLayer(config) for _ in range(config.num_hidden_layers))
        self.pooler, self.nsp = nn.Linear(width, width), nn.Linear(width, 2)
        self.mlm_dense, self.mlm_norm = nn.Linear(width, width), nn.LayerNorm(width, eps)
        self.mlm_bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, batch: PackedBatch[Tensor]) -> Tensor:
        """Mean MLM loss plus mean sentence loss of a padded micro batch."""
        assert batch.attention_mask is not None
        ids = batch.input_ids.view_as(batch.attention_mask)  # [B, S]
        types = batch.token_type_ids.view_as(ids)
        places = torch.arange(ids.size(1), device=ids.device)
        x = self.words(ids) + self.positions(places) + self.types(types)
        x = F.dropout(self.norm(x), self.drop, self.training)
        mask = batch.attention_mask.bool()[:, None, None, :]
        for layer in self.layers:
            x = layer(x, mask)
        masked = x.flatten(0, 1)[batch.labels["masked_positions"]]  # [M, H]
        masked = self.mlm_norm(F.gelu(self.mlm_dense(masked)))
        logits = F.linear(masked, self.words.weight, self.mlm_bias)
        sentence = self.nsp(torch.tanh(self.pooler(x[:, 0])))
        return F.cross_entropy(logits.float(), batch.labels["masked_labels"]) + F.cross_entropy(
            sentence.float(), batch.labels["next_sentence_labels"]
        )


_OWN_NAMES = (
    ("bert.embeddings.word_embeddings", "words"),
    ("bert.embeddings.position_embeddings", "positions"),
    ("bert.embeddings.token_type_embeddings", "types"),
    ("bert.embeddings.norm", "norm"),
    ("bert.pooler.dense", "pooler"),
    ("bert.layers", "layers"),
    (".attention.", "."),
    (".mlp.", "."),
    ("nsp.classifier", "nsp"),
    ("mlm.dense", "mlm_dense"),
    ("mlm.norm", "mlm_norm"),
    ("mlm.bias", "mlm_bias"),
)


def plain_bert(config: ModelConfig, tensors: dict[str, Tensor]) -> PlainBert:
    """The model with megabert's whole tensors (true vocabulary), in training mode."""
    renamed = {}
    for name, tensor in tensors.items():
        for ours, own in _OWN_NAMES:
            name = name.replace(ours, own)
        renamed[name] = tensor
    model = PlainBert(config)
    model.load_state_dict(renamed)
    return model.train()
