"""Cores near a GPU, on a host that is drawn in a folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from megabert.engine.machine import cores
from megabert.engine.machine.cores import bind_to_gpu, cores_near, gpus_of_host

GPUS = ["0000:1b:00.0", "0000:43:00.0", "0000:9a:00.0"]
"""Two near the cores 0-3 and 8-11 (hardware threads of the same four cores), one near 4-7 and 12-15."""


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """Two NUMA nodes of four cores with two hardware threads each; three GPUs and a network card."""
    near = dict(zip(GPUS, ("0-3,8-11", "0-3,8-11", "4-7,12-15")))
    for address in [*GPUS, "0000:1c:00.0"]:
        folder = tmp_path / "bus/pci/devices" / address
        folder.mkdir(parents=True)
        (folder / "vendor").write_text("0x10de\n" if address in near else "0x15b3\n")
        (folder / "class").write_text("0x030200\n" if address in near else "0x020700\n")
        (folder / "local_cpulist").write_text(near.get(address, "0-15") + "\n")
    for core in range(16):
        folder = tmp_path / f"devices/system/cpu/cpu{core}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{core % 8},{core % 8 + 8}\n")
    return tmp_path


def test_gpus_share_the_cores_of_their_node(sysfs: Path) -> None:
    assert gpus_of_host(sysfs) == GPUS
    everything = range(16)
    assert cores_near(GPUS[0], GPUS, everything, sysfs) == [0, 1, 8, 9]
    assert cores_near(GPUS[1], GPUS, everything, sysfs) == [2, 3, 10, 11]
    assert cores_near(GPUS[2], GPUS, everything, sysfs) == [4, 5, 6, 7, 12, 13, 14, 15]
    assert cores_near(GPUS[0], [GPUS[0]], range(4), sysfs) == [0, 1, 2, 3]
    assert cores_near("0000:ff:00.0", GPUS, everything, sysfs) == []


def test_without_a_list_of_cores_the_node_is_read(sysfs: Path) -> None:
    folder = sysfs / "bus/pci/devices" / GPUS[2]
    (folder / "local_cpulist").unlink()
    (folder / "numa_node").write_text("1\n")
    node = sysfs / "devices/system/node/node1"
    node.mkdir(parents=True)
    (node / "cpulist").write_text("4-5\n")
    assert cores_near(GPUS[2], GPUS, range(16), sysfs) == [4, 5]


@pytest.mark.parametrize(
    ("environment", "shown", "bound", "threads"),
    [
        ({"LOCAL_RANK": "1", "LOCAL_SIZE": "3"}, 3, [2, 3, 10, 11], 4),
        ({"LOCAL_RANK": "1", "LOCAL_SIZE": "2"}, 3, [2, 3, 10, 11], 4),
        ({"LOCAL_RANK": "2", "SLURM_LOCALID": "2"}, 1, [0, 1, 8, 9], 4),  # its own GPU only
        ({"LOCAL_RANK": "0", "LOCAL_SIZE": "1", "OMP_NUM_THREADS": "8"}, 3, None, None),
        ({"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "3", "OMP_NUM_THREADS": "1",
          "TORCHELASTIC_RUN_ID": "none"}, 3, [0, 1, 8, 9], None),
    ],
)  # fmt: skip
def test_a_rank_is_bound_near_its_gpu(
    sysfs: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    shown: int,
    bound: list[int] | None,
    threads: int | None,
) -> None:
    set_to: dict[str, object] = {}
    _on_host(monkeypatch, shown, lambda name, value: set_to.update({name: value}))
    bind_to_gpu(environment, min(int(environment["LOCAL_RANK"]), shown - 1), sysfs)
    wanted = {"cores": bound, "threads": threads}
    assert set_to == {name: value for name, value in wanted.items() if value is not None}


def test_a_launcher_that_has_bound_the_rank_is_left_alone(
    sysfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_to: list[str] = []
    _on_host(monkeypatch, 3, lambda name, _: set_to.append(name))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16 if pid else 4)))
    bind_to_gpu({"LOCAL_RANK": "0", "LOCAL_SIZE": "3"}, 0, sysfs)
    assert not set_to


def _on_host(
    monkeypatch: pytest.MonkeyPatch, shown: int, note: Callable[[str, object], None]
) -> None:
    """A process that sees GPUs 0 .. ``shown`` - 1 of a host with 16 cores."""
    parts = [(int(one[:4], 16), int(one[5:7], 16), int(one[8:10], 16)) for one in GPUS]
    properties = [
        SimpleNamespace(pci_domain_id=domain, pci_bus_id=bus, pci_device_id=device)
        for domain, bus, device in parts
    ]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: shown)
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties.__getitem__)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: note("threads", count))
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(cores.os, "sched_setaffinity", lambda _, cores: note("cores", cores))
