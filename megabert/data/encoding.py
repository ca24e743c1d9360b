"""Pages to encoded documents: the work of one worker process of the sharding job."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megabert.data.shard_layout import token_dtype
from megabert.data.spill import Batch
from megabert.data.text.document import page_to_sentences
from megabert.data.text.pages import Page
from megabert.data.tokenization import Encoded, Tokenizer

SHORT = "short"
"""Drop reason of an article with fewer tokens than ``min_document_tokens``."""
DUPLICATE = "duplicate"
"""Drop reason of an article whose ids equal those of an earlier one."""

BATCH_CHARACTERS = 2**20
_BATCH_PAGES = 4096
_SAMPLE = 64  # one sentence in so many is looked at for repeated sentences


def page_batches(pages: Iterable[Page], characters: int = BATCH_CHARACTERS) -> Iterator[list[Page]]:
    """Cut a stream of pages into batches by length of text alone, the same for any workers."""
    batch: list[Page] = []
    size = 0
    for page in pages:
        batch.append(page)
        size += len(page.text)
        if size >= characters or len(batch) >= _BATCH_PAGES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@dataclass(frozen=True)
class EncodingRules:
    """Options that decide what becomes of a page."""

    language: str
    min_document_tokens: int
    eval_fraction: float
    seed: int


def in_eval_split(page_id: int, title: str, seed: int, fraction: float) -> bool:
    """Whether a page belongs to the evaluation split: by a hash of seed, page id and title."""
    digest = hashlib.blake2b(f"{seed}\t{page_id}\t{title}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < fraction * 2.0**64


def encode_pages(pages: Sequence[Page], tokenizer: Tokenizer, rules: EncodingRules) -> Batch:
    """Clean, split into sentences and encode; drop what is no article or too short."""
    dropped: Counter[str] = Counter()
    kept: list[tuple[Page, list[str]]] = []
    for page in pages:
        cleaned = page_to_sentences(page, rules.language)
        if cleaned.drop_reason is not None:
            dropped[cleaned.drop_reason] += 1
            continue
        kept.append((page, [s for paragraph in cleaned.paragraphs for s in paragraph]))
    flat = [sentence for _, sentences in kept for sentence in sentences]
    encoded = tokenizer.encode_sentences(flat, with_offsets=False)
    documents: list[tuple[Page, list[Encoded]]] = []
    position = 0
    for page, texts in kept:
        content = [e for e in encoded[position : position + len(texts)] if len(e.ids)]
        position += len(texts)
        size = sum(len(e.ids) for e in content)
        if not size:
            dropped["empty"] += 1
        elif size < rules.min_document_tokens:
            dropped[SHORT] += 1
        else:
            documents.append((page, content))
    return _as_batch(documents, tokenizer, rules, len(pages), dropped)


def _as_batch(
    documents: Sequence[tuple[Page, list[Encoded]]],
    tokenizer: Tokenizer,
    rules: EncodingRules,
    pages: int,
    dropped: Counter[str],
) -> Batch:
    sentences = [sentence for _, content in documents for sentence in content]
    tokens = [e.ids for e in sentences]
    words = [e.word_starts for e in sentences]
    sample = [digest for e in sentences if (digest := _digest(e.ids)) % _SAMPLE == 0]
    evaluation = [
        in_eval_split(page.page_id, page.title, rules.seed, rules.eval_fraction)
        for page, _ in documents
    ]
    digests = [_document_digest(content) for _, content in documents]
    return Batch(
        tokens=_joined(tokens, np.int32).astype(token_dtype(tokenizer.vocab_size)),
        word_bits=np.packbits(_joined(words, np.bool_), bitorder="little"),
        sentence_lengths=np.array([len(ids) for ids in tokens], np.uint32),
        document_sentences=np.array([len(content) for _, content in documents], np.uint32),
        document_tokens=np.array([sum(len(e.ids) for e in c) for _, c in documents], np.uint32),
        document_ids=np.array([page.page_id for page, _ in documents], np.int64),
        document_eval=np.array(evaluation, np.uint8),
        document_digest=np.array(digests, np.uint64).reshape(-1, 2),
        sentence_sample=np.array(sample, np.uint64),
        pages=pages,
        dropped=dict(sorted(dropped.items())),
    )


def _joined(parts: Sequence[npt.NDArray], dtype: type) -> npt.NDArray:
    return np.concatenate(parts) if parts else np.zeros(0, dtype)


def _digest(ids: npt.NDArray[np.int32]) -> int:
    return int.from_bytes(hashlib.blake2b(ids.tobytes(), digest_size=8).digest(), "little")


def _document_digest(content: Sequence[Encoded]) -> tuple[int, int]:
    state = hashlib.blake2b(digest_size=16)
    for sentence in content:
        state.update(len(sentence.ids).to_bytes(4, "little"))
        state.update(sentence.ids.tobytes())
    raw = state.digest()
    return int.from_bytes(raw[:8], "little"), int.from_bytes(raw[8:], "little")
