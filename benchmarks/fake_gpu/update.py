"""One update of the real engine on a device of shapes only (:mod:`benchmarks.fake_gpu.device`)."""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.fake_gpu.device import open_device

WATCHING: list[Any] = []
"""What notes the launches."""


def _launched(kernel: Any, arguments: Any) -> None:
    for operations in WATCHING:
        operations.launched(kernel, arguments)


os.environ.update(RANK="0", LOCAL_RANK="0")
open_device(_launched)

import deepspeed  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from torch import nn  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.testing._internal.distributed.fake_pg import FakeStore  # noqa: E402

from benchmarks.fake_gpu.counting import Operations  # noqa: E402
from megabert.common.packed_batch import PackedBatch  # noqa: E402
from megabert.config.model import ModelConfig  # noqa: E402
from megabert.config.training import OptimizerSettings, ParallelSettings  # noqa: E402
from megabert.engine.build import build_engine  # noqa: E402
from megabert.engine.config import BatchSizes, storage_precision  # noqa: E402
from megabert.engine.launch import World  # noqa: E402
from megabert.engine.training_engine import TrainingEngine  # noqa: E402
from megabert.model.heads import BertForPreTraining  # noqa: E402
from megabert.parallel.rng import DropoutSeeds  # noqa: E402
from megabert.parallel.topology import ProcessGroups, Topology  # noqa: E402

logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
warnings.filterwarnings("ignore")
deepspeed.ops.__compatible_ops__ = {"deepspeed_shm_comm": False}  # it would be compiled

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
MASKED = 0.15
MULTIPLE = 128
"""Packed tokens are padded to a multiple of this, as on a GPU."""


@dataclass(frozen=True)
class Case:
    """What is counted.

    Attributes:
        fill: mean share of real tokens; the others of a sequence are missing, as packing leaves them out.
        sections: of a DeepSpeed file.
    """

    model: ModelConfig
    length: int
    micro_batch_size: int
    accumulation: int
    ranks: int
    parallel: ParallelSettings
    fill: float
    sections: dict[str, Any]


@dataclass(frozen=True)
class Counted:
    """A part of the update: the last micro step's forward, its backward, or the update's end.

    ``reads``: see :class:`~benchmarks.fake_gpu.counting.Operations`; ``peak``: bytes on the device.
    """

    operators: int
    kernels: list[Any]
    reads: list[str]
    peak: int


class FakeCuda(FakeTensorMode):
    """torch's fake mode, as if no GPU were there: it does not start CUDA."""

    avoid_device_init = property(lambda self: True)  # type: ignore[assignment]


def lengths_of(case: Case) -> np.ndarray:
    """Lengths of a micro batch: a part 2 (1 - fill) of the samples is short, evenly spread."""
    count, short = case.micro_batch_size, round(2 * (1 - case.fill) * case.micro_batch_size)
    lengths = np.full(count, case.length)
    lengths[:short] = np.linspace(2, case.length, short + 1, dtype=np.int64)[:short]
    return lengths


def _micro_batch(case: Case) -> PackedBatch[Any]:
    lengths = lengths_of(case)
    rest = -int(lengths.sum()) % MULTIPLE
    samples = len(lengths)
    labels = np.zeros(samples, dtype=np.int64)
    if rest:
        lengths, labels = np.append(lengths, rest), np.append(labels, -100)
    tokens = int(lengths.sum())
    masked = np.arange(round(MASKED * (tokens - rest)))
    batch = PackedBatch.from_lengths(
        np.zeros(tokens, dtype=np.int64),
        np.zeros(tokens, dtype=np.int64),
        lengths,
        case.length,
        np.arange(len(lengths)),
        {
            "masked_positions": masked,
            "masked_labels": np.zeros_like(masked),
            "next_sentence_labels": labels,
        },
    )
    return batch.map(torch.from_numpy)


def _unchanged(module: nn.Module, function: Any, recurse: bool = True) -> nn.Module:
    """In place of ``Module._apply``, which cannot swap fake tensors: the model is made as it is wanted."""
    return module


def _engine(case: Case, world: World) -> TrainingEngine:
    torch.set_default_dtype(DTYPES[storage_precision(case.parallel.precision)])
    with torch.device("cuda"):
        model = BertForPreTraining(
            case.model,
            world.tp,
            DropoutSeeds(1),
            activation_checkpointing=case.parallel.activation_checkpointing,
        )
    torch.set_default_dtype(torch.float32)
    nn.Module._apply = _unchanged  # type: ignore[method-assign,assignment]
    size = case.micro_batch_size * case.accumulation
    batch = BatchSizes(size * case.ranks, case.micro_batch_size, case.accumulation, case.ranks)
    settings = OptimizerSettings(lr=1e-3, steps=10, warmup_fraction=0.1)
    return build_engine(model, world, settings, case.parallel, batch, case.sections)


def count(case: Case) -> dict[str, Counted]:
    """Forward and backward of a micro step, and the end of an update, of the second update.

    All cases of a process have as many ranks.

    Raises:
        RuntimeError: the engine did not apply the updates.
    """
    if not dist.is_initialized():
        os.environ["WORLD_SIZE"] = str(case.ranks)
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=case.ranks)
    topology = Topology(case.ranks, 0, 1)
    groups = ProcessGroups.create(topology)
    world = World(topology, groups, None, groups.tensor_parallel, torch.device("cuda", 0))
    operations = Operations()
    WATCHING[:] = [operations]
    counted = {}

    def part(name: str) -> None:
        counted[name] = Counted(
            operations.operators, operations.kernels, operations.reads, operations.peak
        )
        operations.forget()

    with FakeCuda(allow_non_fake_inputs=True), operations:
        engine = _engine(case, world)
        batch = _micro_batch(case)
        for _ in range(2):
            for _ in range(case.accumulation):
                operations.forget()
                output = engine(batch.to(world.device))
                loss = output.mlm_loss_sum / 8.0 + output.nsp_loss_sum / 8.0
                part("forward")
                engine.backward(loss)
                del output, loss
                part("backward")
                engine.step()
            part("update")
        if engine.steps_done != 2:
            raise RuntimeError("DeepSpeed did not apply the updates")
        engine.close()
    return counted
