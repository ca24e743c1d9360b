"""Activation memory of one micro batch.

T = computed tokens (all places of a padded batch, the real tokens of a packed one), M = predicted
positions, P = sequences, R = M + P rows that a head reads. The encoder's table says how many values
of which width are saved per token (:class:`megabert.model.encoders.variant.SavedTensor`). The tensor
parallel degree t divides the values of split regions; with sequence parallelism it divides all others
too.

The fused operators (``megabert.kernels``) save a block's input and the sum before each norm with its
mean and deviation. They save no dropout mask, which they compute again. In the last layer only R rows
remain after the attention. With activation checkpointing a layer saves its input only, and one layer
at a time has all of its tensors. The MLM head turns logits into gradients chunk by chunk in the
forward pass (:mod:`megabert.parallel.cross_entropy`). It sums what several chunks give in fp32, and
holds the gradient of the word embeddings from then on.

The constants are calibrated with ``benchmarks/plan_memory.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from megabert.config.model import ModelConfig
from megabert.model.encoder import variant_of
from megabert.parallel.cross_entropy import CHUNK_BYTES
from megabert.planner.states import BEGINS, FP32, LOSS, Parts, compute_bytes

WIDENED_INNER, WIDENED_WEIGHTS = 2, 2
"""fp32 copies in a layer's backward, T I/t and H I/t values each, on a CPU that multiplies bf16 as fp32
(``megabert.parallel.products``)."""
EMBEDDING_HIDDEN = 1
"""The sum before the embeddings' norm, in units of H; its output is the first layer's input."""
HEAD_HIDDEN = 5
"""The MLM head's transform: values per predicted position, in units of H."""
INPUT_TENSORS = 4
"""int64 tensors with one value per token: token, type, position and place."""
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
    """How a layer's values are divided, and which are saved.

    Attributes:
        degree: t, the tensor parallel degree.
        sequence_parallel: between the split regions, tokens are divided too.
        checkpointing: layers save their input only.
    """

    degree: int = 1
    sequence_parallel: bool = False
    checkpointing: bool = False


@dataclass(frozen=True)
class Block:
    """``count`` tensors of ``size`` bytes each, which belong to one part of the memory table."""

    part: str
    size: float
    count: float = 1


def _layer(
    config: ModelConfig, tokens: float, after: float, width: int, by: Division, part: str
) -> list[Block]:
    """What one layer saves for ``tokens``, of which ``after`` remain after its attention."""
    blocks = []
    for saved in variant_of(config).saved_for_backward:
        divided = by.degree if saved.split or by.sequence_parallel else 1
        row = (tokens if saved.every_token else after) / divided * (FP32 if saved.fp32 else width)
        blocks += [
            Block(part, row * config.hidden_size, saved.hidden),
            Block(part, row * config.intermediate_size, saved.inner),
            Block(part, row * config.num_attention_heads, saved.heads),
        ]
    return blocks


def activation_blocks(
    config: ModelConfig, batch: MicroBatch, precision: str, by: Division, *, widened: bool = False
) -> dict[str, list[Block]]:
    """Tensors of a micro batch at the loss and when backward begins.

    The largest backward is that of the second-to-last layer, when the last one's tensors are freed.
    ``widened``: products of a half precision are computed in fp32.
    """
    width = compute_bytes(precision)
    widened = widened and width < FP32
    variant = variant_of(config)
    h, layers = config.hidden_size, config.num_hidden_layers
    tokens, read = batch.tokens, min(batch.tokens, batch.predicted + batch.sequences)
    between = by.degree if by.sequence_parallel else 1
    # every rank has all tokens of the last layer's input
    alone = replace(by, sequence_parallel=False)
    throughout = [
        Block(_EMBEDDINGS, tokens * 8, INPUT_TENSORS),
        Block(_HEAD, batch.predicted * h * width, HEAD_HIDDEN),
    ]
    if config.norm == "post":
        throughout.append(Block(_EMBEDDINGS, tokens * h / between * width, EMBEDDING_HIDDEN))
    recomputed: list[Block] = []
    last = _layer(config, tokens, read, width, alone, _LAYERS)
    if by.checkpointing:
        throughout.append(Block(_LAYERS, tokens * h / between * width, layers - 1))
        last = [Block(_LAYERS, tokens * h * width)]
        recomputed = _layer(config, tokens, tokens if layers > 1 else read, width, by, _BACKWARD)
    else:
        throughout += (layers - 1) * _layer(config, tokens, tokens, width, by, _LAYERS)
    rows, inner = tokens if layers > 1 else read, config.intermediate_size / by.degree
    backward = [
        Block(_BACKWARD, rows * inner * width, variant.backward_inner),
        Block(_BACKWARD, rows * h * width, variant.backward_hidden),
        Block(_BACKWARD, rows * inner * FP32, WIDENED_INNER if widened else 0),
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
        LOSS: throughout + last + loss,
        BEGINS: [*throughout, *recomputed, *backward, Block(_TABLE, width * table)]
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
