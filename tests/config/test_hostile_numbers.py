"""Numbers of any size in any flag: a value that a command can work with, or one line and exit status 2."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin
from unittest.mock import patch

import pytest

from megabert.common.errors import UserError
from megabert.config import flags, values
from megabert.config.training import PretrainSettings
from megabert.finetune.settings import finetune_settings, resolve_finetuning
from megabert.planner.machine import make_machine
from megabert.planner.plan import Planner
from megabert.planner.report import as_text
from megabert.planner.settings import PlanFlags, plan_settings, read_flags
from megabert.pretrain.settings import resolve_pretraining
from tests.helpers.planted import called

HOSTILE = (
    "0", "-1", "2147483648", "9223372036854775808", "18446744073709551616", "1" + "0" * 400,
    "9" * 5000, "1e-320", "1e-40", "1e37", "1e300", "1e308", "nan", "-inf", "inf",
)  # fmt: skip


def _numeric(kind: Any) -> bool:
    bare = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    item = values.list_item(kind)
    if item is not None:
        return _numeric(item)
    if bare is not kind or bare in (int, float):
        return bare in (int, float)
    return any(_numeric(part) for part in values.alternatives(kind) if part is not kind)


def _settings_flags(cls: type) -> Iterator[str]:
    """The first flag of every setting that is a number."""
    for section in flags.sections(cls).values():
        hints = values.hints(section)
        for field in dataclasses.fields(section):
            if _numeric(hints[field.name]):
                yield flags.flag_of(field)


def _plan(given: flags.Given) -> None:
    settings = plan_settings(read_flags(given))
    planner = Planner(settings, make_machine(settings.machine))
    text = as_text(planner.plan(settings.layout), None)
    assert not re.search(r"\b(nan|inf)\b", text)


TREES: dict[str, tuple[Callable[[], type], Callable[[flags.Given], object], list[str]]] = {
    "pretrain.py": (lambda: PretrainSettings, resolve_pretraining, []),
    "finetune.py": (
        finetune_settings, resolve_finetuning, ["--task", "squad", "--checkpoint", "x", "--train", "y"],
    ),
    "plan.py": (lambda: PlanFlags, _plan, ["--model", "bert-tiny"]),
}  # fmt: skip


@pytest.mark.parametrize("command", TREES)
def test_settings(command: str) -> None:
    tree, resolve, more = TREES[command]
    cls = tree()
    parser = flags.make_parser(cls, command, "")
    names = list(_settings_flags(cls))
    assert len(names) > 20
    for flag in names:
        for value in HOSTILE:
            try:
                resolve(flags.parse_with(parser, cls, [*more, f"{flag}={value}"]))
            except UserError as error:
                line = str(error)
                assert "\n" not in line, (flag, value[:30])
                assert "type=" not in line, (flag, value[:30])


@pytest.mark.parametrize(
    ("tool", "more"),
    [
        ("data_tools/shard_wiki.py", ["--input", "x", "--tokenizer", "x", "--output", "y"]),
        ("data_tools/import_shards.py", ["--input", "x", "--tokenizer", "x", "--output", "y"]),
        ("data_tools/train_tokenizer.py", ["--input", "x", "--output", "y"]),
        ("data_tools/inspect_shards.py", ["x"]),
        ("data_tools/make_sample_wiki.py", ["--output", "y"]),
        ("launch/predict.py", ["--checkpoint", "x", "--text", "a"]),
    ],
)  # fmt: skip
def test_tools(tool: str, more: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    """None of the inputs is there: what is not refused as a number ends at the first of them."""
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(tool.removesuffix(".py").replace("/", "."))
    parser = getattr(module, "build_parser", None) or getattr(
        module, "parser", module.__dict__.get("_parser")
    )
    numbers = [
        action.option_strings[0]
        for action in parser()._actions
        if _numeric(getattr(action.type, "kind", None))
    ]
    assert numbers
    for flag in numbers:
        for value in HOSTILE:
            with patch.object(
                module, "build_world", side_effect=UserError("not made"), create=True
            ):
                called(tool, *more, f"{flag}={value}").one_line(2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("tool", "words", "expected"),
    [
        ("launch/pretrain.py", ["--loader-workers", 99999999999], "a whole number from 0 to 1,024"),
        ("data_tools/shard_wiki.py", ["--workers", 1025], "a whole number from 1 to 1,024"),
        ("data_tools/shard_wiki.py", ["--seed", 2**64], "a whole number of 0 or more, below 2^63"),
        ("data_tools/train_tokenizer.py", ["--vocab-size", 2**31], "from 1 to 16,777,216"),
        ("launch/pretrain.py", ["--hang-timeout", "1e300"], "a number from 0 to 1e+08"),
        ("launch/pretrain.py", ["--hidden-size", 10**21 - 2], "from 1 to 16,777,216"),
        ("launch/plan.py", ["--efficiency", "1e-320"], "neither below 1e-37 nor above 1e37 in size"),
        ("launch/pretrain.py", ["--skip-samples", "0:" + "8" * 5000], "expected ranges of sample"),
        ("launch/pretrain.py", ["--mask-fraction", 0], "--mask-fraction 0: expected a number above 0"),
    ],
)  # fmt: skip
def test_lines(tool: str, words: list[object], expected: str) -> None:
    assert expected in called(tool, *words).one_line(2)
