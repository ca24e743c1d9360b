"""The encoder over packed sequences: what padded rows give, with dropout, split, and under ZeRO."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from megabert.common.errors import UserError
from megabert.config.model import ModelConfig
from megabert.model.encoder import Encoder
from megabert.model.heads import BertForPreTraining
from megabert.model.init import initialize_weights
from megabert.model.parameters import merge, pretraining_parameters
from megabert.model.task_heads import BertForQuestionAnswering
from megabert.parallel.rng import DropoutSeeds
from megabert.parallel.topology import ProcessGroups, TensorParallel, Topology
from tests.helpers.distributed import run_ranks
from tests.helpers.model_cases import batch_of, tiny_batch, tiny_config

ORDER = (2, 0, 1)  # of the three samples in the packed batch
LENGTH = 16


def padded_batch(config: ModelConfig) -> dict[str, Any]:
    batch = tiny_batch(config)
    return {**batch, "sample_numbers": torch.tensor([70, 71, 72])}


def packed_batch(config: ModelConfig, multiple: int = 1) -> dict[str, Any]:
    """The same samples in another order, end to end; with a tail of padding to a multiple."""
    padded = padded_batch(config)
    real, order = padded["attention_mask"].bool(), list(ORDER)
    lengths = real.sum(1)[order].tolist()
    tail = -sum(lengths) % multiple
    cu_seqlens = torch.tensor([0, *lengths, *([tail] if tail else [])]).cumsum(0)
    places = {}  # padded place -> packed place
    for begin, row, length in zip(cu_seqlens.tolist(), order, lengths):
        places |= {row * LENGTH + i: begin + i for i in range(length)}
    flat = {
        name: torch.cat([*(padded[name][row, :n] for row, n in zip(order, lengths)), torch.zeros(tail).long()])
        for name in ("input_ids", "token_type_ids")
    }  # fmt: skip
    masked = torch.tensor([places[place] for place in padded["masked_positions"].tolist()])
    by_place = masked.argsort()
    fill = [-100] if tail else []
    return {
        **flat,
        "cu_seqlens": cu_seqlens.int(),
        "max_length": LENGTH,
        "masked_positions": masked[by_place],
        "masked_labels": padded["masked_labels"][by_place],
        "next_sentence_labels": torch.tensor([*padded["next_sentence_labels"][order].tolist(), *fill]),
        "sample_numbers": torch.tensor([*padded["sample_numbers"][order].tolist(), *([-1] if tail else [])]),
    }  # fmt: skip


def run(
    config: ModelConfig,
    batch: dict[str, Any],
    tp: TensorParallel | None = None,
    dtype: torch.dtype = torch.float32,
    recompute: bool = False,
) -> tuple[list[Tensor], dict[str, Tensor]]:
    model = BertForPreTraining(config, tp, DropoutSeeds(5), activation_checkpointing=recompute)
    initialize_weights(model, config, seed=1)
    output = model.to(dtype)(batch_of(**batch))
    (output.mlm_loss_sum + output.nsp_loss_sum).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert len(gradients) == len(list(model.parameters()))
    return [value.detach() for value in output], gradients


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_packed_gives_the_losses_of_padded(norm: str, dropout: float, dtype: torch.dtype) -> None:
    config = tiny_config(
        norm=norm, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout
    )
    expected, gradients = run(config, padded_batch(config), dtype=dtype)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    for multiple, recompute in ((1, False), (32, True)):
        found, packed = run(config, packed_batch(config, multiple), None, dtype, recompute)
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=0.0)
        for name, gradient in gradients.items():
            bound = 10 * tolerance * max(0.1, float(gradient.abs().max()))
            torch.testing.assert_close(packed[name], gradient, rtol=0.0, atol=bound)


def test_sequences_do_not_see_each_other() -> None:
    config = tiny_config()
    model = Encoder(config).eval()
    initialize_weights(model, config, seed=0)
    batch = packed_batch(config)
    before = model(batch_of(**batch))
    end = int(batch["cu_seqlens"][1])
    changed = batch["input_ids"].clone()
    changed[:end] = changed[:end] % 50 + 1
    after = model(batch_of(**batch | {"input_ids": changed}))
    assert torch.equal(before[end:], after[end:])
    assert not torch.isclose(before[:end], after[:end]).all(dim=1).any()


def test_question_answering() -> None:
    config = tiny_config()
    model = BertForQuestionAnswering(config)
    initialize_weights(model, config, seed=0)
    padded, batch = padded_batch(config), packed_batch(config)
    sides, expected = model(batch_of(**batch)), model(batch_of(**padded))
    real = padded["attention_mask"].bool()[list(ORDER)]
    for side, whole in zip(sides, expected):
        assert side.shape == (3, LENGTH)
        assert torch.equal(side.isinf(), ~real)
        torch.testing.assert_close(side[real], whole[list(ORDER)][real], rtol=1e-5, atol=1e-5)


def test_what_cannot_be_is_refused() -> None:
    config = tiny_config(max_position_embeddings=15)
    batch = packed_batch(config)
    model = BertForPreTraining(config)
    with pytest.raises(UserError, match=r"16 is larger .*15"):
        model(batch_of(**batch))


def _split(rank: int, world_size: int, cases: list[tuple[ModelConfig, bool, bool]]) -> list[Any]:
    whole = ProcessGroups.create(Topology(world_size, rank, world_size)).tensor_parallel
    results = []
    for config, sequence_parallel, recompute in cases:
        tp = replace(whole, sequence_parallel=sequence_parallel)
        batch = packed_batch(config, world_size if sequence_parallel else 1)
        results.append(run(config, batch, tp, recompute=recompute))
    return results


@pytest.mark.parametrize("ranks", [2, 4])
def test_tensor_and_sequence_parallel(ranks: int) -> None:
    """With dropout: the same units are dropped on any number of ranks."""
    configs = [
        tiny_config(
            norm=norm,
            hidden_dropout_prob=0.2,
            attention_probs_dropout_prob=0.2,
            num_hidden_layers=3,
        )
        for norm in ("post", "pre")
    ]
    cases = [
        (config, sequence_parallel, recompute)
        for config in configs
        for sequence_parallel in (False, True)
        for recompute in (False, True)
    ]
    results = run_ranks(_split, ranks, cases)
    for number, (config, _, _) in enumerate(cases):
        expected, gradients = run(config, packed_batch(config))
        for result in results:
            torch.testing.assert_close(result[number][0], expected, rtol=2e-5, atol=0.0)
        for name, gradient in gradients.items():
            dim = pretraining_parameters(config)[name].split_dim
            found = merge([result[number][1][name] for result in results], dim)
            bound = 1e-4 * max(0.1, float(gradient.abs().max()))
            torch.testing.assert_close(found, gradient, rtol=0.0, atol=bound)
