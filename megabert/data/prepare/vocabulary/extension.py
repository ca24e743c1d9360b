"""Extends a WordPiece vocabulary: the old entries keep their ids, entries learned from text follow.

The candidates are the entries of a vocabulary that the library trains on the text, under the old
normalisation, in the order in which it learns them. WordPiece takes the longest entry, so an entry
that was a step to a longer one is never used. The text is therefore segmented with the candidates
chosen so far, those that less than ``MIN_FREQUENCY`` of its words use are left out for good, and the
next ones take their place, until all are used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers
from tokenizers import models, trainers

from megabert.common.errors import UserError
from megabert.data.tokenizers.base import Tokenizer, starts_word_alone
from megabert.data.tokenizers.vocab_file import vocabulary_ids
from megabert.data.tokenizers.wordpiece import PREFIX, WordPieceTokenizer, bert_backend

MIN_FREQUENCY = 2
_BATCH = 50_000


@dataclass(frozen=True)
class Extension:
    """An extended tokenizer, and what it does to the text that it was learned from.

    Attributes:
        words: of the text, by BERT's splitting.
        before, after: tokens per word.
        unknown_before, unknown_after: share of words that are unknown.
    """

    tokenizer: WordPieceTokenizer
    words: int
    before: float
    after: float
    unknown_before: float
    unknown_after: float

    def lines(self) -> list[str]:
        """The figures as lines of text."""
        return [
            f"tokens per word, over {self.words} words of this text: {self.before:.3f} before, "
            f"{self.after:.3f} after",
            f"unknown words: {self.unknown_before:.3%} before, {self.unknown_after:.3%} after",
        ]


def require_extensible(place: Path, tokenizer: Tokenizer, vocab_size: int) -> WordPieceTokenizer:
    """The tokenizer, if it can be extended to ``vocab_size`` entries.

    Raises:
        UserError: it is of another kind, or has as many already.
    """
    if vocab_size <= tokenizer.vocab_size:
        raise UserError(
            f"--vocab-size {vocab_size}: {place} of --extend has {tokenizer.vocab_size} entries "
            "already; give more"
        )
    if isinstance(tokenizer, WordPieceTokenizer):
        return tokenizer
    kind = "a WordPiece vocabulary with rules or added tokens of its own"
    if tokenizer.kind != "wordpiece":
        kind = f"a {tokenizer.kind} model, whose pieces depend on the scores of all others"
    raise UserError(
        f"--extend {place}: {kind}; only BERT's WordPiece can be extended: train a new vocabulary, "
        "and move the model to it with launch/convert.py --new-tokenizer"
    )


def extend(
    old: WordPieceTokenizer, sentences: Sequence[str], vocab_size: int, alphabet: int
) -> Extension:
    """Extend a tokenizer to ``vocab_size`` entries.

    Args:
        old: the tokenizer.
        sentences: the text.
        vocab_size: number of entries of the result.
        alphabet: how many of the text's most frequent characters may get an entry.

    Raises:
        UserError: the text uses fewer new entries.
    """
    entries = old.tokens(range(old.vocab_size))
    backend = bert_backend(vocabulary_ids(entries), old.special_tokens["unk"], old.rules)
    words = _word_counts(backend, sentences)
    known = vocabulary_ids(entries).keys()
    candidates = [
        entry
        for entry in _learned(words, vocab_size + len(entries), alphabet)
        if entry not in known
    ]
    wanted = vocab_size - len(entries)
    chosen: list[str] = []
    while True:
        missing = wanted - len(chosen)
        chosen, candidates = chosen + candidates[:missing], candidates[missing:]
        used = _uses(old, [*entries, *chosen], words)
        rare = {n for n, entry in enumerate(chosen) if used[len(entries) + n] < MIN_FREQUENCY}
        if not rare:
            break
        chosen = [entry for n, entry in enumerate(chosen) if n not in rare]
    if len(chosen) < wanted:
        raise UserError(
            f"--vocab-size {vocab_size}: this text uses at most {len(chosen)} entries more, "
            f"{len(entries) + len(chosen)} in all; give more text or a smaller size"
        )
    extended = WordPieceTokenizer(
        Path("vocab.txt"),
        [*entries, *chosen],
        old.rules,
        names=old.special_tokens,
        extra_special=list(old.added_tokens),
    )
    total = words.total()
    at_first = _uses(old, entries, words)
    unknown = old.special.unk
    return Extension(
        extended,
        total,
        at_first.total() / total,
        used.total() / total,
        at_first[unknown] / total,
        used[unknown] / total,
    )


def _word_counts(backend: tokenizers.Tokenizer, sentences: Sequence[str]) -> Counter[str]:
    """The words of the text after normalisation, with their counts."""
    counts: Counter[str] = Counter()
    normalizer, splitter = backend.normalizer, backend.pre_tokenizer
    for sentence in sentences:
        normal = normalizer.normalize_str(sentence)
        counts.update(word for word, _ in splitter.pre_tokenize_str(normal))
    return counts


def _learned(words: Counter[str], size: int, alphabet: int) -> list[str]:
    """Entries that the library learns from words, in the order of learning; characters come first."""
    characters: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            characters[character] += count
    ranked = sorted(characters, key=lambda c: (-characters[c], c))
    first = sorted(ranked[:alphabet])
    inner = [PREFIX + c for c in first if not starts_word_alone(c)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=max(size, len(first) + len(inner)),
        min_frequency=MIN_FREQUENCY,
        special_tokens=[*first, *inner],  # the trainer would number them as a hash map does
        initial_alphabet=first,
        limit_alphabet=len(first),
        continuing_subword_prefix=PREFIX,
        show_progress=False,
    )
    learner = tokenizers.Tokenizer(models.WordPiece())
    learner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    repeated = (" ".join([word] * count) for word, count in sorted(words.items()))
    learner.train_from_iterator(repeated, trainer)
    ids = learner.get_vocab(with_added_tokens=True)
    return sorted(ids, key=ids.__getitem__)


def _uses(old: WordPieceTokenizer, entries: Collection[str], words: Counter[str]) -> Counter[int]:
    """How often the text uses each entry, by id."""
    ids = vocabulary_ids(list(entries))
    model = bert_backend(ids, old.special_tokens["unk"], old.rules).model
    uses: Counter[int] = Counter()
    for word, count in words.items():
        for token in model.tokenize(word):
            uses[token.id] += count
    return uses
