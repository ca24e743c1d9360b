"""Whole tensors out of DeepSpeed checkpoints: every stage, data and tensor parallel."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from megabert.common.errors import UserError
from megabert.common.packed_batch import PackedBatch
from megabert.config.model import ModelConfig
from megabert.config.training import OptimizerSettings, ParallelSettings
from tests.helpers.distributed import run_ranks
from tests.helpers.model_cases import batch_of

CONFIG = ModelConfig(
    name="toy",
    vocab_size=101,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=32,
    max_position_embeddings=16,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    vocab_multiple=8,
)
CASES = {
    1: [(0, "fp32"), (0, "bf16"), (1, "bf16"), (2, "fp32"), (3, "fp32")],
    2: [(0, "bf16"), (1, "bf16"), (3, "fp32")],
}
"""ZeRO stage and precision, by tensor parallel degree; two ranks, so degree 2 partitions nothing."""
COLUMN_SPLIT = (
    "query.weight",
    "query.bias",
    "key.weight",
    "key.bias",
    "value.weight",
    "value.bias",
    "up.weight",
    "up.bias",
    "word_embeddings.weight",
    "mlm.bias",
)


def _batch() -> PackedBatch[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return batch_of(
        torch.randint(101, (4, 12), generator=generator),
        torch.arange(12).ge(6).long().expand(4, 12),
        torch.ones(4, 12, dtype=torch.long),
        masked_positions=torch.tensor([1, 5, 14, 30, 40]),
        masked_labels=torch.tensor([7, 8, 9, 100, 3]),
        next_sentence_labels=torch.tensor([0, 1, 1, 0]),
    )


def _train_and_save(rank: int, world_size: int, tp: int, folder: Path) -> dict[str, Any]:
    """Three updates with each stage, a checkpoint of each, and the state as the engine has it."""
    from megabert.checkpoint.retention import Retention
    from megabert.checkpoint.save_load import save_checkpoint
    from megabert.checkpoint.universal import universal_checkpoint_info
    from megabert.engine.build import build_engine
    from megabert.engine.config import BatchSizes
    from megabert.engine.launch import start
    from megabert.model.heads import BertForPreTraining
    from megabert.model.init import initialize_weights
    from megabert.model.parameters import whole_parameters

    world = start(tp)
    live: dict[str, Any] = {}
    for stage, precision in CASES[tp]:
        model = BertForPreTraining(CONFIG, world.tp)
        initialize_weights(model, CONFIG, 3)
        parameters = whole_parameters(model, tp)
        engine = build_engine(
            model,
            world,
            OptimizerSettings(schedule="constant", steps=10, lr=0.01, warmup_fraction=0.0),
            replace(ParallelSettings(), zero_stage=stage, precision=precision, tensor_parallel=tp),
            BatchSizes(4 * world.topology.data_parallel, 4, 1, world.topology.data_parallel),
        )
        for _ in range(3):
            out = engine(_batch())
            engine.backward(out.mlm_loss_sum / 10 + out.nsp_loss_sum / 8)
            engine.step()
        run = folder / f"{stage}-{precision}"
        save_checkpoint(
            engine,
            run,
            _record(engine, tp),
            universal_checkpoint_info(parameters),
            Retention(2),
        )
        live[run.name] = dict(engine.whole_tensors())
    world.close()
    return live


def _record(engine: Any, tp: int) -> dict[str, Any]:
    return {
        "step": 3,
        "consumed_samples": 12,
        "model": CONFIG.to_dict(),
        "zero_stage": engine.zero_stage,
        "tensor_parallel": tp,
        "heads": ["mlm", "nsp"],
        "tokenizer_sha256": None,
        "trained_positions": 12,
    }


@pytest.fixture(scope="module", params=[1, 2], ids=["DP2", "TP2"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folder of runs, one a case, and the live state."""
    import megabert.engine.build  # noqa: F401  # once, not once in each rank of each world

    tp = request.param
    folder = tmp_path_factory.mktemp("runs")
    live = run_ranks(_train_and_save, 2, tp, folder, initialize=False, timeout=150)
    return folder, live[0]


def test_merged_state_is_the_live_state(saved: Any) -> None:
    """Weights and moments of every parameter, bit for bit, in the shapes of the unsplit model."""
    from megabert.checkpoint.merged import whole_checkpoint
    from megabert.checkpoint.resume import recorded_parameters

    folder, live = saved
    parameters = recorded_parameters(CONFIG, ["mlm", "nsp"])
    for run in live:
        checkpoint = folder / run / "checkpoints" / "step-0000003"
        whole = whole_checkpoint(checkpoint, parameters)
        assert whole.step == 3
        assert set(whole) == set(parameters)
        for name, state in whole.items():
            for kind, tensor in state.items():
                assert tuple(tensor.shape) == parameters[name].shape, (run, name)
                assert torch.equal(tensor, live[run][name][kind]), (run, name)
        assert whole["mlm.bias"]["exp_avg_sq"].abs().sum() > 0


def test_reading_a_run_gives_the_true_vocabulary(saved: Any) -> None:
    """A run, its checkpoint folder: the same model, without padding rows."""
    from megabert.convert.own_weights import read

    folder, _ = saved
    for run in ("0-bf16", "3-fp32"):
        model = read(folder / run)
        assert model.tokenizer_sha256 is None
        assert model.head.name == "pretraining"
        assert model.trained_positions == 12
        assert model.tensors["bert.embeddings.word_embeddings.weight"].shape == (101, 16)
        assert model.tensors["mlm.bias"].shape == (101,)
        again = read(folder / run / "checkpoints" / "step-0000003")
        assert all(torch.equal(again.tensors[n], t) for n, t in model.tensors.items())


def test_damage_is_named(saved: Any) -> None:
    """A flipped byte, a missing file, a wrong model: one line each."""
    import shutil

    from megabert.checkpoint.merged import whole_checkpoint
    from megabert.checkpoint.resume import recorded_parameters
    from megabert.convert.own_weights import read

    folder, live = saved
    parameters = recorded_parameters(CONFIG, ["mlm", "nsp"])
    for run in sorted(live.keys() & {"0-bf16", "2-fp32", "3-fp32"}):
        broken = folder / f"{run}-broken"
        shutil.copytree(folder / run, broken)
        checkpoint = broken / "checkpoints" / "step-0000003"
        victim = sorted(checkpoint.glob("*.pt"))[-1]
        original = victim.read_bytes()
        flipped = bytearray(original)
        flipped[len(flipped) // 2] ^= 1
        victim.write_bytes(flipped)
        with pytest.raises(UserError, match=victim.name):
            read(broken)
        victim.write_bytes(original[: len(original) // 2])
        with pytest.raises(UserError, match=r"damaged|cannot be read"):
            whole_checkpoint(checkpoint, parameters)
        victim.unlink()
        with pytest.raises(UserError, match="missing"):
            read(broken)
        with pytest.raises(UserError, match=r"incomplete|not a DeepSpeed checkpoint"):
            whole_checkpoint(checkpoint, parameters)
        other = recorded_parameters(replace(CONFIG, num_hidden_layers=3), ["mlm", "nsp"])
        good = folder / run / "checkpoints" / "step-0000003"
        with pytest.raises(UserError, match="missing"):
            whole_checkpoint(good, other)


def test_strange_code_is_refused(tmp_path: Path) -> None:
    """A pickle that would run something is not opened."""
    from megabert.checkpoint.deepspeed_files import check_content

    class Strange:
        def __reduce__(self) -> Any:
            return (exec, ("raise SystemExit('ran')",))

    torch.save({"module": Strange()}, tmp_path / "mp_rank_00_model_states.pt")
    with pytest.raises(UserError, match="exec"):
        check_content(tmp_path)


def test_patterns_match_parameters() -> None:
    """Each pattern is anchored, matches something, and none is in two lists."""
    import re

    from megabert.checkpoint.resume import recorded_parameters
    from megabert.checkpoint.universal import universal_checkpoint_info

    for norm in ("post", "pre"):
        names = recorded_parameters(replace(CONFIG, norm=norm), ["mlm", "nsp"])
        info = universal_checkpoint_info(names)
        patterns = info["tp_replicated_parameter_patterns"]
        patterns += info["parameter_with_row_parallelism_patterns"]
        for pattern in patterns:
            assert any(re.match(pattern, name) for name in names), pattern
        for name in names:
            matched = [p for p in patterns if re.match(p, name)]
            assert len(matched) == (0 if name.endswith(COLUMN_SPLIT) else 1), name
        json.dumps(info)
