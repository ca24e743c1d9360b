"""Split layers and the whole split model against the same thing on one rank."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from megabert.common.errors import UserError
from megabert.config.model import ModelConfig, model_config
from megabert.kernels.attention.dispatch import Sequences
from megabert.model.encoder import Encoder, variant_of
from megabert.model.heads import BertForPreTraining
from megabert.model.init import initialize_weights
from megabert.model.modules import LayerInputs
from megabert.model.parameters import merge, whole_parameters
from megabert.model.task_heads import BertForQuestionAnswering
from megabert.parallel.layers import (
    ColumnParallelLinear,
    RowParallelLinear,
    TensorParallel,
    VocabParallelEmbedding,
    split_dim,
)
from megabert.parallel.linear import column_linear_and_input
from megabert.parallel.mappings import (
    copy_to_tensor_parallel_region,
    gather_from_tensor_parallel_region,
    reduce_from_tensor_parallel_region,
)
from megabert.parallel.topology import ProcessGroups, Topology, cut
from tests.helpers.distributed import run_ranks
from tests.helpers.model_cases import batch_of, tiny_batch, tiny_config


def split_all_ways(rank: int, world_size: int) -> TensorParallel:
    return ProcessGroups.create(Topology(world_size, rank, world_size)).tensor_parallel


class Collectives:
    """Counts all-reduces."""

    def __init__(self) -> None:
        self.count = 0
        self._all_reduce = dist.all_reduce

    def __enter__(self) -> Collectives:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return self._all_reduce(*args, **kwargs)

        dist.all_reduce = counted  # type: ignore[assignment]
        return self

    def __exit__(self, *exc: object) -> None:
        dist.all_reduce = self._all_reduce


def _operators(rank: int, world_size: int) -> None:
    tp = split_all_ways(rank, world_size)
    x = torch.full((2, 3), rank + 1.0, requires_grad=True)
    entered = copy_to_tensor_parallel_region(x, tp)
    assert torch.equal(entered, x)
    (entered * (rank + 1.0)).sum().backward()
    assert torch.equal(x.grad, torch.full((2, 3), 3.0))  # 1 + 2
    x.grad = None
    left = reduce_from_tensor_parallel_region(x * 1.0, tp)
    assert torch.equal(left, torch.full((2, 3), 3.0))
    (left * (rank + 1.0)).sum().backward()
    assert torch.equal(x.grad, torch.full((2, 3), rank + 1.0))
    assert (
        gather_from_tensor_parallel_region(x, tp).tolist() == [[1.0, 1.0, 1.0, 2.0, 2.0, 2.0]] * 2
    )


def test_f_and_g() -> None:
    run_ranks(_operators, 2)
    x = torch.ones(2)
    alone = TensorParallel()
    assert copy_to_tensor_parallel_region(x, alone) is x
    assert reduce_from_tensor_parallel_region(x, alone) is x


def _layers(rank: int, world_size: int) -> None:
    tp = split_all_ways(rank, world_size)
    torch.manual_seed(0)
    up, down, table = nn.Linear(6, 8), nn.Linear(8, 6), nn.Embedding(12, 6)
    column = ColumnParallelLinear(6, 8, tp, what="inner")
    row = RowParallelLinear(8, 6, tp, what="inner")
    words = VocabParallelEmbedding(12, 6, tp, what="words")
    pairs = [
        (column.weight, up.weight, 0),
        (column.bias, up.bias, 0),
        (row.weight, down.weight, 1),
        (row.bias, down.bias, None),
        (words.weight, table.weight, 0),
    ]
    with torch.no_grad():
        for local, full, dim in pairs:
            local.copy_(tp.cut(full, dim))
    ids = torch.tensor([[0, 11, 5, 6], [5, 5, 3, 9]])
    embedded = words(ids)
    assert torch.equal(embedded, table(ids))
    x = embedded.detach().requires_grad_()
    y = x.detach().requires_grad_()
    torch.testing.assert_close(
        row(column(copy_to_tensor_parallel_region(x, tp)).tanh()), down(up(y).tanh())
    )
    with Collectives() as forward:
        out = row(column(copy_to_tensor_parallel_region(x, tp)).tanh())
    with Collectives() as backward:
        out.square().sum().backward()
    assert (forward.count, backward.count) == (1, 1)
    down(up(y).tanh()).square().sum().backward()
    words(ids).square().sum().backward()
    table(ids).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    for local, full, dim in pairs:
        torch.testing.assert_close(local.grad, tp.cut(full.grad, dim))
        assert getattr(local, "tensor_model_parallel", False) == (dim is not None)
        assert getattr(local, "partition_dim", None) == dim


def test_layers_equal_plain_ones() -> None:
    run_ranks(_layers, 2)


def run_model(
    config: ModelConfig, tp: TensorParallel, dtype: torch.dtype, recompute: bool = False
) -> dict[str, Any]:
    """Losses, logits and this rank's gradients and weights after one forward and backward."""
    model = BertForPreTraining(config, tp, activation_checkpointing=recompute).to(dtype)
    initialize_weights(model, config, seed=11)
    with torch.no_grad():  # biases and norms too
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                dim = split_dim(parameter)
                size = parameter.numel() * (tp.size if dim is not None else 1)
                noise = torch.linspace(-0.1, 0.1, size, dtype=dtype) + 0.001 * len(name)
                parameter.add_(tp.cut(noise, dim))
    batch = tiny_batch(config)
    model.train()
    output = model(batch_of(**batch))
    (output.mlm_loss_sum + output.nsp_loss_sum).backward()
    model.eval()
    words, sentence = model.logits(batch_of(**batch))
    return {
        "output": [value.detach() for value in output],
        "logits": [words, sentence],
        "weights": {name: p.detach() for name, p in model.named_parameters()},
        "gradients": {name: p.grad for name, p in model.named_parameters()},
    }


def _models(
    rank: int, world_size: int, cases: list[tuple[ModelConfig, torch.dtype, bool, bool]]
) -> list[dict[str, Any]]:
    tp = split_all_ways(rank, world_size)
    return [
        run_model(config, replace(tp, sequence_parallel=sequence), dtype, recompute)
        for config, dtype, recompute, sequence in cases
    ]


MILD = tiny_config(initializer_range=0.05)
# model, dtype, activation checkpointing, sequence parallelism
CASES = [
    (MILD, torch.float32, False, False),
    (MILD, torch.float32, True, False),
    (MILD, torch.float32, False, True),
    (tiny_config(), torch.float64, False, False),
    (tiny_config(), torch.float64, True, True),
    (tiny_config(norm="pre"), torch.float64, False, False),
    (tiny_config(norm="pre"), torch.float64, True, False),
    (tiny_config(norm="pre", num_hidden_layers=3), torch.float64, False, True),
    (tiny_config(vocab_size=90), torch.float64, False, False),
    (tiny_config(vocab_size=30522, initializer_range=0.05), torch.float32, False, False),
]


@pytest.mark.parametrize("world_size", [2, 4])
def test_split_model_equals_whole_model(world_size: int) -> None:
    ranks = run_ranks(_models, world_size, CASES)
    for (config, dtype, *_), *results in zip(CASES, *ranks):
        whole = run_model(config, TensorParallel(), dtype)
        tolerance = 1e-12 if dtype == torch.float64 else 1e-6
        for result in results:
            torch.testing.assert_close(
                result["output"], whole["output"], rtol=tolerance, atol=tolerance
            )
            torch.testing.assert_close(
                result["logits"], whole["logits"], rtol=tolerance, atol=tolerance
            )
        parameters = whole_parameters(BertForPreTraining(config))
        for name, expected in whole["gradients"].items():
            dim = parameters[name].split_dim
            weight = merge([result["weights"][name] for result in results], dim)
            assert torch.equal(weight, whole["weights"][name]), name
            gradient = merge([result["gradients"][name] for result in results], dim)
            assert (gradient - expected).norm() <= tolerance * max(expected.norm(), 1.0), name


def _question_answering(rank: int, world_size: int) -> list[Tensor]:
    config = tiny_config()
    model = BertForQuestionAnswering(config, split_all_ways(rank, world_size))
    initialize_weights(model, config, seed=1)
    with torch.no_grad():
        return list(model(batch_of(**tiny_batch(config))))


def test_split_question_answering() -> None:
    first, second = run_ranks(_question_answering, 2)
    (whole,) = run_ranks(_question_answering, 1)
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    torch.testing.assert_close(first, whole, rtol=1e-5, atol=1e-5)


def _count(rank: int, world_size: int) -> tuple[int, int, int, int]:
    tp = split_all_ways(rank, world_size)
    config = tiny_config()
    layer = variant_of(config).layer(config, 0, tp)
    x = torch.randn(8, config.hidden_size, requires_grad=True)
    sequences = Sequences.packed(torch.tensor([0, 5, 8], dtype=torch.int32), 5)
    inputs = LayerInputs(sequences, torch.tensor([0, 1, 2, 3, 4, 0, 1, 2]))
    with Collectives() as forward:
        y = layer(x, inputs)
    with Collectives() as backward:
        y.sum().backward()
    model = BertForPreTraining(config, tp)
    with Collectives() as model_forward:
        output = model(batch_of(**tiny_batch(config)))
    with Collectives() as model_backward:
        (output.mlm_loss_sum + output.nsp_loss_sum).backward()
    return forward.count, backward.count, model_forward.count, model_backward.count


def test_two_all_reduces_a_layer_each_way() -> None:
    # the model adds one in forward for the word embeddings and one in backward for the MLM head
    for counts in run_ranks(_count, 2):
        assert counts == (2, 2, 2 * 2 + 1, 2 * 2 + 1)


SPLIT = {
    r"bert\.embeddings\.word_embeddings\.weight": 0,
    r"bert\.layers\.\d\.attention\.(query|key|value)\.(weight|bias)": 0,
    r"bert\.layers\.\d\.attention\.output\.weight": 1,
    r"bert\.layers\.\d\.mlp\.up\.(weight|bias)": 0,
    r"bert\.layers\.\d\.mlp\.down\.weight": 1,
    r"mlm\.bias": 0,
}


def test_what_is_split() -> None:
    for norm in ("post", "pre"):
        config = tiny_config(norm=norm)
        for model in (BertForPreTraining(config), BertForQuestionAnswering(config)):
            for name, parameter in whole_parameters(model).items():
                dims = [dim for pattern, dim in SPLIT.items() if re.fullmatch(pattern, name)]
                assert dims == ([] if parameter.split_dim is None else [parameter.split_dim]), name


def test_parameter_names_are_the_contract() -> None:
    names = [
        name for name, _ in BertForPreTraining(tiny_config(num_hidden_layers=1)).named_parameters()
    ]
    layer = "bert.layers.0."
    assert sorted(names) == sorted(
        [
            "bert.embeddings.word_embeddings.weight",
            "bert.embeddings.position_embeddings.weight",
            "bert.embeddings.token_type_embeddings.weight",
            "mlm.bias",
        ]
        + [
            f"{module}.{kind}"
            for module in (
                "bert.embeddings.norm",
                layer + "attention.query",
                layer + "attention.key",
                layer + "attention.value",
                layer + "attention.output",
                layer + "attention_norm",
                layer + "mlp.up",
                layer + "mlp.down",
                layer + "mlp_norm",
                "bert.pooler.dense",
                "mlm.dense",
                "mlm.norm",
                "nsp.classifier",
            )
            for kind in ("weight", "bias")
        ]
    )


def test_initial_weights() -> None:
    config = model_config("bert-mini", vocab_size=1000)
    model = BertForPreTraining(config)
    initialize_weights(model, config, seed=0)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            assert (parameter == 1).all()
        elif name.endswith("bias"):
            assert (parameter == 0).all()
        else:
            rows = config.vocab_size if "word_embeddings" in name else None
            assert abs(parameter[:rows].std() - 0.02) < 0.0015, name
            assert abs(parameter[:rows].mean()) < 0.002, name
    assert not model.bert.embeddings.word_embeddings.weight[config.vocab_size :].any()
    without = BertForPreTraining(config, sentence_task=False)
    initialize_weights(without, config, seed=0)
    full = dict(model.named_parameters())
    assert all(torch.equal(p, full[name]) for name, p in without.named_parameters())
    initialize_weights(without, config, seed=1)
    assert not torch.equal(without.mlm.dense.weight, model.mlm.dense.weight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 33, "num_attention_heads": 3}, "hidden_size 33|num_attention_heads 3"),
        ({"num_attention_heads": 1}, "num_attention_heads 1"),
        ({"intermediate_size": 65}, "intermediate_size 65"),
        ({"vocab_multiple": 1}, "padded vocabulary 101"),
    ],
)
def test_sizes_not_divisible_by_tensor_parallel(changes: dict[str, int], message: str) -> None:
    group: Any = object()
    with pytest.raises(UserError, match=f"({message}) is not divisible .* 2"):
        Encoder(tiny_config(**changes), TensorParallel(0, 2, group))


def test_merge_refuses_different_replicas() -> None:
    full = torch.arange(6.0)
    assert torch.equal(merge([cut(full, 0, i, 3) for i in range(3)], 0), full)
    with pytest.raises(UserError, match="replicated"):
        merge([full, full + 1], None)


@pytest.mark.parametrize("used", ["both", "outputs", "input"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("expanded", [False, True])
def test_the_input_s_other_gradient_joins_the_products(
    used: str, dtype: torch.dtype, expanded: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(8, 8, generator=generator).to(dtype).requires_grad_() for _ in range(2))
    given = torch.randn(8, 1, generator=generator).to(dtype).expand(8, 8)
    given = given if expanded else given.contiguous()

    def gradients(out: torch.Tensor, again: torch.Tensor) -> tuple[torch.Tensor, ...]:
        total = torch.zeros((), dtype=dtype)
        total = total + out.square().sum() if used != "input" else total
        total = total + (again * given).sum() if used != "outputs" else total
        return torch.autograd.grad(total, (x, w), allow_unused=True)

    found = gradients(*column_linear_and_input(x, [w], [None], TensorParallel()))
    expected = gradients(x @ w.t(), x)
    tolerance = {"rtol": 3e-2, "atol": 0.3} if dtype == torch.bfloat16 else {}
    for one, other in zip(found, expected):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, **tolerance)
    assert torch.equal(given, given[:, :1].expand(8, 8))
