"""The Triton passes against the equations of ``megabert.optim.lamb.backend`` in float64.

Every check is a plain function that runs twice: in Triton's interpreter on CPU tensors, and on CUDA
where there is a device. The interpreter must be chosen before Triton is imported, which may already
have happened here: it lives in a process of its own. Another process compiles the kernels for GPUs
that need not be there.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from megabert.optim.flat_segments import LocalTensor, ParameterSlice, Partition
from megabert.optim.lamb.backend import Rule, Work
from tests.helpers.triton_processes import Run, assembly, process, target_of

triton = pytest.importorskip("triton", reason="Triton is not installed")

from megabert.optim.lamb import triton_passes  # noqa: E402
from megabert.optim.lamb.triton_passes import BlockTable, TritonBackend  # noqa: E402

BLOCK = 64
SIZES = (1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7)
GAPS = (3, 0, 5, 16, 0, 30)
"""Padding before each segment, and behind the last one."""
PAD = 7.0
LR = 0.02


# ---------------------------------------------------------------------- the equations


@dataclass(frozen=True)
class Case:
    """What one simulated training is made of."""

    kind: str = "lamb"
    bias_correction: bool = True
    weight_decay: float = 0.01
    adapt: bool = True
    grad: torch.dtype = torch.float32
    half_copy: torch.dtype | None = None
    master: torch.dtype = torch.float32
    sizes: tuple[int, ...] = SIZES
    gaps: tuple[int, ...] = GAPS
    block: int = BLOCK
    steps: int = 5
    limit: float = 5e-7

    @property
    def rule(self) -> Rule:
        correct = self.bias_correction
        return Rule(self.kind, 0.9, 0.999, 1e-6, self.weight_decay, correct)  # type: ignore[arg-type]


class Plain:
    """The segments' p, m, v in float64, whole tensors each; ``lr_k = lr f_k``."""

    def __init__(self, case: Case, weights: Sequence[np.ndarray]) -> None:
        self.case, self.p, self.step = case, [w.copy() for w in weights], 0
        self.m = [np.zeros_like(p) for p in self.p]
        self.v = [np.zeros_like(p) for p in self.p]
        self.squares = np.zeros((len(self.p), 1 + case.rule.updates))

    def update(self, gradients: Sequence[np.ndarray]) -> None:
        rule = self.case.rule
        self.step += 1
        c1, c2 = 1.0 - rule.beta1**self.step, 1.0 - rule.beta2**self.step
        if not rule.bias_correction:
            c1 = c2 = 1.0
        for i, (p, m, v, g) in enumerate(zip(self.p, self.m, self.v, gradients)):
            if rule.kind == "lans":
                g = g / np.sqrt((g**2).sum())
            m[...] = rule.beta1 * m + (1.0 - rule.beta1) * g
            v[...] = rule.beta2 * v + (1.0 - rule.beta2) * g**2
            d = np.sqrt(v / c2) + rule.eps
            updates = [(m / c1) / d + rule.weight_decay * p]
            if rule.kind == "lans":
                updates.append(g / d + rule.weight_decay * p)
            self.squares[i] = [(x**2).sum() for x in (p, *updates)]
            change = np.zeros_like(p)
            for k, (u, weight) in enumerate(zip(updates, rule.weights)):
                ratio = np.sqrt(self.squares[i, 0] / self.squares[i, 1 + k])
                change += (ratio if self.case.adapt else 1.0) * weight * u
            p -= LR * change


def partition_of(sizes: Sequence[int], gaps: Sequence[int]) -> Partition:
    segments, end = [], 0
    for number, (size, gap) in enumerate(zip(sizes, gaps)):
        tensor = LocalTensor(f"t{number}", (size,))
        segments.append(ParameterSlice(number, tensor, end + gap, 0, size))
        end += gap + size
    return Partition(
        tuple(s.tensor for s in segments), tuple(segments), end + sum(gaps[len(sizes) :])
    )


def difference(found: Sequence[Tensor], wanted: Sequence[np.ndarray]) -> float:
    """Largest deviation, relative to the largest value of its segment; or to a twentieth of that of
    all, for segments of one element that happens to be near 0."""
    floor = max(np.abs(w).max() for w in wanted) / 20
    pairs = [(f.double().cpu().numpy(), w) for f, w in zip(found, wanted)]
    return max(float(np.abs(f - w).max() / max(np.abs(w).max(), floor)) for f, w in pairs)


def bits(tensor: Tensor) -> Tensor:
    """So that NaNs compare equal."""
    return tensor.view(torch.uint8).clone()


# ---------------------------------------------------------------------- checks, on any device


def train(device: str, case: Case) -> dict[str, Tensor]:
    """Some steps as the optimizer takes them. Gradients have NaN in their padding, all else ``PAD``:
    the one must not spread, the other not change."""
    rule, partition = case.rule, partition_of(case.sizes, case.gaps)
    generator = torch.Generator().manual_seed(5)
    inside = torch.zeros(partition.numel, dtype=torch.bool)
    for view in partition.views(inside):
        view.fill_(True)

    def flat(dtype: torch.dtype, spread: float, pad: float = PAD) -> Tensor:
        values = torch.randn(partition.numel, generator=generator) * spread
        return values.where(inside, pad).to(device, dtype)

    state = {"master": flat(case.master, 1.0)}
    state["exp_avg"], state["exp_avg_sq"] = flat(case.master, 0.0), flat(case.master, 0.0)
    if case.half_copy is not None:
        state["half_copy"] = flat(case.half_copy, 1.0)
    backend = TritonBackend(case.block)
    plain = Plain(case, [v.double().cpu().numpy() for v in partition.views(state["master"])])
    for step in range(1, case.steps + 1):
        grad = flat(case.grad, 3.0, torch.nan)
        before = bits(grad)
        work = [Work(grad=grad, step=step, partition=partition, **state)]
        gradients = [v.double().cpu().numpy() for v in partition.views(grad)]
        scales = None
        if case.kind == "lans":
            squares = backend.gradient_squares(work)
            wanted = np.array([(g**2).sum() for g in gradients])
            assert difference(squares, [wanted]) < 5e-7
            scales = [squares[0].rsqrt().to(case.master)]
        plain.update(gradients)
        if case.adapt:
            (sums,) = backend.first_pass(rule, work, scales)
            assert sums.dtype == torch.float64
            assert sums.shape == (len(case.sizes), 1 + rule.updates)
            # elements of p and u are about 1: a sum is known to a part of the number of them
            error = np.abs(sums.cpu().numpy() - plain.squares)
            error = (error / np.maximum(plain.squares, np.array(case.sizes)[:, None])).max()
            assert error < 4 * case.limit, f"squared norms are {error} off, step {step}"
            shares = torch.tensor(rule.weights, dtype=torch.float64, device=device)
            factors = (sums[:, :1] / sums[:, 1:]).sqrt() * shares
            backend.second_pass(rule, work, scales, [factors.to(case.master)], LR)
        else:
            backend.single_pass(rule, work, scales, LR)
        assert torch.equal(bits(grad), before), "a gradient was written"
    for name, tensor in state.items():
        assert bool((tensor[~inside.to(device)] == PAD).all()), f"padding of {name} was written"
    for name, wanted in (("master", plain.p), ("exp_avg", plain.m), ("exp_avg_sq", plain.v)):
        error = difference(partition.views(state[name]), wanted)
        limit = case.limit if name == "master" else 2 * case.limit
        assert error < limit, f"{name} is {error} off after {case.steps} steps"
    if case.half_copy is not None:
        rounded = state["master"].to(case.half_copy)[inside.to(device)]
        assert torch.equal(state["half_copy"][inside.to(device)], rounded), (
            "half_copy is not the master's"
        )
    return {name: tensor.cpu() for name, tensor in state.items()}


def repeat(device: str, kind: str) -> None:
    """Twice the same bits, also of sums over more blocks than are added at a time (CUDA)."""
    sizes = (3_000_003, 5, 20_001) if device == "cuda" else (5_003, 5, 401)
    case = Case(kind, sizes=sizes, gaps=(0, 3, 1), block=triton_passes.BLOCK, steps=2, limit=1e-6)
    one, other = train(device, case), train(device, case)
    for name in one:
        assert torch.equal(bits(one[name]), bits(other[name])), f"{name} differs on repetition"


def several(device: str) -> None:
    """Works of one call are apart: other steps and partitions, one all padding, one without eps."""
    backend = TritonBackend(BLOCK)
    rule = Rule("lamb", 0.9, 0.999, 0.0, 0.0, True)
    partitions = [
        partition_of((70,), (0,)),
        Partition((LocalTensor("t0", (9,)),), (), 9),
        partition_of((3, 90), (2, 1)),
    ]
    work = []
    for step, partition in enumerate(partitions, 3):
        tensors = [torch.full((partition.numel,), x, device=device) for x in (2.0, 1.0, 0.0, 0.0)]
        work.append(Work(*tensors, step=step, partition=partition))
    assert [s.tolist() for s in backend.gradient_squares(work)] == [[70.0], [], [3.0, 90.0]]
    sums = backend.first_pass(rule, work, None)
    assert [tuple(s.shape) for s in sums] == [(1, 2), (0, 2), (2, 2)]
    factors = [torch.arange(1.0, 1 + len(s), device=device)[:, None] for s in sums]
    backend.second_pass(rule, work, None, factors, 0.5)
    for item, squares in zip(work, sums):
        c1, root = rule.corrections(item.step)
        u = (0.1 / c1) / (0.001**0.5 / root)
        views = item.partition.views(item.master)
        for number, (view, segment) in enumerate(zip(views, item.partition.segments)):
            wanted = [4.0 * segment.numel, u * u * segment.numel]
            assert squares[number].tolist() == pytest.approx(wanted, rel=1e-6)
            assert view.tolist() == pytest.approx([2.0 - 0.5 * (number + 1) * u] * segment.numel)
    assert bool((work[1].master == 2.0).all())


def without_waiting(device: str) -> None:
    """No pass waits for the device, once the tables are there."""
    case = Case("lans", steps=1)
    partition = partition_of(case.sizes, case.gaps)
    tensors = [torch.ones(partition.numel, device=device) for _ in range(4)]
    work, backend = [Work(*tensors, step=1, partition=partition)], TritonBackend(BLOCK)
    for mode in ("default", "error"):
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode(mode)
        try:
            scales = [backend.gradient_squares(work)[0].rsqrt().float()]
            sums = backend.first_pass(case.rule, work, scales)
            backend.second_pass(case.rule, work, scales, [sums[0][:, 1:].float()], LR)
            backend.single_pass(case.rule, work, scales, LR)
        finally:
            torch.cuda.set_sync_debug_mode("default")


# ---------------------------------------------------------------------- tests

HALF = {"grad": torch.bfloat16, "half_copy": torch.bfloat16}


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 10},
        {"bias_correction": False, "grad": torch.float16, "half_copy": torch.float16},
        {"weight_decay": 0.0, **HALF},
        {"adapt": False, "half_copy": torch.bfloat16, "steps": 10},
        {"adapt": False, "bias_correction": False, "grad": torch.bfloat16},
        {"kind": "lans", "steps": 10, **HALF},
        {"kind": "lans", "bias_correction": False, "half_copy": torch.float16},
        {"kind": "lans", "weight_decay": 0.0, "grad": torch.float16},
        {"kind": "lans", "adapt": False, **HALF},
        {"master": torch.float64, "grad": torch.float64, "limit": 1e-14},
        {"kind": "lans", "master": torch.float64, "grad": torch.float32, "limit": 1e-14},
        {
            "block": triton_passes.BLOCK,
            "sizes": (triton_passes.BLOCK + 9, 33),
            "gaps": (7, 2),
            **HALF,
        },
    ],
    ids=str,
)
def test_equals_the_equations(on_device: Run, options: dict) -> None:
    on_device(train, Case(**options))


@settings(deadline=None, max_examples=8)
@given(
    pieces=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 130)), min_size=1, max_size=4),
    kind=st.sampled_from(["lamb", "lans"]),
    padding=st.integers(0, 40),
)
def test_any_layout(on_device: Run, pieces: list[tuple[int, int]], kind: str, padding: int) -> None:
    gaps, sizes = zip(*pieces)
    on_device(train, Case(kind, sizes=sizes, gaps=(*gaps, padding), block=32, steps=2, limit=2e-6))


@pytest.mark.parametrize("kind", ["lamb", "lans"])
def test_repeats_bit_for_bit(on_device: Run, kind: str) -> None:
    on_device(repeat, kind)


def test_several_works(on_device: Run) -> None:
    on_device(several)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_pass_waits_for_the_device() -> None:
    without_waiting("cuda")


@settings(deadline=None, max_examples=50)
@given(
    pieces=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 300)), max_size=5),
    block=st.sampled_from([16, 32, 128]),
)
def test_blocks_cover_segments_once(pieces: list[tuple[int, int]], block: int) -> None:
    gaps, sizes = zip(*pieces) if pieces else ((9,), ())
    partition = partition_of(sizes, gaps)
    found = BlockTable.of(partition, block, torch.device("cpu"))
    owners = torch.full((partition.numel,), -1)
    for start, first, last, segment in found.table.tolist():
        assert start % triton_passes.ALIGN.value == 0
        assert 0 <= first < last <= block
        assert bool((owners[start + first : start + last] == -1).all()), "two blocks overlap"
        owners[start + first : start + last] = segment
    wanted = torch.full_like(owners, -1)
    for number, view in enumerate(partition.views(wanted) if pieces else []):
        view.fill_(number)
        begin, end = found.ranges[number : number + 2].tolist()
        assert found.table[begin:end, 3].unique().tolist() == [number]
    assert torch.equal(owners, wanted)
    assert len(found.ranges) == len(sizes) + 1


def test_starts_need_64_bits() -> None:
    start = 5 * 2**31 + 3
    tensor = LocalTensor("t", (40,))
    partition = Partition((tensor,), (ParameterSlice(0, tensor, start, 0, 40),), start + 40)
    found = BlockTable.of(partition, 32, torch.device("cpu"))
    assert found.table.tolist() == [[start - 3, 3, 32, 0], [start + 29, 0, 11, 0]]


def test_tables_are_made_once() -> None:
    backend, tensor = TritonBackend(), torch.zeros(40)
    partition = partition_of((40,), (0,))
    item = Work(tensor, tensor, tensor, tensor, 1, partition)
    made = backend._blocks(item)
    assert backend._blocks(item) is made
    other = Work(tensor, tensor, tensor, tensor, 1, partition_of((39,), (1,)))
    assert backend._blocks(other).table.tolist() == [[0, 1, 40, 0]]
    copied = copy.deepcopy(backend)  # its keys are the ids of the original's partitions
    assert copied._blocks(item).table.tolist() == [[0, 0, 40, 0]]


def test_what_is_refused() -> None:
    half = torch.ones(4, dtype=torch.bfloat16)
    work = [Work(half, half, half, half, 1, partition_of((4,), (0,)))]
    backend, rule = TritonBackend(), Case().rule
    with pytest.raises(TypeError, match=r"fp32.*bfloat16"):
        backend.gradient_squares(work)
    with pytest.raises(TypeError, match=r"fp32.*bfloat16"):
        backend.single_pass(rule, work, None, LR)
    with pytest.raises(ValueError, match="power of two"):
        TritonBackend(100)


# ---------------------------------------------------------------------- code for GPUs

POINTERS = {
    "weights": "*fp32", "exp_avg": "*fp32", "exp_avg_sq": "*fp32", "gradients": "*fp32",
    "half_copy": "*bf16", "scales": "*fp32", "factors": "*fp32", "partials": "*fp32",
    "table": "*i64", "ranges": "*i64", "sums": "*fp64",
}  # fmt: skip
FIRST = {"MOMENTS": True, "half_copy": None, "factors": None}
SECOND = {"MOMENTS": False, "partials": None}
SINGLE = {"MOMENTS": True, "factors": None, "partials": None}


def generate(kernel: str, types: dict[str, str], constants: dict[str, Any], arch: int | str) -> str:
    """Assembly of a kernel as the launcher has it made for pointers that are multiples of 16 bytes."""
    from triton.compiler import ASTSource

    function = getattr(triton_passes, kernel)
    kinds = {**POINTERS, **types, **dict.fromkeys(constants, "constexpr")}
    signature = {
        param.name: kinds.get(param.name) or param.annotation_type or "fp32"
        for param in function.params
    }
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(function.arg_names)
        if signature[name].startswith("*")
    }
    source = ASTSource(function, signature, constants, aligned)
    options = {"num_warps": triton_passes.WARPS}
    made = triton.compile(source, target=target_of(arch), options=options)
    return assembly(made)


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    cache: Path = tmp_path_factory.mktemp("triton")
    with process(TRITON_CACHE_DIR=str(cache)) as call:
        yield call


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("lans", [False, True])
@pytest.mark.parametrize(("mode", "writes"), [(FIRST, 2), (SECOND, 1), (SINGLE, 3)])
def test_update_compiles(compiler: Run, arch: int, lans: bool, mode: dict, writes: int) -> None:
    """All tensors move in vectors, 4 elements a thread; roots and quotients exact; no atomics."""
    constants = {"LANS": lans, "BLOCK": triton_passes.BLOCK, **mode}
    if not lans:
        constants["scales"] = None
    reads_gradient = lans or mode["MOMENTS"]
    assert triton_passes.BLOCK == 4 * 32 * triton_passes.WARPS
    for grad in ("fp32", "fp16") if arch == 80 else ("bf16",):
        types = {"gradients": f"*{grad}", "half_copy": "*bf16" if grad == "fp32" else f"*{grad}"}
        ptx = compiler(generate, "_update_kernel", types, constants, arch)
        count = {
            f"{move}{width}": len(re.findall(rf"{move}\.global\.v{width}\.b32", ptx))
            for move in ("ld", "st")
            for width in (2, 4)
        }
        half = int(reads_gradient and grad != "fp32")
        assert count["ld4"] == 3 + reads_gradient - half, "loads of p, m, v and an fp32 gradient"
        assert count["ld2"] == half, "loads of a half-precision gradient"
        assert count["st4"] == writes
        assert count["st2"] == (mode is not FIRST), "stores of the half-precision copy"
        assert f"sm_{arch}" in ptx
        assert "sqrt.rn.f32" in ptx
        assert "div.rn.f32" in ptx
        assert not re.search(r"sqrt\.approx|div\.(full|approx)|\b(atom|red)\.", ptx)


@pytest.mark.parametrize("arch", [pytest.param(80, marks=pytest.mark.slow), 90])
def test_other_kernels_compile(compiler: Run, arch: int) -> None:
    double = dict.fromkeys([name for name, kind in POINTERS.items() if kind == "*fp32"], "*fp64")
    constants = {"LANS": True, "BLOCK": triton_passes.BLOCK, **FIRST}
    ptx = compiler(generate, "_update_kernel", double, constants, arch)
    assert "sqrt.rn.f64" in ptx
    assert ".f32" not in ptx, "fp64 masters, but something is rounded to fp32"
    for gradients in ("*fp32", "*bf16", "*fp16"):
        types, constants = {"gradients": gradients}, {"BLOCK": triton_passes.BLOCK}
        ptx = compiler(generate, "_squares_kernel", types, constants, arch)
        assert f"ld.global.v{4 if gradients == '*fp32' else 2}.b32" in ptx
    for width in (1, 2, 3):
        constants = {"WIDTH": width, "CHUNK": triton_passes.CHUNK}
        ptx = compiler(generate, "_reduce_kernel", {}, constants, arch)
        assert not re.search(r"\b(atom|red)\.", ptx)
        assert re.search(r"add(\.rn)?\.f64", ptx)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["gfx90a", "gfx942"])
def test_kernels_compile_for_amd(compiler: Run, arch: str) -> None:
    """They have not run there."""
    constants = {"LANS": False, "scales": None, "BLOCK": triton_passes.BLOCK}
    for mode in (FIRST, SECOND, SINGLE):
        types = {"gradients": "*bf16"}
        assert arch in compiler(generate, "_update_kernel", types, {**constants, **mode}, arch)
    width = {"WIDTH": 2, "CHUNK": triton_passes.CHUNK}
    assert arch in compiler(generate, "_reduce_kernel", {}, width, arch)
    block = {"BLOCK": triton_passes.BLOCK}
    assert arch in compiler(generate, "_squares_kernel", {"gradients": "*bf16"}, block, arch)
