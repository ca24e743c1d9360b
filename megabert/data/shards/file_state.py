"""Whether an open file is still the one that was checked: it may be written, replaced or deleted meanwhile."""

from __future__ import annotations

import os
from typing import NamedTuple


class FileState(NamedTuple):
    """What changes when a file is written or deleted; times in nanoseconds.

    ``changed`` is the time of the last change of content or attributes. Programs that restore
    ``modified`` after a copy cannot restore it.
    """

    inode: int
    size: int
    links: int
    modified: int
    changed: int

    @classmethod
    def of(cls, handle: int) -> FileState:
        """The state of an open file. Raises ``OSError`` where the file system is gone."""
        status = os.fstat(handle)
        return cls(
            status.st_ino, status.st_size, status.st_nlink, status.st_mtime_ns, status.st_ctime_ns
        )

    def is_of(self, handle: int) -> bool:
        """Whether an open file is in this state; quick, for use after every read."""
        status = os.fstat(handle)
        return (
            status.st_ctime_ns == self.changed
            and status.st_mtime_ns == self.modified
            and status.st_size == self.size
        )

    @property
    def content(self) -> tuple[int, int, bool, int]:
        """What differs when the content may differ (not where only permissions or names do)."""
        return self.inode, self.size, self.links > 0, self.modified

    def fault(self, now: FileState) -> str | None:
        """Why data that was read in this state is no longer that of the file; None: check it again."""
        if not now.links:
            return "the file was deleted or replaced while it was in use"
        if now.inode != self.inode:
            return "the file was replaced while it was in use"
        if now.size < self.size:
            return "the file was truncated while it was in use"
        if now.size > self.size:
            return "the file was extended while it was in use"
        return None


NEVER_SEEN = FileState(-1, -1, -1, -1, -1)
"""The state of a file that was not opened yet."""
