"""Numbers with limits: the same as pydantic's, and --help does without pydantic."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pydantic
import pytest
from pydantic import TypeAdapter

from megabert.config import numbers
from megabert.config.numbers import Limits


@pytest.mark.parametrize(
    "name", ["PositiveInt", "NonNegativeInt", "PositiveFloat", "NonNegativeFloat"]
)
def test_they_are_those_of_pydantic(name: str) -> None:
    ours: Any = TypeAdapter(getattr(numbers, name))
    theirs: Any = TypeAdapter(getattr(pydantic, name))
    assert ours.core_schema == theirs.core_schema


def test_every_limit_holds() -> None:
    adapter: TypeAdapter[int] = TypeAdapter(Annotated[int, Limits(ge=2, lt=5)])
    within: TypeAdapter[int] = TypeAdapter(Annotated[int, Limits(gt=1, le=4)])
    for value in range(7):
        for one in (adapter, within):
            if 2 <= value <= 4:
                assert one.validate_python(value) == value
            else:
                with pytest.raises(pydantic.ValidationError):
                    one.validate_python(value)


@pytest.mark.parametrize(
    ("script", "modules"),
    [
        ("launch/predict.py", {"pydantic", "yaml"}),
        ("launch/convert.py", {"pydantic", "yaml"}),
        ("launch/report.py", {"pydantic", "yaml"}),
        ("data_tools/make_sample_wiki.py", {"pydantic", "yaml"}),
        # pydantic looks for its plugins when it prepares the first dataclass: 10 ms
        ("launch/pretrain.py", {"pydantic.plugin._loader", "yaml"}),
        ("launch/finetune.py", {"pydantic.plugin._loader", "yaml"}),
        ("launch/plan.py", {"pydantic.plugin._loader", "yaml"}),
    ],
)
def test_help_is_fast_without_these_modules(script: str, modules: set[str], root: Path) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.argv = {[str(root / script), '--help']!r}\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        f"finally: print('imported', sorted({modules!r} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("imported []\n")
