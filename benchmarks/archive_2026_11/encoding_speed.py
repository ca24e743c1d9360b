"""Speed of encoding, in MB (10^6 bytes of UTF-8) per CPU second of one process.

    python benchmarks/archive_2026_11/encoding_speed.py --input dump.xml.bz2 --tokenizer vocab.txt --language en

Prints one line for each way to encode the sentences of the input: ``library``, the tokenizers or
sentencepiece library's own call, its ids left in its own objects; ``first``, ``encode_batch`` of
a fresh process, and ``again``, the same text once more; ``words``, with jieba's words; ``offsets``,
``encode_sentences`` with each token's characters. Batches are of 2**20 characters, as in sharding.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

from megabert.common.log import run_command
from megabert.data.text.document import page_to_sentences
from megabert.data.text.input.sources import iter_pages
from megabert.data.tokenizers.base import Tokenizer
from megabert.data.tokenizers.chinese_words import find_words
from megabert.data.tokenizers.load import load_tokenizer
from megabert.data.tokenizers.sentencepiece import SentencePieceTokenizer

BATCH_CHARACTERS = 2**20


def read_batches(path: Path, language: str, characters: int) -> list[list[str]]:
    """Cleaned sentences, in batches."""
    batches: list[list[str]] = [[]]
    size = total = 0
    for page in iter_pages(path):
        for sentence in (s for p in page_to_sentences(page, language).paragraphs for s in p):
            batches[-1].append(sentence)
            size += len(sentence)
        if size >= BATCH_CHARACTERS:
            total, size = total + size, 0
            batches.append([])
        if total >= characters:
            break
    return [batch for batch in batches if batch]


def ways(
    tokenizer: Tokenizer, language: str
) -> Iterator[tuple[str, Callable[[list[str]], object]]]:
    """Names and calls, in the order to be measured."""
    if isinstance(tokenizer, SentencePieceTokenizer):
        yield "library", lambda batch: tokenizer._model.encode(batch, num_threads=1)
    else:
        backend = tokenizer._backend  # type: ignore[attr-defined]
        yield "library", lambda batch: backend.encode_batch_fast(batch, add_special_tokens=False)
    yield "first", tokenizer.encode_batch
    yield "again", tokenizer.encode_batch
    if (words := find_words(language)) is not None:
        yield "words", lambda batch: tokenizer.encode_batch(batch, words)
    yield "offsets", tokenizer.encode_sentences


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--language", default="en")
    parser.add_argument("--characters", type=int, default=12_000_000)
    args = parser.parse_args(argv)
    batches = read_batches(args.input, args.language, args.characters)
    size = sum(len(sentence.encode()) for batch in batches for sentence in batch) / 1e6
    print(f"{args.input.name}: {sum(map(len, batches))} sentences, {size:.1f} MB")
    for name, encode in ways(load_tokenizer(args.tokenizer), args.language):
        start = time.process_time()
        for batch in batches:
            encode(batch)
        print(f"{name:8} {size / (time.process_time() - start):6.2f} MB/s")
    return 0


if __name__ == "__main__":
    run_command(main)
