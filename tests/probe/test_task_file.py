"""The file of ``launch/probe.py --tasks``: what it gives, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from megabert.common.errors import UserError
from megabert.config.sections.initial_weights import InitialWeightSettings
from megabert.probe.task_file import FinetuneProbe, PerplexityProbe, content_sum, read_tasks

GOOD = (
    "- {name: a, kind: finetune, task: sst2, train: t.tsv, eval: t.tsv, seeds: 3, batch_size: 16}\n"
)


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.tsv").write_text("sentence\tlabel\ngood\t1\n", encoding="utf-8")


def _read(text: str) -> list[FinetuneProbe | PerplexityProbe]:
    Path("tasks.yaml").write_text(text, encoding="utf-8")
    return read_tasks(Path("tasks.yaml"))


def test_both_kinds() -> None:
    fine, perplexity = _read(
        GOOD + "- {name: b, kind: pseudo-perplexity, text: t.tsv, sentences: 9}"
    )
    assert isinstance(fine, FinetuneProbe)
    assert isinstance(perplexity, PerplexityProbe)
    assert fine.seeds == (42, 43, 44)
    assert fine.settings.batch.global_batch_size == 16
    assert (fine.settings.selection.keep, fine.settings.task.new_head) == ("last", True)
    assert perplexity.settings.sentences == 9
    made = fine.of_model(Path("model"), Path("run"), 43)
    assert (made.task.seed, made.task.random_init, made.selection.seeds) == (43, False, 1)
    drawn = InitialWeightSettings(init_local_heads=0.5)
    random = made.with_random_weights(drawn)
    assert (random.task.random_init, random.initial_weights) == (True, drawn)


def test_a_definition_holds_what_changes_results() -> None:
    [first] = _read(GOOD)
    [renamed] = _read(GOOD.replace("name: a", "name: z").replace("seeds: 3", "seeds: 5"))
    [other] = _read(GOOD.replace("batch_size: 16", "batch_size: 8"))
    assert first.definition() == renamed.definition() != other.definition()
    assert "t.tsv" not in str(first.definition())


def test_a_folder_has_a_sum_of_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_text("1")
    before = content_sum(folder)
    (folder / "a").rename(folder / "b")
    assert content_sum(folder) != before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("batch_size", "batchsize"), "a: unknown key 'batchsize'; did you mean 'batch_size'"),
        (GOOD.replace("seeds: 3", "checkpoint: x"), "a: unknown key 'checkpoint'"),
        (GOOD.replace("seeds: 3", "lr: fast"), "a: lr fast: expected a number"),
        (GOOD.replace("seeds: 3", "seeds: 0"), "a: seeds 0"),
        (GOOD.replace("seeds: 3", "global_batch_size: 8"), "one setting; keep one"),
        (GOOD.replace("task: sst2", "task: sst3"), "a: task sst3"),
        (GOOD.replace("eval: t.tsv,", ""), "a: eval is missing"),
        (GOOD.replace("eval: t.tsv", "eval: u.tsv"), "a: eval u.tsv: no such file"),
        (GOOD.replace("kind: finetune", "kind: finetuning"), "a: kind: expected finetune or pseudo"),
        (GOOD.replace("name: a, ", ""), "entry 1: name is missing"),
        (GOOD + GOOD, "two probes have the name 'a'"),
        ("- {name: b, kind: pseudo-perplexity}", "b: text is missing"),
        ("- {name: b, kind: pseudo-perplexity, text: t.tsv, epochs: 1}", "b: unknown key 'epochs'"),
        ("- {name: b, kind: pseudo-perplexity, text: t.tsv, max_length: 2}", "take 2 of them"),
        ("a: b", "expected a list of probes"),
        ("[", "not YAML"),
    ],
)  # fmt: skip
def test_wrong_files(text: str, message: str) -> None:
    with pytest.raises(UserError, match=r"--tasks tasks\.yaml") as found:
        _read(text)
    assert message in str(found.value)
    assert "\n" not in str(found.value)


def test_a_missing_file() -> None:
    with pytest.raises(UserError, match=r"--tasks none\.yaml: No such file"):
        read_tasks(Path("none.yaml"))
