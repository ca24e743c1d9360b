"""What data-parallel training sends and when, by ZeRO stage, counted in DeepSpeed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from torch import Tensor

from megabert.config.training import OptimizerSettings, ParallelSettings
from megabert.engine import launch
from megabert.engine.build import build_engine
from megabert.engine.config import BatchSizes
from megabert.model.heads import BertForPreTraining
from megabert.model.init import initialize_weights
from tests.helpers.distributed import run_ranks
from tests.helpers.model_cases import batch_of, tiny_batch, tiny_config

MICRO_STEPS, RANKS = 3, 2

# method of a process group -> place of the argument that holds all the ranks' elements, kind; torch
# 2.13 gave two of them new names
METHODS = {
    "allreduce": (0, "all-reduce"),
    "reduce": (0, "reduce"),
    "reduce_scatter_single": (1, "reduce-scatter"),
    "_reduce_scatter_base": (1, "reduce-scatter"),
    "all_gather_single": (0, "all-gather"),
    "_allgather_base": (0, "all-gather"),
    "broadcast": (0, "broadcast"),
    "allgather": (0, "other"),
    "reduce_scatter": (1, "other"),
    "allreduce_coalesced": (0, "other"),
    "allgather_coalesced": (0, "other"),
    "allgather_into_tensor_coalesced": (0, "other"),
    "all_gather_single_coalesced": (0, "other"),
    "reduce_scatter_tensor_coalesced": (1, "other"),
    "reduce_scatter_single_coalesced": (1, "other"),
    "alltoall": (0, "other"),
    "alltoall_base": (0, "other"),
    "all_to_all_single": (0, "other"),
}
Sent = dict[str, tuple[int, int]]
"""Kind of collective -> (calls, bytes of the whole tensors)."""


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return sum(map(_bytes, value))


@contextmanager
def collectives() -> Iterator[Callable[[], Sent]]:
    """Count every collective of every process group; the yielded function reports and starts again at zero."""
    calls: Counter[str] = Counter()
    sizes: Counter[str] = Counter()

    def counted(method: Any, place: int, kind: str) -> Any:
        def call(group: Any, *args: Any, **kwargs: Any) -> Any:
            calls[kind] += 1
            sizes[kind] += _bytes(args[place])
            return method(group, *args, **kwargs)

        return call

    def report() -> Sent:
        sent = {kind: (calls[kind], sizes[kind]) for kind in calls}
        calls.clear()
        sizes.clear()
        return sent

    with pytest.MonkeyPatch.context() as patch:
        for name, (place, kind) in METHODS.items():
            if hasattr(dist.ProcessGroup, name):
                method = getattr(dist.ProcessGroup, name)
                patch.setattr(dist.ProcessGroup, name, counted(method, place, kind))
        yield report


def updates(
    world: launch.World, stage: int, precision: str, zero: dict[str, Any], wide: bool = False
) -> dict:
    """Two updates of three micro steps; what the second one sent, and both norms and losses."""
    config = tiny_config()
    model = BertForPreTraining(config)
    initialize_weights(model, config, seed=0)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    engine = build_engine(
        model,
        world,
        OptimizerSettings(
            gradient_clipping=0.1, schedule="constant", steps=10, lr=0.01, warmup_fraction=0.0
        ),
        ParallelSettings(zero_stage=stage, precision=precision),
        BatchSizes(3 * MICRO_STEPS * RANKS, 3, MICRO_STEPS, RANKS),
        {"zero_optimization": zero} | ({"communication_data_type": "fp32"} if wide else {}),
    )
    values: list[float] = []
    sent: list[dict[str, Sent]] = []
    with collectives() as report:
        for update in range(2):
            sent.clear()
            for micro in range(MICRO_STEPS):
                report()
                seed = (update * MICRO_STEPS + micro) * RANKS + world.topology.rank
                output = engine(batch_of(**tiny_batch(config, seed=seed)))
                loss = (output.mlm_loss_sum + output.nsp_loss_sum) / (MICRO_STEPS * RANKS)
                forward = report()
                engine.backward(loss)
                backward = report()
                engine.step()
                sent.append({"forward": forward, "backward": backward, "step": report()})
                values.append(loss.item())
            values.append(engine.grad_norm())
    engine.close()
    return {"parameters": parameters, "values": values, "sent": sent}


WHOLE = {"stage3_param_persistence_threshold": 0}  # every weight is partitioned, small ones too
FREED = WHOLE | {"stage3_max_live_parameters": 1, "stage3_max_reuse_distance": 0}
CASES: dict[str, tuple[int, str, dict[str, Any]]] = {
    "0": (0, "fp32", {}),
    "0 bf16": (0, "bf16", {}),
    "1": (1, "fp32", {}),
    "1 overlap": (1, "fp32", {"overlap_comm": True}),
    "1 small buckets": (1, "fp32", {"reduce_bucket_size": 8000, "allgather_bucket_size": 1000}),
    "1 bf16": (1, "bf16", {}),
    "1 bf16, sent in fp32": (1, "bf16", {}),
    "2": (2, "fp32", {}),
    "2 overlap": (2, "fp32", {"overlap_comm": True}),
    "2 reduce": (2, "fp32", {"use_multi_rank_bucket_allreduce": False}),
    "2 bf16": (2, "bf16", {}),
    "3": (3, "fp32", WHOLE),
    "3 overlap, freed": (3, "fp32", FREED | {"overlap_comm": True, "reduce_bucket_size": 8000}),
}


def _all_cases(rank: int, world_size: int) -> dict[str, Any]:
    world = launch.start()
    found = {
        name: updates(world, *case, wide="sent in fp32" in name) for name, case in CASES.items()
    }
    assert len(dist.distributed_c10d._world.pg_map) == 1, "DeepSpeed made a group, a communicator"
    return found


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    first, second = run_ranks(_all_cases, RANKS, initialize=False, timeout=170)
    for name, result in first.items():
        assert result["sent"] == second[name]["sent"], name
    return first


def of_gradients(found: dict[str, Any], name: str) -> list[Sent]:
    """Collectives of each micro step's backward."""
    return [micro["backward"] for micro in found[name]["sent"]]


def near(value: int, elements: int, size: int) -> bool:
    """Whether it is ``elements`` of ``size`` bytes, up to ZeRO's padding of each group's partitions."""
    return elements * size <= value <= elements * size + 1024


def test_nothing_is_sent_before_the_boundary(found: dict[str, Any]) -> None:
    for name in (
        "0", "0 bf16", "1", "1 overlap", "1 small buckets", "1 bf16", "1 bf16, sent in fp32"
    ):  # fmt: skip
        for micro in found[name]["sent"][:-1]:
            assert micro == {"forward": {}, "backward": {}, "step": {}}, name
        last = of_gradients(found, name)[-1]
        assert set(last) == {"all-reduce"}, name
        size = 2 if name.endswith("bf16") else 4
        assert near(last["all-reduce"][1], found[name]["parameters"], size), name


def test_stages_2_and_3_reduce_in_every_micro_step(found: dict[str, Any]) -> None:
    for name, kind in (
        ("2", "all-reduce"), ("2 overlap", "all-reduce"), ("2 reduce", "reduce"),
        ("2 bf16", "all-reduce"), ("3", "reduce-scatter"), ("3 overlap, freed", "reduce-scatter"),
    ):  # fmt: skip
        size = 2 if "bf16" in name else 4
        for backward in of_gradients(found, name):
            assert near(backward[kind][1], found[name]["parameters"], size), (name, backward)
            assert set(backward) <= {kind, "all-gather"}, (name, backward)


def test_when_weights_are_gathered(found: dict[str, Any]) -> None:
    for name in ("1", "1 bf16", "2", "2 bf16"):  # once per update
        step = found[name]["sent"][-1]["step"]
        size = 2 if "bf16" in name else 4
        assert near(step["all-gather"][1], found[name]["parameters"], size), name
        assert step["all-reduce"][1] < 4096, name  # norms and trust ratios
    for micro in found["3"]["sent"]:  # once per micro step, and kept until backward
        assert micro["forward"]["all-gather"][1] <= 4 * found["3"]["parameters"] + 1024
        assert "all-gather" not in micro["backward"]
    for micro in found["3 overlap, freed"]["sent"]:  # twice per micro step
        for part in ("forward", "backward"):
            assert near(micro[part]["all-gather"][1], found["3"]["parameters"], 4), part


def test_overlap_and_buckets_change_no_value(found: dict[str, Any]) -> None:
    for name in ("1 overlap", "1 small buckets"):
        assert found[name]["values"] == found["1"]["values"], name
    for name in ("2 overlap", "2 reduce"):
        assert found[name]["values"] == found["2"]["values"], name
    assert found["3 overlap, freed"]["values"] == found["3"]["values"]


def test_stages_agree(found: dict[str, Any]) -> None:
    expected = found["0"]["values"]
    for name in ("1", "2", "3"):
        assert found[name]["values"] == pytest.approx(expected, rel=1e-5), name
    for name in ("0 bf16", "1 bf16", "2 bf16"):
        assert found[name]["values"] == pytest.approx(expected, rel=3e-2), name


def test_buckets_cut_the_reduction_and_nothing_else(found: dict[str, Any]) -> None:
    whole, cut = of_gradients(found, "1")[-1], of_gradients(found, "1 small buckets")[-1]
    assert cut["all-reduce"][0] > whole["all-reduce"][0] == 1
    assert cut["all-reduce"][1] == whole["all-reduce"][1]
    gathers = [found[name]["sent"][-1]["step"]["all-gather"] for name in ("1", "1 small buckets")]
    assert gathers[0] == gathers[1]  # allgather_bucket_size has no effect
    assert of_gradients(found, "3 overlap, freed")[0]["reduce-scatter"][0] > 1


def test_shipped_files_set_what_has_an_effect(root: Path) -> None:
    for path in sorted((root / "ds_configs").glob("*.json")):
        zero = json.loads(path.read_text(encoding="utf-8"))["zero_optimization"]
        assert zero["overlap_comm"] is False
        assert zero["contiguous_gradients"] is True
        assert "allgather_bucket_size" not in zero
        # the staging buffer has that size, whatever the model's
        assert zero["reduce_bucket_size"] <= 5e7, path.stem
