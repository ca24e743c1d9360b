"""The benchmarks of steps and updates: their arithmetic, that all contestants compute the same, smoke runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import finetune, jitter, plan_run, step, training
from benchmarks.steps import ceiling, peers, rounds, runs, shares
from benchmarks.steps.batches import IGNORED, RealBatches, Work
from megabert.common.errors import UserError
from megabert.config.model import ModelConfig
from megabert.kernels import cpu
from tests.helpers.distributed import run_ranks
from tests.helpers.model_cases import tiny_config
from tests.helpers.squad_files import qa
from tests.helpers.training_runs import import_once, make_shards

LENGTH, CPU = 32, torch.device("cpu")
PEERS = [peers.EAGER, peers.PLAIN]
SMALL = ["--threads", "1", "--rounds", "1", "--micro-batch-size", "2"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("benchmarks") / "shards")


@pytest.fixture(scope="module")
def batches(shards: Path) -> RealBatches:
    return RealBatches(shards, LENGTH, 4)


def test_a_micro_batch_is_the_same_samples_in_three_forms(batches: RealBatches) -> None:
    batch = batches.get(3)
    real = batch.rows["attention_mask"].bool()
    assert torch.equal(batch.padded.sample_numbers, torch.arange(12, 16))
    assert set(batch.packed.sample_numbers.tolist()) == set(range(12, 16))
    bounds = batch.packed.cu_seqlens.tolist()
    for place, number in enumerate(batch.packed.sample_numbers.tolist()):
        packed = batch.packed.input_ids[bounds[place] : bounds[place + 1]]
        row = number - 12
        assert torch.equal(packed, batch.rows["input_ids"][row][real[row]])
    positions = (batch.labels != IGNORED).flatten().nonzero().squeeze(1)
    assert torch.equal(positions, batch.padded.labels["masked_positions"])
    assert torch.equal(batch.labels.flatten()[positions], batch.padded.labels["masked_labels"])
    work = batch.work
    assert (work.samples, work.tokens) == (4, int(real.sum()))
    assert work.squared_lengths == int(real.sum(dim=1).square().sum())
    assert (work.predictions, work.padded_tokens) == (len(positions), 4 * LENGTH)
    assert work.padding == 1 - work.tokens / (4 * LENGTH)


def test_all_contestants_compute_the_same_loss(batches: RealBatches) -> None:
    config = tiny_config(vocab_size=batches.model("bert-tiny", 0.0).vocab_size)
    config = ModelConfig.from_dict({**config.to_dict(), "max_position_embeddings": LENGTH})
    field = peers.contestants(config, CPU, torch.float32, PEERS)
    assert [one.name for one in field] == [peers.PACKED, peers.PADDED, *PEERS]
    batch = batches.get(0)
    reference = field[0].evaluate(batch)
    for one in field[1:]:
        torch.testing.assert_close(one.evaluate(batch), reference, rtol=1e-5, atol=0)
        torch.testing.assert_close(one.step(batch), reference, rtol=1e-5, atol=0)
        assert all(parameter.grad is None for parameter in one.model.parameters())
    assert peers.gradient_difference(field[0], field[1], batch) < 1e-5
    plain = field[-1]
    with torch.no_grad():
        plain.model.get_parameter("words.weight").mul_(1.5)
    losses = {one.name: float(one.evaluate(batch)) for one in field}
    with pytest.raises(UserError, match="here: the loss of plain torch is"):
        step.losses_agree(losses, "fp32", "here")
    losses[peers.PLAIN] = float("nan")
    with pytest.raises(UserError, match="nan"):
        step.losses_agree({name: losses[name] for name in (peers.PACKED, peers.PLAIN)}, "fp32", "")


@given(
    samples=st.integers(1, 50),
    length=st.integers(1, 500),
    spread=st.integers(0, 10**6),
    predictions=st.integers(0, 3000),
)
def test_products_are_all_the_flops(
    samples: int, length: int, spread: int, predictions: int
) -> None:
    config = tiny_config()
    work = Work(samples, samples * length, samples * length**2 + spread, predictions, 10**6)
    total = sum(product.count * product.flops for product in ceiling.products(config, work))
    assert total == pytest.approx(work.flops(config), rel=1e-9)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["_Attention", "aten::bmm"], shares.ATTENTION),
        (["aten::scaled_dot_product_attention", "aten::dropout"], shares.ATTENTION),
        (["aten::linear", "aten::addmm"], shares.PRODUCTS),
        (["_LinearCrossEntropy", "aten::mm"], shares.PRODUCTS),
        (["_LinearCrossEntropy"], shares.LOSS),
        (["aten::_log_softmax"], shares.LOSS),
        (["LogSoftmaxBackward0", "aten::mul"], shares.LOSS),
        (["_EmbeddingBackward", "aten::add_"], shares.EMBEDDING),
        (["_AddNorm"], shares.ELEMENTWISE),
        (["GeluBackward0", "aten::empty"], shares.ELEMENTWISE),
        (["aten::copy_"], shares.REST),
    ],
)
def test_kinds_of_operators(names: list[str], kind: str) -> None:
    assert shares.kind_of(names) == kind


def test_shares_sum_to_one() -> None:
    x = torch.randn(64, 64)
    found = shares.time_shares(lambda: (x @ x).softmax(1).add_(1), 2, CPU)
    assert tuple(found) == shares.KINDS
    assert sum(found.values()) == pytest.approx(1)
    assert found[shares.PRODUCTS] > 0 < found[shares.ATTENTION]


def test_statistics_of_rounds() -> None:
    orders = [rounds.turns("abc", number) for number in range(3)]
    assert orders == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]]
    assert rounds.paired_ratio([2.0, 60.0, 4.0], [1.0, 20.0, 1.0]) == 3.0
    values = list(range(1, 101))
    assert (rounds.percentile(values, 0.5), rounds.percentile(values, 0.95)) == (50, 95)
    assert rounds.percentile([7.0], 0.95) == rounds.percentile([7.0], 0.0) == 7.0
    table = rounds.markdown_table(("a", "b"), [(1234.5, None), ("x", 0.12345)])
    assert table.splitlines() == ["| a | b |", "|---|---|", "| 1,234 | - |", "| x | 0.1235 |"]


def test_step_command(
    shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ceiling, "SECONDS_A_SHAPE", 0.0)
    file = tmp_path / "step.json"
    step.main(
        [
            str(shards), "--models", "bert-tiny", "--lengths", str(LENGTH), "--precisions", "fp32",
            *SMALL, "--dropout", "0", "--peers", "transformers,plain", "--profile", "--json", str(file),
        ]
    )  # fmt: skip
    (case,) = json.loads(file.read_text())["cases"]
    rows = {row["name"]: row for row in case["contestants"]}
    assert set(rows) == {peers.PACKED, peers.PADDED, *PEERS}
    assert all(0 <= row["loss_difference"] <= 1e-5 for row in rows.values())
    assert case["gradient_difference"] < 1e-4
    packed = rows[peers.PACKED]
    assert packed["mfu"] == pytest.approx(packed["gflops"] / case["ceiling_gflops"])
    assert packed["times_transformers"] == pytest.approx(rows[peers.EAGER]["ms"] / packed["ms"])
    assert packed["samples_per_second"] == pytest.approx(2e3 / packed["ms"])
    assert set(case["shares"]) == set(rows)
    printed = capsys.readouterr().out
    assert "| bert-tiny | 32 | fp32 | 2 | megabert packed |" in printed
    assert "bert-tiny, 32, fp32: padding" in printed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--precisions", "fp4"], "--precisions 'fp4': known are fp32, bf16, fp8"),
        (["--rounds", "0"], "--rounds 0: at least 1"),
        (["--peers", "tensorflow"], "--peers 'tensorflow' is not known"),
    ],
)
def test_wrong_flags_of_step(flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        step.main(["nowhere", *flags])


def test_compilations_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "build_library", lambda *_: Path("library.so"))
    with jitter.compilations() as counts:
        before = counts()
        compiled: Callable[..., Any] = torch.compile(
            lambda x: x + 1, backend="eager", dynamic=False
        )
        compiled(torch.zeros(2))
        compiled(torch.zeros(2))
        assert counts() - before == {"torch.compile": 1}
        compiled(torch.zeros(3))
        cpu.build_library("g++", Path())
        assert counts() - before == {"torch.compile": 2, "native": 1}
        knobs = pytest.importorskip("triton").knobs
        knobs.runtime.jit_post_compile_hook(key="", repr="", fn=None)
        assert counts()["Triton"] == 1
    torch.compiler.reset()


def test_jitter_command(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", "bert-tiny", "--length", str(LENGTH), "--micro-batch-size", "2"]
    sizes = ["--steps", "3", "--warm-up", "1", "--threads", "1"]
    assert jitter.main([str(shards), *flags, *sizes]) == 0
    printed = capsys.readouterr().out
    assert "| megabert packed | " in printed
    assert "| megabert padded | nothing | nothing | " in printed


def _training(rank: int, world_size: int, argv: list[str]) -> None:
    training.main(argv)


def test_training_command(shards: Path, tmp_path: Path) -> None:
    file = tmp_path / "training.json"
    flags = ["--model", "bert-tiny", "--length", str(LENGTH), "--accumulation", "2", *SMALL]
    import_once()
    argv = [str(shards), *flags, "--dropout", "0", "--json", str(file)]
    run_ranks(_training, 1, argv, initialize=False)
    result = json.loads(file.read_text())
    rows = {row["name"]: row for row in result["contestants"]}
    first = [rows[name]["first_loss"] for name in (training.OURS, training.PLAIN)]
    assert rows[training.OURS_PADDED]["samples_per_second"] > 0
    assert len(rows) == 4
    # means over micro batches and over the global batch part by their different counts only
    assert first[0] == pytest.approx(first[1], rel=0.02)
    assert all(row["last_loss"] != row["first_loss"] for row in rows.values())


def test_finetune_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["the", "town", "of", "lies", "on", "river", "which", "is", "big"]
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n")
    context = "the town of river lies on the big river " * 3
    questions = [qa(str(number), "which town is big", ("town", 4)) for number in range(6)]
    paragraphs = [{"context": context, "qas": questions}]
    train = tmp_path / "train.json"
    train.write_text(
        json.dumps({"version": "1.1", "data": [{"title": "", "paragraphs": paragraphs}]})
    )
    flags = ["--tokenizer", str(vocabulary), "--model", "bert-tiny", "--max-length", "96", *SMALL]
    finetune.main([str(train), *flags])
    printed = capsys.readouterr().out
    for name in (finetune.PACKED, finetune.PADDED, finetune.THEIRS):
        assert f"| {name} | " in printed


def test_memory_of_a_plan() -> None:
    plan = {
        "memory": {"peak_bytes": 10.0, "instants": {"loss": {"weights": 8.0, "framework": 2.0}}}
    }
    assert plan_run.planned_bytes(plan, cuda=False) == 10.0
    assert plan_run.planned_bytes(plan, cuda=True) == 8.0
    assert runs.run(["-c", "print(1)"]) == "1\n"
    with pytest.raises(UserError, match=r"exit status 2.*none"):
        runs.run(["-c", "import sys; sys.stderr.write('none'); sys.exit(2)"])
