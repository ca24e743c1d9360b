"""Copies on tensor-parallel ranks that have drifted apart: equal after a save, and merged."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from megabert.checkpoint.merged import whole_checkpoint
from megabert.checkpoint.record import read_checkpoint_record
from megabert.checkpoint.resume import recorded_parameters, resume
from megabert.checkpoint.retention import Retention
from megabert.checkpoint.save_load import save_checkpoint
from megabert.checkpoint.universal import universal_checkpoint_info
from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.config.training import OptimizerSettings, ParallelSettings
from megabert.engine.build import build_engine
from megabert.engine.config import BatchSizes
from megabert.engine.launch import World, start
from megabert.engine.training_engine import TrainingEngine
from megabert.model.heads import BertForPreTraining
from megabert.model.init import initialize_weights
from megabert.model.parameters import whole_parameters
from tests.helpers.distributed import run_ranks
from tests.helpers.model_cases import batch_of, tiny_batch, tiny_config

CONFIG = tiny_config()
NORM, POSITIONS = (
    "bert.embeddings.norm.weight",
    "bert.embeddings.position_embeddings.weight",
)
CASES = [(0, "bf16"), (1, "bf16"), (3, "fp32")]
"""ZeRO stage and precision, of four ranks in two tensor-parallel groups."""


def _drift(engine: TrainingEngine, size: float) -> None:
    """Move tensor-parallel rank 1's copies of two weights and a moment."""
    if engine.world.tp.rank == 0:
        return
    generator = torch.Generator().manual_seed(11)
    for item in engine.partitions():
        for segment in item.partition.segments:
            places = slice(segment.partition_start, segment.partition_start + segment.numel)
            for flat in (item.flat, engine.optimizer.state[item.flat]["exp_avg"]):
                if segment.name in (NORM, POSITIONS):
                    noise = size * torch.randn(segment.numel, generator=generator)
                    flat.data.view(-1)[places] *= 1 + noise


def _engine(world: World, stage: int, precision: str) -> TrainingEngine:
    model = BertForPreTraining(CONFIG, world.tp)
    initialize_weights(model, CONFIG, 3)
    ranks = world.topology.data_parallel
    engine = build_engine(
        model,
        world,
        OptimizerSettings(schedule="constant", steps=10, lr=0.01, warmup_fraction=0.0),
        ParallelSettings(zero_stage=stage, precision=precision, tensor_parallel=2),  # type: ignore[arg-type]
        BatchSizes(3 * ranks, 3, 1, ranks),
    )
    for _ in range(2):
        out = engine(batch_of(**tiny_batch(CONFIG, seed=0)))
        engine.backward((out.mlm_loss_sum + out.nsp_loss_sum) / ranks)
        engine.step()
    return engine


def _held(engine: TrainingEngine) -> list[torch.Tensor]:
    """This rank's masters, moments and compute weights."""
    held = [parameter.detach().clone() for parameter in engine.module.parameters()]
    for item in engine.partitions():
        held += [item.flat.detach().clone(), engine.optimizer.state[item.flat]["exp_avg"].clone()]
    return held


def _copies(engine: TrainingEngine) -> list[torch.Tensor]:
    """This rank's copies, of masters and of what the model computes with."""
    found = [
        p.detach().clone()
        for name, p in engine.module.named_parameters()
        if name in (NORM, POSITIONS)
    ]
    for item in engine.partitions():
        for segment in item.partition.segments:
            if segment.name in (NORM, POSITIONS):
                places = slice(segment.partition_start, segment.partition_start + segment.numel)
                state = engine.optimizer.state[item.flat]["exp_avg"]
                found += [flat.detach().view(-1)[places].clone() for flat in (item.flat, state)]
    return found


def _save_all(rank: int, world_size: int, folder: Path) -> list[dict[str, Any]]:
    world = start(2)
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda entry: said.append(entry.getMessage())  # type: ignore[method-assign]
    get_logger().addHandler(handler)
    found = []
    for stage, precision in CASES:
        engine = _engine(world, stage, precision)
        found.append(_save(engine, folder / str(stage)) | {"said": list(said)})
        said.clear()
        engine.close()
    return found


def _save(engine: TrainingEngine, folder: Path) -> dict[str, Any]:
    def save(name: str) -> None:
        record = {
            "step": 2, "consumed_samples": 6, "model": CONFIG.to_dict(), "heads": ["mlm", "nsp"],
        }  # fmt: skip
        info = universal_checkpoint_info(whole_parameters(engine.module, 2))
        save_checkpoint(engine, folder / name, record, info, Retention(2))

    before = _held(engine)
    engine.average_copies()
    assert all(map(torch.equal, before, _held(engine))), "equal copies keep their bits"
    _drift(engine, 1e-4)
    own = _copies(engine)
    with pytest.MonkeyPatch.context() as patch:  # as earlier versions did
        patch.setattr(TrainingEngine, "average_copies", lambda _: None)
        save("drifted")
    save("equal")
    now = _copies(engine)
    with pytest.MonkeyPatch.context() as patch:
        _drift(engine, 0.3)
        patch.setattr(TrainingEngine, "average_copies", lambda _: None)
        save("apart")
    resume(engine, read_checkpoint_record(folder / "drifted" / "checkpoints" / "step-0000002"))
    return {"own": own, "now": now, "resumed": _copies(engine)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[dict[str, Any]]]]:
    folder = tmp_path_factory.mktemp("saved")
    return folder, run_ranks(_save_all, 4, folder, initialize=False)


@pytest.mark.parametrize("case", range(len(CASES)))
def test_drift(case: int, saved: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A rank's copies are moved: after a save all hold the mean, and merging gives it in any case."""
    folder, ranks = saved
    found = [rank[case] for rank in ranks]
    groups = list(zip(found[::2], found[1::2]))  # tensor parallel
    assert any(not torch.equal(*both) for a, b in groups for both in zip(a["own"], b["own"]))
    assert all(torch.equal(*both) for a, b in groups for both in zip(a["now"], b["now"]))
    for one in found:
        assert all(map(torch.equal, one["now"], one["resumed"])), "resumed from copies that differ"
    (said, again) = [text for text in found[0]["said"] if "copies" in text]
    assert said == again
    assert POSITIONS in said or NORM in said
    assert not any("copies" in text for one in found[1:] for text in one["said"])

    parameters = recorded_parameters(CONFIG, ["mlm", "nsp"])
    merged = {}
    for name in ("drifted", "equal", "apart"):
        place = folder / str(CASES[case][0]) / name / "checkpoints" / "step-0000002"
        whole = whole_checkpoint(place, parameters)
        if name == "apart":
            with pytest.raises(UserError, match="differs between tensor parallel ranks"):
                dict(whole.items())
        else:
            merged[name] = dict(whole.items())
            whole.log_difference()
    for tensor, values in merged["equal"].items():
        for key, value in values.items():
            assert torch.equal(value, merged["drifted"][tensor][key]), (tensor, key)
    assert capsys.readouterr().err.count("differ between tensor-parallel ranks") == 1
