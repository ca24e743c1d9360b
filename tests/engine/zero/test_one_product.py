"""Query, key and value under ZeRO: one product where the weights lie end to end, with the same results."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from megabert.config.training import OptimizerSettings, ParallelSettings
from megabert.engine import launch
from megabert.engine.build import build_engine
from megabert.engine.config import BatchSizes
from megabert.kernels.joined import end_to_end
from megabert.model.heads import BertForPreTraining
from megabert.model.init import initialize_weights
from megabert.parallel import linear
from megabert.parallel.products import NativeProducts
from tests.helpers.distributed import run_ranks
from tests.helpers.model_cases import batch_of, tiny_batch, tiny_config
from tests.helpers.training_runs import import_once

SETTINGS = OptimizerSettings(schedule="constant", steps=10, lr=0.01, warmup_fraction=0.0)
CASES = {(0, "fp32"): 3, (1, "fp32"): 1, (1, "bf16"): 1, (2, "fp32"): 1, (3, "fp32"): 1}
"""Stage and precision -> products of the three weights. Stage 3 gathers them end to end here."""


class _Counted(NativeProducts):
    """Counts products."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def forward(self, *given: Any) -> Any:
        self.calls["forward"] += 1
        return super().forward(*given)

    def grad_x(self, grads: Any, *rest: Any) -> Any:
        self.calls["grad_x"] += len(grads)
        return super().grad_x(grads, *rest)

    def grad_weight(self, *given: Any) -> Any:
        self.calls["grad_weight"] += 1
        return super().grad_weight(*given)


def _train(
    world: launch.World, stage: int, precision: str, joins: bool
) -> tuple[list[float], dict[str, int]]:
    """Losses and norms of two updates; products of one layer's query, key and value in the last."""
    config = tiny_config()
    model = BertForPreTraining(config, world.tp)
    initialize_weights(model, config, seed=0)
    parallel = ParallelSettings(zero_stage=stage, precision=precision)
    with pytest.MonkeyPatch.context() as patch:
        if not joins:
            patch.setattr(linear, "end_to_end", lambda parts: None)
        engine = build_engine(model, world, SETTINGS, parallel, BatchSizes(3, 3, 1, 1))
        attention: Any = model.bert.layers[1].attention
        linears = attention.query, attention.key, attention.value
        if joins and stage < 3:
            whole = end_to_end([part.weight for part in linears])
            assert (whole is not None) == (CASES[stage, precision] == 1)
        values: list[float] = []
        counted = _Counted()
        for step in range(2):
            if step and precision == "fp32":
                attention.query.products = counted
            output = engine(batch_of(**tiny_batch(config, seed=step)))
            loss = output.mlm_loss_sum + output.nsp_loss_sum
            engine.backward(loss)
            engine.step()
            values += [loss.item(), engine.grad_norm()]
        engine.close()
    return values, dict(counted.calls)


def _all(rank: int, world_size: int) -> dict[Any, Any]:
    world = launch.start(world_size)
    return {
        case: [_train(world, *case, joins) for joins in (True, False)]
        for case in CASES
        if world_size == 1 or case[0] == 1
    }


@pytest.mark.parametrize("tensor_parallel", [1, 2])
def test_one_product_or_three(tensor_parallel: int) -> None:
    import_once()
    for found in run_ranks(_all, tensor_parallel, initialize=False):
        for (stage, precision), ((values, calls), (expected, three)) in found.items():
            count = CASES[stage, precision]
            if precision == "fp32":
                assert calls == {"forward": count, "grad_x": count, "grad_weight": count}
                assert three == {"forward": 3, "grad_x": 3, "grad_weight": 3}
            tolerance = 1e-5 if precision == "fp32" else 2e-2
            assert values == pytest.approx(expected, rel=tolerance)
