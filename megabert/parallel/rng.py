"""Dropout that does not depend on history.

Each place that drops draws from torch's generator of the device after seeding it with

    hash(seed, first sample number of the micro batch, layer, region[, tensor-parallel rank])

so a mask is a pure function of where it is used.  Outside split regions every tensor-parallel rank
seeds alike and drops the same units; inside them (attention probabilities of the rank's own heads)
the rank is part of the seed.  A resumed run, and a layer recomputed by activation checkpointing, see
the same masks with no generator state saved anywhere.

    streams.start(first_sample)            # once a micro step, by the loop
    dropout = streams.layer(i)             # by the model, before a layer
    dropout.begin()                        # at the layer's entry, recomputed or not
    with dropout.split(): ...              # around what the ranks hold different parts of
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from megabert.parallel.topology import TensorParallel

EMBEDDINGS = -1
"""Layer number of the embeddings."""

_ENTRY, _SPLIT, _AFTER = range(3)


@dataclass(frozen=True)
class LayerDropout:
    """The dropout streams of one layer in one micro step; a value, so recomputation repeats it."""

    entry: int
    inside: int
    after: int
    generator: torch.Generator

    def begin(self) -> None:
        """Seed for the part of the layer that all tensor-parallel ranks compute alike."""
        self.generator.manual_seed(self.entry)

    @contextlib.contextmanager
    def split(self) -> Iterator[None]:
        """Seed for a split region; afterwards all ranks drop alike again."""
        self.generator.manual_seed(self.inside)
        yield
        self.generator.manual_seed(self.after)


class FreeDropout:
    """Draws from the generator as it stands: one rank, no recomputation, or no dropout at all."""

    def begin(self) -> None:
        """Leave the generator alone."""

    def split(self) -> contextlib.AbstractContextManager[None]:
        """Leave the generator alone."""
        return contextlib.nullcontext()


class DropoutStreams:
    """Dropout seeds of a run: ``seed`` of the run, ``tp`` and the device the model computes on."""

    def __init__(
        self,
        seed: int,
        tp: TensorParallel | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.seed = seed
        self.rank = tp.rank if tp is not None else 0
        self._generator = _default_generator(torch.device(device))
        self._first_sample: int | None = None

    def start(self, sample_number: int) -> None:
        """Begin the micro step whose first sample has this global number (>= 0)."""
        self._first_sample = int(sample_number)

    def layer(self, layer: int) -> LayerDropout:
        """The streams of ``layer`` (EMBEDDINGS, or 0 and up) in the current micro step."""
        if self._first_sample is None:
            raise RuntimeError("DropoutStreams.start(sample_number) comes before a training step")
        place = (self.seed, self._first_sample, layer)
        return LayerDropout(
            _hash(*place, _ENTRY),
            _hash(*place, _SPLIT, self.rank),
            _hash(*place, _AFTER),
            self._generator,
        )


def _hash(*numbers: int) -> int:
    text = ",".join(map(str, numbers)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def _default_generator(device: torch.device) -> torch.Generator:
    if device.type == "cuda":
        torch.cuda.init()
        index = device.index if device.index is not None else torch.cuda.current_device()
        return torch.cuda.default_generators[index]
    if device.type == "cpu":
        return torch.default_generator
    raise ValueError(f"no dropout streams for device {device}")
