"""Dropout masks: equal outside split regions, different inside, the same when computed again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from megabert.config import ModelConfig
from megabert.model.bert import BertModel, Dropout, SelfAttention
from megabert.model.heads import BertForPreTraining
from megabert.model.init import initialize_weights
from megabert.model.split import merge, split_dim
from megabert.parallel.rng import EMBEDDINGS, DropoutStreams
from megabert.parallel.topology import ProcessGroups, TensorParallel, Topology
from tests.distributed import run_ranks
from tests.model_cases import tiny_batch, tiny_config


def dropping(**changes: Any) -> ModelConfig:
    return tiny_config(
        hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3, initializer_range=0.1, **changes
    )


def mask() -> Tensor:
    return F.dropout(torch.ones(64), 0.5, True) > 0


def masks(streams: DropoutStreams, layer: int) -> list[Tensor]:
    """Masks at the entry of a layer, inside its split region, and after it."""
    dropout = streams.layer(layer)
    dropout.begin()
    entry = mask()
    with dropout.split():
        inside = mask()
    return [entry, inside, mask()]


def test_masks_are_pure_functions_of_their_place() -> None:
    group: Any = object()
    streams = DropoutStreams(seed=7)
    streams.start(1000)
    first = masks(streams, 0)
    torch.rand(5)
    assert all(torch.equal(a, b) for a, b in zip(first, masks(streams, 0)))
    other_rank = DropoutStreams(seed=7, tp=TensorParallel(1, 2, group))
    other_rank.start(1000)
    second = masks(other_rank, 0)
    assert [torch.equal(a, b) for a, b in zip(first, second)] == [True, False, True]
    different = [first[0], first[1], first[2], *masks(streams, 1), *masks(streams, EMBEDDINGS)]
    streams.start(1001)
    different += masks(streams, 0)
    reseeded = DropoutStreams(seed=8)
    reseeded.start(1000)
    different += [*masks(reseeded, 0), second[1]]
    assert len({tuple(value.tolist()) for value in different}) == len(different)


def test_a_step_must_be_started() -> None:
    with pytest.raises(RuntimeError, match="start"):
        DropoutStreams(seed=0).layer(0)


def test_dropout_that_could_not_be_repeated_is_refused() -> None:
    model = BertModel(dropping(), activation_checkpointing=True)
    ids = torch.zeros(1, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="DropoutStreams"):
        model(ids)
    model.eval()(ids)
    BertModel(tiny_config(), activation_checkpointing=True)(ids)
    BertModel(dropping())(ids)


def run_step(
    config: ModelConfig,
    tp: TensorParallel,
    recompute: bool,
    sample: int = 40,
    sentence: bool = True,
) -> tuple[list[Tensor], dict[str, Tensor]]:
    streams = DropoutStreams(seed=3, tp=tp)
    model = BertForPreTraining(config, tp, streams, sentence, recompute)
    initialize_weights(model, config, seed=2)
    batch = tiny_batch(config)
    streams.start(sample)
    torch.manual_seed(tp.rank)  # the surrounding state may not matter
    output = model(**batch)
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


def test_recomputation_after_the_next_forward() -> None:
    """Backward of a micro step repeats that step's masks even when another one has begun."""
    config = dropping()
    gradients = []
    for disturb in (False, True):
        streams = DropoutStreams(seed=3)
        model = BertForPreTraining(config, None, streams, activation_checkpointing=True)
        initialize_weights(model, config, seed=2)
        streams.start(0)
        output = model(**tiny_batch(config))
        if disturb:
            streams.start(8)
        (output.mlm_loss_sum + output.nsp_loss_sum).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients))


def _steps(rank: int, world_size: int, config: ModelConfig) -> list[Any]:
    tp = ProcessGroups.create(Topology(world_size, rank, world_size)).tensor_parallel
    return [run_step(config, tp, recompute) for recompute in (False, True)]


def test_split_model_drops_alike_outside_and_differently_inside() -> None:
    config = dropping()
    (first, first_again), (second, second_again) = run_ranks(_steps, 2, config)
    for plain, recomputed in ((first, first_again), (second, second_again)):
        assert all(torch.equal(a, b) for a, b in zip(plain[0], recomputed[0]))
        assert all(torch.equal(g, recomputed[1][name]) for name, g in plain[1].items())
    assert all(torch.equal(a, b) for a, b in zip(first[0], second[0]))
    for name in first[1]:  # replicated gradients agree: merge raises when they do not
        merge([first[1][name], second[1][name]], split_dim(name))


class _Probe:
    """Attention of equal heads over equal tokens, so that only dropout tells the heads apart."""

    def __init__(self, tp: TensorParallel) -> None:
        config = tiny_config(attention_probs_dropout_prob=0.5)
        self.attention = SelfAttention(config, tp)
        torch.nn.init.ones_(self.attention.value.weight)
        self.config = config

    def context(self, dropout: Dropout) -> Tensor:
        seen: list[Tensor] = []
        self.attention.output.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        x = torch.rand(1, 12, self.config.hidden_size, generator=torch.Generator().manual_seed(0))
        self.attention(x, None, dropout)
        return seen[0].detach()


def _heads(rank: int, world_size: int) -> Tensor:
    tp = ProcessGroups.create(Topology(world_size, rank, world_size)).tensor_parallel
    streams = DropoutStreams(seed=1, tp=tp)
    streams.start(0)
    return _Probe(tp).context(streams.layer(0))


def test_heads_of_different_ranks_drop_differently() -> None:
    first, second = run_ranks(_heads, 2)
    assert first.shape == second.shape
    assert not torch.equal(first, second)


def test_dropout_keeps_its_share() -> None:
    streams = DropoutStreams(seed=5)
    kept = []
    for sample in range(200):
        streams.start(sample * 64)
        kept.append(torch.stack(masks(streams, sample % 12)).float().mean())
    assert abs(torch.stack(kept).mean() - 0.5) < 0.01
