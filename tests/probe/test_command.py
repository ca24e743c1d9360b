"""``launch/probe.py``: every checkpoint through every task, once; kills, damage and removal on the way."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from megabert.common.errors import StoppedOnRequest, TrainingStopped, UserError
from megabert.data.tokenizers.load import load_tokenizer
from tests.helpers.distributed import run_ranks
from tests.helpers.training_runs import VOCAB, import_once, make_shards, train

TASKS = """
- {{name: words, kind: finetune, task: sst2, train: {0}/t.tsv, eval: {0}/t.tsv, steps: 2, batch_size: 4, seeds: 2,
   max_length: 16}}
- {{name: text, kind: pseudo-perplexity, text: {0}/text.txt, max_length: 16}}
"""
UNITS = 3  # results of one model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with three checkpoints, and the files of the tasks."""
    folder = tmp_path_factory.mktemp("probe")
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    shards = make_shards(folder / "shards", sha256=load_tokenizer(folder / "vocab.txt").sha256)
    every = ["--steps", "3", "--save-interval", "1", "--keep-last", "9", "--eval-interval", "2"]
    train(shards, folder / "run", *every, "--keep-best", "eval_mlm_loss")
    rows = "".join(f"w{n} w{n + 1}\t{n % 2}\n" for n in range(8))
    (folder / "t.tsv").write_text("sentence\tlabel\n" + rows, encoding="utf-8")
    (folder / "text.txt").write_text("w1 w2 w3\nw4 w5\n", encoding="utf-8")
    (folder / "tasks.yaml").write_text(TASKS.format(folder), encoding="utf-8")
    return folder


def _probe(
    rank: int, world_size: int, paths: list[Path], output: Path, tasks: Path, hook: str = ""
) -> tuple[str, int, list[str]]:
    """The error's text, how many results were made now, and names in the table."""
    from megabert.probe import command
    from megabert.probe.task_file import read_tasks

    scores, export = command._Prober._scores, command.export_model
    made: list[Any] = []

    def counted(*arguments: Any) -> Any:
        if hook == "kill" and len(made) == 4:
            raise KeyboardInterrupt
        made.append(scores(*arguments))
        return made[-1]

    def removed(model: Any, folder: Path) -> Any:
        if model.step == 2:
            shutil.rmtree(model.folder)
        return export(model, folder)

    command._Prober._scores = counted  # type: ignore[method-assign]
    if hook == "remove":
        command.export_model = removed
    request = command.ProbeRequest(paths, read_tasks(tasks), output, with_random=True)
    try:
        rows = command.probe(request)
    except (UserError, TrainingStopped, StoppedOnRequest, KeyboardInterrupt) as error:
        return f"{type(error).__name__}: {error}", len(made), []
    return "", len(made), [row.name for row in rows]


def _run(
    paths: list[Path], output: Path, tasks: Path, hook: str = ""
) -> tuple[str, int, list[str]]:
    import_once()
    found: tuple[str, int, list[str]] = run_ranks(
        _probe, 1, paths, output, tasks, hook, initialize=False, timeout=120
    )[0]
    return found


def _results(output: Path) -> dict[str, Any]:
    found = json.loads((output / "probe.json").read_text(encoding="utf-8"))
    return {model["name"]: model for model in found["models"]}


def test_a_killed_probe_continues(made: Path, tmp_path: Path) -> None:
    out, run, tasks = tmp_path / "out", made / "run", made / "tasks.yaml"
    error, done, _ = _run([run], out, tasks, "kill")
    assert (error, done) == ("KeyboardInterrupt: ", 4)
    assert len(list((out / "results").iterdir())) == 4
    assert not (out / "work").exists()
    error, done, names = _run([run], out, tasks)
    assert (error, done) == ("", 4 * UNITS - 4)
    tags = [f"run/step-000000{step}" for step in (1, 2, 3)]
    assert [name.removesuffix(" (best)") for name in names] == ["random weights (run)", *tags]
    assert sum(name.endswith(" (best)") for name in names) == 1

    found = _results(out)
    assert list(found) == names
    last = found[names[-1]]
    assert (last["step"], last["tokens"] > 0) == (3, True)
    assert {"eval_mlm_loss"} < set(last["evaluation"])
    assert set(last["results"]["words"]["seeds"]) == {"42", "43"}
    assert last["results"]["words"]["std"] is not None
    lines = list(csv.DictReader((out / "probe.csv").open(encoding="utf-8")))
    means = {(line["model"], line["task"]): line["mean"] for line in lines if line["score"] in
             ("accuracy", "pseudo_perplexity")}  # fmt: skip
    assert len(means) == 4 * 2
    assert float(means[names[-1], "text"]) == last["results"]["text"]["mean"]
    assert (out / "probe.png").read_bytes().startswith(b"\x89PNG")

    shutil.copytree(run, tmp_path / "moved")  # results belong to the content
    assert _run([tmp_path / "moved"], out, tasks)[:2] == ("", 0)
    more = tmp_path / "more.yaml"
    more.write_text(
        tasks.read_text(encoding="utf-8").replace("seeds: 2", "seeds: 3"), encoding="utf-8"
    )
    assert _run([run / "checkpoints" / "best"], out, more)[:2] == ("", 2)


def test_removed_and_damaged_checkpoints_do_not_stop_the_others(made: Path, tmp_path: Path) -> None:
    run, text = tmp_path / "run", tmp_path / "tasks.yaml"
    shutil.copytree(made / "run", run)
    text.write_text(TASKS.format(made).rpartition("- ")[2].join(["- ", ""]), encoding="utf-8")
    file = next((run / "checkpoints" / "step-0000003").glob("*.pt"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    error, done, _ = _run([run], tmp_path / "out", text, "remove")
    assert error.startswith("TrainingStopped: 1 of the probes have no result")
    assert "run/step-0000003" in error
    assert file.name in error
    assert done == 2  # of the first checkpoint and of random weights
    assert list(_results(tmp_path / "out")) == ["random weights (run)", "run/step-0000001"]


def test_wrong_inputs_write_nothing(made: Path, tmp_path: Path) -> None:
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("")
    out, run, tasks = tmp_path / "out", made / "run", made / "tasks.yaml"
    for path, output, message in (
        (tmp_path / "empty", out, "has no whole checkpoint: it has saved none yet"),
        (
            tmp_path / "taken",
            out,
            "is not a run, a checkpoint, a megabert folder or a Hugging Face",
        ),
        (run, tmp_path / "taken", "is not empty and not a probe's"),
    ):
        error, _, _ = _run([path], output, tasks)
        assert error.startswith("UserError: ")
        assert message in error
    assert not out.exists()
