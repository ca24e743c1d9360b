"""The file of a benchmark's figures, checked before the work for it."""

from __future__ import annotations

import os
from pathlib import Path

from megabert.config.values import WrongValue, utf8_path


def json_file(text: str) -> Path:
    """A file that can be written (an argparse ``type``).

    Raises:
        WrongValue: it cannot: its folder is missing, or a folder has its name.
    """
    path = utf8_path(text)
    folder = path.absolute().parent
    if not folder.is_dir():
        raise WrongValue(f"there is no folder {folder}; make it or name another file")
    if path.is_dir():
        raise WrongValue("this is a folder; name a file")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise WrongValue("it cannot be written; change its permissions or name another file")
    return path
