"""What is read of folders of the datasets library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megabert.common.log import get_logger
from megabert.data.text.input.sources import datasets_in
from megabert.data.text.reading import AUTO


def log_datasets(inputs: Sequence[Path], split: str) -> None:
    """Log which split and how many files are read of each folder; warn if ``split`` has no effect.

    Raises:
        UserError: a folder is not complete, or has no such split.
    """
    found = [dataset for path in inputs for dataset in datasets_in(path, split)]
    for dataset in found:
        get_logger().info(dataset.notice)
    if split != AUTO and not any(dataset.splits for dataset in found):
        get_logger().warning(
            "--split has no effect: no input is a folder of the datasets library with splits"
        )
