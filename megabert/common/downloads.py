"""Files that a download left in place of the file itself."""

from __future__ import annotations

import re
from pathlib import Path

from megabert.common.errors import UserError
from megabert.common.files import open_file
from megabert.common.storage import named_storage_errors

_LOOKED_AT = 512  # bytes
_LFS = b"version https://git-lfs.github.com/spec/"
_PAGE = re.compile(
    rb"\s*(<!doctype html|<html|<head|<\?xml[^>]*>\s*<(!doctype html|html|error))", re.I
)
_ANSWERS = (b"Entry not found", b"Repository not found", b"Invalid username or password", b"404:")


def left_by_download(path: Path) -> str | None:
    """What a file is instead of its content: a pointer of Git LFS, a web page, nothing; else None.

    None is also the answer for a file that is missing or cannot be read, and for what is not a regular file.
    """
    try:
        with open_file(path) as file:
            head = file.read(_LOOKED_AT)
    except (OSError, UserError):
        return None
    if not head:
        return "an empty file (truncated, or not downloaded): get it again"
    if head.startswith(_LFS):
        return "a pointer of Git LFS and not the file itself: run git lfs pull in its folder"
    if _PAGE.match(head.removeprefix(b"\xef\xbb\xbf")):
        return (
            "a web page or the error message of a server and not the file itself: download it again, "
            "from the link of the raw file"
        )
    if head.startswith(_ANSWERS):
        answer = head.split(b"\n")[0][:60].decode("utf-8", "replace")
        return f"the answer of a server ({answer!r}) and not the file itself: download it again"
    return None


def check_downloaded(path: Path) -> None:
    """Check that a file is not something that a download left in its place.

    Raises:
        UserError: it is, or cannot be read; the message says what it is and what to do.
    """
    with named_storage_errors(path, "cannot be read"):
        open_file(path).close()
    what = left_by_download(path)
    if what is not None:
        raise UserError(f"{path} cannot be read: it is {what}")
