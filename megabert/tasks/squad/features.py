"""Question-answering features: sequences ``[CLS] question [SEP] part of the context [SEP]``.

A context that does not fit next to its question is cut into windows whose starts are ``doc_stride``
tokens apart (Devlin et al. 2019 and its public run_squad: a stride is the step between
windows, not their overlap). A token in several windows may start an answer only in the
window that gives it the most context on its poorer side.

Each paragraph and question is tokenized once, and rows are assembled when a batch needs them. So
every token is in memory once, whatever the stride.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from megabert.common.errors import UserError
from megabert.common.packed_batch import PackedBatch
from megabert.tasks.batches import ExampleChoice, pad_rows
from megabert.tasks.squad.data import Question, SquadData
from megabert.tasks.squad.windows import best_window, locate_answer, windows

if TYPE_CHECKING:
    from megabert.data.tokenizers.base import Encoded, Tokenizer
    from megabert.tasks.squad.settings import SquadSettings

_SPECIAL = 3  # [CLS] and two [SEP]


@dataclass(frozen=True)
class _Row:
    question: int
    window: int
    start: int
    length: int


class SquadFeatures:
    """Rows of one SQuAD file for one tokenizer.

    Args:
        data: the file.
        tokenizer: ids and character offsets.
        settings: lengths and stride.
        choice: which questions. For training, those without a valid answer are left out (counted in
            ``problems``), and batches have ``start_positions`` and ``end_positions``; otherwise batches
            have the masks that ``best_spans`` needs, and every question that has a ground truth is
            used, or all questions where none has one.
        max_length: tokens per row at most.
        no_answer: use questions marked impossible too; they point at [CLS].

    Raises:
        UserError: the lengths leave no room for a context, or no question is left.
    """

    def __init__(
        self,
        data: SquadData,
        tokenizer: Tokenizer,
        settings: SquadSettings,
        choice: ExampleChoice,
        max_length: int = 384,
        no_answer: bool = False,
    ) -> None:
        if max_length < settings.max_query_length + _SPECIAL + 1:
            raise UserError(
                f"--max-length {max_length} leaves no room for a context next to a "
                f"question of --max-query-length {settings.max_query_length} and {_SPECIAL} special "
                "tokens; raise the first or lower the second"
            )
        self.data, self.settings, self.training = data, settings, choice.training
        self.max_length, self.no_answer = max_length, no_answer
        self.special = tokenizer.special
        self.problems = data.problems.with_more(data.bad_answers)
        asked = [index for index, question in enumerate(data.questions) if self._wanted(question)]
        self.questions = np.asarray(asked, np.int64)[choice.drawn(len(asked))]
        self._tokenise(tokenizer)
        self._lay_out()

    def _wanted(self, question: Question) -> bool:
        """Whether a question is used; others are counted."""
        if not (self.training or self.data.labelled):
            return True
        if not question.fault and (
            question.answers or (self.no_answer and question.marked_impossible)
        ):
            return True
        kind = question.fault or "question without an answer"
        if question.marked_impossible:
            kind = "question marked impossible, which is for --task squad2"
        elif self.no_answer and not question.fault:
            kind += " that is not marked impossible"
        self.problems.add(kind, f"id {question.id}")
        return False

    def _tokenise(self, tokenizer: Tokenizer) -> None:
        questions = [self.data.questions[index] for index in self.questions]
        used = sorted({question.context for question in questions})
        encoded = tokenizer.encode_sentences([self.data.contexts[index] for index in used])
        self._contexts: dict[int, Encoded] = dict(zip(used, encoded))
        limit = self.settings.max_query_length
        self._queries = [
            item.ids[:limit]
            for item in tokenizer.encode_sentences([question.text for question in questions])
        ]

    def _lay_out(self) -> None:
        """Cut every question's context into rows; ``questions`` becomes those that have rows."""
        with_rows: list[int] = []
        queries: list[np.ndarray] = []
        rows: list[_Row] = []
        spans: list[tuple[int, int]] = []
        self.too_long = 0
        for index, query in zip(self.questions, self._queries):
            question = self.data.questions[index]
            context = self._contexts[question.context]
            answer: tuple[int, int] | str | None = None
            if self.training and question.answers:
                text = self.data.contexts[question.context]
                answer = locate_answer(text, context.offsets, question.answers)
            if isinstance(answer, str):
                self.problems.add(answer, f"id {question.id}")
                continue
            if answer is not None:
                self.too_long += answer[1] - answer[0] >= self.settings.max_answer_length
            room = self.max_length - len(query) - _SPECIAL
            pieces = windows(len(context.ids), room, self.settings.doc_stride)
            for number, (start, length) in enumerate(pieces):
                rows.append(_Row(len(with_rows), number, start, length))
                spans.append(_span_in(answer, start, length, len(query) + 2))
            with_rows.append(int(index))
            queries.append(query)
        if not with_rows:
            detail = f" ({self.problems})" if self.problems.counts else ""
            raise UserError(f"{self.data.path}: no question with a usable answer{detail}")
        self.questions = np.asarray(with_rows, dtype=np.int64)
        self._queries, self._rows = queries, rows
        self._spans = np.asarray(spans, dtype=np.int64)
        self._lengths = np.asarray(
            [len(queries[row.question]) + row.length + _SPECIAL for row in rows], dtype=np.int64
        )

    @property
    def lengths(self) -> np.ndarray:
        """Real tokens of each row, int64 [F]."""
        return self._lengths

    def question_of(self, row: int) -> int:
        """Position in ``questions`` of the question of a row."""
        return self._rows[row].question

    def question(self, number: int) -> Question:
        """The question at a position in ``questions``."""
        return self.data.questions[self.questions[number]]

    def text(self, row: int, start: int, end: int) -> str:
        """The original text from token ``start`` to token ``end`` (inclusive) of a row."""
        first, last = self.characters(row, start, end)
        return self._text_of(row)[first:last]

    def characters(self, row: int, start: int, end: int) -> tuple[int, int]:
        """The place of that text in its context, the end exclusive; without white space at its edges.

        Marks that combine with its last character belong to it: a tokenizer that strips accents drops
        those of decomposed text (NFD), and no token reaches over them.
        """
        place = self._rows[row]
        shift = place.start - len(self._queries[place.question]) - 2
        question = self.question(place.question)
        offsets = self._contexts[question.context].offsets
        first, last = int(offsets[start + shift, 0]), int(offsets[end + shift, 1])
        context = self._text_of(row)
        while last < len(context) and unicodedata.category(context[last]).startswith("M"):
            last += 1
        whole = context[first:last]
        first += len(whole) - len(whole.lstrip())
        return first, max(first, last - len(whole) + len(whole.rstrip()))

    def _text_of(self, row: int) -> str:
        question = self.question(self._rows[row].question)
        return self.data.contexts[question.context]

    def batch(self, rows: np.ndarray, max_length: int) -> PackedBatch[np.ndarray]:
        """In training ``start_positions`` and ``end_positions`` int64 [B] (0 where the answer is not in
        the row); in evaluation ``answer_starts`` and ``answer_ends`` bool [B, longest of the rows], the
        tokens that may start or end an answer.
        """
        ids, types, starts, ends = [], [], [], []
        special = self.special
        for number in rows:
            row = self._rows[number]
            query = self._queries[row.question]
            context = self._contexts[self.question(row.question).context]
            piece = context.ids[row.start : row.start + row.length]
            ids += [[special.cls], query, [special.sep], piece, [special.sep]]
            types.append(np.repeat([0, 1], [len(query) + 2, row.length + 1]))
            if not self.training:
                edge = np.zeros(len(query) + 2, dtype=bool)
                starts.append(np.concatenate([edge, self._owned(row)]))
                ends.append(np.concatenate([edge, np.ones(row.length, dtype=bool)]))
        lengths = self._lengths[rows]
        if self.training:
            labels = {
                "start_positions": self._spans[rows, 0],
                "end_positions": self._spans[rows, 1],
            }
        else:
            width = int(lengths.max())
            labels = {
                "answer_starts": pad_rows(starts, width, 0).astype(bool),
                "answer_ends": pad_rows(ends, width, 0).astype(bool),
            }
        return PackedBatch.from_lengths(
            np.concatenate(ids), np.concatenate(types), lengths, max_length, labels=labels
        )

    def _owned(self, row: _Row) -> np.ndarray:
        """Tokens that have their best context in this window, bool [length]."""
        question = self.question(row.question)
        tokens = len(self._contexts[question.context].ids)
        if row.length == tokens:
            return np.ones(tokens, dtype=bool)
        room = self.max_length - len(self._queries[row.question]) - _SPECIAL
        spans = windows(tokens, room, self.settings.doc_stride)
        return best_window(spans, tokens)[row.start : row.start + row.length] == row.window

    def truths(self) -> dict[str, tuple[str, ...]]:
        """Question id -> its ground truths."""
        chosen = (self.data.questions[index] for index in self.questions)
        return {q.id: tuple(answer.text for answer in q.answers) for q in chosen}

    def describe(self) -> str:
        """One line: questions, rows, tokens, and what is left out."""
        text = f"{self.data.path.name}: {len(self.questions):,} questions"
        if self.no_answer and self.data.labelled:
            text += (
                f" ({self.impossible:,} impossible)" if self.impossible else " (none impossible)"
            )
        text += f", {len(self._rows):,} rows, {int(self._lengths.sum()):,} tokens"
        if self.too_long:
            limit = self.settings.max_answer_length
            text += f"; {self.too_long:,} answers are longer than --max-answer-length {limit}"
        if not self.data.labelled:
            text += "; without ground truths: predictions, no scores"
        return f"{text}; left out: {self.problems}" if self.problems.counts else text

    def sizes(self) -> dict[str, Any]:
        """Numbers of questions, rows, tokens and left-out entries; of impossible ones if they are used.

        What is left out is listed by kind.
        """
        sizes: dict[str, Any] = {
            "questions": len(self.questions),
            "rows": len(self._rows),
            "tokens": int(self._lengths.sum()),
            "left_out": self.problems.total,
        }
        if self.problems.counts:
            sizes["left_out_by_kind"] = self.problems.by_kind()
        return {**sizes, "impossible": self.impossible} if self.no_answer else sizes

    @property
    def impossible(self) -> int:
        """Questions without an answer among those used."""
        return sum(not self.data.questions[index].answers for index in self.questions)


def _span_in(answer: tuple[int, int] | None, start: int, length: int, edge: int) -> tuple[int, int]:
    """Positions in a row of an answer that lies in its window; else those of [CLS].

    ``answer``: first and last token of the context; ``edge``: tokens of a row before the context's.
    """
    if answer is None or answer[0] < start or answer[1] >= start + length:
        return 0, 0
    return answer[0] + edge - start, answer[1] + edge - start
