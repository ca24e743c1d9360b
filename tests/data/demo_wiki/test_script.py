"""The demo's script: its commands are valid, finished stages are skipped, and how it ends."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

from launch.finetune import main as finetune
from launch.pretrain import main as pretrain

ROOT = Path(__file__).resolve().parents[3]
STAND_IN = f"""#!{sys.executable}
import json, os, sys
from pathlib import Path
if sys.argv[1] == "-":
    os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])
words = sys.argv[1:]
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps([Path(sys.argv[0]).name, *words]) + "\\n")
output = Path(words[words.index("--output") + 1])
output.mkdir(parents=True, exist_ok=True)
asked = {{"qas": [{{"question": "Who's it?"}}], "context": "It is Bo."}}
exact = {{"mean": 90.04 if output.name == "squad" else 18.0, "std": 1.26}}
results = {{"scores": {{"exact_match": exact, "f1": {{"mean": 91.5, "std": 0.04}}}}, "best_run": "seed-1"}}
contents = {{"dev.json": {{"data": [{{"paragraphs": [asked]}}]}}, "results.json": results}}
for name in ("dev.json", "vocab.txt", "manifest.json", "config.json", "results.json"):
    (output / name).write_text(json.dumps(contents.get(name)))
"""


def _demo(folder: Path) -> tuple[list[list[str]], list[str]]:
    """The commands that the script calls so far, and the lines that it prints."""
    programs, calls = folder / "bin", folder / "calls"
    programs.mkdir(exist_ok=True)
    for name in ("python", "deepspeed"):
        (programs / name).write_text(STAND_IN)
        (programs / name).chmod(0o755)
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "WORK": str(folder / "work"),
        "CALLS": str(calls),
    }
    done = subprocess.run(
        ["bash", str(ROOT / "launch" / "wiki_to_squad.sh")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in calls.read_text().splitlines()], done.stdout.splitlines()


def test_commands_and_the_end(tmp_path: Path) -> None:
    calls, printed = _demo(tmp_path)
    work = tmp_path / "work"
    commands = [next(word for word in call if word.endswith(".py")) for call in calls]
    assert commands == [
        "data_tools/make_sample_wiki.py",
        "data_tools/train_tokenizer.py",
        "data_tools/shard_wiki.py",
        "launch/pretrain.py",
        "launch/pretrain.py",
        "launch/convert.py",
        "launch/finetune.py",
        "launch/finetune.py",
    ]
    for call, command in zip(calls, commands, strict=True):
        if call[0] == "deepspeed":
            assert call[1:4] == ["--num_gpus", "2", "--master_port"]
            main = pretrain if command == "launch/pretrain.py" else finetune
            assert main([*call[call.index(command) + 1 :], "--print-config"]) == 0
    one, other = ([w for w in c[5:] if not w.startswith(str(work / "squad"))] for c in calls[-2:])
    random = other.index("--random-init")
    assert other[random : random + 3] == ["--random-init", "on", "--init-local-heads"]
    assert other[:random] + other[random + 4 :] == one
    assert printed[-6:] == [
        f"{'mean ± deviation of seeds':<28}          EM          F1",
        f"{'from random weights':<28}  18.0 ± 1.3  91.5 ± 0.0",
        f"{'with pretraining':<28}  90.0 ± 1.3  91.5 ± 0.0",
        "",
        f"result   {work}: squad/seed-1/ answers questions, huggingface/ is the pretrained model",
        f"next     {printed[-1][9:]}",
    ]
    words = shlex.split(printed[-1][9:])
    assert (ROOT / words[0]).samefile(sys.executable)
    assert words[1:] == [
        *("launch/predict.py", "--checkpoint", str(work / "squad" / "seed-1")),
        *("--question", "Who's it?", "--context", "It is Bo."),
    ]
    again, printed_again = _demo(tmp_path)
    assert again == calls
    assert sum("exists already" in line for line in printed_again) == 8
    assert printed_again[-6:] == printed[-6:]
    (work / "phase1" / "results.json").write_text('{\n "finished": false\n}')
    third, printed_again = _demo(tmp_path)
    (repeated,) = third[len(calls) :]
    assert repeated[5:] == calls[3][5:]  # after the launcher's port
    assert sum("exists already" in line for line in printed_again) == 7
