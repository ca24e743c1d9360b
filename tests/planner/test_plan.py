"""The planner: arithmetic by hand, and properties."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megabert.common.errors import UserError
from megabert.config import flags
from megabert.config.model import ModelConfig, model_config
from megabert.model.flops import sequence_flops
from megabert.model.heads import BertForPreTraining
from megabert.model.parameters import pretraining_parameters
from megabert.optim.flat_segments import LocalTensor
from megabert.optim.muon.ownership import Grid, Matrix, Ownership, Part
from megabert.optim.param_groups import is_hidden_matrix
from megabert.parallel.layers import split_dim
from megabert.planner import report
from megabert.planner.activations import Division, MicroBatch, activation_blocks, parts_of
from megabert.planner.collectives import Ring, data_exchanges, make_ring, tensor_exchanges
from megabert.planner.machine import LINK_EFFICIENCY, make_machine
from megabert.planner.matrices import WholeMatrices
from megabert.planner.parameters import LocalParameters, local_parameters
from megabert.planner.plan import LayoutPlan, Planner
from megabert.planner.settings import (
    CPU,
    MachineSettings,
    MatrixRule,
    PlanFlags,
    plan_settings,
    read_flags,
)
from megabert.planner.states import (
    BEGINS,
    ENDS,
    INSTANTS,
    LOSS,
    UPDATE,
    Buckets,
    Sharding,
    state_bytes,
)
from tests.helpers.model_cases import tiny_config

SMALL = LocalParameters(weights=900, small=100, largest=300, layer=200, tensors=20)


def planner(*argv: str) -> Planner:
    """A planner as the command line makes it, without measuring this machine."""
    asked = plan_settings(read_flags(flags.parse(PlanFlags, list(argv), "plan.py", "")))
    return Planner(asked, make_machine(asked.machine))


def plan(*argv: str) -> LayoutPlan:
    """The plan of a command line."""
    made = planner(*argv)
    return made.plan(made.settings.layout)


def activation_bytes(
    config: ModelConfig, batch: MicroBatch, precision: str, division: Division
) -> dict[str, dict[str, float]]:
    """Instant -> part -> bytes."""
    made = activation_blocks(config, batch, precision, division)
    return {instant: parts_of(blocks) for instant, blocks in made.items()}


def total(parts: dict[str, float]) -> float:
    return sum(parts.values())


# ---------------------------------------------------------------------------- parameters


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("sentence_task", [True, False])
@pytest.mark.parametrize("degree", [1, 4])
def test_parameters_are_those_of_the_model(norm: str, sentence_task: bool, degree: int) -> None:
    config = tiny_config(norm=norm, vocab_multiple=8)
    model = BertForPreTraining(config, sentence_task=sentence_task)
    sizes = {
        name: parameter.numel() // (degree if split_dim(parameter) is not None else 1)
        for name, parameter in model.named_parameters()
    }
    counted = local_parameters(config, degree, sentence_task)
    assert counted.total == sum(sizes.values())
    assert counted.tensors == len(sizes)
    assert counted.largest == max(sizes.values())
    layer = [size for name, size in sizes.items() if name.startswith("bert.layers.1.")]
    assert counted.layer == sum(layer)
    weights = [
        size
        for name, size in sizes.items()
        if not name.endswith("bias") and not name.split(".")[-2].endswith("norm")
    ]
    assert counted.weights == sum(weights)


def test_a_degree_that_does_not_divide_is_named() -> None:
    with pytest.raises(UserError, match="--tensor-parallel 3 does not divide num_attention_heads"):
        local_parameters(model_config("bert-large"), 3)


# ---------------------------------------------------------------------------- states


@pytest.mark.parametrize(
    ("stage", "precision", "ranks", "held"),
    [
        (0, "fp32", 4, 4 + 8),
        (0, "bf16", 4, 2 + 4 + 8),
        (1, "bf16", 4, 2 + 1 + 2 + 4),  # the sums of all gradients are there for good
        (1, "fp32", 4, 4 + 1 + 2),
        (2, "bf16", 4, 2 + 1 + 2),
        (2, "fp32", 2, 4 + 2 + 4),
        (3, "bf16", 4, 0.5 + 1 + 2 + 0.5 + 2 + 2),  # and all gathered weights, and the bucket
    ],
)
def test_bytes_a_parameter_at_the_loss(stage: int, precision: str, ranks: int, held: float) -> None:
    sharding = Sharding(stage, precision, ranks, on_cpu=True)
    states = state_bytes(SMALL, sharding, micro_steps=1)
    assert total(states[LOSS]) == pytest.approx(held * SMALL.total)


def test_gradients_by_hand() -> None:
    one = state_bytes(SMALL, Sharding(1, "bf16", 4, on_cpu=True), micro_steps=2)
    assert (one[BEGINS]["gradient sums"], one[BEGINS]["gradients"]) == (4000, 0)
    assert one[ENDS]["communication buckets"] == 2 * 900  # the larger group, cast to bf16
    many = state_bytes(SMALL, Sharding(1, "bf16", 4, on_cpu=True), micro_steps=8)
    assert many[ENDS]["communication buckets"] == 0  # the sums are sent as they are
    alone = state_bytes(SMALL, Sharding(1, "bf16", 1), micro_steps=2)
    assert {total(parts) for parts in alone.values()} == {18 * 1000}
    file = Buckets.of({"bf16": {"immediate_grad_update": False}})
    late = state_bytes(SMALL, Sharding(1, "bf16", 1, file), micro_steps=2)
    assert {total(parts) for parts in late.values()} == {(18 + 2) * 1000}
    two = state_bytes(SMALL, Sharding(2, "bf16", 4, on_cpu=True), micro_steps=2)
    assert two[BEGINS]["gradient slices"] == 1000
    assert two[UPDATE]["gradient slices"] == 1000
    whole = state_bytes(SMALL, Sharding(0, "bf16", 4), micro_steps=2)
    assert whole[UPDATE]["gradients"] == (2 + 4) * 1000


def test_a_bucket_is_whole_on_a_gpu_and_as_filled_on_a_cpu() -> None:
    zero = {"reduce_bucket_size": 5000, "overlap_comm": True}
    buckets = Buckets.of({"zero_optimization": zero})
    gpu = state_bytes(SMALL, Sharding(2, "fp32", 1, buckets), micro_steps=1)
    assert gpu[BEGINS]["communication buckets"] == 2 * 4 * 5000
    cpu = state_bytes(SMALL, Sharding(2, "fp32", 1, buckets, on_cpu=True), micro_steps=1)
    assert "communication buckets" not in cpu[LOSS]
    assert cpu[BEGINS]["communication buckets"] == 0
    assert cpu[ENDS]["communication buckets"] == 4 * 1000


# ---------------------------------------------------------------------------- activations


def test_a_layer_by_hand() -> None:
    config = tiny_config(num_hidden_layers=2)  # H 32, I 64, 4 heads
    batch = MicroBatch(tokens=10, predicted=2, sequences=1)
    every, behind = (1 + 3 + 1) * 32 * 4 + 4 * 4, (3 * 32 + 2 * 64) * 4
    layers = 10 * (every + behind) + 10 * every + 3 * behind
    made = activation_bytes(config, batch, "fp32", Division())
    assert made[LOSS]["activations, layers"] == layers
    assert made[BEGINS]["activations, layers"] == 10 * (every + behind)  # the last layer's are gone
    checkpointed = activation_bytes(config, batch, "fp32", Division(checkpointing=True))
    assert checkpointed[LOSS]["activations, layers"] == 2 * 10 * 32 * 4
    again = made[BEGINS]["backward of one layer"] + 10 * (every + behind)
    assert checkpointed[BEGINS]["backward of one layer"] == again


def test_tensor_and_sequence_parallelism_divide_activations() -> None:
    config = tiny_config(num_hidden_layers=3)
    batch = MicroBatch(tokens=16, predicted=2, sequences=1)

    def layers(division: Division) -> float:
        return activation_bytes(config, batch, "bf16", division)[BEGINS]["activations, layers"]

    alone, split = layers(Division()), layers(Division(4))
    both = layers(Division(4, sequence_parallel=True))
    assert both < split < alone
    replicated = 4 * 32 * 2 * 16  # values outside the split regions, a layer
    assert split - both == pytest.approx(2 * replicated * 3 / 4)


def test_logits_in_chunks_are_added_up_in_fp32() -> None:
    config = model_config("bert-large")
    few, many = (
        activation_bytes(config, MicroBatch(9000, m, 1), "bf16", Division())[LOSS]
        for m in (100, 9000)
    )
    table = config.padded_vocab_size * config.hidden_size
    assert few["logits"] == 100 * config.padded_vocab_size * 2
    assert few["gradient of the word embeddings"] == 2 * table
    assert many["logits"] == 1 << 28
    assert many["gradient of the word embeddings"] == 12 * table


# ---------------------------------------------------------------------------- exchanges


def test_ring_formulas() -> None:
    ring = Ring(ranks=4, bandwidth=100.0, latency=0.5)
    assert ring.seconds("all-reduce", 800) == 2 * 3 / 4 * 800 / 100 + 2 * 2 * 0.5  # log2(4) hops
    assert ring.seconds("all-gather", 800) == 3 / 4 * 800 / 100 + 3 * 0.5
    assert ring.seconds("reduce-scatter", 800, messages=2) == 3 / 4 * 800 / 100 + 2 * 3 * 0.5
    assert Ring(1, 100.0, 0.5).seconds("all-reduce", 800) == 0


def test_a_ring_over_hosts_is_as_fast_as_its_cards() -> None:
    machine = make_machine(MachineSettings(gpu="h100"))  # 450 GB/s inside, 50 a card between hosts
    inside, alone, all_cards = (make_ring(machine, *g) for g in ((8, 1), (8, 8), (16, 1)))
    assert inside.bandwidth == pytest.approx(LINK_EFFICIENCY * 450e9)
    assert alone.bandwidth == pytest.approx(LINK_EFFICIENCY * 50e9)
    assert all_cards.bandwidth == pytest.approx(LINK_EFFICIENCY * 400e9)


def test_a_machine_without_a_network() -> None:
    with pytest.raises(UserError, match="--network-bandwidth"):
        plan("--gpu", "l40s", "--gpus", "16", "--model", "bert-base")
    assert plan("--gpu", "l40s", "--gpus", "16", "--network-bandwidth", "12").exchanges


def test_gradients_travel_once_at_stage_1_and_each_micro_step_at_stage_2() -> None:
    ring = Ring(4, 1e9, 0.0)
    for micro_steps, ranks, file, width in (
        (7, 4, {}, 2), (8, 4, {}, 4), (1, 64, {}, 4), (8, 4, {"communication_data_type": "bf16"}, 2)
    ):  # fmt: skip
        sharding = Sharding(1, "bf16", ranks, Buckets.of(file))
        one = data_exchanges(SMALL, sharding, ring, micro_steps)
        assert [(e.what, e.kind, e.size) for e in one[:2]] == [
            ("gradients", "all-reduce", width * 1000),
            ("weights", "all-gather", 2000),
        ]
    two = data_exchanges(SMALL, Sharding(2, "bf16", 4), ring, micro_steps=8)
    assert two[0].size == 8 * 2000
    three = data_exchanges(SMALL, Sharding(3, "bf16", 4), ring, micro_steps=8)
    assert [(e.kind, e.size) for e in three[:2]] == [
        ("all-gather", 8 * 2000),
        ("reduce-scatter", 8 * 2000),
    ]
    assert not data_exchanges(SMALL, Sharding(1, "bf16", 1), Ring(1, 1e9, 0.0), 1)


def test_tensor_parallel_bytes() -> None:
    config, batch = tiny_config(num_hidden_layers=2), MicroBatch(100, 10, 4)
    ring = Ring(2, 1e9, 0.0)
    layers = tensor_exchanges(config, batch, "bf16", ring, 3, Division(2))[0]
    assert (layers.times, layers.size) == (4 * 2 * 3, 4 * 2 * 3 * 100 * 32 * 2)
    divided = tensor_exchanges(config, batch, "bf16", ring, 3, Division(2, sequence_parallel=True))
    scattered, gathered = divided[:2]
    assert (scattered.times, gathered.times) == (4 * 2 * 3, 6 * 2 * 3)
    assert scattered.wire + gathered.wire == pytest.approx(layers.wire * 10 / 8)


# ---------------------------------------------------------------------------- whole plans


def test_bert_large_on_eight_h200() -> None:
    argv = "--gpu", "h200", "--gpus", "8", "--micro-batch-size", "64", "--efficiency", "0.5"
    made = plan(*argv, "--packing", "off")
    assert made.parameters.total == 336_297_858
    assert (made.batch.accumulation, made.batch.data_parallel) == (128, 8)
    compute = 8192 * sequence_flops(made.model, 128, 0) / (0.5 * 989.4e12)
    head = made.times["forward and backward"] - compute
    assert 0 < head < 0.1 * compute
    assert made.fits
    assert made.limited_by == "forward and backward"
    assert made.utilization == pytest.approx(made.real_flops / made.step_seconds / (8 * 989.4e12))
    assert made.real_tokens == pytest.approx(7038 * 65536 * 128 * 0.952)


def test_packing_saves_the_padding() -> None:
    argv = ("--gpus", "8", "--phase", "2", "--micro-batch-size", "32")
    off, on = plan(*argv, "--packing", "off"), plan(*argv)
    assert on.step_seconds < 0.94 * off.step_seconds
    assert on.peak_bytes < off.peak_bytes
    assert on.real_flops == off.real_flops


def test_fp8_is_measured_by_the_bf16_peak_and_its_casts_take_time() -> None:
    asked = "--gpu", "h200", "--gpus", "8", "--micro-batch-size", "512"
    fp8, bf16 = plan(*asked, "--precision", "fp8"), plan(*asked)
    assert fp8.peak_flops == bf16.peak_flops
    assert fp8.times["forward and backward"] < bf16.times["forward and backward"]
    tokens, h, layers = 512 * 128 * 0.952, 1024, 24
    moved = 16 * layers * (tokens * (2 * 5 * 7 + 6 * 9) * h + 120 * h * h)
    assert fp8.times["casts to fp8"] == pytest.approx(moved / (0.8 * 4.8e12))
    counted = 102.5 + 195.5 - 48.9 - 60.9  # GB of a micro step (docs/results/2026-11/gpu.md)
    assert moved / 16 == pytest.approx(counted * 1e9, rel=0.03)
    assert "casts to fp8" not in bf16.times
    again = plan(*asked, "--precision", "fp8", "--activation-checkpointing", "on")
    more = 16 * layers * (tokens * 5 * 7 * h + 60 * h * h)
    assert again.times["casts to fp8"] == pytest.approx((moved + more) / (0.8 * 4.8e12))
    with pytest.raises(UserError, match="a100-80 does not support it"):
        plan("--precision", "fp8", "--gpu", "a100-80")


def test_the_search_finds_what_fits() -> None:
    asked = planner("--model", "bert-3.9b", "--gpu", "a100-40", "--gpus", "4", "--phase", "2")
    assert not asked.plan(asked.settings.layout).fits  # ZeRO 1 alone
    best = asked.candidates()[0]
    assert best.fits
    assert best.layout.tensor_parallel > 1 or best.layout.zero > 1
    assert report.advice(asked.plan(asked.settings.layout), best).startswith("advice: use ")
    large = planner("--model", "bert-3.9b", "--gpu", "l4", "--gpus", "1")
    assert large.candidates() == []
    assert "no layout" in report.advice(large.plan(large.settings.layout), None)


def test_fp32_sums_are_sent_without_a_bucket() -> None:
    for sequences, micro_steps, sent, bucket in ((512, 16, 4, 0), (2048, 4, 2, 2)):
        made = plan("--gpu", "h200", "--gpus", "8", "--micro-batch-size", str(sequences))
        assert made.batch.accumulation == micro_steps
        assert made.exchanges[0].size == sent * made.parameters.total
        held = made.memory[ENDS]["communication buckets"]
        assert held == bucket * made.parameters.weights


def test_nezha_with_torch_operators_has_no_plan_on_a_gpu() -> None:
    with pytest.raises(UserError, match=r"--attention flash.*plan is for the Triton kernel"):
        plan("--model", "nezha-base", "--attention", "flash")
    same = plan("--model", "bert-base", "--attention", "flash")
    assert same.times == plan("--model", "bert-base").times


@given(
    model=st.sampled_from(["bert-base", "bert-large", "bert-1.3b"]),
    stage=st.integers(0, 3),
    degree=st.sampled_from([1, 2, 4]),
    precision=st.sampled_from(["fp32", "bf16"]),
    ranks=st.sampled_from([1, 2, 8, 64]),
    sequences=st.integers(1, 64),
)
@settings(max_examples=60, deadline=None)
def test_memory_is_monotone(
    model: str, stage: int, degree: int, precision: str, ranks: int, sequences: int
) -> None:
    made = planner(
        "--model", model, "--precision", precision, "--gpus", str(ranks * degree),
        "--global-batch-size", "65536",
    )  # fmt: skip
    layout = replace(made.settings.layout, zero=stage, tensor_parallel=degree)

    def peak(layout=layout, size: int = sequences, planner: Planner = made) -> float:  # type: ignore[no-untyped-def]
        return max(total(parts) for parts in planner.memory(layout, size, 2).values())

    assert all(
        value >= 0 for p in made.memory(layout, sequences, 2).values() for value in p.values()
    )
    assert peak(size=sequences + 1) >= peak()
    assert peak(layout=replace(layout, activation_checkpointing=True)) <= peak() * 1.5
    if degree > 1:
        assert peak(layout=replace(layout, sequence_parallel=True)) <= peak()
    more = planner(
        "--model", model, "--precision", precision, "--gpus", str(2 * ranks * degree),
        "--global-batch-size", "65536",
    )  # fmt: skip
    if ranks > 1:
        assert peak(planner=more) <= peak()


@given(micro=st.integers(0, 8), batch=st.integers(9, 13))
@settings(max_examples=20, deadline=None)
def test_the_batch_sizes_multiply_to_the_global_batch(micro: int, batch: int) -> None:
    made = plan(
        "--global-batch-size", str(2**batch), "--micro-batch-size", str(2 ** min(micro, batch - 3))
    )
    sizes = made.batch
    assert sizes.micro_size * sizes.accumulation * sizes.data_parallel == 2**batch
    assert made.step_seconds > 0
    assert set(made.memory) == set(INSTANTS)


def test_the_largest_micro_batch_is_the_largest() -> None:
    made = planner("--gpu", "a100-40")
    layout = made.settings.layout
    most = made.largest(layout)

    def peak(size: int) -> float:
        return max(total(parts) for parts in made.memory(layout, size, 2).values())

    assert peak(most) <= made.limit < peak(most + 1)


def test_a_gpu_waits_for_a_host_that_is_slower() -> None:
    argv = "--model", "bert-large", "--gpu", "b200", "--gpus", "8", "--micro-batch-size"
    few, many = plan(*argv, "64"), plan(*argv, "512")
    host = 128 * 24 * 0.86e-3 + 24 * 0.39e-3
    assert few.step_seconds == pytest.approx(host)
    assert few.times["waiting for the host"] > 0.2 * host
    assert many.times["waiting for the host"] == 0
    recomputed = plan(*argv, "64", "--activation-checkpointing", "on")
    assert recomputed.step_seconds == pytest.approx(host + 128 * 24 * 0.36e-3)


def test_without_workers_an_update_waits_for_its_samples() -> None:
    argv = "--model", "bert-large", "--gpu", "h200", "--gpus", "8"
    made, serial = plan(*argv), plan(*argv, "--loader-workers", "0")
    assert made.times["waiting for data"] == 0
    making = 8192 * (1 / 54_400 + 8 / 156_400)  # each rank looks up the lengths of all eight
    assert serial.times["waiting for data"] == pytest.approx(making)
    assert serial.step_seconds == pytest.approx(made.step_seconds + making)
    padded = plan(*argv, "--loader-workers", "0", "--packing", "off")
    assert padded.times["waiting for data"] == pytest.approx(8192 / 27_500)
    short = plan("--model", "bert-tiny", "--gpu", "h200", "--gpus", "8", "--loader-workers", "1")
    others = sum(short.times.values()) - short.times["waiting for data"]
    assert short.times["waiting for data"] == pytest.approx(making - others)


def test_advice_names_the_workers_that_are_needed() -> None:
    argv = "--model", "bert-mini", "--gpu", "h200", "--gpus", "8", "--loader-workers"
    few = plan(*argv, "4")
    assert few.limited_by == "waiting for data"
    assert few.workers_needed == 9
    assert "--loader-workers 9" in report.advice(few, few)
    assert plan(*argv, "8").times["waiting for data"] > 0
    enough = plan(*argv, "9")
    assert enough.times["waiting for data"] == 0
    assert enough.limited_by == "forward and backward"
    assert "--loader-workers" not in report.advice(enough, enough)
    serial = plan(*argv, "0")
    assert f"--loader-workers {serial.workers_needed} " in report.advice(serial, serial)


def test_a_cpu_s_default_has_8192_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a run there; and only a GPU has a host to wait for."""
    asked = planner("--gpus", "2")
    machine = replace(asked.machine, name=CPU, memory_bytes=1e12, peak={"fp32": 1e9, "bf16": 1e9})
    made = Planner(replace(asked.settings), machine).plan(asked.settings.layout)
    assert made.batch.micro_size == 64
    assert "waiting for the host" not in made.times
    assert re.search(r" hours, 0\.\d{3,} sequences/s", report.as_text(made, made))
    fp8 = planner("--gpus", "2", "--precision", "fp8")
    with pytest.raises(UserError, match="fp8: the planner has no figures of it for a CPU"):
        Planner(fp8.settings, machine)


def test_a_run_with_ramps_is_the_sum_of_its_stages() -> None:
    base = ["--model", "bert-base", "--gpus", "8", "--gpu", "h200", "--phase", "2", "--steps"]
    ramps = ["--batch-ramp", "1024 for 30", "--length-ramp", "128 for 60%"]
    whole = plan(*base, "100", *ramps, "--global-batch-size", "4096")
    stages = [(1024, 128, 128, 30), (4096, 128, 512, 30), (4096, 512, 128, 40)]
    alone = [
        plan(
            *base, str(updates), "--global-batch-size", str(batch), "--seq-length", str(length),
            "--micro-batch-size", str(micro),
        )
        for batch, length, micro, updates in stages
    ]  # fmt: skip
    assert whole.hours == pytest.approx(sum(one.hours for one in alone), rel=1e-9)
    assert whole.real_tokens == pytest.approx(sum(one.real_tokens for one in alone), rel=1e-9)
    assert whole.peak_bytes == max(one.peak_bytes for one in alone)
    assert whole.step_seconds == alone[-1].step_seconds
    assert [part.updates for part in whole.stages] == [30, 30, 40]
    text = report.as_text(whole, None)
    assert "4,096     128          512       30" in text
    (once,) = alone[0].stages
    assert once.seconds == alone[0].step_seconds
    assert "stages" not in report.as_text(alone[0], None)


@pytest.mark.parametrize(
    ("stage", "d", "t"), [(0, 2, 1), (0, 2, 2), (1, 2, 2), (3, 2, 1), (3, 2, 2)]
)
def test_bytes_of_whole_matrices_are_those_of_their_owners(stage: int, d: int, t: int) -> None:
    """The formulas of the planner, against the table of who sends what that Muon makes."""
    config = model_config("bert-tiny")
    named = {
        n: p for n, p in pretraining_parameters(config).items() if is_hidden_matrix(n, len(p.shape))
    }
    grid = Grid(d * t, t, copies=stage == 0)
    matrices, held = [], [[] for _ in range(d * t)]
    for number, parameter in enumerate(named.values()):
        split = parameter.split_dim is not None and t > 1
        shape = list(parameter.shape)
        if split:
            shape[parameter.split_dim] //= t
        tensor = LocalTensor("", tuple(shape), split, parameter.split_dim or 0)
        matrices.append(Matrix(tensor, t if split else 1))
        for rank in range(d * t):
            row = rank // t
            if stage == 0:
                held[rank].append(Part(number, 0, tensor.numel, number))
            elif stage == 3:
                size = tensor.numel // d
                held[rank].append(Part(number, row * size, size, number))
            elif number * d // len(named) == row:  # no border cuts one
                held[rank].append(Part(number, 0, tensor.numel, number))
    made = Ownership.make(grid, matrices, held)
    ranks, every = range(d * t), range(len(matrices))
    sent = sum(
        part.numel
        for a in ranks
        for b in ranks
        if a != b
        for part in (*made.to_owner(a, b, every), *made.to_holder(a, b, every))
    )
    planned = WholeMatrices.of(config, MatrixRule("muon"))
    borders = (d - 1) * planned.elements / planned.number if stage == 1 else 0.0
    assert planned.sent(stage, d, t) * d * t - borders == pytest.approx(sent)
    assert planned.number == len(matrices)
    assert planned.flops == sum(made.flops_of(rank, 5) for rank in ranks)
    shorter = WholeMatrices.of(config, MatrixRule("muon", 3, "fp32"))
    assert (5 * shorter.flops, shorter.in_bf16) == (3 * planned.flops, False)
