"""Training of a tokenizer from text: WordPiece, SentencePiece unigram, SentencePiece BPE.

The result depends only on (text, settings): the sentences are in the order of the input for any
number of workers, training runs in one thread, and the order of entries is fixed.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from megabert.common.errors import UserError
from megabert.common.files import new_folder
from megabert.common.log import get_logger
from megabert.common.names import SPECIAL_TOKENS
from megabert.common.processes.locks import output_locked
from megabert.common.progress import Progress
from megabert.common.storage import named_storage_errors
from megabert.data.prepare.encode import page_batches
from megabert.data.prepare.notices.datasets import log_datasets
from megabert.data.prepare.notices.languages import (
    decide_languages,
    is_sampled,
    language_facts,
)
from megabert.data.prepare.notices.repeated import log_repeated, same_contents, same_places
from megabert.data.prepare.worker_pool import WorkerPool
from megabert.data.text.document import page_to_sentences
from megabert.data.text.input.segments import inspect_file
from megabert.data.text.input.sources import file_sha256, input_files, iter_pages
from megabert.data.text.languages import AUTO, joint_language, page_language
from megabert.data.text.pages import Page
from megabert.data.text.reading import AUTOMATIC, BAD_LINE, ReadingRules
from megabert.data.tokenizers.base import Tokenizer, starts_word_alone
from megabert.data.tokenizers.sentencepiece import SentencePieceTokenizer
from megabert.data.tokenizers.wordpiece import PREFIX, BertRules, WordPieceTokenizer

KINDS = ("wordpiece", "unigram", "bpe")
MIN_FREQUENCY = 2
_MAX_SENTENCE_BYTES = 16384  # longer ones are cut, since SentencePiece would skip them


@dataclass(frozen=True)
class TrainingSettings:
    """Options of ``train_tokenizer.py``.

    Attributes:
        alphabet: how many of the most frequent characters get an entry (wordpiece); None for 1,000,
            and for languages written in ideographs a third of the vocabulary.
        coverage: fraction of running text whose characters get an entry (unigram, bpe).
    """

    kind: str
    vocab_size: int
    lower_case: bool = True
    language: str = "en"
    alphabet: int | None = None
    coverage: float = 0.9995

    def check(self) -> None:
        """Raise ``UserError`` for an invalid value."""
        if self.kind not in KINDS:
            raise UserError(f"--type {self.kind}: expected one of {', '.join(KINDS)}")
        if self.vocab_size <= len(SPECIAL_TOKENS):
            raise UserError(
                f"--vocab-size {self.vocab_size}: too small: the special tokens alone take "
                f"{len(SPECIAL_TOKENS)} entries"
            )
        if not 0 < self.coverage <= 1:
            raise UserError(f"--coverage {self.coverage}: expected a fraction above 0, up to 1")
        if self.alphabet is not None and self.alphabet < 1:
            raise UserError(f"--alphabet {self.alphabet}: expected at least 1")

    @property
    def alphabet_size(self) -> int:
        """The limit that applies."""
        return self.alphabet or (self.vocab_size // 3 if _is_ideographic(self.language) else 1000)


def read_sentences(
    inputs: Sequence[Path],
    *,
    rules: ReadingRules = AUTOMATIC,
    language: str = AUTO,
    max_characters: int | None = None,
    workers: int = 1,
    start_method: str = "spawn",
) -> list[str]:
    """Sentences of the articles, cleaned as for shards, up to ``max_characters`` characters.

    Raises:
        UserError: wrong inputs, or no article in them.
    """
    bad_lines = Counter[str]()
    sources = _read_once(inputs, rules)
    read = (iter_pages(path, rules, skipped=skipped) for path, skipped in sources)
    pages = _good(chain.from_iterable(read), bad_lines)
    sentences: list[str] = []
    characters = 0
    progress = Progress("reading text")
    with WorkerPool(workers, _prepare, (language,), start_method=start_method) as pool:
        for found in pool.run(_clean, page_batches(pages)):
            for sentence in found:
                sentences.append(sentence)
                characters += len(sentence)
                if max_characters is not None and characters >= max_characters:
                    break
            progress.update(characters, f"{characters / 1e6:.1f} million characters")
            if max_characters is not None and characters >= max_characters:
                break
    progress.close(f"{len(sentences)} sentences, {characters / 1e6:.1f} million characters")
    if bad_lines:
        get_logger().warning(
            f"bad lines or records left out: {bad_lines.total()}; the first one: {min(bad_lines)}"
        )
    if not sentences:
        raise UserError(f"{inputs[0]}: no document with text found; check --input-format")
    return sentences


def _read_once(inputs: Sequence[Path], rules: ReadingRules) -> list[tuple[Path, frozenset[Path]]]:
    """The inputs without those that repeat earlier ones, and the files of each to leave out."""
    log_datasets(inputs, rules.split)
    groups = [input_files(path, rules.split) for path in inputs]
    every = [path for group in groups for path in group]
    repeated = same_contents(every, lambda index: file_sha256(every[index]), same_places(every))
    log_repeated(every, repeated)
    sources = []
    start = 0
    for path, group in zip(inputs, groups):
        again = {every[i] for i in range(start, start + len(group)) if i in repeated}
        start += len(group)
        if len(again) < len(group):
            sources.append((path, frozenset(again)))
    return sources


def input_language(
    inputs: Sequence[Path], *, rules: ReadingRules = AUTOMATIC, choice: str = AUTO
) -> str:
    """The language that decides the alphabet of a vocabulary; logs the language of each input.

    Of several languages, it is one that is written in ideographs, if there is one.

    Raises:
        UserError: a missing or unknown input.
    """
    groups = [input_files(path, rules.split) for path in inputs]
    facts = [
        [
            language_facts(inspect_file(path, rules), rules, choice, is_sampled(place, len(group)))
            for place, path in enumerate(group)
        ]
        for group in groups
    ]
    decide_languages(choice, list(zip(inputs, facts)))
    codes = [fact.language(choice) for group in facts for fact in group]
    return next((code for code in codes if _is_ideographic(code)), joint_language(codes))


def _is_ideographic(language: str) -> bool:
    return language.split("-")[0] in ("zh", "ja", "yue", "wuu", "gan", "lzh")


def _good(pages: Iterator[Page], bad_lines: Counter[str]) -> Iterator[Page]:
    """The pages that could be read; the others are counted under the message about the first."""
    for page in pages:
        if page.model == BAD_LINE:
            bad_lines[next(iter(bad_lines), page.title)] += 1
        else:
            yield page


class _Worker:
    language: str


def _prepare(language: str) -> None:
    _Worker.language = language


def _clean(pages: list[Page]) -> list[str]:
    choice = _Worker.language
    cleaned = (page_to_sentences(p, page_language(choice, p.site.language)) for p in pages)
    return [s for c in cleaned for paragraph in c.paragraphs for s in paragraph]


def train_tokenizer(sentences: Sequence[str], settings: TrainingSettings) -> Tokenizer:
    """Train a tokenizer of exactly ``settings.vocab_size`` entries.

    Raises:
        UserError: the text supports fewer entries, or its characters need more.
    """
    settings.check()
    if settings.kind == "wordpiece":
        return _train_wordpiece(sentences, settings)
    return _train_sentencepiece(sentences, settings)


def _train_wordpiece(sentences: Sequence[str], settings: TrainingSettings) -> Tokenizer:
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token=SPECIAL_TOKENS[1]))
    normalizer = normalizers.BertNormalizer(lowercase=settings.lower_case)
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for sentence in sentences:
        counts.update(normalizer.normalize_str(sentence))
    ranked = sorted((c for c in counts if not c.isspace()), key=lambda c: (-counts[c], c))
    alphabet = sorted(ranked[: settings.alphabet_size])
    inner = [PREFIX + c for c in alphabet if not starts_word_alone(c)]
    # Unless characters are given, the trainer numbers them in the order of a hash map.
    first = [*SPECIAL_TOKENS, *alphabet, *inner]
    if len(first) > settings.vocab_size:
        raise UserError(
            f"--vocab-size {settings.vocab_size}: too small: characters and special tokens alone "
            f"take {len(first)} entries; raise it or lower --alphabet"
        )
    trainer = trainers.WordPieceTrainer(
        vocab_size=settings.vocab_size,
        min_frequency=MIN_FREQUENCY,
        special_tokens=first,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=PREFIX,
        show_progress=False,
    )
    backend.train_from_iterator(iter(sentences), trainer)
    ids = backend.get_vocab(with_added_tokens=True)
    if len(ids) != settings.vocab_size:
        raise UserError(_too_large(settings.vocab_size, len(ids)))
    entries = sorted(ids, key=ids.__getitem__)
    return WordPieceTokenizer(Path("vocab.txt"), entries, BertRules(settings.lower_case))


def _train_sentencepiece(sentences: Sequence[str], settings: TrainingSettings) -> Tokenizer:
    pad, unk, cls, sep, mask = SPECIAL_TOKENS
    names: dict[str, Any] = dict(zip(("pad_id", "unk_id", "bos_id", "eos_id"), range(4)))
    names |= dict(zip(("pad_piece", "unk_piece", "bos_piece", "eos_piece"), (pad, unk, cls, sep)))
    writer = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_cut_sentences(sentences),
            model_writer=writer,
            model_type=settings.kind,
            vocab_size=settings.vocab_size,
            character_coverage=settings.coverage,
            normalization_rule_name="nmt_nfkc_cf" if settings.lower_case else "nmt_nfkc",
            max_sentence_length=_MAX_SENTENCE_BYTES,
            **names,
            control_symbols=[mask],
            hard_vocab_limit=True,
            shuffle_input_sentence=False,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(_sentencepiece_error(str(error), settings)) from None
    tokenizer = SentencePieceTokenizer(Path("spiece.model"), writer.getvalue())
    if tokenizer.vocab_size != settings.vocab_size:
        raise UserError(_too_large(settings.vocab_size, tokenizer.vocab_size))
    return tokenizer


def _cut_sentences(sentences: Sequence[str]) -> Iterator[str]:
    limit = _MAX_SENTENCE_BYTES // 4
    for sentence in sentences:
        for start in range(0, len(sentence), limit):
            yield sentence[start : start + limit]


def _sentencepiece_error(message: str, settings: TrainingSettings) -> str:
    if (most := re.search(r"Vocabulary size too high.*<= (\d+)", message)) is not None:
        return _too_large(settings.vocab_size, int(most.group(1)))
    if "required_chars" in message or "smaller than" in message:
        return (
            f"--vocab-size {settings.vocab_size}: too small for the characters of this text; "
            "raise it or lower --coverage"
        )
    return f"SentencePiece could not train: {message}"


def _too_large(wanted: int, most: int) -> str:
    return (
        f"--vocab-size {wanted}: this text supports at most {most} entries; give more text or a "
        "smaller size"
    )


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the tokenizer's files into a new folder, all of them or none.

    Raises:
        UserError: the folder exists and is not empty, cannot be written, or another job writes it.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists and is not empty; choose another --output")
    with (
        named_storage_errors(folder),
        output_locked(folder),
        new_folder(folder, replace_existing=True) as temporary,
    ):
        tokenizer.save(temporary)
