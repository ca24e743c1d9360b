"""The shapes of ``manifest.json`` and of a shard's preamble, and the limits that keep them consistent.

Sums over a manifest say that it is as it was written, not by whom: what it names and counts is checked
before a file is opened or memory is taken for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from megabert.common.schema import Count, FileName, Sha256, shape_fault

_Vocabulary = Annotated[int, Field(ge=1, lt=1 << 31)]
_Range = Annotated[list[Count], Field(min_length=2, max_length=2)]
_Names = Annotated[str, Field(max_length=200)]


class _Special(TypedDict):
    pad: Count
    unk: Count
    cls: Count
    sep: Count
    mask: Count


class _Tokenizer(TypedDict):
    kind: str
    sha256: Sha256
    vocab_size: _Vocabulary
    lower_case: bool
    special: _Special
    files: NotRequired[dict[FileName, Sha256]]


class _Input(TypedDict):
    name: str
    bytes: Count
    sha256: str
    read_as: NotRequired[str]
    language: NotRequired[str]
    repeated: NotRequired[Count]


class _Shard(TypedDict):
    file: FileName
    bytes: Count
    sha256: Sha256
    documents: Count
    sentences: Count
    tokens: Count


class _Split(TypedDict):
    shards: list[_Shard]


class _Pages(TypedDict):
    read: Count


class _Manifest(TypedDict):
    language: _Names
    seed: int
    tokenizer: _Tokenizer
    inputs: list[_Input]
    options: dict[str, Any]
    articles: NotRequired[_Pages]
    documents: NotRequired[_Pages]
    dropped: dict[str, Count]
    repeated_sentence_share: Annotated[float, Field(ge=0, le=1)]
    markup: NotRequired[dict[str, Count]]
    unknown_templates: NotRequired[dict[str, Count]]
    languages: NotRequired[dict[_Names, Count]]
    splits: dict[_Names, _Split]


def manifest_fault(body: Mapping[str, Any]) -> str | None:
    """What is wrong with the content of a manifest; None if nothing is."""
    fault = shape_fault(_Manifest, body)
    if fault is not None:
        return fault
    size = body["tokenizer"]["vocab_size"]
    for name, number in body["tokenizer"]["special"].items():
        if number >= size:
            return f"tokenizer.special.{name}: {number} is outside the vocabulary of {size}"
    shards = [
        (f"splits.{name}.shards[{number}]", shard)
        for name, split in body["splits"].items()
        for number, shard in enumerate(split["shards"])
    ]
    if len({shard["file"] for _, shard in shards}) < len(shards):
        return "splits: two shards have the same file"
    return next(filter(None, (_shard_fault(place, shard) for place, shard in shards)), None)


def _shard_fault(place: str, shard: Mapping[str, Any]) -> str | None:
    documents, sentences, tokens = (shard[n] for n in ("documents", "sentences", "tokens"))
    if not 0 < documents <= sentences <= tokens:
        return (
            f"{place}: {documents} documents, {sentences} sentences and {tokens} tokens: a document has "
            "a sentence, and a sentence a token"
        )
    if 12 * documents + 4 * sentences + 2 * tokens > shard["bytes"]:
        return f"{place}: {shard['bytes']} bytes, too few for {tokens} tokens"
    return None


class _Preamble(TypedDict):
    file_bytes: Count
    checksums_offset: Count
    checksums_count: Count
    checksums_crc32: Count
    arrays: dict[str, _Range]
    content: NotRequired[dict[str, str | int]]
    block_bytes: Count
    format: str
    version: Count


class _Content(TypedDict):
    tokenizer_sha256: Sha256
    vocab_size: _Vocabulary
    language: str
    seed: int
    split: str
    shard_index: Count
    shard_count: Count
    documents: Count
    sentences: Count
    tokens: Count


def content_fault(content: Mapping[str, Any]) -> str | None:
    """What is wrong with what a shard says it holds; None if nothing is."""
    return shape_fault(_Content, content)


def preamble_fault(fields: Any) -> str | None:
    """What is wrong with the shape of a preamble's JSON; None if nothing is."""
    return shape_fault(_Preamble, fields)


def ranges_fault(
    ranges: Iterable[tuple[str, int, int]], first_byte: int, file_bytes: int
) -> str | None:
    """The first array (name, offset, bytes) that is not inside a file, or overlaps another one."""
    before, end = "", first_byte
    for name, offset, size in sorted(ranges, key=lambda item: item[1:]):
        if offset < end:
            return f"{name} begins at byte {offset}, inside {before or 'the preamble'}"
        before, end = name, offset + size
        if end > file_bytes:
            return f"{name} ends at byte {end} of {file_bytes}"
    return None
