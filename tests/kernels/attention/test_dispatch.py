"""Which attention is used on a GPU, and what ``--attention`` changes."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from megabert.common.errors import UserError
from megabert.kernels.attention import dispatch
from megabert.kernels.attention.dispatch import AttentionSetting, triton_fault, use_attention
from megabert.model.encoder import Encoder
from megabert.model.modules import SelfAttention
from tests.helpers.model_cases import tiny_config

pytest.importorskip("triton", reason="Triton is not installed")
BF16 = torch.bfloat16


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    chosen = dispatch._chosen
    yield
    chosen.cache_clear()


@pytest.mark.parametrize(
    ("device", "capability", "dtype", "head_size", "fault"),
    [
        ("cuda", (9, 0), BF16, 64, ""),
        ("cuda", (8, 0), torch.float32, 256, ""),
        ("cuda", (10, 0), torch.float16, 1, ""),
        ("cuda", (7, 5), torch.float16, 64, "7.5"),
        ("cuda", (9, 0), torch.float64, 64, "float64"),
        ("cuda", (9, 0), BF16, 257, "257"),
        ("cpu", None, BF16, 64, "GPU"),
    ],
)
def test_where_the_kernel_can_be_used(
    device: str,
    capability: tuple[int, int] | None,
    dtype: torch.dtype,
    head_size: int,
    fault: str,
) -> None:
    found = triton_fault(device, capability, dtype, head_size)
    assert fault in found
    assert bool(found) == bool(fault)


@pytest.mark.parametrize(
    ("setting", "capability", "used"),
    [("auto", (9, 0), True), ("triton", (9, 0), True), ("flash", (9, 0), False), ("auto", (7, 0), False)],
)  # fmt: skip
def test_the_choice_is_said_once(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    setting: AttentionSetting,
    capability: tuple[int, int],
    used: bool,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    with FakeTensorMode():
        query = torch.empty(3, 2, 64, dtype=BF16, device="cuda:0")
        assert [dispatch._by_triton(query, setting) for _ in range(2)] == [used, used]
    said = capsys.readouterr().err
    assert said.count("attention on cuda:0 by megabert's Triton kernel") == used
    assert said.count("is not used: it needs compute capability 8.0") == (capability == (7, 0))


def test_the_setting_reaches_every_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Encoder(tiny_config())
    use_attention(model, "flash")
    blocks = [part for part in model.modules() if isinstance(part, SelfAttention)]
    assert [block.attention_setting for block in blocks] == ["flash"] * len(model.layers)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    use_attention(model, "auto")
    with pytest.raises(UserError, match="--attention triton: triton is not installed"):
        use_attention(model, "triton")
