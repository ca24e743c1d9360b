"""Attention on CUDA: the choice of a way, what each is called with, and the padded one's exactness.

Without a GPU torch's flash operator runs on tensors without storage: its signature, the shapes that it
promises and the wiring of its gradient are checked, its arithmetic is not.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from megabert.kernels import reference
from megabert.kernels.attention import flash
from megabert.kernels.attention.flash import AttentionBackend, choose_attention, flash_attention

HEADS, SIZE, SCALE = 2, 8, 0.3
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    """Choices that a test's machine has led to are not kept."""
    package, chosen = flash._package, flash._chosen
    yield
    package.cache_clear()
    chosen.cache_clear()


def bounds_of(lengths: list[int]) -> list[int]:
    return [0, *itertools.accumulate(lengths)]


def spans_of(lengths: list[int]) -> Tensor:
    """The sequences that are not empty, as the reference takes them."""
    pairs = [pair for pair in itertools.pairwise(bounds_of(lengths)) if pair[0] < pair[1]]
    return torch.tensor(pairs)


def inputs(tokens: int, dtype: torch.dtype = torch.float64, device: str = "cpu") -> list[Tensor]:
    """Query, key and value as views of one tensor, and a gradient of the context."""
    generator = torch.Generator().manual_seed(tokens)
    whole = torch.randn(tokens, 3, HEADS, SIZE, dtype=torch.float64, generator=generator)
    grad = torch.randn(tokens, HEADS, SIZE, dtype=torch.float64, generator=generator)
    whole = whole.to(device, dtype).requires_grad_()
    return [*whole.unbind(1), whole, grad.to(device, dtype)]


# ---------------------------------------------------------------------- the choice


@pytest.mark.parametrize(
    ("device", "capability", "dtype", "head_size", "installed", "backend", "reason"),
    [
        ("cuda", (9, 0), BF16, 64, True, AttentionBackend.FLASH_ATTN, ""),
        ("cuda", (9, 0), BF16, 64, False, AttentionBackend.TORCH, "flash_attn"),
        ("cuda", (8, 0), FP16, 256, False, AttentionBackend.TORCH, "flash_attn"),
        ("cuda", (10, 0), BF16, 128, False, AttentionBackend.TORCH, "flash_attn"),
        ("cuda", (8, 9), BF16, 192, True, AttentionBackend.FLASH_ATTN, ""),
        ("cuda", (8, 9), BF16, 200, True, AttentionBackend.PADDED, "192"),
        ("cuda", (12, 0), BF16, 256, True, AttentionBackend.PADDED, "192"),
        ("cuda", (9, 0), BF16, 264, True, AttentionBackend.PADDED, "256"),
        ("cuda", (9, 0), BF16, 36, True, AttentionBackend.PADDED, "multiples of 8"),
        ("cuda", (9, 0), FP32, 64, True, AttentionBackend.PADDED, "float32"),
        ("cuda", (7, 5), FP16, 64, True, AttentionBackend.PADDED, "7.5"),
        ("cpu", None, BF16, 64, True, AttentionBackend.PADDED, "cpu"),
    ],
)
def test_choice(
    device: str,
    capability: tuple[int, int] | None,
    dtype: torch.dtype,
    head_size: int,
    installed: bool,
    backend: AttentionBackend,
    reason: str,
) -> None:
    choice = choose_attention(device, capability, dtype, head_size, installed)
    assert choice.backend is backend
    assert reason in choice.reason
    assert bool(choice.reason) == (backend is not AttentionBackend.FLASH_ATTN)


def test_choice_is_logged_once(capsys: pytest.CaptureFixture[str]) -> None:
    query, key, value, _, _ = inputs(5)
    bounds = torch.tensor([0, 2, 5], dtype=torch.int32)
    for _ in range(3):
        flash_attention(query, key, value, bounds, 3, SCALE, 0.0)
    said = capsys.readouterr().err
    assert said.count("attention on cpu by padded scaled_dot_product_attention: ") == 1
    assert flash.attention_backend(query) == "padded scaled_dot_product_attention"


# ---------------------------------------------------------------------- padded


@settings(deadline=None, max_examples=25)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(sum),
    room=st.integers(0, 3),
)
def test_padded_is_exact(lengths: list[int], room: int) -> None:
    bounds, spans = bounds_of(lengths), spans_of(lengths)
    query, key, value, whole, grad = inputs(bounds[-1])
    cu_seqlens = torch.tensor(bounds, dtype=torch.int32)
    context = flash_attention(query, key, value, cu_seqlens, max(lengths) + room, SCALE, 0.0)
    wanted, lse = reference.attention_forward(query, key, value, spans, 0, SCALE, None)
    torch.testing.assert_close(context, wanted, rtol=1e-12, atol=1e-12)
    (found,) = torch.autograd.grad(context, whole, grad)
    grads = reference.attention_backward(
        grad, query, key, value, wanted, lse, spans, 0, SCALE, None
    )
    torch.testing.assert_close(found, torch.stack(grads, 1), rtol=1e-11, atol=1e-11)


def test_padding_spreads_no_nan() -> None:
    query, key, value, _, _ = (x.detach().clone() for x in inputs(7))
    value[4:] = torch.nan
    bounds = torch.tensor([0, 4, 7], dtype=torch.int32)
    context = flash_attention(query, key, value, bounds, 6, SCALE, 0.0)
    assert bool(context[:4].isfinite().all())
    assert bool(context[4:].isnan().all())


def weights_of(way: Any, lengths: list[int], dropout: float, seed: int, device: str) -> Tensor:
    """Attention probabilities [T, N, D] as dropout leaves them: values are one-hot of the place."""
    bounds = torch.tensor(bounds_of(lengths), dtype=torch.int32, device=device)
    tokens, longest = sum(lengths), max(lengths)
    places = torch.cat([torch.arange(length) for length in lengths])
    value = torch.eye(longest)[places][:, None].expand(-1, HEADS, -1)
    dtype = FP32 if device == "cpu" else BF16
    flat = torch.zeros(tokens, HEADS, longest, device=device, dtype=dtype)
    torch.manual_seed(seed)
    return way(flat, flat, value.to(device, dtype), bounds, longest, SCALE, dropout)


def dropout_is_honoured(way: Any, device: str) -> None:
    """Each probability is 0 or its value over 1 - p, and the seed decides which."""
    lengths, probability = [64, 64, 40], 0.25
    first = weights_of(way, lengths, probability, 1, device).float()
    assert torch.equal(first, weights_of(way, lengths, probability, 1, device).float())
    assert not torch.equal(first, weights_of(way, lengths, probability, 2, device).float())
    for begin, end in itertools.pairwise(bounds_of(lengths)):
        inside = first[begin:end, :, : end - begin] * (end - begin) * (1.0 - probability)
        assert bool(((inside.abs() < 1e-6) | ((inside - 1.0).abs() < 0.01)).all())
        assert abs(float((inside == 0).float().mean()) - probability) < 0.03
        assert not torch.equal(inside[:, 0], inside[:, 1]), "heads share a mask"
        assert bool((first[begin:end, :, end - begin :] == 0).all())


def test_padded_honours_dropout() -> None:
    dropout_is_honoured(flash_attention, "cpu")


# ---------------------------------------------------------------------- flash


class Calls(TorchDispatchMode):
    """Arguments of the flash operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, list[dict[str, Any]]] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if "flash_attention" in function.name():
            names = [argument.name for argument in function._schema.arguments]
            values = dict(zip(names, args)) | (kwargs or {})
            self.seen.setdefault(function.name(), []).append(values)
        return function(*args, **(kwargs or {}))


def test_torch_operator_and_its_gradient() -> None:
    """Shapes, dtypes and the arguments that reach forward and backward."""
    whole = torch.empty(20, 3, 4, 64, dtype=BF16, device="meta", requires_grad=True)
    query, key, value = whole.unbind(1)
    bounds = torch.empty(4, dtype=torch.int32, device="meta")
    with Calls() as calls:
        context = flash.by_torch(query, key, value, bounds, 8, SCALE, 0.1)
        context.backward(torch.empty_like(context))
    assert context.shape == (20, 4, 64)
    assert context.dtype == BF16
    assert whole.grad is not None
    assert whole.grad.shape == whole.shape
    assert set(calls.seen) == {"aten::_flash_attention_forward", "aten::_flash_attention_backward"}
    for (call,) in calls.seen.values():
        assert call["dropout_p"] == 0.1
        assert call["is_causal"] is False
        assert call["scale"] == SCALE
        assert call["max_q"] == call["max_k"] == 8
        assert call["cum_seq_q"].shape == call["cum_seq_k"].shape == (4,)
        assert call.get("window_size_left") is call.get("window_size_right") is None


def test_whole_way_on_a_pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the choice to the operator, on CUDA tensors without storage."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(flash, "_package", lambda: None)
    with FakeTensorMode(), torch.no_grad(), Calls() as calls:
        query = torch.empty(20, 4, 64, dtype=BF16, device="cuda")
        bounds = torch.empty(4, dtype=torch.int32, device="cuda")
        context = flash_attention(query, query, query, bounds, 8, SCALE, 0.1)
        assert context.shape == query.shape
        assert context.device == query.device
        single = flash_attention(query.float(), query.float(), query.float(), bounds, 8, SCALE, 0.1)
        assert single.dtype == FP32
        assert single.shape == query.shape
    assert len(calls.seen["aten::_flash_attention_forward"]) == 1, "fp32 went there as well"


def test_package_is_called_as_it_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the parameter names of flash-attn 2."""
    made = ModuleType("flash_attn")
    calls = []

    def flash_attn_varlen_func(
        q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor,
        max_seqlen_q: int, max_seqlen_k: int, dropout_p: float = 0.0,
        softmax_scale: float | None = None, causal: bool = False,
        window_size: tuple[int, int] = (-1, -1), softcap: float = 0.0,
        alibi_slopes: Tensor | None = None, deterministic: bool = False,
        return_attn_probs: bool = False, block_table: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        calls.append((max_seqlen_q, max_seqlen_k, dropout_p, softmax_scale, causal, deterministic))
        assert cu_seqlens_q is cu_seqlens_k
        return torch.empty_like(q)

    made.flash_attn_varlen_func = flash_attn_varlen_func  # type: ignore[attr-defined]
    made.__spec__ = ModuleSpec("flash_attn", None)
    monkeypatch.setitem(sys.modules, "flash_attn", made)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    with FakeTensorMode(), torch.no_grad():
        query = torch.empty(20, 4, 64, dtype=BF16, device="cuda")
        bounds = torch.empty(4, dtype=torch.int32, device="cuda")
        flash_attention(query, query, query, bounds, 8, SCALE, 0.1)
        assert flash.attention_backend(query) is AttentionBackend.FLASH_ATTN
    assert calls == [(8, 8, 0.1, SCALE, False, False)]


def test_a_broken_package_is_logged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "flash_attn.py").write_text("raise ImportError('undefined symbol:\\n _ZN2at')")
    monkeypatch.syspath_prepend(tmp_path)
    assert flash._package() is None
    assert "flash_attn is not used because its import fails: undefined symbol: _ZN2at" in (
        capsys.readouterr().err
    )


def test_no_tokens() -> None:
    query, key, value, whole, grad = inputs(0)
    context = flash_attention(query, key, value, torch.zeros(1, dtype=torch.int32), 4, SCALE, 0.0)
    assert context.shape == (0, HEADS, SIZE)
    assert torch.autograd.grad(context, whole, grad)[0].shape == whole.shape


# ---------------------------------------------------------------------- on a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu() -> None:
    """Every way that this GPU has, in bf16, against the formula in float64; and dropout."""
    lengths = [200, 128, 65, 1]
    bounds, spans = bounds_of(lengths), spans_of(lengths)
    query, key, value, whole, grad = inputs(bounds[-1], BF16, "cuda")
    cu_seqlens = torch.tensor(bounds, dtype=torch.int32, device="cuda")
    exact = [x.detach().double() for x in (query, key, value)]
    wanted, lse = reference.attention_forward(*exact, spans, 0, SCALE, None)
    grads = reference.attention_backward(grad.double(), *exact, wanted, lse, spans, 0, SCALE, None)
    ways = [flash.padded, flash.by_torch]
    if flash._package() is not None:
        ways.append(flash._by_package)
    for way in ways:
        context = way(query, key, value, cu_seqlens, 256, SCALE, 0.0)
        torch.testing.assert_close(context.double(), wanted, rtol=0.02, atol=0.02)
        (found,) = torch.autograd.grad(context, whole, grad)
        torch.testing.assert_close(found.double(), torch.stack(grads, 1), rtol=0.03, atol=0.03)
        dropout_is_honoured(way, "cuda")
