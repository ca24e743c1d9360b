"""Throughput metrics: counted work, clocks, published peaks, and the lines of real runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megabert.common.hardware import ACCELERATORS, find_accelerator
from megabert.config.model import model_config
from megabert.engine.metrics import clock as timing
from megabert.engine.metrics import devices
from megabert.engine.metrics.clock import DeviceClock, HostClock
from megabert.engine.metrics.token_counts import Workload, workload
from megabert.engine.metrics.writer import MetricsWriter, progress_text
from megabert.model.flops import sequence_flops
from megabert.pretrain.inputs import open_inputs
from tests.helpers.model_cases import batch_of
from tests.helpers.training_runs import TINY, make_shards, metrics, settings_of, train

PEAK = 0.5  # TFLOP/s, for --peak-tflops
SHARES = ("data_wait_fraction", "forward_fraction", "backward_fraction", "optimizer_fraction")
KEYS = {
    *SHARES, "tokens_per_second", "padded_tokens_per_second", "samples_per_second",
    "padding_fraction", "model_tflops_per_second", "mfu", "peak_tflops",
    "communication_fraction", "update_seconds_p50", "update_seconds_p95", "peak_memory_bytes",
}  # fmt: skip


# ---------------------------------------------------------------- counted work


def test_work_of_a_padded_batch() -> None:
    mask = torch.zeros(2, 6, dtype=torch.int64)
    mask[0, :4] = mask[1, :3] = 1
    batch = batch_of(mask, attention_mask=mask, masked_positions=torch.arange(5))
    assert workload(batch) == Workload(2, 7, 12, 16 + 9, 5)


def test_work_of_a_packed_batch_leaves_out_its_tail() -> None:
    batch = batch_of(
        torch.zeros(8, dtype=torch.int64),
        torch.zeros(8, dtype=torch.int64),
        cu_seqlens=torch.tensor([0, 4, 7, 8], dtype=torch.int32),
        sample_numbers=torch.tensor([12, 3, -1]),
        masked_positions=torch.arange(2),
    )
    work = workload(dataclasses.replace(batch, real_samples=2))
    assert work == Workload(2, 7, 8, 16 + 9, 2)
    assert work.padding_fraction == pytest.approx(1 / 8)


@given(st.lists(st.tuples(st.integers(1, 512), st.integers(0, 80)), min_size=1, max_size=20))
def test_flops_of_work_are_those_of_its_sequences(sequences: list[tuple[int, int]]) -> None:
    config, total = model_config("bert-mini"), Workload()
    for length, predictions in sequences:
        total = total.plus(Workload(1, length, 512, length**2, predictions))
    expected = sum(sequence_flops(config, *sequence) for sequence in sequences)
    assert total.flops(config) == pytest.approx(expected, rel=1e-12)


# ---------------------------------------------------------------- clocks


def test_host_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([10.0, 11.0, 13.0, 16.0, 20.0, 21.0, 21.5])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(now))
    clock = HostClock()
    clock.begin(sampled=False)
    clock.enter("forward")
    clock.enter("backward")
    clock.enter("optimizer")
    clock.end()
    clock.begin(sampled=False)
    clock.end()
    times = clock.read()
    assert times.updates == [10.0, 0.5]
    assert times.phases == {"data": 1.5, "forward": 2.0, "backward": 3.0, "optimizer": 4.0}
    assert times.fraction("forward") == pytest.approx(2.0 / 10.5)
    assert clock.read().updates == []


class FakeEvent:
    """The events of a device that takes 1 ms more for each of its events."""

    now = 0.0

    def record(self) -> None:
        FakeEvent.now += 1.0
        self.at = FakeEvent.now

    def elapsed_time(self, later: FakeEvent) -> float:
        return later.at - self.at


def test_device_clock_takes_phases_of_sampled_updates_only() -> None:
    clock = DeviceClock(torch.device("cpu"), FakeEvent)
    for sampled in (False, True):
        clock.begin(sampled)
        for phase in ("forward", "backward", "forward", "backward", "optimizer"):
            clock.enter(phase)
        clock.end()
    times = clock.read()
    assert times.updates == pytest.approx([0.001, 0.006])
    assert times.timed == pytest.approx(0.006)
    assert times.phases == pytest.approx(
        {"data": 0.001, "forward": 0.002, "backward": 0.002, "optimizer": 0.001}
    )
    assert times.communication is None


def test_collectives_are_plain_again_afterwards() -> None:
    group, work = torch.distributed.ProcessGroup, torch.distributed.Work
    before = dict(vars(group)), dict(vars(work))
    with HostClock().running():
        assert vars(work)["wait"] is not before[1]["wait"]
        assert vars(group)["allreduce"] is not before[0]["allreduce"]
    assert (dict(vars(group)), dict(vars(work))) == before


# ---------------------------------------------------------------- devices


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie-80"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA A10", "a10"),
        ("Tesla V100-SXM2-16GB", "v100-16"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA A10G", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
    ],
)
def test_published_devices_are_found_by_their_drivers_names(device: str, name: str | None) -> None:
    found = find_accelerator(device)
    assert (found and found.name) == name


def test_published_figures_are_of_one_kind() -> None:
    """Dense peaks: fp8 twice bf16, TF32 half of it; single precision below both; SI units."""
    for one in ACCELERATORS.values():
        assert one.fp32_flops < one.fp16_flops
        assert 1e12 < one.fp32_flops < 1e15
        assert 1e11 < one.memory_bandwidth < 1e13
        assert 1e10 < one.memory_bytes < 3e11
        for value, times in ((one.fp8_flops, 2.0), (one.tf32_flops, 0.5)):
            if value is not None:
                assert value == pytest.approx(times * one.fp16_flops, rel=0.02), one.name
    assert ACCELERATORS["v100-16"].peak_flops("bf16") is None


def test_peak_of_a_cpu_is_measured() -> None:
    peak, source = devices.peak_flops(torch.device("cpu"), "fp32")
    assert peak is not None
    assert 1e8 < peak < 1e14
    assert source.startswith("measured")


def test_peak_memory_grows_with_the_process() -> None:
    before = devices.peak_rank_memory(torch.device("cpu"))
    held = torch.ones(int(before) // 4 + 1000)  # as much again, whatever the peak was
    assert devices.peak_rank_memory(torch.device("cpu")) >= before + held.numel()


# ---------------------------------------------------------------- runs


def test_damaged_lines_and_those_of_later_steps_go(tmp_path: Path) -> None:
    """A power cut leaves half a line, or bytes that are not text."""
    damaged = b'{"step": 1}\n{"step": 2}\n{"st\xff\0\n{"step": 3}\n{"ste'
    (tmp_path / "metrics.jsonl").write_bytes(damaged)
    MetricsWriter(tmp_path, enabled=True, resumed_step=2).close()
    assert metrics(tmp_path) == [{"step": 1}, {"step": 2}]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"))


OPTIONS = (
    "--packing",
    "off",
    "--log-interval",
    "3",
    "--steps",
    "5",
    "--peak-tflops",
    str(PEAK),
    "--zero-stage",
    "2",
)


@pytest.fixture(scope="module")
def whole(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks, five updates of two micro steps, a line after three and after five."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train(shards, run, *OPTIONS, ranks=2)
    return run


def timed_lines(run: Path) -> list[dict[str, Any]]:
    return [line for line in metrics(run) if "loss" in line]


def check(lines: list[dict[str, Any]]) -> None:
    assert [line["step"] for line in lines] == [3, 5]
    for line in lines:
        assert line.keys() >= KEYS
        assert line["padded_tokens_per_second"] >= line["tokens_per_second"] > 0
        assert line["padding_fraction"] == pytest.approx(
            1 - line["tokens_per_second"] / line["padded_tokens_per_second"]
        )
        assert line["peak_tflops"] == PEAK
        assert line["mfu"] == pytest.approx(line["model_tflops_per_second"] / PEAK)
        assert all(0 <= line[share] <= 1 for share in (*SHARES, "communication_fraction"))
        assert 0 < sum(line[share] for share in SHARES) <= 1
        assert min(line[share] for share in SHARES[1:]) > 0
        assert line["communication_fraction"] > 0
        assert 0 < line["update_seconds_p50"] <= line["update_seconds_p95"]
        assert line["peak_memory_bytes"] > 1e8


def test_lines_of_a_run(whole: Path) -> None:
    lines = timed_lines(whole)
    check(lines)
    assert "MFU" in progress_text(lines[0])


def test_flops_are_those_of_the_samples(whole: Path, shards: Path) -> None:
    """Recounted from the shards; the rate per sample does not depend on the clock."""
    argv = [*TINY, "--data", str(shards), *OPTIONS]
    settings = settings_of(argv)
    inputs = open_inputs(settings)
    samples = inputs.train.samples(np.arange(5 * 8))
    lengths = samples.lengths
    flops = sum(sequence_flops(inputs.model, int(length), 0) for length in lengths)
    flops += len(samples.masked_positions) * sequence_flops(inputs.model, 0, 1)
    totals = json.loads((whole / "results.json").read_text())["whole_run"]
    a_sample = 2 * 1e12 * totals["model_tflops_per_second"] / totals["samples_per_second"]
    assert a_sample == pytest.approx(flops / (5 * 8), rel=1e-9)
    assert totals["padding_fraction"] == pytest.approx(1 - lengths.sum() / (5 * 8 * 32))
    seconds = totals["train_seconds"]
    assert totals["tokens_per_second"] * seconds == pytest.approx(lengths.sum(), rel=0.01)
    assert totals["mfu"] == pytest.approx(totals["model_tflops_per_second"] / PEAK)


def test_a_resumed_run_continues_counting(whole: Path, shards: Path, tmp_path: Path) -> None:
    """Stopped between two lines: counts and times of both parts add up."""
    run = tmp_path / "run"
    train(shards, run, *OPTIONS, "--stop-after", "2", ranks=2)
    first = json.loads((run / "results.json").read_text())["whole_run"]
    train(shards, run, *OPTIONS, "--resume", "auto", ranks=2)
    second = json.loads((run / "results.json").read_text())["whole_run"]
    expected = json.loads((whole / "results.json").read_text())["whole_run"]
    work = [json.loads((folder / "checkpoints" / "step-0000005" / "megabert.json").read_text())
            for folder in (run, whole)]  # fmt: skip
    assert work[0]["work"] == work[1]["work"]
    assert second["train_seconds"] > first["train_seconds"]
    assert second["padding_fraction"] == expected["padding_fraction"]
    done = second["samples_per_second"] * second["train_seconds"]
    assert done == pytest.approx(5 * 8, rel=0.01)


def test_packed_batches_have_no_padding(shards: Path, tmp_path: Path) -> None:
    train(shards, tmp_path / "run", *OPTIONS, "--packing", "on", ranks=2)
    lines = timed_lines(tmp_path / "run")
    check(lines)
    assert [line["padding_fraction"] for line in lines] == [0.0, 0.0]
