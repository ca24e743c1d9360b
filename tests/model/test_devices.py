"""Losses and gradients of whole models on a device against the reference operators on a CPU."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from megabert.config.model import ModelConfig
from megabert.kernels import cpu
from megabert.model.heads import BertForPreTraining
from megabert.model.init import initialize_weights
from megabert.parallel.rng import DropoutSeeds
from tests.helpers.model_cases import batch_of, tiny_config
from tests.model.test_packed_model import packed_batch, padded_batch

CUDA = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    ],
)
WIDE = {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 512}
"""Heads of 64, as published models have."""


def trained(
    config: ModelConfig, batch: dict[str, Any], device: str, dtype: torch.dtype
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Losses and gradients, on the CPU."""
    model = BertForPreTraining(config, None, DropoutSeeds(5))
    initialize_weights(model, config, seed=1)
    output = model.to(device, dtype)(batch_of(**batch).to(torch.device(device)))
    (output.mlm_loss_sum + output.nsp_loss_sum).backward()
    gradients = {
        name: parameter.grad.cpu().float()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    return [output.mlm_loss_sum.detach().cpu(), output.nsp_loss_sum.detach().cpu()], gradients


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("positions", ["absolute", "relative"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_device_computes_what_the_reference_does(
    dtype: torch.dtype, positions: str, packed: bool, device: str
) -> None:
    """The CPU's compiled operators too. Hidden dropout is on: its masks are the same everywhere."""
    config = tiny_config(
        position_embeddings=positions, initializer_range=0.05, hidden_dropout_prob=0.2, **WIDE
    )
    batch = packed_batch(config) if packed else padded_batch(config)
    with mock.patch.object(cpu, "available", return_value=False):
        wanted, gradients = trained(config, batch, "cpu", torch.float32)
    found, own = trained(config, batch, device, dtype)
    limit = 1e-4 if dtype == torch.float32 else 3e-2
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.float(), other.float(), rtol=limit, atol=0.0)
    assert own.keys() == gradients.keys()
    # that of a key's bias is zero but for rounding: nothing is compared with less than this
    least = 0.01 * max(gradient.norm() for gradient in gradients.values())
    for name, gradient in gradients.items():
        apart = float((own[name] - gradient).norm() / gradient.norm().clamp(min=least))
        assert apart < 3 * limit, name
