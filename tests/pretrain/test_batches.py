"""A run's micro batches: their number of tokens, and who makes them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from megabert.pretrain import batches
from tests.helpers.distributed import run_ranks
from tests.helpers.training_runs import (
    TINY,
    import_once,
    losses,
    make_shards,
    metrics,
    settings_of,
    train,
)


def _world(device: str) -> SimpleNamespace:
    return SimpleNamespace(device=torch.device(device))


@pytest.mark.parametrize(
    ("device", "flags", "multiple"),
    [
        ("cuda", "", 128),
        ("cuda", "--phase 2 --tensor-parallel 8 --sequence-parallel on", 128),
        ("cuda", "--phase 2 --tensor-parallel 3 --sequence-parallel on", 384),
        ("cuda", "--tensor-parallel 3 --sequence-parallel on", 3),  # 384 is above 128
        ("cuda", "--seq-length 64", 1),
        ("cuda", "--packing off", 1),
        ("cpu", "", 1),
        ("cpu", "--tensor-parallel 2 --sequence-parallel on", 2),
    ],
)
def test_tokens_of_a_micro_batch(device: str, flags: str, multiple: int) -> None:
    settings = settings_of(["--data", "none", *flags.split()])
    length, world = settings.data.seq_length, _world(device)
    assert batches._token_multiple(settings, world, length) == multiple  # type: ignore[arg-type]


def test_default_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    def workers(device: str, cores: int, *flags: str) -> int:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
        return batches._workers(settings_of(["--data", "none", *flags]), _world(device))  # type: ignore[arg-type]

    assert [workers("cuda", cores) for cores in (1, 2, 4, 64)] == [0, 1, 3, 4]
    assert workers("cpu", 64) == 0
    assert workers("cuda", 64, "--loader-workers", "0") == 0


def _train_filled_up(rank: int, world_size: int, argv: Sequence[str]) -> list[int]:
    """Tokens of the micro batches that the engine is given."""
    from megabert.engine.training_engine import TrainingEngine
    from megabert.pretrain.command import pretrain

    batches._token_multiple = lambda settings, world, length: 32  # type: ignore[assignment]
    forward, tokens = TrainingEngine.__call__, []

    def counted(engine, batch):  # type: ignore[no-untyped-def]
        tokens.append(len(batch.input_ids))
        return forward(engine, batch)

    TrainingEngine.__call__ = counted  # type: ignore[method-assign, assignment]
    pretrain(settings_of(argv))
    return tokens


def test_filling_up_changes_no_update(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards")
    train(shards, tmp_path / "plain")
    import_once()
    argv = [*TINY, "--data", str(shards), "--output", str(tmp_path / "filled")]
    (tokens,) = run_ranks(_train_filled_up, 1, argv, initialize=False, timeout=240.0)
    assert {count % 32 for count in tokens} == {0}
    plain, filled = (
        [line for line in metrics(tmp_path / name) if "loss" in line]
        for name in ("plain", "filled")
    )
    assert losses(filled) == pytest.approx(losses(plain), rel=1e-5)
    for one, other in zip(plain, filled, strict=True):
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
        assert other["tokens"] == one["tokens"]
