"""Tags and spans, their scores, the rows of long texts, and training."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megabert.common.errors import UserError
from megabert.config.model import ModelConfig
from megabert.tasks.batches import ExampleChoice
from megabert.tasks.files.problems import Problems
from megabert.tasks.tagging.data import Pieces, TaggedTexts
from megabert.tasks.tagging.entity_spans import (
    OUTSIDE,
    SCHEMES,
    Entity,
    Tag,
    allowed_steps,
    entities_of,
    find_scheme,
    follows,
    labels_of,
    parse_tag,
    span_scores,
    tags_of,
)
from megabert.tasks.tagging.features import TaggingFeatures, TagSet, onto_pieces
from tests.helpers.batch_rows import rows_of
from tests.helpers.distributed import run_ranks
from tests.helpers.tagging_files import gold_labels, make, outputs_for, tokenizer, write_vocabulary


@st.composite
def separate_entities(draw: st.DrawFn, length: int = 12) -> list[Entity]:
    """Entities of three types that do not overlap, in order."""
    cuts = sorted(draw(st.sets(st.integers(0, length), max_size=8)))
    pairs = itertools.pairwise(cuts)
    kinds = st.sampled_from(["A", "B-C", "D_E", ""])
    drawn = [Entity(draw(kinds), start, end) for start, end in pairs]
    return [entity for entity in drawn if entity.type]


@pytest.mark.parametrize("scheme", sorted({*SCHEMES} - {"io"}))
@settings(max_examples=50, deadline=None)
@given(entities=separate_entities())
def test_spans_to_tags_and_back(scheme: str, entities: list[Entity]) -> None:
    tags = tags_of(entities, 12, scheme)
    assert entities_of(tags) == entities
    assert [parse_tag(str(tag)) for tag in tags] == tags
    assert {str(tag) for tag in tags} <= set(labels_of(["A", "B-C", "D_E"], scheme))
    steps = zip([None, *tags], [*tags, None])
    assert all(follows(before, tag, scheme) for before, tag in steps)
    assert tags_of(entities_of(tags), 12, scheme) == tags


def test_io_joins_neighbours_of_one_type() -> None:
    apart = [Entity("A", 0, 2), Entity("D", 2, 3), Entity("A", 4, 5)]
    tags = tags_of(apart, 6, "io")
    assert list(map(str, tags)) == ["I-A", "I-A", "I-D", "O", "I-A", "O"]
    assert entities_of(tags) == apart
    assert entities_of(tags_of([Entity("A", 0, 2), Entity("A", 2, 3)], 3, "io")) == [
        Entity("A", 0, 3)
    ]
    assert labels_of(["B", "A"], "io") == ("O", "I-A", "I-B")
    assert follows(None, Tag("I", "A"), "io")


def brute_entities(tags: list[Tag]) -> set[Entity]:
    """conlleval's two questions, asked at every place: does an entity end here, does one begin?"""

    def ends(before: Tag, tag: Tag) -> bool:
        if before == OUTSIDE:
            return False
        pair = before.prefix + tag.prefix
        inside = {"BB", "BS", "BO", "IB", "IS", "IO", "MB", "MS", "MO"}
        return pair in inside or before.prefix in ("E", "S") or before.type != tag.type

    def begins(before: Tag, tag: Tag) -> bool:
        if tag == OUTSIDE:
            return False
        return (
            tag.prefix in ("B", "S") or before.prefix in ("E", "S", "O") or before.type != tag.type
        )

    steps = list(zip([OUTSIDE, *tags], [*tags, OUTSIDE]))
    found = set()
    for start in range(len(tags)):
        if begins(*steps[start]):
            end = next(e for e in range(start + 1, len(tags) + 1) if ends(*steps[e]))
            found.add(Entity(tags[start].type, start, end))
    return found


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["O", *(f"{p}-{t}" for p in "BIMES" for t in "XY")]), max_size=9))
def test_any_tags_are_read_as_conlleval_reads_them(texts: list[str]) -> None:
    tags = [tag for tag in map(parse_tag, texts) if tag is not None]
    found = entities_of(tags)
    assert len(found) == len(set(found))
    assert set(found) == brute_entities(tags)
    assert all(a.end <= b.start for a, b in itertools.pairwise(found))


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-X I-X O", [("X", 0, 2)]),
        ("O I-X I-X", [("X", 1, 3)]),
        ("B-X B-X", [("X", 0, 1), ("X", 1, 2)]),
        ("I-X I-Y", [("X", 0, 1), ("Y", 1, 2)]),
        ("B-X I-Y I-X", [("X", 0, 1), ("Y", 1, 2), ("X", 2, 3)]),
        ("B-X E-X E-X", [("X", 0, 2), ("X", 2, 3)]),
        ("S-X M-X E-X", [("X", 0, 1), ("X", 1, 3)]),
        ("B_X M_X", [("X", 0, 2)]),
    ],
)
def test_tags_read_by_hand(tags: str, expected: list[tuple[str, int, int]]) -> None:
    read = [tag for tag in map(parse_tag, tags.split()) if tag is not None]
    assert entities_of(read) == expected


@pytest.mark.parametrize("text", ["", "B", "B-", "-X", "X-LOC", "BLOC", "b-LOC", "o", "OO", "O-"])
def test_invalid_tags(text: str) -> None:
    assert parse_tag(text) is None


@pytest.mark.parametrize(
    ("prefixes", "scheme"),
    [
        ("OBI", "bio"), ("I", "bio"), ("O", "bio"), ("OBIES", "bioes"), ("BE", "bioes"),
        ("OBMES", "bmes"), ("BM", "bmes"), ("BIM", None),
    ],
)  # fmt: skip
def test_schemes_are_found(prefixes: str, scheme: str | None) -> None:
    assert find_scheme(prefixes) == scheme


def test_allowed_steps_by_hand() -> None:
    labels = labels_of(["Y", "X"], "bio")
    assert labels == ("O", "B-X", "I-X", "B-Y", "I-Y")
    start, end, steps = allowed_steps(labels, "bio")
    assert start.tolist() == [True, True, False, True, False]
    assert end.all()
    assert steps[:, 2].tolist() == [False, True, True, False, False]
    assert steps[:, [0, 1, 3]].all()
    labels = labels_of(["X"], "bmes")
    assert labels == ("O", "B-X", "M-X", "E-X", "S-X")
    start, end, steps = allowed_steps(labels, "bmes")
    assert start.tolist() == [True, True, False, False, True]
    assert end.tolist() == [True, False, False, True, True]
    after_begin = [False, False, True, True, False]
    after_end = [True, True, False, False, True]
    assert steps.tolist() == [after_end, after_begin, after_begin, after_end, after_end]


def test_scores_by_hand() -> None:
    gold = [[Entity("X", 0, 2), Entity("Y", 3, 4)], [Entity("X", 1, 2)], []]
    found = [[Entity("X", 0, 2), Entity("X", 3, 4)], [], [Entity("Z", 0, 1)]]
    scores = span_scores(gold, found)
    assert scores["span_precision"] == pytest.approx(100 / 3)
    assert scores["span_recall"] == pytest.approx(100 / 3)
    assert scores["f1"] == pytest.approx(100 / 3)
    assert scores["f1_X"] == pytest.approx(50.0)
    assert scores["f1_Y"] == scores["f1_Z"] == 0.0
    assert span_scores([[]], [[]])["f1"] == 0.0
    assert span_scores(gold, gold)["f1"] == 100.0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(separate_entities(4), separate_entities(4)), max_size=5))
def test_scores_equal_counting_one_by_one(pairs: list[tuple[list[Entity], list[Entity]]]) -> None:
    gold = [(n, e) for n, (truth, _) in enumerate(pairs) for e in truth]
    found = [(n, e) for n, (_, guess) in enumerate(pairs) for e in guess]
    right = sum(1 for one in gold if one in found)
    scores = span_scores([truth for truth, _ in pairs], [guess for _, guess in pairs])
    assert scores["span_precision"] == pytest.approx(100 * right / len(found) if found else 0)
    assert scores["span_recall"] == pytest.approx(100 * right / len(gold) if gold else 0)
    total = len(gold) + len(found)
    assert scores["f1"] == pytest.approx(200 * right / total if total else 0)


def test_entities_do_not_share_pieces() -> None:
    spans = np.array([[0, 1], [1, 4], [4, 5], [6, 7]])
    entities = [
        Entity("a", 0, 2), Entity("b", 2, 5), Entity("c", 5, 6), Entity("d", 6, 7), Entity("e", 4, 7),
    ]  # fmt: skip
    kept, lost = onto_pieces(entities, spans)
    assert sorted(kept, key=lambda e: e.start) == [Entity("b", 1, 3), Entity("d", 3, 4)]
    assert sorted((kind.split()[1:3], entity.type) for kind, entity in lost) == [
        (["that", "ends"], "b"),
        (["that", "shares"], "a"),
        (["that", "shares"], "e"),
        (["without", "a"], "c"),
    ]


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    max_length=st.integers(3, 20),
    seed=st.integers(0, 10**6),
)
def test_windows_score_every_tag_once(sizes: list[int], max_length: int, seed: int) -> None:
    """Whatever is cut where: tags come back in order, and each row's piece is the text's."""
    generator = random.Random(seed)
    pieces, texts, entities = [], [], []
    for size in sizes:
        ids = np.array([generator.randrange(5, 10**6) for _ in range(size)], np.int32)
        scored = np.array([i for i in range(size) if i == 0 or generator.random() < 0.7], np.int64)
        order = np.arange(len(scored))
        pieces.append(Pieces(ids, scored, np.stack([order, order + 1], axis=1)))
        texts.append(["x"] * len(scored))
        tags = [generator.choice([OUTSIDE, Tag("B", "X"), Tag("I", "X")]) for _ in scored]
        entities.append(entities_of(tags))
    corpus = TaggedTexts(Path("f"), list(texts), entities, [1] * len(sizes), [], Problems())
    special = tokenizer_special()
    features = TaggingFeatures(
        corpus,
        pieces,
        TagSet(labels_of(["X"], "bio"), "bio"),
        special,
        max_length,
        ExampleChoice(training=True),
    )
    assert max(features.lengths) <= max_length
    rows = np.arange(len(features.lengths))
    batch = rows_of(features, rows)
    texts_of = np.cumsum(batch["begins"]) - 1
    seen: list[list[int]] = [[] for _ in sizes]
    for row in rows:
        count = batch["tag_counts"][row]
        places = batch["tag_positions"][row, :count]
        assert count > 0
        seen[texts_of[row]] += batch["input_ids"][row][places].tolist()
        following = row + 1 == len(rows) or batch["begins"][row + 1]
        assert batch["ends"][row] == following
        assert (batch["tags"][row, count:] == -100).all()
    assert seen == [part.ids[part.scored].tolist() for part in pieces]
    assert features.sizes()["tags"] == sum(map(len, texts))
    outputs = outputs_for(features, gold_labels(features))
    assert features.found(features.gather(outputs["labels"])) == entities


def tokenizer_special() -> Any:
    """Ids of special tokens as in the tests' vocabulary."""
    from megabert.data.shards.manifest import SpecialIds

    return SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)


NAMES = ["王明", "李明", "王李"]
PLACES = ["上海", "北京", "中国"]


def sentences() -> list[tuple[str, list[tuple[str, int, int]]]]:
    """Texts with a person and a place, some of them long."""
    made = []
    for number, (name, place) in enumerate(itertools.product(NAMES, PLACES)):
        filling = "的" * (number % 3 * 9)
        text = f"{name}{filling}去了{place}。"
        start = text.index(place)
        made.append((text, [("person", 0, 2), ("place", start, start + 2)]))
    return made


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pretrained checkpoint and training files of both tasks."""
    folder = tmp_path_factory.mktemp("tagging")
    run_ranks(make_inputs, 1, folder, initialize=False)
    return folder


def make_inputs(rank: int, world_size: int, folder: Path) -> None:
    """Write them (in a process of its own: it imports the model)."""
    from megabert.model.heads import BertForPreTraining
    from megabert.model.init import initialize_weights
    from megabert.model.weights import save_weights

    write_vocabulary(folder / "vocab")
    words = len((folder / "vocab" / "vocab.txt").read_text(encoding="utf-8").splitlines())
    config = ModelConfig(
        name="test",
        vocab_size=words,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
        vocab_multiple=8,
    )
    model = BertForPreTraining(config)
    initialize_weights(model, config, seed=1)
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    save_weights(folder / "start", config, tensors, folder / "vocab", trained_positions=32)
    with (folder / "train.json").open("w", encoding="utf-8") as lines:
        for text, entities in sentences():
            label: dict[str, Any] = {}
            for kind, start, end in entities:
                label.setdefault(kind, {})[text[start:end]] = [[start, end - 1]]
            lines.write(json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n")
    with (folder / "train.txt").open("w", encoding="utf-8") as lines:
        for text, entities in sentences():
            tags = tags_of([Entity(*entity) for entity in entities], len(text), "bmes")
            lines.writelines(f"{token} {tag}\n" for token, tag in zip(text, tags))
            lines.write("\n")


def values(folder: Path, output: str, name: str, **sections: dict[str, Any]) -> dict[str, Any]:
    """Settings of a run, as flags would give them."""
    file = str(folder / ("train.json" if name == "cluener" else "train.txt"))
    base: dict[str, dict[str, Any]] = {
        "task": {
            "task": name,
            "checkpoint": str(folder / "start"),
            "train": file,
            "eval": file,
            "output": str(folder / output),
            "log_interval": 1,
            "max_length": 16,
            "dropout": 0.0,
        },
        "batch": {"global_batch_size": 8, "micro_batch_size": 2, "eval_batch_size": 3},
        "optimizer": {"lr": 2e-3, "steps": 4},
    }
    for section, changes in sections.items():
        base[section] = {**base.get(section, {}), **changes}
    return base


def run(rank: int, world_size: int, runs: list[dict[str, Any]]) -> list[Any]:
    """Several runs in one world; a wrong input gives its message."""
    from megabert.config import flags
    from megabert.engine.launch import start
    from megabert.finetune.command import prepare_run
    from megabert.finetune.settings import resolve_finetuning

    world = start(runs[0].get("parallel", {}).get("tensor_parallel", 1))
    results: list[Any] = []
    for given_values in runs:
        try:
            settings = resolve_finetuning(flags.Given(flags.SettingsLayer(given_values)))
            results.append(prepare_run(settings, world).run())
        except UserError as error:
            results.append(str(error))
    world.close()
    return results


def in_world(ranks: int, *runs: dict[str, Any]) -> list[Any]:
    """The main rank's results of ``run`` on ``ranks`` ranks."""
    return run_ranks(run, ranks, list(runs), initialize=False, timeout=240)[0]


def losses(output: Path) -> list[float]:
    """Losses of metrics.jsonl."""
    lines = map(json.loads, (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def single(place: Path) -> list[Any]:
    """Reference runs of one rank."""
    long = {
        "task": {"log_interval": 40},
        "batch": {"global_batch_size": 8, "micro_batch_size": 8},
        "optimizer": {"lr": 4e-3, "steps": 40},
    }
    always = {"crf": True, "crf_constraints": "always"}
    return in_world(
        1,
        values(place, "one", "cluener"),
        values(place, "one-crf", "cluener", tagging=always),
        values(place, "long", "cluener", **long),
        values(place, "long-crf", "conll", **long, tagging={"crf": True}),
        values(place, "half", "conll", tagging=always, parallel={"precision": "bf16"}),
        values(place, "full", "conll", tagging=always),
        values(
            place,
            "scored",
            "conll",
            task={"checkpoint": str(place / "long-crf" / "final"), "train": None},
        ),
    )


def test_runs_learn_and_write_predictions(place: Path, single: list[Any]) -> None:
    for result in (*single[2:4], single[6]):
        assert result["f1"] == result["span_precision"] == result["accuracy"] == 100.0
        assert result["f1_person"] == result["f1_place"] == 100.0
        assert 0 < result["all_o_accuracy"] < 100
        assert result["eval"]["cut_texts"] > 0
    assert single[2]["clue_f1"] == 100.0
    written = (place / "long" / "cluener_predict.json").read_text(encoding="utf-8").splitlines()
    lines = (place / "train.json").read_text(encoding="utf-8").splitlines()
    for number, (line, truth) in enumerate(zip(written, lines, strict=True)):
        assert json.loads(line) == {"id": number, "label": json.loads(truth)["label"]}
    first = (place / "long-crf" / "predictions.txt").read_text(encoding="utf-8").split("\n\n")[0]
    tags = ["B-person", "I-person", "O", "O", "B-place", "I-place", "O"]
    assert first.splitlines() == [
        f"{token} {tag} {tag}" for token, tag in zip("王明去了上海。", tags)
    ]
    assert losses(place / "half") == pytest.approx(losses(place / "full"), rel=3e-2)


@pytest.fixture(scope="module")
def double(place: Path) -> list[Any]:
    """The first two of them on two ranks."""
    always = {"crf": True, "crf_constraints": "always"}
    four = {"micro_batch_size": 4}
    return in_world(
        2,
        values(place, "two", "cluener", parallel={"zero_stage": 2}),
        values(place, "two-crf", "cluener", tagging=always, parallel={"zero_stage": 3}, batch=four),
    )


@pytest.mark.parametrize("suffix", ["", "-crf"])
def test_any_division_gives_the_same_run(
    place: Path, single: list[Any], double: list[Any], suffix: str
) -> None:
    from safetensors.numpy import load_file

    assert [result["world_size"] for result in double] == [2, 2]
    one, two = place / f"one{suffix}", place / f"two{suffix}"
    assert losses(two) == pytest.approx(losses(one), rel=2e-6)
    expected, got = (load_file(run / "final" / "model.safetensors") for run in (one, two))
    assert set(got) == set(expected)
    assert ("crf.transitions" in got) == bool(suffix)
    for key, tensor in expected.items():
        if key.endswith(".key.bias"):
            continue  # the softmax does not see them: Adam scales up rounding of a zero gradient
        np.testing.assert_allclose(got[key], tensor, atol=3e-5, err_msg=key)
    written = [(run / "cluener_predict.json").read_text(encoding="utf-8") for run in (one, two)]
    assert written[0] == written[1]


def test_labels_are_adopted_from_a_checkpoint(tmp_path: Path) -> None:
    words = tokenizer(tmp_path)
    trained = make("conll", crf=True)
    file = tmp_path / "train.txt"
    file.write_text("王 B-X\n明 E-X\n的 O\n", encoding="utf-8")
    trained.train_features(file, words, None, 0)
    again = make("conll")
    again.load_labels(trained.labels, trained.record())
    assert again.labels == ("O", "B-X", "I-X", "E-X", "S-X")
    assert (again.crf, again.scheme, again.characters) == (True, "bioes", True)
    assert json.loads(json.dumps(trained.record())) == again.record()
    assert again.record()["max_length"] == again.max_length
    other = make("conll", crf_constraints="none")
    other.load_labels(trained.labels, trained.record())
    assert (other.crf, other.constraints, again.constraints) == (True, "none", "decode")
    with pytest.raises(UserError, match="--crf off: the head of the checkpoint has"):
        make("conll", crf=False).load_labels(trained.labels, trained.record())
    again.eval_features(file, words)
    file.write_text("王 B-Y\n明 E-Y\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 1: 'Y' is not among the labels"):
        again.eval_features(file, words)
    foreign = make("conll")
    foreign.load_labels(("B-X", "I-X", "O"), {})
    assert (foreign.scheme, foreign.crf) == ("bio", False)
    with pytest.raises(UserError, match="are not tags"):
        make("cluener").load_labels(("LABEL_0", "LABEL_1"), {})
    with pytest.raises(UserError, match="--tag-scheme bio"):
        make("conll", tag_scheme="bio").load_labels(trained.labels, trained.record())
    with pytest.raises(UserError, match="labels of conll are unknown"):
        make("conll").eval_features(file, words)


def test_the_loss_is_the_mean_over_tags(tmp_path: Path) -> None:
    """Over all rows of a file; a micro batch's share depends on its rows alone."""
    import torch

    words, task = tokenizer(tmp_path), make("conll", max_length=8)
    file = tmp_path / "train.txt"
    lines = ["王 B-X", "明 I-X", "", "的 O", "", *["了 O"] * 13]
    file.write_text("\n".join(lines), encoding="utf-8")
    features = task.train_features(file, words, None, 0)
    rows = len(features.lengths)
    assert rows > 3
    torch.manual_seed(0)
    scores = torch.randn(rows * 8, 3)

    def loss(chosen: np.ndarray) -> torch.Tensor:
        batch = features.batch(chosen, 8).map(torch.from_numpy)
        ends = torch.from_numpy(np.append(chosen, chosen[-1] + 1) * 8)
        return task.loss(lambda _: scores, dataclasses.replace(batch, cu_seqlens=ends))

    total = loss(np.arange(rows))
    parts = [loss(np.array([row])) for row in range(rows)]
    torch.testing.assert_close(total, torch.stack(parts).mean())
    batch = rows_of(features, np.arange(rows))
    flat = [
        (row * 8 + place, label)
        for row in range(rows)
        for place, label in zip(batch["tag_positions"][row], batch["tags"][row])
        if label >= 0
    ]
    places, labels = map(list, zip(*flat))
    assert len(labels) == 16
    torch.testing.assert_close(
        total, torch.nn.functional.cross_entropy(scores[places], torch.tensor(labels))
    )
