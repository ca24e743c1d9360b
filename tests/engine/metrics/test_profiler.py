"""``--profile N``: its files, its messages, and its errors."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from megabert.common.errors import UserError
from megabert.config import flags
from megabert.config.training import PretrainSettings
from megabert.engine.metrics.clock import OTHER
from megabert.engine.metrics.profiler import (
    ATTENTION,
    COMMUNICATION,
    ELEMENTWISE,
    GEMM,
    KINDS,
    OPTIMIZER,
    WARM_UP,
    OperatorTime,
    kind,
    require_room,
    time_fractions,
)
from tests.helpers.training_runs import TINY, make_shards, train


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("aten::addmm", GEMM),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", GEMM),
        ("nvjet_tst_128x256_64x4_1x2_h_bz_TNT", GEMM),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", ATTENTION),
        ("flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128, 128, 4>>", ATTENTION),
        ("megabert::mb_attention_backward", ATTENTION),
        ("ncclDevKernel_AllReduce_Sum_bf16_RING_LL", COMMUNICATION),
        ("aten::gelu", ELEMENTWISE),
        ("void at::native::vectorized_elementwise_kernel<4>", ELEMENTWISE),
        ("triton_poi_fused_add_0", ELEMENTWISE),
        ("Memcpy HtoD (Pinned -> Device)", OTHER),
        ("autograd::engine::evaluate_function: AddmmBackward0", OTHER),
    ],
)
def test_kinds_of_operators(name: str, expected: str) -> None:
    assert kind(OperatorTime(name, 1.0, False)) == expected
    inside = COMMUNICATION if expected == COMMUNICATION else OPTIMIZER
    assert kind(OperatorTime(name, 1.0, True)) == inside


def test_shares_of_the_wall() -> None:
    spans = [
        OperatorTime("aten::mm", 2.0, False),
        OperatorTime("aten::mm", 1.0, True),
        OperatorTime("aten::add", 1.0, False),
    ]
    found = time_fractions(spans, 10.0, in_collectives=2.0)
    assert list(found) == list(KINDS)
    assert found == pytest.approx(
        {GEMM: 0.2, ATTENTION: 0, ELEMENTWISE: 0.1, OPTIMIZER: 0.1, COMMUNICATION: 0.2, OTHER: 0.4}
    )


def test_room_for_a_profile() -> None:
    require_room(5, 5 + WARM_UP)
    with pytest.raises(UserError, match=r"and the run has 8; profile at most 5, or train longer"):
        require_room(6, 5 + WARM_UP)
    with pytest.raises(UserError, match=r"and the run has 2; train longer"):
        require_room(1, 2)


def test_a_profile_needs_an_update() -> None:
    with pytest.raises(
        UserError, match="--profile 0: expected a whole number from 1 to 2,147,483,647"
    ):
        flags.parse(PretrainSettings, ["--profile", "0"], "pretrain.py", "")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"))


def test_profile_of_a_run(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    lines = train(shards, run, "--steps", "5", "--profile", "2", ranks=2)
    (line,) = [line for line in lines if line.get("event") == "profile"]
    assert line["step"] == 5
    assert line["updates"] == 2
    assert list(line["shares"]) == list(KINDS)
    assert sum(line["shares"].values()) == pytest.approx(1.0, abs=1e-4)
    for name in (GEMM, ELEMENTWISE, OPTIMIZER, COMMUNICATION):
        assert 0 < line["shares"][name] < 1, name
    assert {path.name for path in (run / "profile").iterdir()} == {"rank0.json.gz", "operators.txt"}
    table = (run / "profile" / "operators.txt").read_text(encoding="utf-8")
    assert table.startswith("2 updates in ")
    assert "aten::" in table
    with gzip.open(run / "profile" / "rank0.json.gz", "rt", encoding="utf-8") as file:
        names = [event.get("name") for event in json.load(file)["traceEvents"]]
    for phase in ("forward", "backward", "optimizer"):
        assert names.count(phase) == 2 * 2  # two micro steps per update
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5]


def test_a_short_run_is_refused_before_it_begins(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"--profile 2: 3 updates are for warm-up, and the run has 4; profile at most 1",
    ):
        train(shards, tmp_path / "run", "--profile", "2")
    assert not (tmp_path / "run").exists()
    assert TINY[TINY.index("--steps") + 1] == "4"
