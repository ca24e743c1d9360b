"""What one micro batch holds in memory for backward.

T = tokens that are computed (all places of a padded batch, the real tokens of a packed one), M =
predicted positions, P = sequences, R = M + P rows that a head reads. A table says how many values of
which width are kept for each token; t = tensor-parallel degree divides the values of split
regions, and, with sequence parallelism, all others too.

The fused operators (``megabert.kernels``) keep a block's input, the sum before each norm with its mean
and deviation, and no dropout mask: it is computed again. In the last layer only R rows go on behind
attention. With activation checkpointing a layer keeps its input only, and one layer at a time is there
in full. The head turns logits into gradients chunk by chunk in the forward pass
(:mod:`megabert.parallel.cross_entropy`), adding up in fp32 what several chunks give, and holds the
gradient of the word embeddings from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from megabert.config.model import ModelConfig
from megabert.model.encoder import variant_of
from megabert.parallel.cross_entropy import CHUNK_BYTES
from megabert.planner.states import BEGINS, FP32, LOSS, Parts, compute_bytes

WIDENED_INNER, WIDENED_WEIGHTS = 2, 2
"""fp32 copies beside them, T I/t and H I/t values each, where a CPU multiplies bf16 as fp32 (``megabert.parallel.products``)."""
EMBEDDING_HIDDEN = 1
"""The sum before the embeddings' norm, in units of H; its output is the first layer's input."""
HEAD_HIDDEN = 5
"""The MLM head's transform: values a predicted position in units of H."""
INPUT_TENSORS = 4
"""Token, type, position and place of a token, int64 each."""
_EMBEDDINGS, _LAYERS, _HEAD = (
    f"activations, {part}" for part in ("embeddings", "layers", "MLM head")
)
_BACKWARD, _LOGITS, _TABLE = "backward of one layer", "logits", "gradient of the word embeddings"


@dataclass(frozen=True)
class MicroBatch:
    """Sizes of a micro batch: T tokens, M predicted positions, P sequences."""

    tokens: float
    predicted: float
    sequences: float


@dataclass(frozen=True)
class Division:
    """How a layer's values are divided, and kept.

    Attributes:
        degree: t, of tensor parallelism.
        sequence_parallel: tokens are divided too, between the split regions.
        checkpointing: layers keep their input only.
    """

    degree: int = 1
    sequence_parallel: bool = False
    checkpointing: bool = False


@dataclass(frozen=True)
class Block:
    """``count`` tensors of ``size`` bytes each that belong to one part of the table."""

    part: str
    size: float
    count: float = 1


def _layer(
    config: ModelConfig, tokens: float, behind: float, width: int, by: Division, part: str
) -> list[Block]:
    """What one layer keeps for ``tokens``, of which ``behind`` go on behind its attention."""
    blocks = []
    for saved in variant_of(config).saved_for_backward:
        divided = by.degree if saved.split or by.sequence_parallel else 1
        row = (tokens if saved.every_token else behind) / divided * (FP32 if saved.fp32 else width)
        blocks += [
            Block(part, row * config.hidden_size, saved.hidden),
            Block(part, row * config.intermediate_size, saved.inner),
            Block(part, row * config.num_attention_heads, saved.heads),
        ]
    return blocks


def activation_blocks(
    config: ModelConfig, batch: MicroBatch, precision: str, by: Division, *, widened: bool = False
) -> dict[str, list[Block]]:
    """Tensors of a micro batch at the loss and where backward begins.

    The backward that takes most is that of the last layer but one, when the last one's tensors are gone.
    ``widened``: products of a half precision are computed in fp32.
    """
    width = compute_bytes(precision)
    widened = widened and width < FP32
    variant = variant_of(config)
    h, layers = config.hidden_size, config.num_hidden_layers
    tokens, read = batch.tokens, min(batch.tokens, batch.predicted + batch.sequences)
    between = by.degree if by.sequence_parallel else 1
    # the last layer has all tokens of its input on every rank
    alone = replace(by, sequence_parallel=False)
    always = [
        Block(_EMBEDDINGS, tokens * 8, INPUT_TENSORS),
        Block(_HEAD, batch.predicted * h * width, HEAD_HIDDEN),
    ]
    if config.norm == "post":
        always.append(Block(_EMBEDDINGS, tokens * h / between * width, EMBEDDING_HIDDEN))
    again: list[Block] = []
    last = _layer(config, tokens, read, width, alone, _LAYERS)
    if by.checkpointing:
        always.append(Block(_LAYERS, tokens * h / between * width, layers - 1))
        last = [Block(_LAYERS, tokens * h * width)]
        again = _layer(config, tokens, tokens if layers > 1 else read, width, by, _BACKWARD)
    else:
        always += (layers - 1) * _layer(config, tokens, tokens, width, by, _LAYERS)
    busy, inner = tokens if layers > 1 else read, config.intermediate_size / by.degree
    backward = [
        Block(_BACKWARD, busy * inner * width, variant.backward_inner),
        Block(_BACKWARD, busy * h * width, variant.backward_hidden),
        Block(_BACKWARD, busy * inner * FP32, WIDENED_INNER if widened else 0),
        Block(_BACKWARD, inner * h * FP32, WIDENED_WEIGHTS if widened else 0),
    ]
    columns = config.padded_vocab_size / by.degree
    logits = batch.predicted * columns * (FP32 if widened else width)
    table = columns * h
    loss = [
        Block(_LOGITS, min(logits, CHUNK_BYTES)),
        Block(_LOGITS, FP32 * table, 1 if widened else 0),
    ]
    if logits > CHUNK_BYTES:
        loss.append(Block(_TABLE, FP32 * table, 3))
    else:
        loss.append(Block(_TABLE, width * table))
    return {
        LOSS: always + last + loss,
        BEGINS: [*always, *again, *backward, Block(_TABLE, width * table)]
        + (last if layers == 1 else []),
    }


def parts_of(blocks: Sequence[Block]) -> Parts:
    """Bytes by part."""
    parts: Parts = {}
    for block in blocks:
        parts[block.part] = parts.get(block.part, 0.0) + block.size * block.count
    return parts


def small_bytes(blocks: Sequence[Block], limit: float) -> float:
    """Bytes in tensors below ``limit`` bytes."""
    return sum(block.size * block.count for block in blocks if block.size < limit)
