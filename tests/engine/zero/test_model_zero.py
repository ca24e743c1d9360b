"""The models under DeepSpeed ZeRO 1-3: same losses as one plain process, tied weights gathered."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from megabert.common.packed_batch import PackedBatch
from megabert.engine import launch
from megabert.model.heads import BertForPreTraining
from megabert.model.init import initialize_weights
from megabert.model.task_heads import BertForQuestionAnswering
from megabert.parallel.rng import DropoutSeeds
from tests.helpers.distributed import run_ranks
from tests.helpers.model_cases import batch_of, tiny_batch, tiny_config

STEPS = 3
LR = 0.05


def deepspeed_settings(stage: int, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 3,
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": 0.0,
        "bf16": {"enabled": dtype == torch.bfloat16},
    }


def build(sentence: bool, recompute: bool, dropout: float) -> nn.Module:
    config = tiny_config(
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, initializer_range=0.05
    )
    model = BertForPreTraining(config, None, DropoutSeeds(seed=0), sentence, recompute)
    initialize_weights(model, config, seed=0)
    return model


def step_batch(step: int, rank: int, sentence: bool) -> PackedBatch[torch.Tensor]:
    masked = 0 if (step, rank) == (1, 1) else 7  # in one update a rank has nothing to predict
    batch = tiny_batch(tiny_config(), masked=masked, seed=10 * step + rank)
    batch["sample_numbers"] = 100 * step + 10 * rank + torch.arange(3)
    if not sentence:
        del batch["next_sentence_labels"]
    return batch_of(**batch)


def plain_losses(sentence: bool, recompute: bool, dropout: float, ranks: int) -> list[float]:
    model = build(sentence, recompute, dropout)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    losses = []
    for step in range(STEPS):
        total = torch.zeros(())
        for rank in range(ranks):
            output = model(step_batch(step, rank, sentence))
            loss = (output.mlm_loss_sum + output.nsp_loss_sum) / ranks
            loss.backward()
            total += loss.detach()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total.item())
    return losses


def _train(rank: int, world_size: int) -> dict[Any, list[float]]:
    import deepspeed

    launch.start()
    results: dict[Any, list[float]] = {}
    for case in CASES:
        stage, dtype, sentence, recompute, dropout = case
        model = build(sentence, recompute, dropout)
        engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=LR),
            config=deepspeed_settings(stage, dtype),
        )
        losses: list[float] = []
        reached: list[Any] = []  # what DeepSpeed and its hooks leave of the batch
        engine.module.register_forward_pre_hook(lambda _, inputs: reached.append(inputs[0]))  # noqa: B023
        for step in range(STEPS):
            batch = step_batch(step, rank, sentence)
            output = engine(batch)
            assert reached.pop() is batch
            loss = output.mlm_loss_sum + output.nsp_loss_sum
            engine.backward(loss)
            engine.step()
            total = loss.detach() / world_size
            dist.all_reduce(total)
            losses.append(total.item())
        engine.destroy()
        results[case] = losses
    config = tiny_config()
    question = BertForQuestionAnswering(config)
    initialize_weights(question, config, seed=0)
    batch = batch_of(**tiny_batch(config))
    expected = [value.detach() for value in question(batch)]
    engine, *_ = deepspeed.initialize(
        model=question,
        optimizer=torch.optim.SGD(question.parameters(), lr=LR),
        config=deepspeed_settings(3, torch.float32),
    )
    start, end = engine(batch)
    torch.testing.assert_close([start.detach(), end.detach()], expected)
    engine.backward((start - end).sum())
    engine.step()
    return results


# stage, dtype, sentence task, activation checkpointing, dropout
CASES = [
    (2, torch.float32, True, True, 0.1),
    (3, torch.float32, True, False, 0.1),
    (3, torch.float32, False, True, 0.1),
    (1, torch.bfloat16, True, False, 0.0),
    (3, torch.bfloat16, True, True, 0.0),
]


def test_zero_gives_the_losses_of_one_process() -> None:
    ranks = run_ranks(_train, 2, initialize=False, timeout=170)
    assert ranks[0] == ranks[1]
    for (stage, dtype, sentence, recompute, dropout), losses in ranks[0].items():
        expected = plain_losses(sentence, recompute, dropout, 2)
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        message = f"stage {stage} {dtype} sentence_task {sentence} recompute {recompute}: {losses}"
        assert losses == pytest.approx(expected, rel=tolerance), message
