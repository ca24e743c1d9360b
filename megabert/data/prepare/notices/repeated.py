"""Files that are given twice: by the same path, by another path or link, or as a copy.

A repeated file is read once, where it occurs first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from megabert.common.log import get_logger

_SHOWN = 3  # files that are named


def same_places(files: Sequence[Path]) -> dict[int, int]:
    """The files that are the same file as an earlier one: their indices, and that file's."""
    first: dict[tuple[int, int], int] = {}
    repeated = {}
    for index, path in enumerate(files):
        if not path.is_file():
            continue  # reading it gives the error
        status = path.stat()
        earlier = first.setdefault((status.st_dev, status.st_ino), index)
        if earlier != index:
            repeated[index] = earlier
    return repeated


def same_contents(
    files: Sequence[Path], digest: Callable[[int], str], among: Mapping[int, int]
) -> dict[int, int]:
    """The files that have the same content as an earlier one, or are the same file.

    Only files of equal size are compared. An empty file repeats nothing.

    Args:
        files: all files.
        digest: SHA-256 of the file with this index.
        among: of :func:`same_places`.
    """
    sizes: dict[int, list[int]] = {}
    for index, path in enumerate(files):
        if index not in among and path.is_file() and path.stat().st_size:
            sizes.setdefault(path.stat().st_size, []).append(index)
    repeated = dict(among)
    for alike in sizes.values():
        first: dict[str, int] = {}
        for index in alike if len(alike) > 1 else ():
            earlier = first.setdefault(digest(index), index)
            if earlier != index:
                repeated[index] = earlier
    for index, earlier in repeated.items():
        repeated[index] = repeated.get(earlier, earlier)
    return dict(sorted(repeated.items()))


def log_repeated(files: Sequence[Path], repeated: Mapping[int, int]) -> None:
    """Warn in one line about files that are given twice, if there are any."""
    if not repeated:
        return
    pairs = [
        f"{files[index]} = {files[earlier]}"
        if files[index] != files[earlier]
        else str(files[index])
        for index, earlier in repeated.items()
    ]
    more = f" and {len(pairs) - _SHOWN} more" if len(pairs) > _SHOWN else ""
    get_logger().warning(
        f"{len(pairs)} of {len(files)} input files repeat an earlier one (the same file or the same "
        f"content) and are read once: {', '.join(pairs[:_SHOWN])}{more}"
    )
