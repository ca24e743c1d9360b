"""Regular expressions that are compiled when they are first used."""

from __future__ import annotations

import re
from typing import Any, cast


class _LazyPattern:
    """Becomes the pattern with the first method that is called."""

    def __init__(self, source: str, flags: int) -> None:
        self._source, self._flags = source, flags

    def __getattr__(self, name: str) -> Any:
        # the bound method is kept, so that only its first use comes here
        value = getattr(re.compile(self._source, self._flags), name)
        setattr(self, name, value)
        return value


def lazy_pattern(source: str, flags: int = 0) -> re.Pattern[str]:
    """A pattern whose first use compiles it.

    For large classes of characters that many jobs never look for: compiling one takes about as long
    as importing a module, in each worker process.
    """
    return cast("re.Pattern[str]", _LazyPattern(source, flags))
