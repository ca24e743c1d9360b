"""Values of flags that name a checkpoint: a folder, or the file ``best`` or ``latest`` of a run."""

from __future__ import annotations

from pathlib import Path

from megabert.common.errors import UserError
from megabert.common.files import read_limited
from megabert.common.names import BEST, LATEST, RESUMED_FROM, step_of_tag
from megabert.common.storage import named_storage_errors


def named_checkpoint(path: Path) -> Path:
    """The folder that ``RUN/checkpoints/best`` (or ``latest``) names; any other path as it is.

    Raises:
        UserError: it is such a file and does not name a checkpoint next to it.
    """
    if path.name not in (BEST, LATEST, RESUMED_FROM) or not path.is_file():
        return path
    with named_storage_errors(path, "cannot be read"):
        name = read_limited(path, 1 << 20, "a name").decode(errors="replace").strip()
    if step_of_tag(name) < 0 or not (path.parent / name).is_dir():
        raise UserError(f"{path} does not name a checkpoint next to it: name a checkpoint's folder")
    return path.parent / name


def model_is_there(path: Path) -> bool:
    """Whether there is such a file or folder, or a TensorFlow checkpoint of which it is the prefix."""
    return path.exists() or path.with_name(f"{path.name}.index").is_file()
