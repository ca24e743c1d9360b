"""The fine-tuning loop on a model small enough for a test: divisions, scores, wrong inputs."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megabert.config import ModelConfig
from megabert.engine.exchange import portions
from megabert.log import UserError
from tests.distributed import run_ranks
from tests.squad_helpers import qa, write_squad

WORDS = ["Ann", "Bob", "Cid", "Dan", "Eve", "Fay", "Gus", "Hal"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pretrained checkpoint ``start``, ``train.json`` and wrong inputs."""
    folder = tmp_path_factory.mktemp("finetune")
    run_ranks(make_inputs, 1, folder, initialize=False)
    return folder


def make_inputs(rank: int, world_size: int, folder: Path) -> None:
    """Write the inputs (in a process of its own: it imports the model)."""
    from megabert.model.heads import BertForPreTraining
    from megabert.model.init import initialize_weights
    from megabert.model.weights import save_weights

    characters = string.ascii_lowercase + string.digits + ".,?"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters]
    vocabulary += ["##" + character for character in characters]
    (folder / "vocab").mkdir()
    (folder / "vocab" / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    config = ModelConfig(
        name="test",
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        vocab_multiple=8,
    )
    model = BertForPreTraining(config)
    initialize_weights(model, config, seed=1)
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    save_weights(folder / "start", config, tensors, folder / "vocab", trained_positions=40)
    save_weights(folder / "no-tokenizer", config, tensors, None)
    del tensors["bert.layers.1.mlp.up.weight"]
    save_weights(folder / "truncated", config, tensors, folder / "vocab")
    prefixed = {f"module.{name}": tensor for name, tensor in tensors.items()}
    save_weights(folder / "prefixed", config, prefixed, folder / "vocab")
    write_squad(folder / "train.json", *(paragraph(number) for number in range(8)))
    (folder / "wrong.json").write_text('{"rows": []}', encoding="utf-8")


def paragraph(number: int) -> tuple[str, list[dict[str, Any]]]:
    """A context whose answer is the name after "met"; the last ones need two windows."""
    name, other = WORDS[number], WORDS[(number + 3) % 8]
    context = f"{other} met {name}." + " x y z" * (number % 3 * 6)
    return context, [qa(f"q{number}", "Met?", (name, context.index("met ") + 4))]


def values(folder: Path, output: str, **sections: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings of a run on the test's inputs, as flags would give them."""
    base: dict[str, dict[str, Any]] = {
        "task": {
            "checkpoint": str(folder / "start"),
            "train": str(folder / "train.json"),
            "eval": str(folder / "train.json"),
            "output": str(folder / output),
            "log_interval": 1,
            "max_length": 40,
        },
        "squad": {"max_query_length": 8, "doc_stride": 12, "n_best": 4},
        "batch": {"global_batch_size": 8, "micro_batch_size": 2, "eval_batch_size": 3},
        "optimizer": {"lr": 2e-3, "steps": 4},
    }
    for section, changes in sections.items():
        base[section] = {**base.get(section, {}), **changes}
    return base


def run(rank: int, world_size: int, runs: list[dict[str, Any]]) -> list[Any]:
    """Several runs in one world; a wrong input gives its message."""
    from megabert.engine.launch import start
    from megabert.finetune import prepare, resolve

    tensor_parallel = runs[0].get("parallel", {}).get("tensor_parallel", 1)
    world = start(tensor_parallel)
    results: list[Any] = []
    for given in runs:
        try:
            settings, raw = resolve(given, {})
            results.append(prepare(settings, raw, world).run())
        except UserError as error:
            results.append(str(error))
    world.close()
    return results


def in_world(ranks: int, *runs: dict[str, Any]) -> list[Any]:
    """``run`` on so many ranks; the main rank's results."""
    return run_ranks(run, ranks, list(runs), initialize=False, timeout=240)[0]


def losses(output: Path) -> list[float]:
    """Losses of metrics.jsonl."""
    lines = map(json.loads, (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def weights(output: Path) -> dict[str, np.ndarray]:
    """Tensors of the fine-tuned model."""
    from safetensors.numpy import load_file

    return load_file(output / "final" / "model.safetensors")


@pytest.fixture(scope="module")
def single(place: Path) -> list[Any]:
    """One world of one rank: the reference, its repetition with dropout, and a run to the end."""
    still = {"dropout": 0.0}
    long = {"steps": 60, "lr": 4e-3}
    six = {"global_batch_size": 6, "micro_batch_size": 6}
    return in_world(
        1,
        values(place, "one", task=still),
        values(place, "again-1"),
        values(place, "again-2"),
        values(
            place,
            "long",
            task={**still, "log_interval": 60},
            optimizer=long,
            batch={"global_batch_size": 8, "micro_batch_size": 8},
        ),
        values(place, "scored", task={"checkpoint": str(place / "long" / "final"), "train": None}),
        values(place, "random", task={**still, "random_init": True}),
        values(place, "half", task=still, parallel={"precision": "bf16"}),
        values(place, "one-of-6", task=still, batch=six),
    )


def test_a_run_learns_scores_and_can_be_scored_again(place: Path, single: list[Any]) -> None:
    long, scored = single[3], single[4]
    assert long["exact_match"] == long["f1"] == 100.0
    assert scored["exact_match"] == 100.0
    names = ("predictions.json", "nbest_predictions.json")
    for name in names:
        first = (place / "long" / name).read_text(encoding="utf-8")
        assert set(json.loads(first)) == {f"q{number}" for number in range(8)}
    assert json.loads((place / "scored" / names[0]).read_text(encoding="utf-8")) == {
        f"q{number}": WORDS[number] for number in range(8)
    }
    results = json.loads((place / "long" / "results.json").read_text(encoding="utf-8"))
    assert results["train"]["questions"] == 8
    assert results["train"]["rows"] > 8
    assert results["steps"] == 60
    assert results["train_samples_per_second"] > 0
    assert results["settings"]["optimizer"]["lr"] == 4e-3
    assert not (place / "scored" / "final").exists()


def test_the_run_folder_can_be_repeated_from_its_own_config(place: Path, single: list[Any]) -> None:
    from megabert import flags
    from megabert.task_config import FinetuneSettings

    config = flags.read_yaml(place / "one" / "config.yaml", FinetuneSettings)
    settings = flags.build(FinetuneSettings, config)
    assert settings.batch.gradient_accumulation_steps == 4
    assert settings.task.dropout == 0.0
    for name in ("ds_config.json", "metrics.jsonl", "tensorboard", "final/vocab.txt"):
        assert (place / "one" / name).exists()


def test_dropout_is_reproducible_and_random_weights_differ(place: Path, single: list[Any]) -> None:
    assert losses(place / "again-1") == losses(place / "again-2")
    assert losses(place / "again-1") != losses(place / "one")
    assert losses(place / "random") != losses(place / "one")
    assert losses(place / "half") == pytest.approx(losses(place / "one"), rel=2e-2)


@pytest.mark.parametrize(
    ("name", "ranks", "reference", "parallel", "batch"),
    [
        ("dp2", 2, "one", {"zero_stage": 2}, {}),
        ("tp2", 2, "one", {"tensor_parallel": 2, "zero_stage": 0}, {"micro_batch_size": 8}),
        ("dp3", 3, "one-of-6", {"zero_stage": 3}, {"global_batch_size": 6}),
    ],
)
def test_any_division_gives_the_same_run(
    place: Path,
    single: list[Any],
    name: str,
    ranks: int,
    reference: str,
    parallel: dict[str, Any],
    batch: dict[str, Any],
) -> None:
    assert len(single) == 8
    settings = values(place, name, task={"dropout": 0.0}, parallel=parallel, batch=batch)
    assert in_world(ranks, settings)[0]["world_size"] == ranks
    assert losses(place / name) == pytest.approx(losses(place / reference), rel=2e-6)
    expected, got = weights(place / reference), weights(place / name)
    assert set(got) == set(expected)
    for key, tensor in expected.items():
        if key.endswith((".key.bias", "qa.classifier.bias")):
            continue  # the softmax does not see them: Adam scales up rounding of a zero gradient
        np.testing.assert_allclose(got[key], tensor, atol=2e-5, err_msg=key)
    assert (place / name / "predictions.json").read_text(encoding="utf-8") == (
        place / reference / "predictions.json"
    ).read_text(encoding="utf-8")


def test_wrong_inputs_are_one_line_and_leave_nothing(place: Path) -> None:
    (place / "taken").mkdir()
    (place / "taken" / "config.yaml").write_text("x", encoding="utf-8")
    cases = {
        "is not a folder": {"task": {"checkpoint": str(place / "none")}},
        "holds no tokenizer": {"task": {"checkpoint": str(place / "no-tokenizer")}},
        "bert.layers.1.mlp.up.weight": {"task": {"checkpoint": str(place / "truncated")}},
        "missing": {"task": {"checkpoint": str(place / "prefixed")}},
        "no list 'data'": {"task": {"train": str(place / "wrong.json")}},
        "No such file": {"task": {"eval": str(place / "none.json")}},
        "longer than the position table": {"task": {"max_length": 65}},
        "is not empty": {"task": {"output": str(place / "taken")}},
        "don't multiply out": {"batch": {"global_batch_size": 7}},
        "--checkpoint is missing": {"task": {"checkpoint": None}},
        "there is nothing to do": {"task": {"train": None, "eval": None}},
        "qa.classifier": {"task": {"train": None}},
    }
    messages = in_world(1, *(values(place, "wrong", **case) for case in cases.values()))
    for expected, message in zip(cases, messages):
        assert isinstance(message, str), expected
        assert expected in message
        assert "\n" not in message
    assert not (place / "wrong").exists()
    assert [path.name for path in (place / "taken").iterdir()] == ["config.yaml"]


def test_a_wrong_input_of_the_main_rank_reaches_every_rank(place: Path) -> None:
    given = values(place, "wrong", task={"checkpoint": str(place / "truncated")})
    messages = run_ranks(run, 2, [given], initialize=False, timeout=240)
    assert messages[0] == messages[1]
    assert "bert.layers.1.mlp.up.weight" in messages[0][0]


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_portions_hold_every_row_once(ranks: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 50, 23)
    parts = [list(portions(lengths, 4, rank, ranks)) for rank in range(ranks)]
    assert len({len(part) for part in parts}) == 1
    rows = np.concatenate([rows for part in parts for rows, counts in part if counts])
    assert sorted(rows.tolist()) == list(range(23))
