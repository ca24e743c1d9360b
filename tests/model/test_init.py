"""Initial weights: what each scheme draws, and that it is the same for every tensor parallel degree."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch

from megabert.common.errors import UserError
from megabert.config.model import ModelConfig, model_config
from megabert.config.sections.initial_weights import InitScheme
from megabert.model.encoders.bert import Bert
from megabert.model.encoders.nezha import relative_table
from megabert.model.heads import BertForPreTraining
from megabert.model.init import initial_tensor, initialize_weights
from megabert.model.parameters import whole_parameter
from megabert.parallel.layers import TensorParallel

SCHEMES = get_args(InitScheme)
RESIDUAL = ("attention.output.weight", "mlp.down.weight")
SIZES: dict[str, Any] = {
    "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 256, "num_hidden_layers": 3,
    "max_position_embeddings": 64, "vocab_size": 300,
}  # fmt: skip


def small(name: str = "bert-tiny") -> ModelConfig:
    return model_config(name, **SIZES)


def weights(
    config: ModelConfig,
    scheme: InitScheme,
    tp: TensorParallel | None = None,
    local_heads: float = 0.0,
) -> Any:
    model = BertForPreTraining(config, tp)
    initialize_weights(model, config, 5, scheme, local_heads)
    return dict(model.named_parameters())


@pytest.mark.parametrize("name", ["bert-tiny", "nezha-tiny"])
def test_standard_deviations(name: str) -> None:
    config = small(name)
    normal = weights(config, "normal")
    scaled = weights(config, "scaled-residual")
    wide = weights(config, "width-aware")
    for key, value in normal.items():
        if value.dim() == 1:
            assert torch.equal(scaled[key], value)
            assert torch.equal(wide[key], value)
            continue
        assert value.count_nonzero() == (300 * 64 if "word" in key else value.numel()), key
        residual = key.endswith(RESIDUAL)
        expected = value / math.sqrt(6) if residual else value  # two outputs in three layers
        torch.testing.assert_close(scaled[key], expected)
        inputs = 256 if key.endswith("mlp.down.weight") else 64
        expected = value if "embeddings" in key else value / 0.02 / math.sqrt(inputs)
        torch.testing.assert_close(wide[key], expected)
    assert sum(key.endswith(RESIDUAL) for key in normal) == 6
    assert normal["bert.layers.1.mlp.up.weight"].std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize(
    ("name", "scheme", "local_heads"),
    [*(("bert-tiny", scheme, 0.0) for scheme in SCHEMES), ("nezha-tiny", "normal", 0.5)],
)
def test_every_degree_has_parts_of_the_same_tensors(
    name: str, scheme: InitScheme, local_heads: float
) -> None:
    config, group = small(name), object()
    whole = weights(config, scheme, local_heads=local_heads)
    for rank in range(2):
        tp = TensorParallel(rank, 2, group)  # type: ignore[arg-type]
        for key, part in weights(config, scheme, tp, local_heads).items():
            dim = whole_parameter(part, 2).split_dim
            assert torch.equal(part, tp.cut(whole[key].detach(), dim)), key


@pytest.mark.parametrize(("share", "expected"), [(1.0, [-1, 1, -2, 2]), (0.5, [-1, 1, None, None])])
def test_local_heads_begin_at_one_neighbour_each(share: float, expected: list[int | None]) -> None:
    config = replace(small("nezha-tiny"), hidden_size=256)
    found = initial_tensor("bert.layers.1.attention.query.bias", (256,), config, 1, "normal", share)
    table = relative_table(64, 64, torch.float32, torch.device("cpu"))
    scores = (
        found.view(4, 64) @ table.t() / math.sqrt(64)
    )  # the part of q . a / sqrt(D) from the bias
    for head, distance in zip(scores, expected):
        if distance is None:
            assert not head.any()
        else:
            assert head.argmax() == distance + 64
            assert head.softmax(0)[distance + 64] > 0.4
            assert head.max().item() == pytest.approx(6.0, rel=1e-4)
    assert not initial_tensor(
        "bert.layers.1.attention.key.bias", (256,), config, 1, "normal", 1
    ).any()
    assert torch.equal(initial_tensor("mlm.bias", (304,), config, 1, "normal", 1), torch.zeros(304))


def test_a_share_of_less_than_one_head_is_refused() -> None:
    with pytest.raises(UserError, match=r"less than one; give at least 0\.25"):
        weights(small("nezha-tiny"), "normal", local_heads=0.2)


def test_local_heads_need_relative_positions() -> None:
    with pytest.raises(UserError, match="--init-local-heads needs a model with relative positions"):
        weights(small(), "normal", local_heads=0.5)


def test_an_encoder_names_its_residual_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """One per layer: the sums of three layers, not of six blocks."""
    monkeypatch.setattr(Bert, "residual_outputs", ("mlp.mixed.weight",))
    config = small()
    for key, factor in (("mlp.mixed.weight", 3**-0.5), ("mlp.down.weight", 1.0)):
        name = f"bert.layers.2.{key}"
        normal, scaled = (
            initial_tensor(name, (8, 8, 3), config, 1, scheme)  # type: ignore[arg-type]
            for scheme in ("normal", "scaled-residual")
        )
        torch.testing.assert_close(scaled, normal * factor)
    wide = initial_tensor("bert.layers.2.kernel", (512, 8, 8), config, 1, "width-aware")
    assert wide.std().item() == pytest.approx(1 / 8, rel=0.03)
