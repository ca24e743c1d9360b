"""From Hugging Face into tensor parallel ranks with ZeRO, out of their checkpoint, and back."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from megabert.common.errors import UserError
from megabert.common.names import TOKENIZER_FOLDER
from megabert.config.training import OptimizerSettings, ParallelSettings
from megabert.convert.run import ConversionRequest, convert
from megabert.data.tokenizers.load import load_tokenizer
from tests.helpers.convert_folders import make
from tests.helpers.distributed import run_ranks
from tests.helpers.model_cases import batch_of

pytest.importorskip("transformers")
STEPS = 2


def _load_and_save(rank: int, world_size: int, weights: Path, run: Path, lr: float) -> int:
    """Each rank loads its part of the weights, the engine updates with this rate and saves."""
    from megabert.checkpoint.retention import Retention
    from megabert.checkpoint.save_load import save_checkpoint
    from megabert.checkpoint.universal import universal_checkpoint_info
    from megabert.engine.build import build_engine
    from megabert.engine.config import BatchSizes
    from megabert.engine.launch import start
    from megabert.model.heads import BertForPreTraining
    from megabert.model.parameters import whole_parameters
    from megabert.model.weights import load_into, load_weights

    world = start(world_size)
    config, tensors, _ = load_weights(weights)
    config = replace(config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = BertForPreTraining(config, world.tp)
    loaded = load_into(model, tensors, world.tp, source=weights)
    parameters = whole_parameters(model, world_size)
    engine = build_engine(
        model,
        world,
        OptimizerSettings(schedule="constant", steps=10, lr=lr, warmup_fraction=0.0),
        replace(ParallelSettings(), zero_stage=1, precision="fp32", tensor_parallel=world_size),
        BatchSizes(2, 2, 1, 1),
    )
    ids = torch.arange(5, 29).view(2, 12)
    batch = batch_of(
        ids,
        torch.zeros_like(ids),
        torch.ones_like(ids),
        masked_positions=torch.tensor([1, 5, 14]),
        masked_labels=torch.tensor([7, 8, 100]),
        next_sentence_labels=torch.tensor([0, 1]),
    )
    for _ in range(STEPS):
        out = engine(batch)
        engine.backward(out.mlm_loss_sum / 3 + out.nsp_loss_sum / 2)
        engine.step()
    record = {
        "step": STEPS,
        "consumed_samples": 2 * STEPS,
        "model": config.to_dict(),
        "zero_stage": engine.zero_stage,
        "tensor_parallel": world_size,
        "heads": ["mlm", "nsp"],
        "tokenizer_sha256": load_tokenizer(weights).sha256,
        "trained_positions": 12,
    }
    save_checkpoint(engine, run, record, universal_checkpoint_info(parameters), Retention(2))
    world.close()
    return len(loaded.matched)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The source, and a checkpoint of two tensor parallel ranks with ZeRO 1: unchanged, and trained."""
    import megabert.engine.build  # noqa: F401  # once, not once in each rank of each world

    folder = tmp_path_factory.mktemp("road")
    source = make(folder / "hf")
    convert(ConversionRequest("huggingface", source, "megabert", folder / "ours"))
    found = {"source": source}
    for name, lr in (("unchanged", 0.0), ("trained", 1e-2)):
        run = folder / name
        loaded = run_ranks(
            _load_and_save, 2, folder / "ours", run, lr, initialize=False, timeout=150
        )
        assert loaded == [len(load_file(source / "model.safetensors"))] * 2
        (run / TOKENIZER_FOLDER).mkdir()
        shutil.copyfile(source / "vocab.txt", run / TOKENIZER_FOLDER / "vocab.txt")
        found[name] = run
    return found


def test_round_trip_is_exact(runs: dict[str, Path], tmp_path: Path) -> None:
    """Updates with a rate of 0 leave the weights: what comes out is the source bit for bit."""
    result = convert(
        ConversionRequest("megabert", runs["unchanged"], "huggingface", tmp_path / "back")
    )
    assert f"step {STEPS}" in result.model.origin
    before = load_file(runs["source"] / "model.safetensors")
    after = load_file(tmp_path / "back" / "model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name


def test_training_changes_every_tensor(runs: dict[str, Path], tmp_path: Path) -> None:
    """The same road with a rate: nothing is a stale copy, and the check still passes."""
    result = convert(
        ConversionRequest("megabert", runs["trained"], "huggingface", tmp_path / "back")
    )
    assert result.comparison is not None
    assert not result.comparison.failures
    before = load_file(runs["source"] / "model.safetensors")
    after = load_file(tmp_path / "back" / "model.safetensors")
    same = {name for name, tensor in before.items() if torch.equal(after[name], tensor)}
    # a bias of all keys shifts the scores of a row alike: its gradient is rounding only
    assert not {name for name in same if not name.endswith("key.bias")}


def test_the_wrong_tokenizer_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    """Before the long merging: another vocabulary than the checkpoint was trained with."""
    words: Any = (runs["source"] / "vocab.txt").read_text().splitlines()
    (tmp_path / "vocab.txt").write_text("\n".join([*words[:5], *reversed(words[5:])]) + "\n")
    request = ConversionRequest(
        "megabert",
        runs["unchanged"],
        "huggingface",
        tmp_path / "out",
        tokenizer=tmp_path / "vocab.txt",
    )
    with pytest.raises(UserError, match=r"is not the one that .* was trained with"):
        convert(request)
