"""Vocabulary padding of foreign checkpoints: unused rows, added for the hardware's benefit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from megabert.common.log import get_logger
from megabert.config.model import ModelConfig
from megabert.model.weights import true_vocabulary

_MULTIPLES = tuple(2**i for i in range(3, 11))

log = get_logger("megabert.convert")


def is_padding(rows: int, words: int) -> bool:
    """Whether ``rows`` is ``words`` rounded up to a multiple of 8, 16, ..., 1,024.

    >>> is_padding(30528, 30522), is_padding(30592, 30522), is_padding(30525, 30522)
    (True, True, False)
    """
    return rows > words and any(rows == -(-words // m) * m for m in _MULTIPLES)


def without_padding(
    config: ModelConfig, tensors: Mapping[str, Tensor], words: int | None, origin: object
) -> tuple[ModelConfig, dict[str, Tensor], list[tuple[str, str]]]:
    """Remove the padding rows of the word embeddings and the MLM bias.

    Args:
        config: of the checkpoint; its ``vocab_size`` includes the padding.
        tensors: under megabert's names.
        words: number of entries of its tokenizer; None if it is not known.
        origin: the checkpoint, for messages.

    Returns:
        the configuration and the tensors without padding, and (name, reason) of the removed rows.
        All rows remain if ``words`` is not known, or if the surplus is not padding (which is
        logged).
    """
    rows = config.vocab_size
    if words is None or rows <= words:
        return config, dict(tensors), []
    if not is_padding(rows, words):
        log.warning(
            "%s: %d words, but its tokenizer has %d; a surplus that rounding up does not explain",
            origin,
            rows,
            words,
        )
        return config, dict(tensors), []
    cut = {name: true_vocabulary(name, tensor, words) for name, tensor in tensors.items()}
    removed = [
        (f"rows {words} to {rows - 1} of {name}", "padding of the vocabulary")
        for name, tensor in tensors.items()
        if cut[name].shape != tensor.shape
    ]
    return replace(config, vocab_size=words), cut, removed
