"""One micro batch: packed tokens of whole sequences, and what a loss reads of them.

The loader and the tasks make a batch of numpy arrays, once. It passes whole through the engine to the
model:

    batch = PackedBatch.from_lengths(ids, types, lengths, max_length)    # numpy
    batch = batch.map(torch.from_numpy).to(device)                       # tensors, without waiting
    output = model(batch)

A batch may hold padding: then every sequence has ``max_length`` tokens, and ``attention_mask`` says which
are real. This module does not import torch: the data tools run without it.

Shapes: T tokens of the batch, padding included; P sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from operator import methodcaller
from typing import Any, Generic, Protocol, TypeVar, cast

import numpy as np


class _ArrayLike(Protocol):
    """What numpy arrays and torch tensors have in common."""

    def __getitem__(self, key: Any, /) -> Any: ...
    def __len__(self) -> int: ...


Array = TypeVar("Array", bound=_ArrayLike)
Other = TypeVar("Other", bound=_ArrayLike)
Ids = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedBatch(Generic[Array]):
    """A micro batch.

    Args:
        input_ids: int64 [T].
        token_type_ids: int64 [T].
        position_ids: int64 [T]: 0, 1, ... in each sequence.
        cu_seqlens: int32 [P + 1], from 0 to T: where sequences begin and end.
        max_length: a bound of the sequences' lengths, the same in all batches of a run, so that nothing
            is compiled again; in a padded batch the length of every sequence.
        real_samples: sequences that are samples. Others only fill up the batch and come last.
        real_tokens: tokens of these samples, without padding.
        attention_mask: int64 [P, max_length], 1 for real tokens, in a padded batch; None in a packed one.
        sample_numbers: int64 [P], the samples' numbers in the run, for the dropout masks; None outside of
            training.
        first_sample: a number of this micro step alone, for dropout masks that a generator draws.
        labels: further arrays of the batch by name, which the loss, the metric or the head reads.
    """

    input_ids: Array
    token_type_ids: Array
    position_ids: Array
    cu_seqlens: Array
    max_length: int
    real_samples: int
    real_tokens: int
    attention_mask: Array | None = None
    sample_numbers: Array | None = None
    first_sample: int = 0
    labels: Mapping[str, Array] = field(default_factory=dict)

    @staticmethod
    def from_lengths(
        input_ids: Ids,
        token_type_ids: Ids,
        lengths: Ids,
        max_length: int,
        sample_numbers: Ids | None = None,
        labels: Mapping[str, Ids] | None = None,
    ) -> PackedBatch[Ids]:
        """Sequences that already lie end to end, ``lengths`` int [P] tokens each."""
        ends = np.concatenate(([0], np.cumsum(lengths)))
        return PackedBatch(
            input_ids=input_ids.astype(np.int64, copy=False),
            token_type_ids=token_type_ids.astype(np.int64, copy=False),
            position_ids=np.arange(ends[-1]) - np.repeat(ends[:-1], lengths),
            cu_seqlens=ends.astype(np.int32),
            max_length=max_length,
            real_samples=len(lengths),
            real_tokens=int(ends[-1]),
            sample_numbers=sample_numbers,
            labels=labels or {},
        )

    @staticmethod
    def from_padded(
        input_ids: Ids,
        token_type_ids: Ids | None = None,
        attention_mask: Ids | None = None,
        sample_numbers: Ids | None = None,
        labels: Mapping[str, Ids] | None = None,
    ) -> PackedBatch[Ids]:
        """Rows of one length, int64 [P, S], with their padding.

        Without token types they are 0; without a mask every token is real, and the batch is a packed one.
        """
        rows, width = input_ids.shape
        types = np.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        real = input_ids.size if attention_mask is None else int(attention_mask.sum())
        return PackedBatch(
            input_ids=input_ids.reshape(-1),
            token_type_ids=types.reshape(-1),
            position_ids=np.tile(np.arange(width), rows),
            cu_seqlens=np.arange(rows + 1, dtype=np.int32) * np.int32(width),
            max_length=width,
            real_samples=rows,
            real_tokens=real,
            attention_mask=attention_mask,
            sample_numbers=sample_numbers,
            labels=labels or {},
        )

    def map(self, function: Callable[[Array], Other]) -> PackedBatch[Other]:
        """The batch with ``function`` of each of its arrays; numbers stay as they are."""

        def mapped(value: Any) -> Any:
            if value is None or isinstance(value, int):
                return value
            if isinstance(value, Mapping):
                return {name: function(array) for name, array in value.items()}
            return function(value)

        values = {item.name: mapped(getattr(self, item.name)) for item in fields(self)}
        return cast("PackedBatch[Other]", PackedBatch(**values))

    def to(self, device: object) -> PackedBatch[Array]:
        """Tensors on ``device`` (a torch.device); the copies are started, not waited for."""
        return self.map(methodcaller("to", device, non_blocking=True))

    def pin_memory(self) -> PackedBatch[Array]:
        """Tensors in page-locked memory, for quicker copies to a GPU."""
        return self.map(methodcaller("pin_memory"))

    @property
    def num_sequences(self) -> int:
        """Sequences, P."""
        return len(self.cu_seqlens) - 1

    @cached_property
    def lengths(self) -> Array:
        """Tokens of each sequence, padding included, int32 [P]."""
        lengths: Array = self.cu_seqlens[1:] - self.cu_seqlens[:-1]
        return lengths

    @property
    def first_tokens(self) -> Array:
        """Places of the sequences' first tokens, int32 [P]."""
        first: Array = self.cu_seqlens[:-1]
        return first
