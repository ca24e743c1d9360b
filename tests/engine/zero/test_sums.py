"""The fp32 sums of bf16 gradients: the losses of DeepSpeed's own way, with fewer operators and bytes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from megabert.config.training import OptimizerSettings, ParallelSettings
from megabert.engine import launch
from megabert.engine.build import build_engine
from megabert.engine.config import BatchSizes, make_deepspeed_config
from megabert.engine.zero import fixes, sums
from megabert.model.heads import BertForPreTraining
from megabert.model.init import initialize_weights
from megabert.parallel import products
from megabert.parallel.products import NativeProducts, adds_to_fp32
from tests.helpers.distributed import run_ranks
from tests.helpers.model_cases import batch_of, tiny_batch, tiny_config
from tests.helpers.training_runs import import_once

MICRO_STEPS, RANKS = 3, 2
SETTINGS = OptimizerSettings(
    gradient_clipping=0.1, schedule="constant", steps=10, lr=0.01, warmup_fraction=0.0
)


class _Operators(TorchDispatchMode):
    """Counts operators by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[func._schema.name.removeprefix("aten::")] += 1
        return func(*args, **(kwargs or {}))


def _train(world: launch.World, precision: str, file: dict[str, Any]) -> dict[str, Any]:
    """Losses and norms of two updates; operators of the last backward but one; bytes left of gradients."""
    config = tiny_config()
    model = BertForPreTraining(config)
    initialize_weights(model, config, seed=0)
    batch = BatchSizes(3 * MICRO_STEPS * RANKS, 3, MICRO_STEPS, RANKS)
    parallel = ParallelSettings(zero_stage=1, precision=precision)
    engine = build_engine(model, world, SETTINGS, parallel, batch, file)
    assert engine.optimizer_wrapper == "BF16_Optimizer"
    assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    assert not torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction
    values, operators = [], Counter[str]()
    left: list[int] = []
    for step in range(2 * MICRO_STEPS):
        seed = step * RANKS + world.topology.rank
        output = engine(batch_of(**tiny_batch(config, seed=seed)))
        loss = (output.mlm_loss_sum + output.nsp_loss_sum) / (MICRO_STEPS * RANKS)
        with _Operators() as counted:
            engine.backward(loss)
        if step % MICRO_STEPS == MICRO_STEPS - 2:
            operators = counted.calls
        left.append(sum(p.grad.nbytes for p in model.parameters() if p.grad is not None))
        values.append(loss.item())
        if engine.step():
            values.append(engine.grad_norm())
    values += [p.detach().float().sum().item() for p in model.parameters()]
    parameters = list(model.parameters())
    engine.close()
    return {
        "values": values,
        "operators": operators,
        "left": left,
        "tensors": len(parameters),
        "bytes": sum(p.nbytes for p in parameters),
    }


def _both(rank: int, world_size: int) -> dict[str, Any]:
    world = launch.start()
    found = {name: _train(world, name, {}) for name in ("bf16", "fp8")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fixes, "prepare_sums", lambda engine: None)
        for name in ("bf16", "fp8"):
            late = {"bf16": {"immediate_grad_update": False}}
            found[f"{name}, DeepSpeed's way"] = _train(world, name, late)
    with pytest.MonkeyPatch.context() as patch:  # products as on a GPU: they can add to fp32
        patch.setattr(products, "cpu_has_bf16_instructions", lambda: False)
        for adds in (True, False):
            patch.setattr(sums, "adds_to_fp32", lambda _, adds=adds: adds)
            found[f"adds {adds}"] = _train(world, "bf16", {})
    return found | {"error": _error(world)}


def _error(world: launch.World) -> dict[str, float]:
    """Of the reduced sums of two micro steps: distance from the mean of all ranks' sums, relative."""
    found = {}
    for sent in ("bf16", "fp32"):
        model = nn.Linear(32, 32)
        nn.init.normal_(model.weight, generator=torch.Generator().manual_seed(0))
        parallel = ParallelSettings(zero_stage=1, precision="bf16")
        batch = BatchSizes(2 * RANKS, 1, 2, RANKS)
        file = {"communication_data_type": sent}
        engine = build_engine(
            model, world, replace(SETTINGS, gradient_clipping=0.0), parallel, batch, file
        )
        (item, *_), reduced = engine.partitions(), []

        def keep(flat: torch.Tensor = item.flat, kept: list[Any] = reduced) -> None:
            kept.append(flat.grad.clone() if flat.grad is not None else None)

        engine.optimizer.step = keep  # type: ignore[method-assign,assignment]
        generator = torch.Generator().manual_seed(1)
        whole = torch.zeros(32, 32, dtype=torch.float64)
        for _ in range(2):
            inputs = torch.randn((RANKS, 4, 32), generator=generator).bfloat16()
            for other in range(RANKS):
                outputs = nn.functional.linear(inputs[other], model.weight, model.bias)
                (grad,) = torch.autograd.grad(outputs.float().square().sum(), model.weight)
                whole += grad.double()
            engine.backward(
                engine(inputs[world.topology.rank]).float().square().sum() / (2 * RANKS)
            )
            engine.step()
        part = whole.flatten().chunk(RANKS)[world.topology.rank] / (2 * RANKS)
        found[sent] = float((reduced[0].double() - part).norm() / part.norm())
        engine.close()
    return found


@pytest.fixture(scope="module")
def results() -> list[dict[str, Any]]:
    import_once()
    return run_ranks(_both, RANKS, initialize=False)


def test_sums_during_backward_are_those_after_it(results: list[dict[str, Any]]) -> None:
    for found in results:
        for precision in ("bf16", "fp8"):
            ours, before = found[precision], found[f"{precision}, DeepSpeed's way"]
            assert ours["values"] == before["values"]
            assert set(ours["left"]) == {0}
            assert set(before["left"]) == {before["bytes"]}
            fewer = before["operators"] - ours["operators"]
            tensors = ours["tensors"]
            # no sum in bf16, no copy to fp32, no clearing
            assert {name: fewer[name] for name in ("add_", "_to_copy", "_foreach_zero_")} == {
                "add_": tensors,
                "_to_copy": tensors,
                "_foreach_zero_": 1,
            }


def test_products_add_to_the_sums(results: list[dict[str, Any]]) -> None:
    linear = 2 * 6 + 3  # weights of the layers, pooler, the two heads
    for found in results:
        adds, apart = found["adds True"], found["adds False"]
        assert adds["values"][0] == apart["values"][0]
        logged = 2 * (MICRO_STEPS + 1)  # losses and norms
        assert adds["values"][:logged] == pytest.approx(apart["values"][:logged], rel=3e-2)
        fewer = apart["operators"] - adds["operators"]
        assert fewer["add_"] == linear


def test_the_product_is_tried_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch without it, or whose product is wrong, is found."""
    cpu = torch.device("cpu")
    for bf16, adds in ((False, True), (True, False)):
        monkeypatch.setattr(products, "cpu_has_bf16_instructions", lambda bf16=bf16: bf16)
        adds_to_fp32.cache_clear()
        assert adds_to_fp32(cpu) == adds

    def wrong(self: Any, grad: Any, x: Any, total: Any) -> bool:
        total += 1
        return True

    def missing(self: Any, grad: Any, x: Any, total: Any) -> bool:
        raise NotImplementedError

    for method in (wrong, missing):
        monkeypatch.setattr(NativeProducts, "add_grad_weight", method)
        adds_to_fp32.cache_clear()
        assert not adds_to_fp32(cpu)
    adds_to_fp32.cache_clear()


@pytest.mark.parametrize(
    ("accumulation", "ranks", "stage", "file", "sent"),
    [
        (7, 2, 1, {}, None),
        (8, 2, 1, {}, "fp32"),
        (1, 64, 1, {}, "fp32"),
        (1, 1, 1, {}, "fp32"),
        (8, 64, 1, {"communication_data_type": "bf16"}, "bf16"),
        (8, 64, 1, {"data_types": {"grad_accum_dtype": "bf16"}}, None),
        (8, 64, 2, {}, None),
    ],
)
def test_when_sums_are_sent_in_fp32(
    accumulation: int, ranks: int, stage: int, file: dict[str, Any], sent: str | None
) -> None:
    batch = BatchSizes(accumulation * ranks, 1, accumulation, ranks)
    for precision in ("bf16", "fp8"):
        parallel = ParallelSettings(zero_stage=stage, precision=precision)
        made = make_deepspeed_config(file, batch, SETTINGS, parallel, precision)
        assert made.get("communication_data_type") == sent


def test_sums_sent_in_fp32_are_exact(results: list[dict[str, Any]]) -> None:
    for found in results:
        assert found["error"]["fp32"] < 1e-6
        assert found["error"]["bf16"] > 1e-3
