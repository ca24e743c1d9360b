"""The speedrun: what is scored does not depend on tokenizers, budgets hold over pieces, entries and page are whole."""

from __future__ import annotations

import argparse
import json
import math
import shlex
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from benchmarks.speedrun import board, command, entry, fit, race, records
from benchmarks.speedrun import score as scoring
from benchmarks.speedrun.held_out import (
    SHARE,
    WORDS,
    Passage,
    held_out_passages,
    passages_of,
    read_passages,
    write_passages,
)
from benchmarks.speedrun.ranks import Ranks
from benchmarks.speedrun.score import HeldOut, rows_of, score
from benchmarks.speedrun.tracks import TRACKS
from megabert.common.errors import StoppedOnRequest, TrainingStopped, UserError
from megabert.config import flags
from megabert.config.model import ModelConfig
from megabert.config.training import PretrainSettings
from megabert.data.prepare.encode import in_eval_split
from megabert.data.text.pages import Page
from megabert.data.tokenizers.load import load_tokenizer
from megabert.model.heads import BertForPreTraining
from megabert.model.init import initialize_weights
from megabert.model.weights import save_weights
from megabert.parallel.layers import TensorParallel
from megabert.pretrain.settings import resolve_pretraining

SENTENCE = (
    "The quick brown fox, naïve as 7 others of its kind, jumps over lazy dogs near the river. "
)
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def page(number: int, sentences: int = 12) -> Page:
    text = f"Title {number}\n\n" + SENTENCE * sentences
    return Page(number, f"Title {number}", 0, False, "wikitext", text, "plain")


# ---------------------------------------------------------------- what is scored


def test_passages_and_their_words() -> None:
    """Chosen by hashes of the page alone: about 15 % of the words, only those that any vocabulary spells."""
    found = [passage for number in range(60) for passage in passages_of(page(number))]
    words = [passage.text[begin:end] for passage in found for begin, end in passage.words]
    total = sum(len(passage.text.split()) for passage in found)
    assert 0.8 * SHARE < len(words) / total < 1.1 * SHARE  # never "naïve"
    assert {"quick", "7"} < set(words)
    assert all(word.isascii() and word.isalnum() for word in words)
    assert "naïve" not in words
    assert all(len(passage.text.split()) <= WORDS for passage in found)
    assert found == [passage for number in range(60) for passage in passages_of(page(number))]
    assert [p.words for p in passages_of(page(1))] != [p.words for p in passages_of(page(2))]


def test_a_long_sentence_is_cut_at_words() -> None:
    sentence = " ".join(f"word{number}" for number in range(150))
    found = list(passages_of(replace(page(3), text=f"Title\n\n{sentence}.")))
    text = " ".join(passage.text for passage in found)
    assert text.endswith(f"{sentence}.")
    assert len(found) == 3


def test_held_out_articles_are_those_of_the_shards(tmp_path: Path) -> None:
    lines = [
        json.dumps({"id": n, "title": f"Title {n}", "text": f"{n} times. " + SENTENCE * 3})
        for n in range(1, 80)
    ]
    text = tmp_path / "text.jsonl"
    text.write_text("\n".join(lines) + "\n")
    found = held_out_passages([text], 0.2)
    expected = {n for n in range(1, 80) if in_eval_split(n, f"Title {n}", 0, 0.2)}
    assert {passage.page_id for passage in found} == expected
    assert [p.rank for p in found] == sorted(p.rank for p in found)
    write_passages(tmp_path / "held-out.jsonl", found)
    assert read_passages(tmp_path / "held-out.jsonl") == found
    assert held_out_passages([text], 0.2, 3) == found[:3]


# ---------------------------------------------------------------- the score


def vocabulary(folder: Path, *words: str) -> Path:
    """A WordPiece tokenizer with these words and every letter and digit."""
    symbols = LETTERS + "0123456789ï"
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *symbols, ",", ".", *words]
    entries += [f"##{symbol}" for symbol in symbols]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(entries)) + "\n", encoding="utf-8")
    return folder


def passage_of(text: str, *words: str) -> Passage:
    spans = [(text.index(word), text.index(word) + len(word)) for word in words]
    return Passage(1, "Title", 0, text, tuple(spans))


TEXT = "The quick brown fox, 7 of its kind."
PASSAGE = passage_of(TEXT, "quick", "7", "kind")


@pytest.mark.parametrize("known", [(), ("quick", "the", "brown"), ("qu", "##ick", "kind")])
def test_all_pieces_of_the_words_are_masked(known: tuple[str, ...], tmp_path: Path) -> None:
    tokenizer = load_tokenizer(vocabulary(tmp_path / "tokenizer", *known))
    entries = (tmp_path / "tokenizer" / "vocab.txt").read_text(encoding="utf-8").split("\n")
    (row,) = rows_of(PASSAGE, tokenizer, 128)
    spelled = "".join(entries[i].removeprefix("##") for i in row.ids[row.places].tolist())
    assert spelled == "quick7kind"
    parts = list(rows_of(PASSAGE, tokenizer, 14))  # cut, but not within one of them
    assert len(parts) > 1 or len(row.ids) <= 14
    assert np.concatenate([part.ids[1:-1] for part in parts]).tolist() == row.ids[1:-1].tolist()
    cut = [[entries[i] for i in part.ids[part.places].tolist()] for part in parts]
    assert "".join(e.removeprefix("##") for part in cut for e in part) == "quick7kind"
    assert not any(part and part[0].startswith("##") for part in cut)


def test_a_vocabulary_must_spell_the_words(tmp_path: Path) -> None:
    folder = vocabulary(tmp_path / "tokenizer")
    path = folder / "vocab.txt"
    path.write_text(path.read_text(encoding="utf-8").replace("\n##k\n", "\n"), encoding="utf-8")
    with pytest.raises(UserError, match="cannot spell 'quick'"):
        list(rows_of(PASSAGE, load_tokenizer(folder), 128))


def test_score_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The score of several passages is that of the model's whole logits, passage by passage."""
    folder = vocabulary(tmp_path / "tokenizer", "quick", "the", "jumps", "over")
    tokenizer = load_tokenizer(folder)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64, initializer_range=0.5,
    )  # fmt: skip
    model = BertForPreTraining(config, TensorParallel(), sentence_task=False).eval()
    initialize_weights(model, config, seed=1)
    save_weights(tmp_path / "model", config, model.state_dict(), folder)
    passages = [
        PASSAGE,
        passage_of("It jumps over lazy dogs.", "jumps", "dogs"),
        passage_of("Near the river, the quick fox.", "Near"),
    ]
    total = 0.0
    for passage in passages:
        (row,) = rows_of(passage, tokenizer, 64)
        ids = torch.tensor(row.ids)
        ids[row.places] = tokenizer.special.mask
        logits = full_logits(model, ids)
        wanted = torch.tensor(row.ids[row.places])
        total -= float(logits.log_softmax(-1)[row.places, wanted].double().sum())
    rows = [row for passage in passages for row in rows_of(passage, tokenizer, 64)]
    monkeypatch.setattr(
        scoring, "_token_batches", lambda *_: scoring._word_batches(rows, tokenizer)
    )
    found = score(tmp_path / "model", HeldOut(passages, tmp_path))
    assert found.nats_per_word == pytest.approx(total / 6, rel=1e-5)
    assert (found.words, found.tokens) == (6, found.pieces)
    assert found.nats_per_token == pytest.approx(total / found.pieces, rel=1e-5)
    with pytest.raises(UserError, match="holds one set of weights"):
        score(tmp_path / "model", HeldOut(passages, tmp_path), "ema")


def full_logits(model: BertForPreTraining, ids: torch.Tensor) -> torch.Tensor:
    from megabert.common.packed_batch import PackedBatch

    batch = PackedBatch.from_padded(ids[None].numpy()).map(torch.from_numpy)
    return model.logits(batch)[0]


# ---------------------------------------------------------------- budgets and pieces


BURN = "import time\nwhile time.process_time() < {seconds}: pass\n"


def test_processor_time_of_ranks(tmp_path: Path) -> None:
    """What the ranks and the processes that they wait for take, alive and at the end."""
    child = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BURN.format(seconds=0.3)!r}])\n"
    ranks = Ranks(["-c", child + BURN.format(seconds=0.2)], 2, tmp_path / "log")
    seen = 0.0
    while ranks.poll():
        seen = max(seen, ranks.processor_seconds)
        time.sleep(0.01)
    assert 0.9 < ranks.processor_seconds < 3.0
    assert seen <= ranks.processor_seconds + 0.05
    assert ranks.status == 0
    waiting = Ranks(["-c", "import time; time.sleep(60)"], 1, tmp_path / "log")
    waiting.signal(signal.SIGKILL)
    waiting.stop()
    assert waiting.status == -9
    assert waiting.seconds < 30


TRAINER = """
import json, sys, time
from pathlib import Path
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
run, steps, every = Path(flags["--output"]), int(flags["--steps"]), int(flags["--save-interval"])
run.mkdir(parents=True, exist_ok=True)
position = run / "position"
first = int(position.read_text()) if position.exists() else 0
for step in range(first + 1, steps + 1):
    begin = time.process_time()
    while time.process_time() - begin < 0.02: pass
    with (run / "metrics.jsonl").open("a") as file: print(json.dumps({"step": step}), file=file)
    if (every and step % every == 0) or step == steps:
        (run / "checkpoints" / f"step-{step:07}").mkdir(parents=True)
    position.write_text(str(step))
    if step == 9 and first == 0 and every: sys.exit(3)
"""


@pytest.fixture
def started_race(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """``run`` with a stand-in for training, which stops once after update 9, and without scoring."""
    trainer = tmp_path / "trainer.py"
    trainer.write_text(TRAINER)
    monkeypatch.setattr(race, "PRETRAIN", (str(trainer),))
    text = argparse.Namespace(shards=lambda v: tmp_path, checksums=lambda v: {"held_out": "ab"})
    monkeypatch.setattr(race, "open_prepared", lambda folder: text)
    monkeypatch.setattr(race, "_score", lambda run, keep: {})
    monkeypatch.setattr(race.records, "write_record", lambda record, folder: tmp_path / "record")
    file = tmp_path / "try.yaml"
    file.write_text("about: A try.\nranks: 1\nsettings:\n  model: {model: bert-tiny}\n")

    def call(flags: str) -> int:
        line = f"run {file} --data {tmp_path} --output {tmp_path / 'out'} --track cpu-10min {flags}"
        return command.main(shlex.split(line))

    return call


def journal(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "out" / "speedrun.json").read_text())
    return found


def test_pieces_add_up(started_race: Callable[..., int], tmp_path: Path) -> None:
    with pytest.raises(StoppedOnRequest, match="continue with the same command"):
        started_race("--steps 24")
    assert started_race("") == 0
    pieces = journal(tmp_path)["pieces"]
    assert [piece["status"] for piece in pieces] == [3, 0]
    assert 9 * 0.02 < pieces[0]["cpu_seconds"] < 15 * 0.02 + 0.5
    assert pieces[1]["cpu_seconds"] > 15 * 0.02
    points = journal(tmp_path)["points"]
    assert len(points) == 12
    assert points["step-0000024"] > points["step-0000010"] > pieces[0]["cpu_seconds"]
    assert yaml.safe_load((tmp_path / "out" / "config.yaml").read_text()) == {
        "model": {"model": "bert-tiny"}
    }
    for other, message in (
        ("--seed 1", "a run with seed 0, not 1"),
        ("--steps 9", "a run of 24 updates"),
    ):
        with pytest.raises(UserError, match=message):
            started_race(other)


def test_over_the_budget(started_race: Callable[..., int], tmp_path: Path) -> None:
    """A run stops at the end of its budget, and is not scored; the time of all pieces counts."""
    with pytest.raises(StoppedOnRequest):
        started_race("--steps 100000 --scale 0.0005")  # 0.6 s
    with pytest.raises(TrainingStopped, match=r"over the budget .* of 100000: 1 of 1 seconds"):
        started_race("--scale 0.0005")
    assert not journal(tmp_path)["finished"]


def test_fit(
    started_race: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "SAVING", 0.0)
    with pytest.raises(StoppedOnRequest):
        started_race("--fit 0.6 --scale 0.01")  # 12 s, of which it measures 0.2
    found = journal(tmp_path)
    assert 0.018 < found["fit"]["seconds_per_update"] < 0.1
    assert 80 < found["steps"] < 600
    assert found["steps"] * found["fit"]["seconds_per_update"] < 0.6 * 12
    assert not (tmp_path / "out" / "fit").exists()


def test_a_run_without_a_length_leaves_nothing(
    started_race: Callable[..., int], tmp_path: Path
) -> None:
    for wrong, message in (
        ("", "no steps for cpu-10min"),
        ("--fit --steps 9", "give one of them"),
        ("--fit 2", "--fit"),
    ):
        with pytest.raises(UserError, match=message):
            started_race(wrong)
        assert not (tmp_path / "out").exists()
    (tmp_path / "try.yaml").write_text(
        "about: A try.\nranks: 1\nsettings: {ramps: {batch_ramp: [8 for 10%]}}\n"
    )
    with pytest.raises(UserError, match="which --fit cannot measure"):
        started_race("--fit")
    with pytest.raises(StoppedOnRequest):
        started_race("--steps 24")


# ---------------------------------------------------------------- entries, records, page


@pytest.mark.parametrize("path", sorted(entry.ENTRIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_entries_are_settings(path: Path, tmp_path: Path) -> None:
    found = entry.read_entry(path)
    assert found.about.endswith(".")
    assert set(found.steps or {}) <= set(TRACKS)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(found.settings))
    argv = ["--config", str(file), "--data", "data", "--steps", "100", "--output", "run"]
    resolve_pretraining(flags.parse(PretrainSettings, argv, "pretrain.py", ""))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("about: x\n", "about and settings are needed"),
        ("about: x\nsettings: {}\nspeed: 3\n", "speed: expected one of about"),
        ("about: x\nsettings: {}\nranks: 3\n", "ranks: expected 1 or 2"),
        ("about: x\nsettings: {}\nvocabulary: many\n", "vocabulary: expected a value of type int"),
        ("about: x\nsettings: {model: bert-tiny}\n", "settings.model: expected settings"),
        ("about: x\nsettings: {run: {seed: 3}}\n", "settings.run.seed is set by the speedrun"),
        ("about: x\nsettings: {}\nsteps: {cpu-1h: 0}\n", "steps.cpu-1h: expected a whole number"),
        ("about: x\nsettings: {}\nsteps: {cpu-1m: 5}\n", "steps.cpu-1m: expected one of cpu-1h"),
        ("about: x\nsettings: {}\nweights: ema\n", "ema needs settings.averaging.ema_decay"),
        ("about: x\nsettings: {data: {replay: [x]}}\n", "settings.data.replay is set by the speed"),
        ("about: x\nsettings: {optimizer: {lrr: 1}}\n", "optimizer.lrr; did you mean 'lr'"),
        (
            "about: x\nsettings: {optimizer: {lr: x}}\n",
            "settings: optimizer.lr x: expected a number",
        ),
    ],
)
def test_wrong_entries(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        entry.find_entry(str(path))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("race", "race: expected one of prepare, run"),
        ("run none --track cpu-1h --data x --output y", "entry none: no such file"),
        ("run default --track cpu-2h --data x --output y", "--track cpu-2h: expected one of cpu-1h"),
        ("run default --track cpu-1h --data x --output y", "no speedrun.json there; make it with"),
        ("run default --track cpu-1h --output y", "required: --data"),
        ("prepare --text x --data y --eval-fraction 2", "--eval-fraction 2: expected"),
    ],
)  # fmt: skip
def test_wrong_commands(line: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        command.main(shlex.split(line))


def a_record(name: str, seed: int, curve: list[tuple[float, float]]) -> dict[str, Any]:
    points = [
        {"tokens": tokens, "nats_per_word": loss, "nats_per_token": loss} for tokens, loss in curve
    ]
    return {
        "track": "cpu-1h", "entry": name, "about": f"About {name}.", "seed": seed, "vocabulary": 8192,
        "settings": {}, "score": points[-1] | {"parameters": 5_000_000}, "curve": points, "tokens": points[-1]["tokens"], "updates": 100,
        "cpu_seconds": 6480.0, "wall_seconds": 3500.0, "budget": {"seconds": 7200.0},
        "data": {"held_out": "ab"}, "machine": {"cpu": "CPU", "cores": 2, "gpu": None, "torch": "2.13"},
    }  # fmt: skip


def test_board() -> None:
    made = [a_record("default", seed, [(1e6, 8.0), (8e6, 7.0 + seed / 10)]) for seed in range(3)]
    made += [a_record("quick", 0, [(1e6, 7.6), (4e6, 6.6), (8e6, 6.0)])]
    made += [a_record("slow", 0, [(1e6, 8.0), (8e6, 7.5)])]
    page = board.board(made)
    rows = [
        line.split(" | ") for line in page.splitlines() if line.startswith("| ") and "`" in line
    ]
    assert [row[1] for row in rows] == ["`quick`", "`default`", "`slow`"]
    assert [row[2] for row in rows] == ["6.000", "7.100 ± 0.100", "7.500"]
    assert [row[8] for row in rows] == ["90 %"] * 3
    assert [row[9] for row in rows] == ["2.0 (4.0 x fewer)", "-", "not reached"]
    assert [row[10].rstrip(" |") for row in rows] == ["1 of 3", "3", "1 of 3"]
    made[-1]["data"] = {"held_out": "cd"}
    assert "do not compare" in board.board(made)
    assert "do not compare" not in page
    made[1]["settings"], made[2]["seed"] = {"optimizer": {"lr": 1.0}}, 7
    changed = board.board(made)
    assert "seeds of `default` ran with different settings" in changed
    assert "| 2 of 3 |" in next(line for line in changed.splitlines() if "| `default` |" in line)
    assert "different settings" not in page
    assert board.tokens_to(made[0]["curve"], 7.5) == pytest.approx(math.sqrt(8) * 1e6)


def test_the_page_is_up_to_date() -> None:
    assert command.main(["board", "--check"]) == 0, "run: python -m benchmarks.speedrun board"


def test_records_belong_to_entries() -> None:
    for record in records.read_records():
        assert record["format"] == records.FORMAT
        budget = TRACKS[record["track"]]
        used = record["wall_seconds" if budget.gpu else "cpu_seconds"]
        assert used <= record["budget"]["seconds"] == budget.seconds
        known = entry.find_entry(record["entry"])
        assert known.settings == record["settings"], f"{known.name} was changed after its record"


@pytest.mark.slow
def test_a_whole_run(tmp_path: Path, root: Path) -> None:
    """Prepare, train in two pieces, score and record, at a twentieth of the smoke track."""
    from data_tools import make_sample_wiki

    make_sample_wiki.main(["--output", str(tmp_path / "text"), "--articles", "200"])
    data = tmp_path / "data"
    text = str(tmp_path / "text" / "dump.xml.bz2")
    speedrun(
        "prepare",
        "--text",
        text,
        "--data",
        str(data),
        "--vocab-size",
        "600",
        "--eval-fraction",
        "0.1",
    )
    file = tmp_path / "tiny.yaml"
    file.write_text(
        "about: A try.\nvocabulary: 600\nweights: ema\nsettings:\n  averaging: {ema_decay: 0.9}\n  model: {model: bert-tiny, norm: pre, dropout: 0.0}\n"
        "  data: {sentence_task: none, seq_length: 64}\n  batch: {global_batch_size: 8}\n"
        "  optimizer: {optimizer: adamw, lr: 0.003, schedule: linear, warmup_fraction: 0.06}\n"
    )
    given = ["run", str(file), "--track", "cpu-10min", "--scale", "0.1", "--data", str(data)]
    given += ["--output", str(tmp_path / "out")]
    assert speedrun(*given, "--steps", "500", "--max-minutes", "0.1") == 3
    assert speedrun(*given) == 0
    made = journal(tmp_path)
    first, *_, last = sorted(made["scores"].values(), key=lambda point: point["step"])
    assert last["nats_per_token"] < first["nats_per_token"]
    assert last["step"] == 500
    assert first["tokens"] < last["tokens"]
    assert made["final"]["words"] > 300


def speedrun(*words: str) -> int:
    import subprocess

    return subprocess.run(
        [sys.executable, "-m", "benchmarks.speedrun", *words], check=False
    ).returncode
