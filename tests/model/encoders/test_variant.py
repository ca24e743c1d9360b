"""What variants state, compared with the modules that they build."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from megabert.common.errors import UserError
from megabert.config.model import ENCODERS, ModelConfig
from megabert.kernels.attention.dispatch import Sequences
from megabert.model.encoder import variant_of
from megabert.model.encoders.bert import Bert
from megabert.model.encoders.variant import register_encoder
from megabert.model.init import initial_tensor
from megabert.model.modules import GatedMlp, LayerInputs, Linear, Mlp, Norm
from megabert.model.parameters import WholeParameter, merge, whole_parameters
from megabert.parallel.topology import TensorParallel
from tests.extending.rope_geglu import RopeConfig
from tests.helpers.model_cases import TINY, tiny_config

TOKENS = 64
CONFIGS: list[ModelConfig] = [
    tiny_config(),
    tiny_config(norm="pre"),
    tiny_config(position_embeddings="relative"),
    RopeConfig(**TINY),
]


def saved_bytes(config: ModelConfig) -> int:
    """Bytes of the tensors that one layer saves in forward, except its parameters."""
    layer = variant_of(config).layer(config, 0, TensorParallel())
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    own = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()}
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    sequences = Sequences.packed(torch.tensor([0, 24, TOKENS], dtype=torch.int32), 40)
    inputs = LayerInputs(sequences, torch.cat([torch.arange(24), torch.arange(40)]))
    x = torch.randn(TOKENS, config.hidden_size, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(x, inputs)
    return sum(t.untyped_storage().nbytes() for p, t in saved.items() if p not in own)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.encoder}-{c.norm}")
def test_a_layer_saves_what_its_table_says(config: ModelConfig) -> None:
    stated = (
        4
        * TOKENS
        * sum(
            saved.hidden * config.hidden_size
            + saved.inner * config.intermediate_size
            + saved.heads * config.num_attention_heads
            for saved in variant_of(config).saved_for_backward
        )
    )
    assert saved_bytes(config) == pytest.approx(stated, rel=0.04)


def test_every_encoder_is_in_the_registry() -> None:
    assert variant_of(tiny_config()).name == "bert"
    assert variant_of(tiny_config(position_embeddings="relative")).name == "nezha"
    for name in ENCODERS.names():
        assert ENCODERS.get(name).name == name

    class Other(Bert):
        pass

    with pytest.raises(UserError, match="encoder 'bert'"):
        register_encoder(Other)


def test_modules_without_biases() -> None:
    x = torch.randn(5, 32)
    norm, linear = Norm(32, 1e-6, bias=False), Linear(32, 3, bias=False)
    assert [name for name, _ in norm.named_parameters()] == ["weight"]
    assert [name for name, _ in linear.named_parameters()] == ["weight"]
    torch.testing.assert_close(norm(x), torch.nn.functional.layer_norm(x, [32], eps=1e-6))
    with torch.no_grad():
        linear.weight.normal_()
    torch.testing.assert_close(linear(x), x @ linear.weight.t())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("act", ["gelu", "silu"])
def test_mlps_by_hand(bias: bool, act: str) -> None:
    config, x = tiny_config(hidden_act=act), torch.randn(5, 32)
    function: Any = getattr(torch.nn.functional, act)
    for kind in (Mlp, GatedMlp):
        block = kind(config, TensorParallel(), bias)
        with torch.no_grad():
            for parameter in block.parameters():
                parameter.normal_(std=0.1)
        up = x @ block.up.weight.t() + (0.0 if block.up.bias is None else block.up.bias)
        if isinstance(block, GatedMlp):
            gate = x @ block.gate.weight.t()
            gate = gate if block.gate.bias is None else gate + block.gate.bias
            inner = function(gate) * up
        else:
            inner = function(up)
        expected = inner @ block.down.weight.t()
        torch.testing.assert_close(block(x)[0], expected, rtol=1e-4, atol=1e-5)


def test_whole_parameters_of_one_rank() -> None:
    """A rank's part of degree 2 stands for the whole model's tensors."""
    config = tiny_config()
    group: Any = object()
    variant = variant_of(config)
    whole = whole_parameters(variant.layer(config, 0, TensorParallel()))
    part = variant.layer(config, 0, TensorParallel(1, 2, group))
    assert whole_parameters(part, 2) == whole
    assert whole["mlp.down.weight"] == WholeParameter((32, 64), 1)
    assert whole["mlp.down.bias"] == WholeParameter((32,))
    assert whole["mlp.down.weight"].numel == 2048
    parts = [torch.zeros(2), torch.ones(2)]
    assert torch.equal(merge(parts, 0), torch.tensor([0.0, 0.0, 1.0, 1.0]))
    with pytest.raises(UserError, match="replicated"):
        merge(parts, None)


def test_initial_values_follow_from_name_and_shape() -> None:
    config = tiny_config()
    assert (initial_tensor("any.norm.weight", (4,), config, 0) == 1).all()
    assert (initial_tensor("any.scale.bias", (4,), config, 0) == 0).all()
    for name, shape in (("any.weight", (4, 4)), ("crf.start", (4,))):
        drawn = initial_tensor(name, shape, config, 0)
        assert drawn.std() > 0.05
        assert torch.equal(drawn, initial_tensor(name, shape, config, 0))
        assert not torch.equal(drawn, initial_tensor(f"other.{name}", shape, config, 0))
