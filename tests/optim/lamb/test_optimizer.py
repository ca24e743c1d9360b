"""LAMB against the float64 reference, whole and in slices, without DeepSpeed."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from megabert.common.errors import UserError
from megabert.optim.curve import Curve
from megabert.optim.flat_segments import (
    LocalTensor,
    ParameterSlice,
    Partition,
    PartitionTable,
    squared_norms,
)
from megabert.optim.lamb.backend import LambOptions
from megabert.optim.lamb.optimizer import Lamb
from megabert.optim.lamb.torch_passes import TorchBackend
from megabert.optim.param_groups import (
    GroupRule,
    is_bias_or_norm,
    parameter_groups,
    read_parameter_groups,
    with_own_moments,
)
from megabert.optim.schedule import Schedule
from tests.helpers.lamb_reference import LambReference

SHAPES = {"a.weight": (7, 5), "b.weight": (40,), "c.weight": (3, 11), "c.bias": (3,)}


def make_tensors(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()
    }


def make_gradients(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def groups_of(parameters: dict[str, Tensor]) -> list[dict]:
    plain = {name: is_bias_or_norm(name) for name in parameters}
    return [
        {"params": [p for name, p in parameters.items() if not plain[name]]},
        {
            "params": [p for name, p in parameters.items() if plain[name]],
            "weight_decay": 0.0,
            "adapt": False,
        },
    ]


def difference(found: Tensor, wanted: np.ndarray) -> float:
    """Largest deviation relative to the tensor's largest value."""
    return float(np.abs(found.double().numpy() - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias_correction": False},
        {"weight_decay": 0.0},
        {"bounds": (0.1, 1.5)},
        {"betas": (0.8, 0.95), "eps": 1e-3},
        {"adapt_all": True},
        {"rule": "lans"},
        {"rule": "lans", "bias_correction": False, "bounds": (0.1, 1.5)},
        {"rule": "lans", "weight_decay": 0.0, "adapt_all": True},
        {"rule": "adamw"},
        {"rule": "adamw", "bias_correction": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("block", [8, 1 << 18])
def test_equals_reference(options: dict, block: int) -> None:
    parameters = make_tensors()
    reference = LambReference({name: p.numpy() for name, p in parameters.items()}, **options)
    ours = dict(options)
    if "bounds" in ours:
        ours["min_trust_ratio"], ours["max_trust_ratio"] = ours.pop("bounds")
    groups = groups_of(parameters)
    groups[1]["adapt"] = ours.pop("adapt_all", False)
    options_of_ours = LambOptions(lr=0.02, **ours)
    optimizer = Lamb(
        groups, options_of_ours, backend=TorchBackend(block), overwrite_gradients=block == 8
    )
    for step in range(10):
        gradients = make_gradients(step)
        for name, parameter in parameters.items():
            parameter.grad = gradients[name].clone()
        optimizer.step()
        reference.step({name: g.double().numpy() for name, g in gradients.items()}, 0.02)
    for name, parameter in parameters.items():
        # fused AdamW rounds weights twice per update, for decay and for the step
        limit = 1e-6 if options.get("rule") == "adamw" else 5e-7
        assert difference(parameter, reference.weights[name]) < limit, name
        state = optimizer.state[parameter]
        assert difference(state["exp_avg"], reference.m[name]) < 1e-6
        assert difference(state["exp_avg_sq"], reference.v[name]) < 1e-6
        assert state["step"] == 10
    norms = {row.name: row for row in optimizer.tensor_norms()}
    assert bool(norms) == (options.get("rule") != "adamw")


def named_optimizer(parameters: dict[str, Tensor], **options: Any) -> Lamb:
    optimizer = Lamb(groups_of(parameters), LambOptions(lr=0.02, **options))
    table = [
        (p, Partition.whole(LocalTensor(name, tuple(p.shape)))) for name, p in parameters.items()
    ]
    optimizer.attach(PartitionTable(table, None))
    return optimizer


def test_norms_of_the_last_update() -> None:
    """The telemetry equals the formula, and shows which ratios were limited by a bound."""
    parameters = make_tensors()
    options: dict[str, Any] = {"min_trust_ratio": 0.5, "max_trust_ratio": 1.0}
    reference = LambReference({n: p.numpy() for n, p in parameters.items()}, bounds=(0.5, 1.0))
    free = LambReference({n: p.numpy() for n, p in parameters.items()})
    optimizer = named_optimizer(parameters, **options)
    assert optimizer.tensor_norms() == []
    gradients = make_gradients(0)
    before = {name: p.double().norm().item() for name, p in parameters.items()}
    for name, parameter in parameters.items():
        parameter.grad = gradients[name]
    optimizer.step()
    for twin in (reference, free):
        twin.step({name: g.double().numpy() for name, g in gradients.items()}, 0.02)
    rows = {row.name: row for row in optimizer.tensor_norms()}
    assert set(rows) == {"a.weight", "b.weight", "c.weight"}
    for name, row in rows.items():
        assert row.weight_norm == pytest.approx(before[name], rel=1e-7)
        assert row.trust_ratio == pytest.approx(reference.ratios[name], rel=1e-6)
        assert row.weight_norm / row.update_norm == pytest.approx(free.ratios[name], rel=1e-6)
        assert row.clamped == (free.ratios[name] != reference.ratios[name])
    assert any(row.clamped for row in rows.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rule", ["lamb", "lans", "adamw"])
def test_half_precision_has_masters(dtype: torch.dtype, rule: str) -> None:
    """bf16 and fp16 weights and gradients with fp32 masters: the reference's weights, rounded."""
    parameters = make_tensors(dtype)
    reference = LambReference({n: p.float().numpy() for n, p in parameters.items()}, rule=rule)
    optimizer = Lamb(groups_of(parameters), LambOptions(lr=0.02, rule=rule))
    for step in range(10):
        gradients = {name: g.to(dtype) for name, g in make_gradients(step).items()}
        for name, parameter in parameters.items():
            parameter.grad = gradients[name]
        optimizer.step()
        reference.step({name: g.double().numpy() for name, g in gradients.items()}, 0.02)
        if step == 4:  # what a checkpoint does in between
            saved = copy.deepcopy(optimizer.state_dict())
            optimizer = Lamb(groups_of(parameters), LambOptions(lr=0.02, rule=rule))
            optimizer.load_state_dict(saved)
    for name, parameter in parameters.items():
        master = optimizer.state[parameter]["master"]
        assert master.dtype == torch.float32
        assert difference(master, reference.weights[name]) < 5e-7
        assert torch.equal(parameter, master.to(dtype))


def test_a_group_of_several_precisions() -> None:
    """Each tensor of a mixed group moves as it would alone."""
    dtypes = [torch.float32, torch.bfloat16, torch.float64, torch.float16, torch.bfloat16]
    base = torch.randn(12, generator=torch.Generator().manual_seed(7))
    alone, together = ([base.to(dtype, copy=True) for dtype in dtypes] for _ in range(2))
    optimizers = [Lamb(each, LambOptions(lr=0.1)) for each in (*([p] for p in alone), together)]
    for _ in range(3):
        for parameter in (*alone, *together):
            parameter.grad = torch.linspace(-1, 1, 12).to(parameter.dtype)
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(alone, together):
        torch.testing.assert_close(one, other)
        assert not torch.equal(one, base.to(one.dtype))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adamw_is_torchs(decay: float) -> None:
    ours, theirs = make_tensors(), make_tensors()
    mine = Lamb(
        list(ours.values()), LambOptions(lr=0.01, eps=1e-8, weight_decay=decay, rule="adamw")
    )
    peer = torch.optim.AdamW(list(theirs.values()), lr=0.01, eps=1e-8, weight_decay=decay)
    for step in range(10):
        for name, gradient in make_gradients(step).items():
            ours[name].grad, theirs[name].grad = gradient, gradient.clone()
        mine.step()
        peer.step()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-7)


def test_zero_weight_or_update_has_ratio_one() -> None:
    zero = torch.zeros(4)
    zero.grad = torch.ones(4)
    still = torch.ones(4)
    still.grad = torch.zeros(4)
    Lamb([zero, still], LambOptions(lr=0.1, weight_decay=0.0)).step()
    torch.testing.assert_close(zero, torch.full((4,), -0.1))
    torch.testing.assert_close(still, torch.ones(4))


def flat_optimizer(
    tensors: dict[str, Tensor], size: int, rank: int, total: int, all_reduce
) -> tuple[Lamb, Tensor]:
    """As ZeRO does it: the rank's part of all tensors end to end, padded to size * ranks."""
    adapted = {name: t for name, t in tensors.items() if not is_bias_or_norm(name)}
    flat = torch.zeros(total)
    numels = [t.numel() for t in adapted.values()]
    starts = [sum(numels[:i]) for i in range(len(numels))]
    flat[: sum(numels)] = torch.cat([t.reshape(-1) for t in adapted.values()])
    part = flat[rank * size : (rank + 1) * size].clone()
    tensors_of_group = [LocalTensor(name, tuple(t.shape)) for name, t in adapted.items()]
    partition = Partition.of_group(tensors_of_group, starts, rank * size, size)
    optimizer = Lamb([part], LambOptions(lr=0.02))
    optimizer.attach(PartitionTable([(part, partition)], all_reduce))
    return optimizer, part


@settings(deadline=None, max_examples=30)
@given(ranks=st.integers(1, 5), padding=st.integers(0, 60))
def test_slices_equal_reference(ranks: int, padding: int) -> None:
    """Any number of simulated ranks, also ones that hold padding only; padding is never touched."""
    tensors = make_tensors()
    reference = LambReference({name: t.numpy() for name, t in tensors.items()})
    used = sum(t.numel() for name, t in tensors.items() if not is_bias_or_norm(name))
    size = -(-(used + padding) // ranks)
    sums: list[Tensor] = []
    replay: list[Tensor] = []

    def all_reduce(vector: Tensor) -> None:
        if replay:
            vector.copy_(replay[0])
        else:
            sums.append(vector.clone())

    ours = [flat_optimizer(tensors, size, rank, size * ranks, all_reduce) for rank in range(ranks)]
    for step in range(3):
        gradients = make_gradients(step)
        flat = torch.zeros(size * ranks)
        flat[:used] = torch.cat(
            [g.reshape(-1) for name, g in gradients.items() if not is_bias_or_norm(name)]
        )
        # Pass 1 collects every rank's contribution, pass 2 hands all of them the sum.
        sums.clear()
        replay.clear()
        for rank, (optimizer, part) in enumerate(ours):
            part.grad = flat[rank * size : (rank + 1) * size].clone()
            twin, part_twin = copy.deepcopy((optimizer, part))
            twin.attach(
                PartitionTable([(part_twin, optimizer.table.partition(part))], all_reduce, True)
            )
            part_twin.grad = part.grad
            twin.step()
        assert len(sums) == ranks  # one collective each, also on a rank of padding
        replay.append(sum(sums[1:], sums[0]))
        for optimizer, _ in ours:
            optimizer.step()
        reference.step({name: g.double().numpy() for name, g in gradients.items()}, 0.02)
    joined = torch.cat([part for _, part in ours])
    wanted = np.concatenate(
        [w.reshape(-1) for name, w in reference.weights.items() if not is_bias_or_norm(name)]
    )
    assert difference(joined[:used], wanted) < 5e-7
    assert not joined[used:].any()


def test_slice_without_table_is_wrong() -> None:
    """The error that the table prevents: one ratio for the whole partition."""
    tensors = make_tensors()
    tensors["b.weight"] *= 30
    total = sum(t.numel() for name, t in tensors.items() if not is_bias_or_norm(name))
    results = []
    for attached in (True, False):
        optimizer, part = flat_optimizer(tensors, total, 0, total, lambda vector: None)
        if not attached:
            optimizer.attach(PartitionTable((), None))
        part.grad = torch.ones(total)
        optimizer.step()
        results.append(part)
    assert (results[0] - results[1]).abs().max() > 1e-2


def test_copies_count_once_and_splits_add() -> None:
    """Two simulated tensor-parallel ranks: a split tensor of 2 x 6, and a copy on both."""
    whole, copied = torch.arange(12.0), torch.arange(1.0, 5.0)
    vectors = []
    for rank in range(2):
        parameters = [whole[rank * 6 : rank * 6 + 6].clone(), copied.clone()]
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer = Lamb(parameters, LambOptions(weight_decay=0.0))
        table = [
            (parameters[0], Partition.whole(LocalTensor("split", (6,), split=True))),
            (parameters[1], Partition.whole(LocalTensor("copied", (4,)))),
        ]
        optimizer.attach(PartitionTable(table, lambda v: vectors.append(v.clone()), rank == 0))
        optimizer.step()
    total = vectors[0] + vectors[1]
    assert total.shape == (2, 2)
    torch.testing.assert_close(
        total[:, 0].sqrt(), torch.stack([whole.norm(), copied.norm()]).double()
    )
    torch.testing.assert_close(total[:, 1], torch.tensor([12.0, 4.0]).double(), rtol=1e-4, atol=0)


@given(
    numels=st.lists(st.integers(1, 50), min_size=1, max_size=8),
    gaps=st.lists(st.integers(0, 5), min_size=8, max_size=8),
    ranks=st.integers(1, 6),
)
def test_cut_covers_every_element_once(numels: list[int], gaps: list[int], ranks: int) -> None:
    starts, end = [], 0
    for numel, gap in zip(numels, gaps):
        starts.append(end)
        end += numel + gap
    size = -(-end // ranks)
    tensors = [LocalTensor(f"t{number}", (numel,)) for number, numel in enumerate(numels)]
    seen = [np.zeros(numel, int) for numel in numels]
    flat = torch.arange(size * ranks)
    for rank in range(ranks):
        partition = Partition.of_group(tensors, starts, rank * size, size)
        views = partition.views(flat[rank * size : (rank + 1) * size])
        for segment, view in zip(partition.segments, views):
            part = slice(segment.tensor_start, segment.tensor_start + segment.numel)
            seen[segment.row][part] += 1
            place = starts[segment.row] + segment.tensor_start
            assert view.tolist() == list(range(place, place + segment.numel))
        for one, other in pairwise(partition.segments):
            assert one.partition_start + one.numel <= other.partition_start
    assert all((count == 1).all() for count in seen)


def test_partition_refuses_nonsense() -> None:
    a, b = LocalTensor("a", (5,)), LocalTensor("b", (2,))
    with pytest.raises(ValueError, match="overlaps"):
        Partition((a, b), (ParameterSlice(0, a, 0, 0, 5), ParameterSlice(1, b, 4, 0, 2)), 9)
    with pytest.raises(ValueError, match="end at 5"):
        Partition((a,), (ParameterSlice(0, a, 0, 0, 5),), 4)
    with pytest.raises(ValueError, match="row 1"):
        Partition((a,), (ParameterSlice(1, a, 0, 0, 5),), 5)


def test_norm_does_not_depend_on_the_cut() -> None:
    values = torch.randn(1_000_003, generator=torch.Generator().manual_seed(3)) * 0.02
    whole = squared_norms([values])
    parts = squared_norms(values.split([7, 128, 400_000, 599_868])).sum()
    exact = values.double().square().sum()
    assert abs(whole.item() / exact.item() - 1) < 1e-8
    assert abs(parts.item() / exact.item() - 1) < 1e-8


def test_state_survives_saving() -> None:
    def run(parameters: dict[str, Tensor], optimizer: Lamb, steps: range) -> None:
        for step in steps:
            for name, gradient in make_gradients(step).items():
                parameters[name].grad = gradient
            optimizer.step()

    straight = make_tensors()
    run(straight, Lamb(groups_of(straight)), range(6))
    first = make_tensors()
    optimizer = Lamb(groups_of(first))
    run(first, optimizer, range(3))
    second = {name: p.clone() for name, p in first.items()}
    resumed = Lamb(groups_of(second))
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(second, resumed, range(3, 6))
    assert all(torch.equal(straight[name], second[name]) for name in straight)


def test_gradient_missing_and_dtype() -> None:
    used, unused = torch.ones(3), torch.ones(3)
    used.grad = torch.ones(3)
    optimizer = Lamb([used, unused])
    optimizer.step()
    assert torch.equal(unused, torch.ones(3))
    assert unused not in optimizer.state
    half = torch.ones(3, dtype=torch.bfloat16)
    half.grad = half.clone()
    Lamb([half]).step()
    wide = torch.ones(3, dtype=torch.complex64)
    wide.grad = wide.clone()
    with pytest.raises(TypeError, match="complex64"):
        Lamb([wide]).step()
    turned = torch.ones(3, 2).T
    turned.grad = torch.ones(2, 3)
    with pytest.raises(TypeError, match="contiguous"):
        Lamb([turned]).step()


@pytest.mark.parametrize(
    "options",
    [
        {"lr": -1.0},
        {"betas": (1.0, 0.9)},
        {"eps": -1.0},
        {"min_trust_ratio": 2, "max_trust_ratio": 1},
        {"rule": "sgd"},
    ],
    ids=str,
)
def test_settings_checked(options: dict) -> None:
    with pytest.raises(ValueError):
        Lamb([torch.ones(1)], LambOptions(**options))


def test_group_settings_checked() -> None:
    with pytest.raises(ValueError, match="eps"):
        Lamb([{"params": [torch.ones(1)], "eps": -1.0}])


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(5, 3)
        self.attention_norm = nn.LayerNorm(3)
        self.dense = nn.Linear(3, 3)
        self.decoder = nn.Linear(3, 5)
        self.decoder.weight = self.embeddings.weight


def test_parameter_groups() -> None:
    model = Tiny()
    weights, rest = parameter_groups(model, 0.01)
    assert weights["names"] == ["embeddings.weight", "dense.weight"]  # tied: once
    assert rest["names"] == [
        "attention_norm.weight",
        "attention_norm.bias",
        "dense.bias",
        "decoder.bias",
    ]
    assert (weights["weight_decay"], weights["adapt"]) == (0.01, True)
    assert (rest["weight_decay"], rest["adapt"]) == (0.0, False)
    optimizer = Lamb(parameter_groups(model, 0.01))
    assert optimizer.param_groups[1]["adapt"] is False
    assert all(group["adapt"] for group in parameter_groups(model, 0.01, adapt_all=True))
    model.requires_grad_(False)
    with pytest.raises(UserError, match="no trainable"):
        parameter_groups(model, 0.01)


def test_own_parameter_groups() -> None:
    """The first rule that matches takes a parameter; each group has its own rate and decay."""
    model = Tiny()
    own = [
        GroupRule("^dense", lr_scale=0.5),
        GroupRule("bias$", 0.1, weight_decay=0.02, adapt=True),
    ]
    groups = parameter_groups(model, 0.01, own=own)
    assert [group["names"] for group in groups] == [
        ["embeddings.weight"],
        ["attention_norm.weight"],
        ["dense.weight"],
        ["dense.bias"],
        ["attention_norm.bias", "decoder.bias"],
    ]
    assert [group["lr_scale"] for group in groups] == [1.0, 1.0, 0.5, 0.5, 0.1]
    assert [group["weight_decay"] for group in groups] == [0.01, 0.0, 0.01, 0.0, 0.02]
    assert [group["adapt"] for group in groups] == [True, False, True, False, True]
    schedule = Schedule(Lamb(groups), Curve("constant", 10, 0.3, 0.0))
    assert schedule.get_last_lr() == pytest.approx([0.3, 0.3, 0.15, 0.15, 0.03])
    assert [group["lr"] for group in schedule.optimizer.param_groups] == schedule.get_last_lr()
    own[0] = GroupRule("^dense", beta2=0.98, eps=1e-8)
    made = Lamb(with_own_moments(parameter_groups(model, 0.01, own=own), (0.8, 0.999), 1e-6))
    assert [group["betas"] for group in made.param_groups] == [(0.8, 0.999)] * 2 + [
        (0.8, 0.98)
    ] * 2 + [(0.8, 0.999)]
    assert [group["eps"] for group in made.param_groups] == [1e-6] * 2 + [1e-8] * 2 + [1e-6]
    with pytest.raises(
        UserError, match=r"group 3: '.*' matches no parameter that earlier groups left"
    ):
        parameter_groups(model, 0.01, own=[*own, GroupRule("dense.bias")])


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("bert.layers.0.mlp_norm.weight", True),
        ("mlm.bias", True),
        ("bert.final_norm.bias", True),
        ("encoder.LayerNorm.weight", True),
        ("bert.pooler.dense.weight", False),
        ("bert.embeddings.word_embeddings.weight", False),
        ("normal.weight", False),
    ],
)
def test_names(name: str, plain: bool) -> None:
    assert is_bias_or_norm(name) is plain


def test_parameter_groups_file(tmp_path: Path) -> None:
    path = tmp_path / "groups.yaml"
    path.write_text('- match: "^dense"\n  lr_scale: 5e-1\n- {match: bias$, adapt: on}\n')
    assert read_parameter_groups(path) == [
        GroupRule("^dense", lr_scale=0.5),
        GroupRule("bias$", adapt=True),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {match: a, rate: 2}", "0.rate"),
        ("- {lr_scale: 2}", "0.match"),
        ("- {match: '('}", "not a regular expression"),
        ("- {match: a, lr_scale: -1}", "0.lr_scale"),
        ("match: a", "valid list"),
        ("[", "not YAML"),
        (None, "No such file"),
    ],
)
def test_parameter_groups_file_wrong(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "groups.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_parameter_groups(path)
    assert str(path) in str(caught.value)
