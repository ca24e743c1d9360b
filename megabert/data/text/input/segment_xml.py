"""Segments of a MediaWiki export as XML documents: the pages whose tag begins in a range of bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain

_PAGE = b"<page"
_PAGE_TAG = re.compile(rb"<page[\s/>]")
_OPEN, _CLOSE = b"<mediawiki>", b"</mediawiki>"


def segment_xml(
    owned: Iterable[bytes], following: Iterable[bytes], *, whole: bool
) -> Iterator[bytes]:
    """The XML of the pages that begin in ``owned``, as a separate document, in pieces.

    It is empty if no page begins in ``owned``. If ``following`` ends before the next page's tag,
    the document ends like the file.

    Args:
        owned: a segment of an export's XML, in pieces.
        following: the XML after it, read up to the next page's tag.
        whole: begin at the beginning of ``owned``, instead of at the first page's tag.
    """
    started = whole
    data = b""  # read but not yielded: without a page's tag, or perhaps with the beginning of one
    for piece in owned:
        data += piece
        if not started and (found := _PAGE_TAG.search(data)):
            started, data = True, data[found.start() :]
            yield _OPEN
        cut = len(data) - _tag_begun(data)
        if started:
            yield data[:cut]
        data = data[cut:]
    rest = _at_least(len(_PAGE) + 1, following)
    owned_bytes = len(data)
    if owned_bytes:
        data += next(rest, b"")
        if not started and _PAGE_TAG.match(data):
            started = True
            yield _OPEN
    if not started:
        return
    for piece in chain([b""], rest):
        data += piece
        if found := _PAGE_TAG.search(data, owned_bytes):
            yield data[: found.start()]
            yield _CLOSE
            return
        cut = len(data) - _tag_begun(data)
        yield data[:cut]
        data, owned_bytes = data[cut:], 0
    yield data


def _tag_begun(data: bytes) -> int:
    """Length of the part at the end of ``data`` that may be the beginning of a page's tag."""
    start = data.rfind(b"<", max(0, len(data) - len(_PAGE)))
    return len(data) - start if start >= 0 and _PAGE.startswith(data[start:]) else 0


def _at_least(size: int, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of at least ``size`` bytes, except for the last piece."""
    data = b""
    for piece in pieces:
        data += piece
        if len(data) >= size:
            yield data
            data = b""
    if data:
        yield data
