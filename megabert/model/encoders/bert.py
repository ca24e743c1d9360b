"""BERT (Devlin et al. 2019, section 3; layers as in Vaswani et al. 2017): a trained position table.

With ``norm="pre"`` it is the BERT of Shoeybi et al. 2019, section 4.
"""

from __future__ import annotations

from megabert.config.model import ModelConfig
from megabert.model.encoders.variant import EncoderVariant
from megabert.model.modules import Mlp, SelfAttention
from megabert.parallel.topology import TensorParallel


class Bert(EncoderVariant):
    """BERT. Its presets are those of :mod:`megabert.config.model`."""

    name = "bert"

    def position_rows(self, config: ModelConfig) -> int:
        """Rows of the trained table."""
        return config.max_position_embeddings

    def attention(self, config: ModelConfig, tp: TensorParallel) -> SelfAttention:
        """Attention without positions of its own."""
        return SelfAttention(config, tp)

    def mlp(self, config: ModelConfig, tp: TensorParallel) -> Mlp:
        """Two matrices."""
        return Mlp(config, tp)

    def transformers_type(self, config: ModelConfig) -> str | None:
        """``bert`` (post-LN) or ``megatron-bert`` (pre-LN)."""
        return "bert" if config.norm == "post" else "megatron-bert"
