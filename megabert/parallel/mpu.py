"""The topology in DeepSpeed's interface (its ``mpu`` argument).

DeepSpeed reads the data-parallel group for gradients and ZeRO partitions, and the model-parallel
group for the global gradient norm, for overflow checks and for checkpoint names.  The newer
``tensor_model_parallel`` names are needed when a universal checkpoint is loaded.  No method is
named after sequence parallelism: ZeRO would then leave tensor parallelism out of its norms.
"""

from __future__ import annotations

import torch.distributed as dist

from megabert.parallel.topology import ProcessGroups


class Mpu:
    """DeepSpeed's view of :class:`ProcessGroups`: model parallel = tensor parallel, no pipeline.

    It needs tensor parallelism: to DeepSpeed a model-parallel group that is None means all ranks, so
    that without tensor parallelism there must be no mpu.
    """

    def __init__(self, groups: ProcessGroups) -> None:
        if groups.tensor is None:
            raise ValueError("without tensor parallelism DeepSpeed needs no mpu")
        self._groups, self._tensor = groups, groups.tensor
        self._topology = groups.topology

    def get_data_parallel_group(self) -> dist.ProcessGroup:
        """Ranks that average gradients."""
        return self._groups.data

    def get_data_parallel_group_ranks(self) -> list[int]:
        """Global ranks of the data-parallel group."""
        return self._topology.data_group_ranks

    def get_data_parallel_rank(self) -> int:
        """Place in the data-parallel group."""
        return self._topology.data_parallel_rank

    def get_data_parallel_world_size(self) -> int:
        """Size of the data-parallel group."""
        return self._topology.data_parallel

    def get_model_parallel_group(self) -> dist.ProcessGroup:
        """Ranks that hold the splits of one model."""
        return self._tensor

    def get_model_parallel_rank(self) -> int:
        """Place in the model-parallel group."""
        return self._topology.tensor_parallel_rank

    def get_model_parallel_world_size(self) -> int:
        """Size of the model-parallel group."""
        return self._topology.tensor_parallel

    def get_tensor_model_parallel_group(self) -> dist.ProcessGroup:
        """The model-parallel group under its newer name."""
        return self._tensor

    def get_tensor_model_parallel_rank(self) -> int:
        """Place in the tensor-parallel group."""
        return self._topology.tensor_parallel_rank

    def get_tensor_model_parallel_world_size(self) -> int:
        """Size of the tensor-parallel group."""
        return self._topology.tensor_parallel

    def get_tensor_model_parallel_src_rank(self) -> int:
        """Global rank of the first member of the tensor-parallel group."""
        return self._topology.tensor_group_ranks[0]

    def get_pipe_parallel_rank(self) -> int:
        """There is one pipeline stage."""
        return 0

    def get_pipe_parallel_world_size(self) -> int:
        """There is one pipeline stage."""
        return 1
