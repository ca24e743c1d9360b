"""NEZHA: the encoder against its equations written out, all ways of computing it, and its training."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from megabert.checkpoint.record import (
    Checkpoint,
    read_checkpoint_record,
    write_checkpoint_record,
)
from megabert.common.errors import UserError
from megabert.config import flags
from megabert.config.model import ModelConfig, model_config
from megabert.kernels import cpu
from megabert.kernels.attention import relative as relative_attention
from megabert.kernels.attention.dispatch import Sequences, attention
from megabert.kernels.attention.relative_reference import by_distance
from megabert.kernels.dropout import Dropout, token_keys
from megabert.kernels.reference import wide
from megabert.model.encoder import Encoder, variant_of
from megabert.model.encoders.nezha import relative_table
from megabert.model.flops import sequence_flops
from megabert.model.heads import BertForPreTraining
from megabert.model.init import initialize_weights
from megabert.model.parameters import merge, pretraining_parameters
from megabert.parallel.layers import split_dim
from megabert.parallel.rng import DropoutSeeds, MicroStepDropout
from megabert.parallel.topology import ProcessGroups, Topology
from megabert.planner.machine import make_machine
from megabert.planner.parameters import local_parameters
from megabert.planner.plan import LayoutPlan, Planner
from megabert.planner.settings import PlanFlags, plan_settings, read_flags
from megabert.pretrain import run_folder
from tests.helpers.distributed import run_ranks
from tests.helpers.model_cases import batch_of, tiny_batch, tiny_config
from tests.helpers.nezha_equations import encode, position_vectors
from tests.helpers.training_runs import losses, make_shards, train, whole_weights

CPU = torch.device("cpu")
LENGTHS = (150, 1, 40, 9)
"""With 64 separate distances, the first sequence has pairs beyond them on both sides."""


def nezha_config(**changes: Any) -> ModelConfig:
    return tiny_config(
        **{"position_embeddings": "relative", "max_position_embeddings": 160, **changes}
    )


def packed(lengths: tuple[int, ...] = LENGTHS) -> dict[str, Any]:
    total, generator = sum(lengths), torch.Generator().manual_seed(0)
    return {
        "input_ids": torch.randint(1, 101, (total,), generator=generator),
        "token_type_ids": torch.randint(0, 2, (total,), generator=generator),
        "cu_seqlens": torch.tensor([0, *lengths]).cumsum(0).int(),
        "max_length": max(lengths),
        "sample_numbers": torch.arange(len(lengths)) + 70,
    }


def padded(batch: dict[str, Any], begins: tuple[int, ...] = (0, 0, 0, 0)) -> dict[str, Any]:
    """The sequences of a packed batch as rows, each beginning at a place of its row."""
    width = batch["max_length"]
    rows: dict[str, Any] = {"sample_numbers": batch["sample_numbers"]}
    bounds = list(zip(batch["cu_seqlens"][:-1].tolist(), batch["cu_seqlens"][1:].tolist(), begins))
    for name in ("input_ids", "token_type_ids", "attention_mask"):
        table = torch.zeros(len(bounds), width, dtype=torch.long)
        for row, (begin, end, at) in zip(table, bounds):
            row[at : at + end - begin] = batch[name][begin:end] if name in batch else 1
        rows[name] = table
    return rows


def close(
    found: Tensor,
    expected: Tensor,
    tolerance: float,
    what: str = "",
    relative_to: Tensor | None = None,
) -> None:
    """Within ``tolerance`` of the largest value of ``expected``, or of ``relative_to``."""
    found, expected = found.detach().double(), expected.detach().double()
    bound = tolerance * max(
        1.0, float((expected if relative_to is None else relative_to).abs().max())
    )
    difference = float((found - expected).abs().max())
    assert difference <= bound, f"{what}: {difference} > {bound}"


# ---------------------------------------------------------------- the table


def test_the_table_is_that_of_the_published_code() -> None:
    most, width = 64, 64
    table = relative_table(most, width, torch.float32, CPU)
    expected = torch.zeros(2 * most + 1, width)
    position = torch.arange(2 * most + 1).float().unsqueeze(1)
    steps = torch.exp(torch.arange(0, width, 2).float() * (-math.log(10000.0) / width))
    expected[:, 0::2], expected[:, 1::2] = torch.sin(position * steps), torch.cos(position * steps)
    torch.testing.assert_close(table, expected, rtol=0.0, atol=2e-5)  # its angles are float32
    assert table is relative_table(most, width, torch.float32, CPU)
    exact = relative_table(most, width, torch.float64, CPU)
    vectors = position_vectors(150, width, most)
    for i, j in ((0, 0), (3, 9), (9, 3), (0, 64), (0, 65), (0, 149), (149, 0), (100, 36)):
        row = exact[min(most, max(-most, j - i)) + most]
        torch.testing.assert_close(row, vectors[i, j], rtol=0.0, atol=1e-12)


def test_a_table_made_in_inference_serves_training() -> None:
    with torch.inference_mode():
        table = relative_table(7, 6, torch.float64, CPU)
    assert not table.is_inference()


# ---------------------------------------------------------------- the encoder and its equations


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("dropout", "recompute"), [(0.0, False), (0.2, False), (0.2, True)])
def test_encoder_is_that_of_the_equations(
    dtype: torch.dtype, dropout: float, recompute: bool
) -> None:
    config = nezha_config(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    dropout_seeds, batch = DropoutSeeds(5), packed()
    model = Encoder(config, dropout_seeds=dropout_seeds, activation_checkpointing=recompute)
    initialize_weights(model, config, seed=1)
    generator = torch.Generator().manual_seed(9)
    grad = torch.randn(sum(LENGTHS), config.hidden_size, generator=generator, dtype=torch.float64)
    weights = {n: p.detach().double().requires_grad_() for n, p in model.named_parameters()}
    found = model.to(dtype)(batch_of(**batch))
    found.backward(grad.to(dtype))

    parts = []
    for begin, end, sample in zip(batch["cu_seqlens"], batch["cu_seqlens"][1:], range(70, 74)):
        rows = token_keys(torch.tensor(sample), torch.arange(int(end - begin)))
        masks = MicroStepDropout(dropout_seeds, rows, dropout, dropout) if dropout else None
        ids, types = batch["input_ids"][begin:end], batch["token_type_ids"][begin:end]
        parts.append(encode(config, weights, ids, types, rows, masks))
    expected = torch.cat(parts)
    expected.backward(grad)

    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    close(found, expected.detach(), tolerance, "hidden states")
    assert "embeddings.position_embeddings.weight" not in weights
    for name, parameter in model.named_parameters():
        wanted = weights[name].grad
        assert parameter.grad is not None, name
        assert wanted is not None, name
        # a key's bias changes no softmax: what its gradient's rounding is measured by is the query's
        close(
            parameter.grad,
            wanted,
            tolerance,
            name,
            weights[name.replace("key.bias", "query.bias")].grad,
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_padded_rows_are_packed_sequences(dtype: torch.dtype) -> None:
    """Also where padding is in front, and where it is between tokens: distances are places'."""
    config = nezha_config(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2)
    model = Encoder(config, dropout_seeds=DropoutSeeds(5)).to(dtype)
    initialize_weights(model, config, seed=1)
    batch = packed()
    expected = model(batch_of(**batch))
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    rows = padded(batch)
    real = rows["attention_mask"].bool().flatten()
    close(model(batch_of(**rows))[real], expected.detach(), tolerance)
    model.eval()
    expected = model(batch_of(**batch))
    shifted = padded(batch, (0, 5, 110, 60))
    real = shifted["attention_mask"].bool().flatten()
    close(model(batch_of(**shifted))[real], expected.detach(), tolerance)
    # a hole that hides a token: the others keep their distances
    holes = padded(batch)
    holes["attention_mask"][2, 17] = 0
    shape = holes["input_ids"].shape
    found = model(batch_of(**holes)).unflatten(0, shape)
    assert found.isfinite().all()
    close(found[3, :9], expected[-9:].detach(), tolerance)
    assert not torch.allclose(found[2, :40], expected[151:191])
    with torch.no_grad():
        again = model(batch_of(**holes)).unflatten(0, shape)
        close(again[0], found[0].detach(), tolerance)


# ---------------------------------------------------------------- ways of computing it


def some_inputs(tokens: int, heads: int, width: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    return [
        torch.randn(tokens, heads, width, generator=generator, dtype=torch.float64).to(dtype)
        for _ in range(4)
    ]


def divisions(lengths: tuple[int, ...]) -> dict[str, Sequences]:
    """Sequences as a CPU divides them, and as a GPU does."""
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).int()
    return {
        "spans": Sequences.packed(cu_seqlens, max(lengths)),
        "grid": Sequences(len(lengths), max(lengths) + 3, cu_seqlens=cu_seqlens),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("drops", [True, False])
@pytest.mark.parametrize(
    ("lengths", "most"), [((300, 20, 1, 79), 64), ((5, 0, 3), 2), ((64, 65, 66, 129, 130), 64), ((4,), 9)]
)  # fmt: skip
def test_all_ways_agree(
    dtype: torch.dtype,
    drops: bool,
    lengths: tuple[int, ...],
    most: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Compiled (float32, bfloat16 by spans), plain (float64 by spans), and the operators for GPUs."""
    if not cpu.available():
        pytest.skip("no C++ compiler here")
    # two sequences at a time
    monkeypatch.setattr(relative_attention, "PAIR_BYTES", 2 * 3 * (max(lengths) + 3) ** 2 * 4)
    total = sum(lengths)
    keys = token_keys(torch.arange(total) // 7 + 3, torch.arange(total) % 7)
    dropout = Dropout(0.3, 2**62 + 5, keys) if drops else None

    def results(sequences: Sequences, kind: torch.dtype) -> list[Tensor]:
        *inputs, grad = some_inputs(total, 3, 8, dtype)
        leaves = [part.to(kind).requires_grad_() for part in inputs]
        table = relative_table(most, 8, wide(kind), CPU)
        out = attention(*leaves, sequences, 5, 0.35, dropout, table)
        out.backward(grad.to(kind))
        return [out.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    ways = divisions(lengths)
    exact = results(ways["spans"], torch.float64)
    tolerance = {torch.float64: 1e-12, torch.float32: 3e-6, torch.bfloat16: 1.6e-2}[dtype]
    for name, sequences in ways.items():
        for found, expected in zip(results(sequences, dtype), exact, strict=True):
            close(found, expected, tolerance, name)


@pytest.mark.parametrize("way", ["spans", "grid"])
def test_gradients_by_differences(way: str) -> None:
    lengths, most = (6, 2), 2
    table = relative_table(most, 4, torch.float64, CPU)
    keys = token_keys(torch.tensor(4), torch.arange(8))
    dropout, sequences = Dropout(0.3, 77, keys), divisions(lengths)[way]
    inputs = [part.requires_grad_() for part in some_inputs(8, 2, 4, torch.float64)[:3]]
    assert torch.autograd.gradcheck(
        lambda q, k, v: attention(q, k, v, sequences, 1, 0.5, dropout, table), inputs
    )


def test_sums_by_distance_keep_every_pair() -> None:
    pairs = torch.rand(2, 3, 9, 9, dtype=torch.float64)
    for most in (1, 3, 8, 12):
        sums = by_distance(pairs, most)
        assert sums.shape == (2, 3, 9, 2 * most + 1)
        torch.testing.assert_close(sums.sum(-1), pairs.sum(-1))
        for b in range(2 * most + 1):
            distances = torch.arange(9) - torch.arange(9)[:, None]
            here = distances.clamp(-most, most) == b - most
            torch.testing.assert_close(sums[..., b], (pairs * here).sum(-1))


class _Largest(TorchDispatchMode):
    """The most elements that a tensor of any operator has."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = result if isinstance(result, tuple | list) else [result]
        sizes = [x.untyped_storage().nbytes() // x.itemsize for x in made if isinstance(x, Tensor)]
        self.elements = max([self.elements, *sizes])
        return result


@pytest.mark.parametrize("way", ["spans", "grid"])
def test_no_vector_for_each_pair(way: str) -> None:
    """float64 goes to the plain operators, whose every tensor is seen here."""
    length, heads, width = 100, 2, 64
    *leaves, grad = some_inputs(length, heads, width, torch.float64)
    table = relative_table(64, width, torch.float64, CPU)
    with _Largest() as seen:
        inputs = [leaf.requires_grad_() for leaf in leaves]
        sequences = divisions((length,))[way]
        attention(*inputs, sequences, 0, 0.1, None, table).backward(grad)
    assert heads * length**2 <= seen.elements <= 1.5 * heads * length * (2 * 64 + 1)
    assert seen.elements < length * length * width / 10


def test_pairs_are_bounded_by_their_bytes() -> None:
    for heads, longest in ((12, 512), (16, 128), (1, 8), (16, 8192)):
        count = relative_attention.sequences_at_once(heads, longest, torch.float32)
        size = heads * longest**2 * 4
        assert count == 1 or count * size <= relative_attention.PAIR_BYTES
        assert (count + 1) * size > relative_attention.PAIR_BYTES


# ---------------------------------------------------------------- tensor parallelism


def _losses(config: ModelConfig, tp: Any = None, multiple: int = 1) -> Any:
    base = tiny_batch(config)
    lengths = base["attention_mask"].sum(1).tolist()
    lengths += [-sum(lengths) % multiple] if -sum(lengths) % multiple else []
    batch = packed(tuple(lengths))
    batch |= {
        "masked_positions": torch.tensor([0, 3, 17, 30]),
        "masked_labels": torch.tensor([5, 6, 7, 8]),
        "next_sentence_labels": torch.tensor([0, 1, 1] + [-100] * (len(lengths) - 3)),
    }
    model = BertForPreTraining(config, tp, DropoutSeeds(5))
    initialize_weights(model, config, seed=1)
    output = model(batch_of(**batch))
    (output.mlm_loss_sum + output.nsp_loss_sum).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return [value.detach() for value in output], gradients


def _split(rank: int, world_size: int, config: ModelConfig) -> list[Any]:
    tp = ProcessGroups.create(Topology(world_size, rank, world_size)).tensor_parallel
    return [
        _losses(config, replace(tp, sequence_parallel=sequence_parallel), world_size)
        for sequence_parallel in (False, True)
    ]


def test_tensor_parallel() -> None:
    config = nezha_config(
        max_relative_position=6, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2
    )
    expected, gradients = _losses(config, multiple=2)
    for result in zip(*run_ranks(_split, 2, config)):
        for values, _ in result:
            torch.testing.assert_close(values, expected, rtol=2e-5, atol=0.0)
        for name, gradient in gradients.items():
            found = merge(
                [part[name] for _, part in result], pretraining_parameters(config)[name].split_dim
            )
            close(found, gradient, 1e-5, name)


# ---------------------------------------------------------------- the model's shape


def test_presets() -> None:
    for name in ("tiny", "mini", "base", "large"):
        nezha, bert = model_config(f"nezha-{name}"), model_config(f"bert-{name}")
        same = {"name": bert.name, "position_embeddings": "absolute"}
        assert replace(nezha, **same) == bert  # type: ignore[arg-type]
        assert variant_of(nezha).position_rows(nezha) == 0
        assert variant_of(bert).position_rows(bert) == 512
    for name in ("nezha-base-zh", "nezha-large-zh"):
        assert model_config(name).vocab_size == 21128
        assert model_config(name).max_relative_position == 64


@pytest.mark.parametrize("degree", [1, 4])
def test_parameters_are_counted(degree: int) -> None:
    config = nezha_config(vocab_multiple=8, max_position_embeddings=4096)
    sizes = {
        name: parameter.numel() // (degree if split_dim(parameter) is not None else 1)
        for name, parameter in BertForPreTraining(config).named_parameters()
    }
    counted = local_parameters(config, degree)
    assert counted.total == sum(sizes.values())
    assert counted.tensors == len(sizes)
    assert counted.largest == max(sizes.values())


def test_flops_by_hand() -> None:
    config = nezha_config(num_hidden_layers=1)
    bert = replace(config, position_embeddings="absolute")
    # two products of 10 tokens' rows (32 wide) with 129 rows in forward, two in backward
    more = 4 * 2 * 10 * 32 * 129
    assert sequence_flops(config, 10, 3) == sequence_flops(bert, 10, 3) + more


def test_a_plan_counts_what_relative_positions_move_on_a_gpu() -> None:
    """By pairs of tokens, of which none counts that is farther apart than clipping and blocks reach."""

    def made(model: str, length: int) -> LayoutPlan:
        argv = ["--model", model, "--gpu", "h100", "--seq-length", str(length)]
        settings = plan_settings(read_flags(flags.parse(PlanFlags, argv, "plan.py", "")))
        planner = Planner(settings, make_machine(settings.machine))
        return planner.plan(settings.layout)

    bert, nezha, longer, longest = (
        made(model, length)
        for model, length in (
            ("bert-base", 128), ("nezha-base", 128), ("nezha-base", 256), ("nezha-base", 512),
        )
    )  # fmt: skip
    moved = [plan.times["relative positions"] for plan in (nezha, longer, longest)]
    assert "relative positions" not in bert.times
    assert moved[1] == pytest.approx(moved[0] * 2 * 208 / 128)
    assert moved[2] == pytest.approx(moved[1] * 2)
    assert sum(moved[:1]) < 0.25 * sum(nezha.times.values())
    assert bert.parameters.total - nezha.parameters.total == 512 * 768


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="hidden_size / num_attention_heads is 7, not even"):
        Encoder(nezha_config(hidden_size=28))
    model = Encoder(nezha_config())
    ids = torch.ones(1, 161, dtype=torch.long)
    with pytest.raises(UserError, match=r"161 is larger than the model's longest sequence, 160"):
        model(batch_of(ids))


def test_a_record_without_the_fields_is_bert() -> None:
    values = model_config("bert-base").to_dict()
    del values["position_embeddings"], values["max_relative_position"]
    assert ModelConfig.from_dict(values) == model_config("bert-base")


# ---------------------------------------------------------------- training


NEZHA = ["--model", "nezha-tiny", "--masking", "whole-word", "--dropout", "0.1"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("data") / "shards", pieces=True)


@pytest.fixture(scope="module")
def first(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phase 1 of NEZHA on one rank, stopped after two of four updates and resumed."""
    run = tmp_path_factory.mktemp("runs") / "first"
    train(shards, run, *NEZHA, "--stop-after", "2")
    train(shards, run, *NEZHA, "--resume", "auto")
    return run


def record_of(run: Path) -> dict[str, Any]:
    (folder,) = (run / "checkpoints").glob("step-0000004")
    record: dict[str, Any] = json.loads((folder / "megabert.json").read_text())
    return record


def test_resumed_and_split_runs_are_the_same(shards: Path, first: Path, tmp_path: Path) -> None:
    lines = train(shards, tmp_path / "two", *NEZHA, "--tensor-parallel", "2", ranks=2)
    before = [json.loads(line) for line in (first / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in before if "loss" in line] == [1, 2, 3, 4]
    assert losses(lines) == pytest.approx(losses(before), rel=1e-5)
    assert record_of(first)["masking"] == "whole-word"
    assert record_of(first)["model"]["position_embeddings"] == "relative"
    assert record_of(first)["trained_positions"] == 64
    names = whole_weights(first)
    assert "bert.embeddings.position_embeddings.weight" not in names
    for name, values in whole_weights(tmp_path / "two").items():
        close(values["weight"], names[name]["weight"], 1e-5, name)


def test_phase_2_may_have_longer_sequences(shards: Path, first: Path, tmp_path: Path) -> None:
    """Longer than phase 1's model allowed: no tensor depends on it."""
    second = tmp_path / "second"
    arguments = ["--phase", "2", "--init-from", str(first), "--lr", "0", "--steps", "1"]
    longer = ["--seq-length", "96", "--max-position-embeddings", "96"]
    train(shards, second, *NEZHA, *arguments, *longer)
    before = whole_weights(first)
    for name, values in whole_weights(second).items():
        assert torch.equal(values["weight"], before[name]["weight"]), name
    with pytest.raises(UserError, match="position_embeddings relative -> absolute"):
        train(shards, tmp_path / "third", *arguments)
    assert not (tmp_path / "third").exists()


def test_checkpoints_from_before_are_resumed(shards: Path, tmp_path: Path) -> None:
    """BERT's records did not have the fields of the positions."""
    run = tmp_path / "run"
    train(shards, run, "--stop-after", "2")
    (folder,) = (run / "checkpoints").glob("step-0000002")
    checkpoint = read_checkpoint_record(folder)
    record = {name: value for name, value in checkpoint.record.items() if name != "record_sha256"}
    for name in ("position_embeddings", "max_relative_position"):
        del record["model"][name]
    write_checkpoint_record(folder, record)
    model = ModelConfig.from_dict(record["model"])
    relative = replace(model, position_embeddings="relative")
    with pytest.raises(UserError, match="position_embeddings absolute -> relative"):
        train(
            shards, tmp_path / "other", "--init-from", str(run), "--position-embeddings", "relative"
        )
    assert train(shards, tmp_path / "next", "--init-from", str(run))[0]["step"] == 0
    other = {**record, "model": relative.to_dict()}
    with pytest.raises(UserError, match="position_embeddings 'absolute' -> 'relative'"):
        run_folder.require_same_run(Checkpoint(folder, record), other)
    lines = train(shards, run, "--resume", "auto")
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
