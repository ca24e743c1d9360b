"""The first hour on a GPU: its parts name commands that exist, failures end nothing, reports are whole."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import finetune, jitter, plan_run, step, training
from benchmarks.hour import answers, command, report, steps, switches
from benchmarks.hour.kernel_tests import Collected
from benchmarks.hour.parts import PARTS, Plan
from benchmarks.hour.steps import Step
from benchmarks.steps.device_trace import covered, read_trace
from megabert.common.errors import UserError


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    return folder


@pytest.mark.parametrize("small", [False, True])
def test_parts_name_commands_that_exist(small: bool, root: Path) -> None:
    parsers = {
        "step": step, "training": training, "jitter": jitter, "finetune": finetune,
        "plan_run": plan_run, "switches": switches,
    }  # fmt: skip
    found = [
        one
        for _, part in PARTS.values()
        for one in part(Plan(Path("shards"), small, True, Path("train.json")))
    ]
    assert len({one.name for one in found}) == len(found)
    for one in found:
        script, *flags = one.command
        assert (root / script).is_file()
        assert one.limit <= command.SECONDS
        if parser := parsers.get(Path(script).stem):
            assert parser.parse([*flags, "--json", "x.json"]).json == Path("x.json")


def scripted(monkeypatch: pytest.MonkeyPatch, todo: list[Step]) -> None:
    monkeypatch.setattr(command, "PARTS", {1: ("Trial", lambda _: todo)})
    monkeypatch.setattr(command, "machine", lambda: python("machine", "print('- device: this')"))


def python(name: str, code: str, limit: float = 20.0, answer: Callable[[Any], str] = str) -> Step:
    return Step(name, f"Is {name} well?", ["-c", code], limit, answer)


def test_a_failure_does_not_stop_the_others(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = "import sys; open(sys.argv[2], 'w').write('[1]'); print('| a |')"
    todo = [
        python("bad", "import sys; sys.exit('a: broken')"),
        python("slow", "import time; print('begun', flush=True); time.sleep(60)", 1.0),
        python("figures", write, answer=lambda result: f"{result[0]} of them"),
        python("half", write, answer=lambda result: result["missing"]),
    ]
    scripted(monkeypatch, todo)
    output = tmp_path / "out"
    argv = ["1", str(shards), str(output), "--small"]
    assert command.main(argv) == 1
    found = json.loads((output / report.RECORD).read_text())["steps"]
    assert list(found) == ["machine", "bad", "slow", "figures", "half"]
    assert (found["bad"]["status"], found["bad"]["answer"]) == ("failed (status 1)", "a: broken")
    assert found["slow"]["status"] == "too long (over 1 s)"
    assert (found["figures"]["answer"], found["figures"]["result"]) == ("1 of them", [1])
    assert found["half"]["answer"] == "-"
    page = (output / report.PAGE).read_text()
    assert "| Is figures well? | 1 of them | done | 0 |" in page
    assert "```\nbegun\n```" in page
    assert "- device: this" in page

    # again: only what has not ended well; without time nothing is lost
    todo[:] = [python("bad", "print(1)"), python("figures", "raise SystemExit(1)"), todo[1]]
    with monkeypatch.context() as patched:
        patched.setattr(command, "SECONDS", 0.0)
        assert command.main(argv) == 1
    found = json.loads((output / report.RECORD).read_text())["steps"]
    assert found["bad"]["status"] == "failed (status 1)"
    assert command.main(argv) == 1
    found = json.loads((output / report.RECORD).read_text())["steps"]
    assert (found["bad"]["status"], found["figures"]["status"]) == ("done", "done")

    # another folder continues where this one is
    other = tmp_path / "other"
    todo[:] = [python("bad", "raise SystemExit(1)"), python("more", "print(2)")]
    assert command.main(["1", str(shards), str(other), "--small", "--from", str(output)]) == 0
    found = json.loads((other / report.RECORD).read_text())["steps"]
    assert {name: one["status"] for name, one in found.items() if name in ("bad", "more")} == {
        "bad": "done", "more": "done",
    }  # fmt: skip


def test_no_time_is_said(tmp_path: Path) -> None:
    made: list[str] = []
    todo = [python("late", "print(1)")]
    assert not steps.run_steps(todo, tmp_path, 0.0, lambda _, outcome: made.append(outcome.status))
    assert made == ["no time left"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "PART, SHARDS and OUTPUT are needed"),
        (["9", "shards", "out"], "part 9: there are 1 to 6"),
        (["1", "shards", "{folder}"], "holds other files; name a new folder"),
        (["6", "shards", "out", "--squad", "nowhere"], "--squad nowhere: no such file"),
        (["6", "shards", "out", "--from", "nowhere"], "--from nowhere: no hour.json there"),
        (["x", "shards", "out", "--smal"], "unknown flag --smal; did you mean --small.*; part x: "),
        (
            ["1", "shards", "out", "--seconds", "29"],
            "--seconds 29: expected a number of 30 or more",
        ),
        (["1", "{folder}/file", "{folder}/out", "--small"], "file exists and has no manifest.json"),
        (["1", "{folder}", "{folder}/out", "--dry-run"], "out is in the folder of the shards"),
        (["1", "{folder}/old", "{folder}/out", "--small"], "old-source is left from making shards"),
        (["1", "{folder}/new", "{folder}/out"], "torch finds no GPU here; --small tries"),
    ],
)
def test_wrong_command_lines(
    argv: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "file").write_text("")
    (tmp_path / "old-source" / "text").mkdir(parents=True)
    with pytest.raises(UserError, match=message):
        command.main([word.format(folder=tmp_path) for word in argv])
    assert {path.name for path in tmp_path.iterdir()} == {"file", "old-source"}


def test_the_list_shows_every_question(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    shown = capsys.readouterr().out
    for _, part in PARTS.values():
        assert all(one.question in shown for one in part(Plan(Path("x"))))
    assert command.main(["4", "shards", "out", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "benchmarks/lamb.py --models bert-large" in shown
    assert "data_tools/shard_wiki.py" in shown  # SHARDS do not exist


def test_answers() -> None:
    contestants = [
        {"tokens_per_second": 1000.0, "gflops": 500.0, "times_transformers": 4.0},
        {"tokens_per_second": 250.0},
    ]
    case = {"model": "m", "length": 128, "precision": "bf16", "contestants": contestants,
            "published_peak_gflops": 2000.0}  # fmt: skip
    said = answers.steps({"cases": [case]})
    assert said == "m 128 bf16: 1,000 tokens/s, 25.0% of the published peak, x 4.00 transformers"
    rows = [
        {"name": "as it is", "outcome": "done", "update_seconds": 2.0},
        {"name": "a off", "outcome": "done", "update_seconds": 3.0},
        {"name": "b off", "outcome": "not available: no flag"},
    ]
    assert answers.switches({"rows": rows}) == "a off x 1.50; b off: not available: no flag"
    resumed = {"statuses": {"SIGKILL": -9, "SIGTERM": 3}, "same_losses": True, "updates": 40,
               "other_tensors": 0}  # fmt: skip
    assert answers.resume(resumed).endswith(
        "after SIGKILL (ended by signal 9) and SIGTERM (exit status 3)"
    )


def test_a_trace_is_read(tmp_path: Path) -> None:
    def event(name: str, category: str, begin: float, duration: float) -> dict[str, Any]:
        return {"ph": "X", "name": name, "cat": category, "ts": begin, "dur": duration}

    events = [
        event("ProfilerStep#3", "user_annotation", 100, 50),
        event("ProfilerStep#4", "user_annotation", 150, 50),
        event("ProfilerStep#4", "gpu_user_annotation", 150, 90),
        event("gemm", "kernel", 90, 30),  # 20 of it within
        event("copy", "gpu_memcpy", 110, 20),  # 10 that no other covers
        event("gemm", "kernel", 150, 20),
        event("cudaLaunchKernel", "cuda_runtime", 105, 1),
        event("cuLaunchKernelEx", "cuda_driver", 106, 1),
        event("cudaLaunchKernel", "cuda_runtime", 250, 1),
        event("cudaStreamSynchronize", "cuda_runtime", 160, 1),
        {"ph": "M", "name": "process_name"},
    ]
    path = tmp_path / "trace.json.gz"
    assert read_trace(path) is None
    path.write_bytes(gzip.compress(json.dumps({"traceEvents": events}).encode()))
    found = read_trace(path)
    assert found is not None
    assert (found.updates, found.launches, found.waits) == (2, 1.0, 0.5)
    assert found.idle_fraction == pytest.approx(0.5)
    assert found.kernels[0] == ("gemm", 0.025)
    assert "GPU idle 50.0%" in found.lines()[0]
    assert covered([(0, 5), (3, 4), (4, 9), (20, 30)], 2, 25) == 12


def test_tests_are_collected_by_name() -> None:
    class Report:
        def __init__(self, name: str, when: str, outcome: str, said: Any = "") -> None:
            self.nodeid, self.when, self.longreprtext, self.longrepr = name, when, said, said
            self.failed, self.skipped = outcome == "failed", outcome == "skipped"

    collected = Collected()
    for one in (
        Report("a", "setup", "passed"),
        Report("a", "call", "passed"),
        Report("b", "call", "failed", "text\nE   AssertionError: 1 == 2\nE   more"),
        Report("c", "setup", "skipped", ("file", 3, "Skipped: needs a GPU")),
    ):
        collected.pytest_runtest_logreport(one)  # type: ignore[arg-type]
    assert (collected.passed, collected.failed) == (["a"], {"b": "AssertionError: 1 == 2"})
    assert collected.skipped == {"c": "Skipped: needs a GPU"}
    assert answers.kernel_tests(collected.to_dict()) == (
        "1 passed, 1 failed, 1 skipped; b: AssertionError: 1 == 2"
    )


def test_what_a_version_lacks_is_not_available() -> None:
    flags = ["--model", "bert-tiny"]
    assert "--no-such-flag" in (
        switches.missing(switches.Switch("b"), [*flags, "--no-such-flag", "1"]) or ""
    )
    absent = switches.Switch("d", without="megabert.kernels.ops:no_such_function")
    assert "has no no_such_function in megabert.kernels.ops" in (
        switches.missing(absent, flags) or ""
    )
    unread = switches.Switch("c", environment={"NO_SUCH_NAME": "1"})
    assert switches.missing(unread, flags) == "nothing reads NO_SUCH_NAME"
