"""The manifest of a folder of shards: ``manifest.json``.

A folder holds one HDF5 file per shard (:mod:`megabert.data.shards.corpus`), a copy of the tokenizer
in ``tokenizer/``, and ``manifest.json``. The manifest is written last: a folder without one is not
finished. It depends only on (inputs, tokenizer, options) and holds no time, path or host name, so
``cmp`` can compare two runs over the same dump.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megabert.common import names
from megabert.common.errors import UserError
from megabert.common.files import read_limited, sha256_of, write_bytes
from megabert.common.json_text import MAX_JSON_BYTES, JsonError, parse_json

FORMAT = "megabert-shards"
VERSION = 1


class ShardError(UserError):
    """Shards that are damaged, cut off, missing, or do not match their manifest."""


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the tokenizer's five special tokens. ``ids["mask"]`` is ``ids.mask``."""

    pad: int
    unk: int
    cls: int
    sep: int
    mask: int

    def __getitem__(self, name: str) -> int:
        if name not in {f.name for f in dataclasses.fields(self)}:
            raise KeyError(name)
        return int(getattr(self, name))

    def values(self) -> tuple[int, ...]:
        """The five ids, in the order pad, unk, cls, sep, mask."""
        return (self.pad, self.unk, self.cls, self.sep, self.mask)

    def as_dict(self) -> dict[str, int]:
        """``{"pad": 0, "unk": 100, ...}``"""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class TokenizerInfo:
    """The tokenizer that made the ids.

    Attributes:
        sha256: identifies the tokenizer's behaviour, not one file: the same vocabulary and casing
            give the same value, whether loaded from ``vocab.txt`` or from ``tokenizer.json``.
        files: SHA-256 of each copy in the folder ``tokenizer/``.
    """

    kind: str
    sha256: str
    vocab_size: int
    lower_case: bool
    special: SpecialIds
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class InputInfo:
    """One input of the sharding job.

    Attributes:
        name: its base name.
        bytes: its size.
        sha256: of its content.
        read_as: the formats it was taken for, and the layout of text; "" in older manifests.
        language: the language it was read by, "mul" for files of several; "" in older manifests.
        repeated: its files that are the same as an earlier file, and were not read again.
    """

    name: str
    bytes: int
    sha256: str
    read_as: str = ""
    language: str = ""
    repeated: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The JSON object, without what is not known."""
        record = dataclasses.asdict(self)
        optional = ("read_as", "language", "repeated")
        return {key: value for key, value in record.items() if value or key not in optional}


@dataclass(frozen=True)
class ShardInfo:
    """One shard file: its name in the folder, size in bytes, SHA-256, and counts."""

    file: str
    bytes: int
    sha256: str
    documents: int
    sentences: int
    tokens: int


@dataclass(frozen=True)
class SplitInfo:
    """The shards of one split, in order, and their totals."""

    shards: tuple[ShardInfo, ...] = ()

    @property
    def documents(self) -> int:
        """Documents over all shards of the split."""
        return sum(s.documents for s in self.shards)

    @property
    def sentences(self) -> int:
        """Sentences over all shards of the split."""
        return sum(s.sentences for s in self.shards)

    @property
    def tokens(self) -> int:
        """Tokens over all shards of the split, without special tokens."""
        return sum(s.tokens for s in self.shards)


@dataclass(frozen=True)
class Manifest:
    """The content of ``manifest.json``.

    Attributes:
        dropped: documents dropped, by reason.
        markup: what became of wikitext: template calls, sentences left out, list items.
        unknown_templates: the most frequent templates for which sentences were left out.
        languages: documents by the language that was detected, kept or not; empty if it was not
            asked for.
    """

    tokenizer: TokenizerInfo
    language: str
    seed: int
    splits: Mapping[str, SplitInfo]
    inputs: tuple[InputInfo, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    articles_read: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    repeated_sentence_share: float = 0.0
    markup: Mapping[str, int] = field(default_factory=dict)
    unknown_templates: Mapping[str, int] = field(default_factory=dict)
    languages: Mapping[str, int] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the whole content: shard digests, tokenizer, inputs, options, counts."""
        return sha256_of(_canonical(self.content()))

    @property
    def articles_kept(self) -> int:
        """Documents over all splits."""
        return sum(split.documents for split in self.splits.values())

    @property
    def of_wikis(self) -> bool:
        """Whether an input is a wiki (of older manifests that do not say it: always)."""
        read_as = " ".join(i.read_as for i in self.inputs)
        return not read_as or any(name in read_as for name in ("mediawiki", "wikiextractor"))

    @property
    def kept_of_read(self) -> str:
        """How many documents were kept, in the words of the inputs."""
        if self.of_wikis:
            return f"{self.articles_kept} articles kept of {self.articles_read} pages"
        return f"{self.articles_kept} documents kept of {self.articles_read}"

    def content(self) -> dict[str, Any]:
        """The manifest as JSON values, without its fingerprint."""
        # absent where empty, so that older folders keep their fingerprint
        markup = {"markup": dict(self.markup)} if self.markup else {}
        unknown = {"unknown_templates": dict(self.unknown_templates)} if self.markup else {}
        languages = {"languages": dict(sorted(self.languages.items()))} if self.languages else {}
        return {
            "format": FORMAT,
            "version": VERSION,
            "language": self.language,
            "seed": self.seed,
            "tokenizer": dataclasses.asdict(self.tokenizer),
            "inputs": [i.as_dict() for i in self.inputs],
            "options": dict(self.options),
            "articles" if self.of_wikis else "documents": {
                "read": self.articles_read,
                "kept": self.articles_kept,
            },
            "dropped": dict(sorted(self.dropped.items())),
            "repeated_sentence_share": self.repeated_sentence_share,
            **markup,
            **unknown,
            **languages,
            "splits": {name: _split_as_json(split) for name, split in self.splits.items()},
        }


def save_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``folder/manifest.json`` whole or not at all."""
    body = manifest.content() | {"fingerprint": manifest.fingerprint}
    write_bytes(folder / names.MANIFEST, _as_written(body))


def load_manifest(folder: Path | str) -> Manifest:
    """Read and check ``folder/manifest.json``.

    Raises:
        ShardError: the folder or the manifest is missing, or the manifest has another format or
            version or has been changed since it was written.
    """
    path = Path(folder) / names.MANIFEST
    if not Path(folder).is_dir():
        raise ShardError(f"{folder}: no such folder; make shards with data_tools/shard_wiki.py")
    if not path.is_file():
        raise ShardError(
            f"{folder}: not a finished folder of shards ({names.MANIFEST} is missing); "
            "make it with data_tools/shard_wiki.py (--resume continues a stopped run)"
        )
    content = _content(path)
    try:
        body = parse_json(content)
        fingerprint = body.pop("fingerprint")
    except (JsonError, KeyError, AttributeError, TypeError) as error:
        raise ShardError(f"{path}: damaged or not a manifest ({error})") from None
    if body.get("format") != FORMAT or body.get("version") != VERSION:
        raise ShardError(
            f"{path}: format {body.get('format')!r} version {body.get('version')!r}; this program "
            f"reads {FORMAT!r} version {VERSION}; make the shards again"
        )
    if sha256_of(_canonical(body)) != fingerprint:
        raise ShardError(f"{path}: damaged or edited: its content does not match its fingerprint")
    if _as_written(body | {"fingerprint": fingerprint}) != content:
        raise ShardError(f"{path}: damaged or edited: its line breaks or spaces have changed")
    from megabert.data.shards.schema import manifest_fault

    fault = manifest_fault(body)
    if fault is not None:
        raise ShardError(f"{path}: not a manifest of this version ({fault})")
    try:
        return _from_json(body)
    except (KeyError, TypeError, ValueError) as error:
        raise ShardError(f"{path}: not a manifest of this version ({error!r})") from None


def _content(path: Path) -> bytes:
    try:
        return read_limited(path, MAX_JSON_BYTES, "a manifest")
    except UserError as error:
        raise ShardError(str(error)) from error
    except OSError as error:
        raise ShardError(f"{path}: cannot be read: {error.strerror}") from error


def _as_written(body: Mapping[str, Any]) -> bytes:
    return (json.dumps(body, indent=2, ensure_ascii=False) + "\n").encode()


def _canonical(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _split_as_json(split: SplitInfo) -> dict[str, Any]:
    return {
        "documents": split.documents,
        "sentences": split.sentences,
        "tokens": split.tokens,
        "shards": [dataclasses.asdict(s) for s in split.shards],
    }


def _from_json(body: Mapping[str, Any]) -> Manifest:
    tokenizer = dict(body["tokenizer"])
    tokenizer["special"] = SpecialIds(**tokenizer["special"])
    splits = {
        name: SplitInfo(tuple(ShardInfo(**shard) for shard in split["shards"]))
        for name, split in body["splits"].items()
    }
    return Manifest(
        tokenizer=TokenizerInfo(**tokenizer),
        language=body["language"],
        seed=body["seed"],
        splits=splits,
        inputs=tuple(InputInfo(**i) for i in body["inputs"]),
        options=body["options"],
        articles_read=(body.get("articles") or body["documents"])["read"],
        dropped=body["dropped"],
        repeated_sentence_share=body["repeated_sentence_share"],
        markup=body.get("markup", {}),
        unknown_templates=body.get("unknown_templates", {}),
        languages=body.get("languages", {}),
    )
