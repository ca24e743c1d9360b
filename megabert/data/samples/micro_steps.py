"""The samples of each rank at each micro step, and those of each window: pure arithmetic."""

from dataclasses import dataclass

import numpy as np

from megabert.common.errors import UserError
from megabert.data.samples.counter_rng import Ints
from megabert.data.samples.packing import Window


@dataclass(frozen=True)
class MicroSteps:
    """The samples of one rank at each micro step.

    At micro step k of the run, data-parallel rank r gets `micro_batch_size` samples, the first of them
    `consumed_samples + (k * data_parallel_size + r) * micro_batch_size`. All ranks of a
    tensor-parallel group have the same data-parallel rank, and therefore the same samples.

    Raises:
        UserError: a size below 1, a rank outside its group, or a negative count of samples.
    """

    micro_batch_size: int
    data_parallel_rank: int
    data_parallel_size: int
    consumed_samples: int = 0

    def __post_init__(self) -> None:
        if self.micro_batch_size < 1 or self.data_parallel_size < 1:
            raise UserError(
                f"micro batch size {self.micro_batch_size} and data-parallel size "
                f"{self.data_parallel_size} must be at least 1"
            )
        if not 0 <= self.data_parallel_rank < self.data_parallel_size:
            raise UserError(
                f"data-parallel rank {self.data_parallel_rank} is not within "
                f"0 .. {self.data_parallel_size - 1}"
            )
        if self.consumed_samples < 0:
            raise UserError(f"consumed samples {self.consumed_samples} is negative")

    @property
    def stride(self) -> int:
        """Samples that all ranks together take at one micro step."""
        return self.micro_batch_size * self.data_parallel_size

    def first_sample(self, micro_step: int) -> int:
        """Number of this rank's first sample at a micro step."""
        return (
            self.consumed_samples
            + micro_step * self.stride
            + self.data_parallel_rank * self.micro_batch_size
        )

    def until(self, stop: int) -> int:
        """Whole micro steps whose sample numbers are all below `stop`."""
        return max(0, stop - self.consumed_samples) // self.stride

    def of_window(self, window: Window, number: int) -> Ints:
        """Numbers of all samples of a window; window n begins at micro step n * window.micro_steps.

        int64 [window.micro_batches * micro_batch_size]: by micro step, then rank, then number.
        """
        micro_steps = number * window.micro_steps + np.arange(window.micro_steps)
        first_rank = self.data_parallel_rank - self.data_parallel_rank % window.ranks
        firsts = self.consumed_samples + micro_steps * self.stride
        firsts += first_rank * self.micro_batch_size
        return (firsts[:, None] + np.arange(window.ranks * self.micro_batch_size)).ravel()
