"""The prepared text: tokenizers, shards and held-out passages in one folder, with their checksums.

FOLDER/speedrun.json         checksums
FOLDER/held-out.jsonl        the passages that are scored
FOLDER/8192/tokenizer/       the vocabulary of 8,192 entries; others next to it
FOLDER/8192/shards/
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speedrun.held_out import (
    PASSAGES,
    SPLIT_SEED,
    held_out_passages,
    write_passages,
)
from benchmarks.steps.runs import ROOT
from megabert.common.errors import UserError
from megabert.common.files import remove_folder, sha256_of_file, sha256_of_parts, write_json
from megabert.common.json_text import read_json_object
from megabert.common.names import EVAL, MANIFEST, TOKENIZER_FOLDER, TRAIN
from megabert.common.storage import require_writable
from megabert.data.shards.corpus import Corpus
from megabert.data.shards.manifest import load_manifest
from megabert.data.shards.spans import Spans

RECORD, HELD_OUT = "speedrun.json", "held-out.jsonl"
VOCABULARY = 8192
"""Entries of the vocabulary that the rules fix; entries of the speedrun may name another one."""
EVAL_FRACTION = 0.01
_DOCUMENTS = 512


@dataclass(frozen=True)
class PreparedText:
    """A folder that ``prepare`` has made."""

    folder: Path
    record: dict[str, Any]

    @property
    def held_out(self) -> Path:
        """The file of passages."""
        return self.folder / HELD_OUT

    def shards(self, vocabulary: int) -> Path:
        """The shards of a vocabulary.

        Raises:
            UserError: they are not there.
        """
        if str(vocabulary) not in self.record["vocabularies"]:
            raise UserError(
                f"{self.folder} has no vocabulary of {vocabulary} entries: run prepare again with "
                f"--vocab-size {vocabulary}"
            )
        return self.folder / str(vocabulary) / "shards"

    def checksums(self, vocabulary: int) -> dict[str, str]:
        """What a record says about the text it was made with."""
        return {"held_out": self.record["held_out"], **self.record["vocabularies"][str(vocabulary)]}


def open_prepared(folder: Path) -> PreparedText:
    """The folder, after checking its passages.

    Raises:
        UserError: ``prepare`` has not made it, or it was changed.
    """
    path = folder / RECORD
    if not path.is_file():
        raise UserError(
            f"--data {folder}: no {RECORD} there; make it with: python -m benchmarks.speedrun prepare "
            f"--text DUMP... --data {folder}"
        )
    prepared = PreparedText(folder, read_json_object(path))
    if sha256_of_file(prepared.held_out) != prepared.record["held_out"]:
        raise UserError(f"{prepared.held_out} was changed: remove {folder} and prepare it again")
    return prepared


def prepare(
    text: Sequence[Path], folder: Path, vocabulary: int = VOCABULARY, fraction: float = EVAL_FRACTION
) -> PreparedText:  # fmt: skip
    """Make what is missing in the folder: tokenizer and shards of a vocabulary, and the held-out passages.

    Raises:
        UserError: the text cannot be read, or the folder was made of another text.
    """
    text, folder = [path.absolute() for path in text], folder.absolute()
    require_writable(folder)
    record: dict[str, Any] = {"eval_fraction": fraction, "vocabularies": {}}
    if (folder / RECORD).is_file():
        record = open_prepared(folder).record
        if record["eval_fraction"] != fraction:
            raise UserError(
                f"--eval-fraction {fraction}: {folder} was made with {record['eval_fraction']}"
            )
    elif folder.exists() and (not folder.is_dir() or any(folder.glob("*.jsonl"))):
        raise UserError(f"--data {folder} holds other files; name a new folder")
    given = ["--input", *map(str, text)]
    tokenizer, shards = (folder / str(vocabulary) / name for name in (TOKENIZER_FOLDER, "shards"))
    if not tokenizer.is_dir():
        kind = ["--type", "wordpiece", "--vocab-size", str(vocabulary)]
        _run("data_tools/train_tokenizer.py", *given, *kind, "--output", str(tokenizer))
    if not (shards / MANIFEST).is_file():
        if shards.exists():
            remove_folder(shards)
        split = ["--eval-fraction", str(fraction), "--seed", str(SPLIT_SEED)]
        words = ["--tokenizer", str(tokenizer)]
        _run("data_tools/shard_wiki.py", *given, *words, *split, "--output", str(shards))
    manifest = load_manifest(shards)
    sources = [source.sha256 for source in manifest.inputs]
    if record.setdefault("text", sources) != sources:
        raise UserError(f"--text: {folder} was made of another text; name a new folder")
    if "held_out" not in record:
        passages = held_out_passages(text, fraction, PASSAGES)
        write_passages(folder / HELD_OUT, passages)
        record["held_out"] = sha256_of_file(folder / HELD_OUT)
        record["passages"] = len(passages)
        record["words"] = sum(len(passage.words) for passage in passages)
    record["vocabularies"][str(vocabulary)] = {
        "tokenizer": manifest.tokenizer.sha256,
        "manifest": sha256_of_file(shards / MANIFEST),
        "articles": articles_checksum(shards),
    }
    write_json(folder / RECORD, record)
    return PreparedText(folder, record)


def _run(*command: str) -> None:
    """Show and run a command of ours.

    Raises:
        UserError: it failed; it has said why.
    """
    print(shlex.join(["python", *command]), flush=True)
    done = subprocess.run([sys.executable, *command], cwd=ROOT, check=False)
    if done.returncode:
        raise UserError(f"{command[0]} failed with exit status {done.returncode}")


def articles_checksum(shards: Path) -> str:
    """SHA-256 of page ids, lengths and ids of all articles: the same whatever the inputs are named."""

    def parts() -> Iterator[bytes]:
        for split in (TRAIN, EVAL):
            corpus = Corpus.open(shards, split)
            yield split.encode()
            for first in range(0, corpus.num_documents, _DOCUMENTS):
                documents = np.arange(first, min(first + _DOCUMENTS, corpus.num_documents))
                lengths = corpus.document_lengths[documents]
                ids = [corpus.document_id(document) for document in documents.tolist()]
                yield np.array(ids, "<i8").tobytes()
                yield lengths.astype("<i8").tobytes()
                spans = Spans(documents, np.zeros_like(documents), lengths)
                yield corpus.read_tokens(spans).astype("<u4").tobytes()

    return sha256_of_parts(parts())
