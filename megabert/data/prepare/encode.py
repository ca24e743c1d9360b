"""Pages to encoded documents: the work of one worker process of the sharding job."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from megabert.data.prepare.batch_files import EncodedPages
from megabert.data.prepare.filters.choices import NEAR, NO_FILTERS, FilterOptions
from megabert.data.prepare.filters.shingles import Signatures, text_digest, word_hashes
from megabert.data.shards.layout import token_dtype
from megabert.data.text.pages import Page
from megabert.data.tokenizers.base import EncodedBatch, Tokenizer, WordFinder

if TYPE_CHECKING:
    from megabert.data.text.document import Cleaned

EMPTY = "empty"
"""Drop reason of an article without text."""
SHORT = "short"
"""Drop reason of an article with fewer tokens than ``min_document_tokens``."""
DUPLICATE = "duplicate"
"""Drop reason of an article with the same ids as an earlier one."""
SAME_TEXT = "same text"
"""Drop reason of a document with the same letters and digits as an earlier one."""
NEAR_COPY = "near copy"
"""Drop reason of a document that is nearly the same as an earlier one."""
OTHER_LANGUAGE = "language"
"""Drop reason of a document in a language that is not kept."""

BATCH_CHARACTERS = 2**20
_BATCH_PAGES = 4096
_SAMPLED_ONE_IN = 64  # sentences that are compared to find repeated ones


def page_batches(pages: Iterable[Page], characters: int = BATCH_CHARACTERS) -> Iterator[list[Page]]:
    """Cut a stream of pages into batches by the length of their text alone.

    So the batches do not depend on the number of workers.
    """
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
    """Options that decide how a page is encoded, and whether it is left out.

    ``words`` finds words that the tokenizer does not know (``chinese_words.find_words``).
    """

    language: str
    min_document_tokens: int
    eval_fraction: float
    seed: int
    words: WordFinder | None = None
    filters: FilterOptions = NO_FILTERS


def in_eval_split(page_id: int, title: str, seed: int, fraction: float) -> bool:
    """Whether a page is in the evaluation split, decided by a hash of seed, page id and title."""
    digest = hashlib.blake2b(f"{seed}\t{page_id}\t{title}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < fraction * 2.0**64


def encode_pages(pages: Sequence[Page], tokenizer: Tokenizer, rules: EncodingRules) -> EncodedPages:
    """Clean, split into sentences and encode; drop pages that are not articles or are too short."""
    # the leading process imports this module too, and cleans no page
    from megabert.data.text.document import page_to_sentences

    dropped: Counter[str] = Counter()
    markup: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    articles: list[Page] = []
    sentences: list[str] = []
    counts: list[int] = []
    for page in pages:
        cleaned = page_to_sentences(page, rules.language)
        markup.update(cleaned.counts)
        if cleaned.drop_reason is not None:
            dropped[cleaned.drop_reason] += 1
            continue
        if rules.filters.keep_languages:
            found, kept = _judge(cleaned, rules.filters)
            languages[found] += 1
            if not kept:
                dropped[OTHER_LANGUAGE] += 1
                continue
        articles.append(page)
        before = len(sentences)
        for paragraph in cleaned.paragraphs:
            sentences += paragraph
        counts.append(len(sentences) - before)
    encoded = tokenizer.encode_batch(sentences, rules.words)
    article_of = np.repeat(np.arange(len(articles)), counts)
    tokens = np.bincount(article_of, encoded.lengths, len(articles)).astype(np.int64)
    long_enough = tokens >= max(1, rules.min_document_tokens)
    for reason, count in (
        (EMPTY, np.sum(tokens == 0)),
        (SHORT, np.sum((tokens > 0) & ~long_enough)),
    ):
        if count:
            dropped[reason] += int(count)
    selected = np.flatnonzero(long_enough)
    documents = _Documents(
        [articles[i] for i in selected.tolist()],
        _sentences_of(encoded, long_enough[article_of]),
        np.bincount(article_of[encoded.lengths > 0], minlength=len(articles))[selected],
        tokens[selected],
    )
    batch = _as_batch(documents, tokenizer.vocab_size, rules, len(pages), dropped)
    ends = np.cumsum(counts, dtype=np.int64)
    texts = (" ".join(sentences[ends[i] - counts[i] : ends[i]]) for i in selected.tolist())
    digests, signatures = _compared(texts, len(selected), rules.filters)
    return dataclasses.replace(
        batch,
        counts=dict(sorted(markup.items())),
        languages=dict(sorted(languages.items())),
        text_digest=digests,
        signatures=signatures,
    )


def _judge(cleaned: Cleaned, filters: FilterOptions) -> tuple[str, bool]:
    from megabert.data.prepare.filters.spoken import judge_language

    sentences = chain.from_iterable(cleaned.paragraphs)
    return judge_language(sentences, filters.keep_languages, filters.language_probability)


def _compared(
    texts: Iterable[str], count: int, filters: FilterOptions
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32]]:
    """What is compared of ``count`` texts: their digests [D, 2] and signatures [D, P].

    Without columns, what is not needed.
    """
    near = filters.deduplicate == NEAR
    digests = np.zeros((count, 2 if filters.compares_text else 0), np.uint64)
    signatures = np.zeros((count, filters.permutations if near else 0), np.uint32)
    if filters.compares_text:
        maker = _signatures(filters.permutations, filters.shingle_words) if near else None
        for row, text in enumerate(texts):
            words = word_hashes(text)
            digests[row] = np.frombuffer(text_digest(words), "<u8")
            if maker is not None:
                signatures[row] = maker.of(words)
    return digests, signatures


_signatures = lru_cache(maxsize=1)(Signatures)


@dataclass(frozen=True)
class _Documents:
    """Pages, one document each; all their sentences; sentences and tokens of each document [D]."""

    pages: Sequence[Page]
    encoded: EncodedBatch
    sentences: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int64]


def _sentences_of(encoded: EncodedBatch, wanted: npt.NDArray[np.bool_]) -> EncodedBatch:
    """The wanted sentences (bool [S]) that have any ids."""
    tokens = np.repeat(wanted, encoded.lengths)
    lengths = encoded.lengths[wanted & (encoded.lengths > 0)]
    return EncodedBatch(encoded.ids[tokens], encoded.word_starts[tokens], lengths)


def _as_batch(
    documents: _Documents,
    vocab_size: int,
    rules: EncodingRules,
    pages_read: int,
    dropped: Counter[str],
) -> EncodedPages:
    encoded = documents.encoded
    evaluation = [
        in_eval_split(page.page_id, page.title, rules.seed, rules.eval_fraction)
        for page in documents.pages
    ]
    return EncodedPages(
        tokens=encoded.ids.astype(token_dtype(vocab_size)),
        word_bits=np.packbits(encoded.word_starts, bitorder="little"),
        sentence_lengths=encoded.lengths.astype(np.uint32),
        document_sentences=documents.sentences.astype(np.uint32),
        document_tokens=documents.tokens.astype(np.uint32),
        document_ids=np.array([page.page_id for page in documents.pages], np.int64),
        document_eval=np.array(evaluation, np.uint8),
        document_digest=_document_digests(documents),
        sentence_sample=_sentence_sample(encoded),
        pages=pages_read,
        dropped=dict(sorted(dropped.items())),
    )


def _sentence_sample(encoded: EncodedBatch) -> npt.NDArray[np.uint64]:
    """Digests of about one sentence in 64, uint64; equal sentences are all in the sample or none is.

    What chooses a sentence is the sum of its ids, so that only the chosen ones are digested.
    """
    ends = np.cumsum(encoded.lengths)
    begins = ends - encoded.lengths
    totals = np.concatenate(([0], np.cumsum(encoded.ids, dtype=np.int64)))
    keys = _mixed((totals[ends] - totals[begins]).astype(np.uint64))
    chosen = np.flatnonzero(keys % np.uint64(_SAMPLED_ONE_IN) == 0)
    digests = [
        hashlib.blake2b(encoded.ids[begin:end].tobytes(), digest_size=8).digest()
        for begin, end in zip(begins[chosen].tolist(), ends[chosen].tolist())
    ]
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): every bit depends on all bits."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _document_digests(documents: _Documents) -> npt.NDArray[np.uint64]:
    """Digests of each document's sentence lengths and ids, uint64 [D, 2]."""
    encoded = documents.encoded
    digests = b"".join(
        hashlib.blake2b(lengths.tobytes() + ids.tobytes(), digest_size=16).digest()
        for lengths, ids in zip(
            np.split(encoded.lengths, np.cumsum(documents.sentences)[:-1]),
            np.split(encoded.ids, np.cumsum(documents.tokens)[:-1]),
        )
    )
    return np.frombuffer(digests, "<u8").astype(np.uint64).reshape(-1, 2)[: len(documents.pages)]
