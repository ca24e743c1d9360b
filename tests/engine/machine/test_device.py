"""The GPU of a rank, the variables of CUDA and NCCL, and the precision of old GPUs; with stubs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from megabert.common.errors import RankError, UserError
from megabert.common.processes.cuda_environment import set_cuda_variables, set_nccl_variables
from megabert.common.storage import memory_line
from megabert.engine import launch
from megabert.engine.config import resolve_precision
from megabert.engine.launch import check_versions
from megabert.engine.machine.device import claim_device, claim_own_device, own_device
from megabert.engine.watch.ending import WatchedRun
from megabert.engine.watch.guard import is_collective_failure
from megabert.parallel.topology import Topology


@pytest.mark.parametrize(
    ("local_rank", "visible", "device"), [("0", 8, 0), ("7", 8, 7), ("3", 1, 0), ("0", 1, 0)]
)
def test_the_device_of_a_rank(local_rank: str, visible: int, device: int) -> None:
    assert own_device({"LOCAL_RANK": local_rank}, visible) == device


def test_a_rank_without_a_device() -> None:
    environment = {"LOCAL_RANK": "4", "CUDA_VISIBLE_DEVICES": "0,1"}
    with pytest.raises(RankError, match=r"LOCAL_RANK is 4, and this rank sees 2 GPUs \(CUDA_VISI"):
        own_device(environment, 2)


def test_two_ranks_of_one_device_are_refused() -> None:
    store = torch.distributed.HashStore()
    claim_device(store, "host/a", 0)
    claim_device(store, "host/b", 1)
    with pytest.raises(RankError, match=r"ranks 1 and 2 have the same GPU \(host/b\)"):
        claim_device(store, "host/b", 2)


@pytest.mark.parametrize(("local_rank", "kind"), [("0", RankError), ("1", UserError)])
def test_one_rank_of_a_host_says_that_there_is_no_compiler(
    monkeypatch: pytest.MonkeyPatch, local_rank: str, kind: type[Exception]
) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(launch, "bind_to_gpu", lambda *_: None)
    environment = {"LOCAL_RANK": local_rank}
    monkeypatch.setattr(launch.os, "environ", environment)

    def refuse() -> None:
        raise UserError("no C compiler")

    monkeypatch.setattr(launch, "require_launcher", refuse)
    watched = WatchedRun(300.0, Path("run"), str)
    with pytest.raises(UserError) as caught:
        launch._prepare_cuda(Topology(2, int(local_rank), 2), watched)
    assert type(caught.value) is kind
    assert chosen == [torch.device("cuda", int(local_rank))]
    assert {"TORCH_NCCL_ASYNC_ERROR_HANDLING", "CUDA_DEVICE_MAX_CONNECTIONS"} < set(environment)


def test_variables_of_cuda() -> None:
    environment: dict[str, str] = {}
    set_cuda_variables(environment, tensor_parallel=1)
    assert environment == {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    set_cuda_variables(environment, tensor_parallel=2)
    assert environment["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"


def test_the_users_variables_stay() -> None:
    chosen = {"PYTORCH_ALLOC_CONF": "backend:native", "CUDA_DEVICE_MAX_CONNECTIONS": "8"}
    environment = dict(chosen)
    set_cuda_variables(environment, tensor_parallel=2)
    assert environment == chosen
    environment = {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "1", "NCCL_DEBUG": "INFO"}
    set_nccl_variables(environment)
    assert environment == {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "1", "NCCL_DEBUG": "INFO"}
    environment["TORCHELASTIC_RUN_ID"] = "none"  # whose agent sets 1
    set_nccl_variables(environment)
    assert environment["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "0"


@pytest.mark.parametrize(
    ("capability", "precision"), [((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")]
)  # fmt: skip
def test_auto_is_fp16_without_bf16_units(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], precision: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    assert resolve_precision("auto", cuda=True) == precision
    assert resolve_precision("auto", cuda=False) == "fp32"


def test_a_gpu_without_memory_names_the_cures() -> None:
    error = torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total"
    )
    line = str(memory_line(error))
    for cure in ("--micro-batch-size", "--activation-checkpointing on", "launch/plan.py"):
        assert cure in line


def test_nccl_without_memory_is_no_lost_rank() -> None:
    fault = torch.distributed.DistBackendError
    assert not is_collective_failure(fault("NCCL error: Cuda failure 2 'out of memory'"))
    assert is_collective_failure(fault("NCCL error: remote process exited"))


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("0.19.7", "loses gradients in some configurations; install 0.19.8 or newer"),
        ("0.20.0", "is not tested, and megabert reads its internal tables: pip install 'deepspeed>=0.19.8,<0.20'"),
        ("1.0.0+abc", "MEGABERT_UNTESTED_DEEPSPEED=1"),
    ],
)  # fmt: skip
def test_releases_of_deepspeed(monkeypatch: pytest.MonkeyPatch, version: str, words: str) -> None:
    import deepspeed

    check_versions()
    monkeypatch.setattr(deepspeed, "__version__", version)
    with pytest.raises(UserError) as caught:
        check_versions()
    assert words in str(caught.value)
    monkeypatch.setenv("MEGABERT_UNTESTED_DEEPSPEED", "1")
    if version != "0.19.7":
        check_versions()


def test_two_ranks_of_one_device_may_use_gloo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "gloo")
    claim_own_device(torch.device("cuda", 0), 1)  # asks no GPU
