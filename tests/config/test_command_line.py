"""The parser of all commands: flags, switches, errors that name the flag, --version, --print-config."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import NonNegativeFloat, PositiveInt
from pydantic.dataclasses import dataclass

from data_tools import train_tokenizer
from megabert import __version__
from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.config import flags
from megabert.config.flags import setting
from megabert.config.values import ValueReader

LAUNCH = ("pretrain", "finetune", "convert", "predict", "plan", "probe", "report")
TOOLS = ("shard_wiki", "train_tokenizer", "inspect_shards", "import_shards", "make_sample_wiki")


@dataclass(frozen=True)
class Section:
    """A section"""

    count: PositiveInt = setting(1, "a count", resume="must_match")
    rates: tuple[NonNegativeFloat, ...] = setting((), "some rates")
    kind: Literal["a", "b"] = setting("a", "a kind", flags=("--kind", "--sort"))
    fast: bool = setting(False, "a switch", resume="free")
    data: Path | None = setting(None, "a folder", metavar="DIR")


@dataclass(frozen=True)
class Tree:
    section: Section


def parsed(*argv: str) -> Section:
    given = flags.parse(Tree, argv, "x", "")
    return flags.build(Tree, given.file, given.flags).section


def refused(*argv: str) -> str:
    with pytest.raises(UserError) as raised:
        flags.parse(Tree, argv, "x", "")
    return str(raised.value)


def test_all_errors_come_at_once_and_name_the_flag() -> None:
    message = refused("--cuont", "3", "--kind", "c", "--rates", "1,x", "--fast", "yes")
    assert message == (
        "unknown flag --cuont; did you mean --count?; "
        "--rates 1,x: 'x': expected a number of 0 or more; "
        "--kind c: expected one of a, b; --fast yes: expected on or off (see x --help)"
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--count", "1", "--count=2"], "--count is given twice; keep one"),
        (["--kind", "a", "--sort", "b"], "--sort (the same as --kind) is given twice"),
        (
            ["--rates", "1", "--rates", "2"],
            "--rates is given twice; give all values after one --rates",
        ),
        (["--count"], "--count: expected a value"),
        (["count", "2"], "unexpected argument 'count'; did you mean --count?"),
        (["--cou", "2"], "unknown flag --cou"),
    ],
)
def test_wrong_flags(argv: list[str], message: str) -> None:
    assert refused(*argv).startswith(message)


def test_lists_and_switches() -> None:
    assert parsed("--rates", "1,2", "3", "--fast").rates == (1.0, 2.0, 3.0)
    assert parsed("--fast", "--count", "2") == Section(count=2, fast=True)
    assert not parsed("--fast=Off").fast
    assert parsed("--local_rank=1", "--local_rank", "2") == Section()  # a launcher may repeat it


def test_settings_of_files_are_named_as_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("section:\n  count: 0\n  fast: maybe\n  rates: [1, 2e-5]\n")
    message = refused("--config", str(path), "--kind", "x")
    assert f"{path}: section.count 0: expected a whole number of 1 or more" in message
    assert f"{path}: section.fast maybe: expected on or off" in message
    assert "--kind x: expected one of a, b" in message
    path.write_text("section:\n  fast: yes\n  rates: [1, 2e-5]\n  count: null\n")
    assert parsed("--config", str(path)) == Section(fast=True, rates=(1.0, 2e-5))
    path.write_text("section:\n  cuont: 1\n")
    assert "unknown setting section.cuont; did you mean 'count'?" in refused("--config", str(path))


def test_settings_survive_their_file(tmp_path: Path) -> None:
    made = Tree(Section(2, (1e-5, 3.0), "b", True, Path("x")))
    path = tmp_path / "c.yaml"
    path.write_text(flags.to_yaml(made))
    assert parsed("--config", str(path)) == made.section


def test_what_must_match_on_resume_is_part_of_a_setting() -> None:
    rules = flags.resume_rules(Tree)
    assert rules["section", "count"] == "must_match"
    assert rules["section", "fast"] == "free"
    assert rules["section", "kind"] == "changes_results"


def test_flags_of_a_plain_command() -> None:
    parser = flags.plain_parser("x", None)
    parser.add_argument("folder")
    parser.add_argument("--verify", action="store_true")
    parser.add_argument("--upper", dest="lower", action="store_false", default=None)
    parser.add_argument("--number", type=ValueReader(PositiveInt), default=4)
    parser.add_argument("--form", choices=("text", "json"), required=True)
    found = vars(parser.parse_args(["--verify", "here", "--form", "json", "--upper"]))
    assert found == {"folder": "here", "verify": True, "lower": False, "number": 4, "form": "json"}
    assert not parser.parse_args(["--verify", "off", "here", "--form", "text"]).verify
    with pytest.raises(UserError) as raised:
        parser.parse_args(["here", "--number", "0", "--frm", "x"])
    assert str(raised.value).split(" (see")[0] == (
        "unknown flag --frm; did you mean --form?; the following arguments are required: --form; "
        "--number 0: expected a whole number of 1 or more"
    )
    with pytest.raises(UserError, match="--form jsn: expected one of text, json; did you mean"):
        parser.parse_args(["here", "--form", "jsn"])


@pytest.mark.parametrize("name", [*LAUNCH, *TOOLS])
def test_every_command_has_a_version_and_knows_its_flags(
    name: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = root / ("launch" if name in LAUNCH else "data_tools") / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"command_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(SystemExit) as left:
        module.main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"{name}.py (megabert {__version__})\n"
    with pytest.raises(UserError, match="unknown flag --no-such-flag"):
        module.main(["--no-such-flag", "1"])


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("pretrain.py --lr abc", "--lr abc: expected a number of 0 or more"),
        ("pretrain.py --data nowhere", "--data nowhere: no such folder; make shards with"),
        ("pretrain.py --print-config --phase 2", ""),
        ("finetune.py --task sqad --checkpoint x", "did you mean 'squad'?"),
        ("finetune.py --checkpoint nowhere --train x", "--checkpoint nowhere does not exist"),
        ("finetune.py --print-config --checkpoint x --train y", ""),
        ("plan.py --print-config", ""),
        ("plan.py --gpu h10", "--gpu h10: expected one of cpu"),
    ],
)
def test_wrong_inputs_are_found_before_torch_is_imported(
    command: str, message: str, root: Path
) -> None:
    script, *arguments = command.split()
    code = (
        "import runpy, sys\n"
        f"sys.argv = {[str(root / 'launch' / script), *arguments]!r}\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: assert 'torch' not in sys.modules, 'torch'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "AssertionError" not in done.stderr
    assert message in done.stderr
    assert done.returncode == (2 if message else 0)
    assert message or "model:" in done.stdout or "task:" in done.stdout


@pytest.mark.parametrize(
    ("kind", "flag", "value"),
    [("unigram", "--alphabet", "900"), ("wordpiece", "--coverage", "0.9")],
)
def test_flags_of_another_kind_of_tokenizer_are_said(
    kind: str, flag: str, value: str, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(get_logger(), "propagate", True)
    argv = ["--input", str(tmp_path / "none"), "--output", str(tmp_path / "out"), "--type", kind]
    with pytest.raises(UserError, match="none"):
        train_tokenizer.main([*argv, flag, value])
    assert f"{flag} has no effect with --type {kind}" in caplog.text
