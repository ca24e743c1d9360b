"""Dropout masks: pure functions of sample, position and place, whatever the division of the work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from megabert.config.model import ModelConfig
from megabert.kernels.dropout import token_keys
from megabert.kernels.reference import dropped
from megabert.model.encoder import Encoder
from megabert.model.heads import BertForPreTraining
from megabert.model.init import initialize_weights
from megabert.model.parameters import merge, pretraining_parameters
from megabert.parallel.rng import (
    AFTER_ATTENTION,
    AFTER_MLP,
    ATTENTION,
    EMBEDDINGS,
    DropoutSeeds,
    MicroStepDropout,
)
from megabert.parallel.topology import ProcessGroups, TensorParallel, Topology
from tests.helpers.distributed import run_ranks
from tests.helpers.model_cases import batch_of, tiny_batch, tiny_config


def dropping(**changes: Any) -> ModelConfig:
    return tiny_config(
        hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3, initializer_range=0.1, **changes
    )


def step_of(seed: int, sample: int) -> MicroStepDropout:
    rows = token_keys(torch.tensor(sample), torch.arange(4))
    return MicroStepDropout(DropoutSeeds(seed), rows, 0.5, 0.5)


def test_each_place_of_each_sample_has_a_mask_of_its_own() -> None:
    masks = []
    for seed, sample in ((7, 1000), (7, 1001), (8, 1000), (0, 0), (0, 1)):
        step = step_of(seed, sample)
        for layer in (EMBEDDINGS, 0, 1, 2):
            for place in (ATTENTION, AFTER_ATTENTION, AFTER_MLP):
                mask = dropped(torch.ones(4, 64), step.at(layer, place)) > 0
                assert torch.equal(mask, dropped(torch.ones(4, 64), step.at(layer, place)) > 0)
                masks.append(mask)
    assert len({tuple(row.tolist()) for mask in masks for row in mask}) == 4 * len(masks)
    assert abs(torch.stack(masks).float().mean() - 0.5) < 0.02


def test_no_mask_without_dropout() -> None:
    step = MicroStepDropout(DropoutSeeds(0), torch.arange(3), 0.0, 0.2)
    assert step.at(0, AFTER_MLP) is None
    assert step.at(0, ATTENTION) is not None


def test_dropout_that_would_differ_between_ranks_is_refused() -> None:
    group: Any = object()
    model = Encoder(dropping(), TensorParallel(0, 2, group))
    with pytest.raises(ValueError, match="dropout_seeds and sample_numbers"):
        model(batch_of(torch.zeros(1, 4, dtype=torch.int64)))


def run_step(
    config: ModelConfig, tp: TensorParallel, recompute: bool, sample: int = 40
) -> tuple[list[Tensor], dict[str, Tensor]]:
    model = BertForPreTraining(config, tp, DropoutSeeds(seed=3), True, recompute)
    initialize_weights(model, config, seed=2)
    torch.manual_seed(tp.rank)  # the surrounding state may not matter
    output = model(batch_of(**tiny_batch(config), sample_numbers=sample + torch.arange(3)))
    torch.manual_seed(9 + tp.rank)
    (output.mlm_loss_sum + output.nsp_loss_sum).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return [value.detach() for value in output], gradients


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_recomputation_is_bit_identical(norm: str) -> None:
    config = dropping(norm=norm)
    output, gradients = run_step(config, TensorParallel(), recompute=False)
    again, gradients_again = run_step(config, TensorParallel(), recompute=True)
    assert all(torch.equal(a, b) for a, b in zip(output, again))
    assert all(torch.equal(value, gradients_again[name]) for name, value in gradients.items())
    later, _ = run_step(config, TensorParallel(), recompute=False, sample=41)
    assert later[0] != output[0]


def test_samples_without_numbers_draw_a_seed() -> None:
    config = dropping()
    losses = []
    for seed, recompute in ((0, False), (0, True), (1, False)):
        model = BertForPreTraining(config, activation_checkpointing=recompute)
        initialize_weights(model, config, seed=2)
        torch.manual_seed(seed)
        losses.append(float(model(batch_of(**tiny_batch(config))).mlm_loss_sum.detach()))
    assert losses[0] == losses[1] != losses[2]


def _steps(rank: int, world_size: int, config: ModelConfig) -> list[Any]:
    tp = ProcessGroups.create(Topology(world_size, rank, world_size)).tensor_parallel
    return [run_step(config, tp, recompute) for recompute in (False, True)]


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_a_split_model_drops_the_same_units_as_a_whole_one(norm: str) -> None:
    config = dropping(norm=norm)
    whole, gradients = run_step(config, TensorParallel(), recompute=False)
    ranks = run_ranks(_steps, 2, config)
    for plain, recomputed in ranks:
        assert all(torch.equal(a, b) for a, b in zip(plain[0], recomputed[0]))
        torch.testing.assert_close(plain[0], whole, rtol=1e-5, atol=1e-5)
    for name, expected in gradients.items():
        # replicated gradients agree: merge raises when they do not
        dim = pretraining_parameters(config)[name].split_dim
        gradient = merge([rank[0][1][name] for rank in ranks], dim)
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=2e-5)
