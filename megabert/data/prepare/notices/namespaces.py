"""Dumps that do not list their namespaces, so that names are assumed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from megabert.common.log import get_logger
from megabert.data.text.input.mediawiki import DumpHead

_SHOWN = 3  # inputs with a line of their own


def log_assumed_namespaces(inputs: Iterable[tuple[Path, Sequence[DumpHead]]]) -> None:
    """Log for which inputs the names of namespaces, or the namespaces of pages, are assumed.

    Args:
        inputs: each input, and the heads of its dumps.
    """
    lines = [line for path, heads in inputs if (line := _assumed(path, heads))]
    for line in lines[:_SHOWN]:
        get_logger().info(line)
    if len(lines) > _SHOWN:
        get_logger().info(f"the same holds for {len(lines) - _SHOWN} more inputs")


def _assumed(path: Path, heads: Sequence[DumpHead]) -> str:
    found = [head for head in heads if not head.site.complete]
    if not found:
        return ""
    languages = sorted({head.site.language or "all languages" for head in found})
    part = f" in {len(found)} of {len(heads)} dumps" if len(heads) > 1 else ""
    line = (
        f"{path}: the <siteinfo> is missing or does not list all namespaces{part}: the names that "
        f"MediaWiki, Wikimedia's wikis and {', '.join(languages)} have for them are assumed"
    )
    if any(head.guessed for head in found):
        line += "; pages without <ns> are articles if their title begins with none of these names"
    return line
