#!/usr/bin/env python
"""launch/pretrain.py with one of megabert's searches or trials switched off: it finds nothing.

    python benchmarks/hour/without.py MODULE:FUNCTION [FLAGS of launch/pretrain.py]

For choices without a setting. The function must be one that may return None or False.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from launch import pretrain
from megabert.common.errors import UserError
from megabert.common.log import run_command


def finds_nothing(*_: Any, **__: Any) -> None:
    """In place of the function."""


def main(argv: Sequence[str] | None = None) -> int:
    """Replace the function before anything imports it, and train.

    Raises:
        UserError: this version has no such function.
    """
    place, *flags = sys.argv[1:] if argv is None else argv
    module, _, name = place.partition(":")
    try:
        found = importlib.import_module(module)
        getattr(found, name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"this version has no {name} in {module}") from error
    setattr(found, name, finds_nothing)
    return pretrain.main(flags)


if __name__ == "__main__":
    run_command(main)
