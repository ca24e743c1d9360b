"""Whether a text can be the name of a label, where a file's labels are found in the file itself."""

from __future__ import annotations

_MISSING = frozenset(["", "none", "null", "nan", "n/a", "<na>", "undefined", "-", "?"])


def is_no_name(text: str) -> bool:
    """Whether a label is empty, a negative number, or what programs write for a missing value."""
    plain = text.strip().lower()
    negative = plain[:1] == "-" and plain[1:].replace(".", "", 1).isdecimal()
    return plain in _MISSING or negative
