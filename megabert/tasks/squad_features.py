"""Question-answering features: sequences ``[CLS] question [SEP] part of the context [SEP]``.

A context longer than what is left beside its question is cut into windows whose starts are
``doc_stride`` tokens apart (Devlin et al. 2019 and its public run_squad: a stride is the step between
windows, not their overlap). A token that stands in several windows may start an answer only in the
window that gives it the most context on its poorer side.

Each paragraph and question is tokenised once; rows are put together when a batch asks for them, so
that memory holds every token once, whatever the stride.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from megabert.log import UserError
from megabert.tasks.batches import draw_subset, pad_rows
from megabert.tasks.squad_data import Answer, Problems, SquadData

if TYPE_CHECKING:
    from megabert.data.tokenization import Encoded, Tokenizer
    from megabert.task_config import SquadSettings

_SPECIAL = 3  # [CLS] and two [SEP]


def windows(tokens: int, room: int, stride: int) -> list[tuple[int, int]]:
    """(start, length) of the windows over ``tokens`` tokens, ``room`` at most in each.

    At least one window, also for no token; the last one ends with the last token.
    """
    spans, start = [], 0
    while True:
        length = min(tokens - start, room)
        spans.append((start, length))
        if start + length >= tokens:
            return spans
        start += min(length, stride)


def best_window(spans: list[tuple[int, int]], tokens: int) -> np.ndarray:
    """For each token the window that gives it the most context, int64 [tokens].

    The score of a window for a token is the smaller of the tokens to its left and right there, plus
    a hundredth of the window's length; the first of equals wins (as in BERT's run_squad).
    """
    scores = np.full((len(spans), tokens), -1.0)
    for index, (start, length) in enumerate(spans):
        left = np.arange(length)
        scores[index, start : start + length] = np.minimum(left, length - 1 - left) + 0.01 * length
    return scores.argmax(axis=0)


def token_span(offsets: np.ndarray, start: int, end: int) -> tuple[int, int] | None:
    """First and last token that touch the characters ``[start, end)``; None if there is none.

    ``offsets``: int [n, 2], first character and the one after the last of each token.
    """
    first = int(np.searchsorted(offsets[:, 1], start, side="right"))
    last = int(np.searchsorted(offsets[:, 0], end, side="left")) - 1
    return (first, last) if first <= last else None


def locate_answer(
    context: str, offsets: np.ndarray, answers: tuple[Answer, ...]
) -> tuple[int, int] | str:
    """Token span of the first sound answer, or what is wrong with the first of them."""
    fault = "question without an answer"
    for number, answer in enumerate(answers):
        text = answer.text.strip()
        start = answer.start + len(answer.text) - len(answer.text.lstrip())
        if not text:
            problem = "empty answer"
        elif text not in context:
            problem = "answer that is not in its context"
        elif start < 0 or context[start : start + len(text)] != text:
            problem = "answer that is not at its answer_start"
        else:
            span = token_span(offsets, start, start + len(text))
            if span is not None:
                return span
            problem = "answer without a token"
        if number == 0:
            fault = problem
    return fault


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
        max_examples, seed: keep at most so many questions, drawn by the seed.
        training: leave out questions without a sound answer (counted in ``problems``) and give
            batches ``start_positions`` and ``end_positions``; otherwise give them the masks that
            ``best_spans`` needs, and keep every question that has a ground truth.

    Raises:
        UserError: the lengths leave no room for a context, or no question is left.
    """

    def __init__(
        self,
        data: SquadData,
        tokenizer: Tokenizer,
        settings: SquadSettings,
        *,
        max_length: int = 384,
        training: bool,
        max_examples: int | None = None,
        seed: int = 0,
    ) -> None:
        if max_length < settings.max_query_length + _SPECIAL + 1:
            raise UserError(
                f"--max-length {max_length} leaves no room for a context beside a "
                f"question of --max-query-length {settings.max_query_length} and {_SPECIAL} special "
                "tokens; raise the first or lower the second"
            )
        self.data, self.settings, self.training = data, settings, training
        self.max_length = max_length
        self.special = tokenizer.special
        self.problems = Problems(dict(data.problems.counts), dict(data.problems.first))
        asked = np.asarray(
            [index for index, question in enumerate(data.questions) if question.answers], np.int64
        )
        for question in data.questions:
            if not question.answers:
                self.problems.add("question without an answer", f"id {question.id}")
        self.questions = asked[draw_subset(len(asked), max_examples, seed)]
        self._tokenise(tokenizer)
        self._lay_out()

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
        """Cut every question's context into rows; ``questions`` keeps those that have rows."""
        kept: list[int] = []
        queries: list[np.ndarray] = []
        rows: list[_Row] = []
        spans: list[tuple[int, int]] = []
        for index, query in zip(self.questions, self._queries):
            question = self.data.questions[index]
            context = self._contexts[question.context]
            answer: tuple[int, int] | str = (0, 0)
            if self.training:
                text = self.data.contexts[question.context]
                answer = locate_answer(text, context.offsets, question.answers)
            if isinstance(answer, str):
                self.problems.add(answer, f"id {question.id}")
                continue
            room = self.max_length - len(query) - _SPECIAL
            pieces = windows(len(context.ids), room, self.settings.doc_stride)
            for number, (start, length) in enumerate(pieces):
                rows.append(_Row(len(kept), number, start, length))
                inside = start <= answer[0] and answer[1] < start + length
                shift = len(query) + 2 - start
                # A window without the answer points at [CLS].
                spans.append((answer[0] + shift, answer[1] + shift) if inside else (0, 0))
            kept.append(int(index))
            queries.append(query)
        if not kept:
            detail = f" ({self.problems})" if self.problems.counts else ""
            raise UserError(f"{self.data.path}: no question with a usable answer{detail}")
        self.questions = np.asarray(kept, dtype=np.int64)
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

    def text(self, row: int, start: int, end: int) -> str:
        """The original text from token ``start`` to token ``end`` (inclusive) of a row."""
        place = self._rows[row]
        question = self.data.questions[self.questions[place.question]]
        shift = place.start - len(self._queries[place.question]) - 2
        offsets = self._contexts[question.context].offsets
        first, last = offsets[start + shift, 0], offsets[end + shift, 1]
        return self.data.contexts[question.context][first:last]

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Rows padded to the longest: int64 [B, S] inputs and, in training, int64 [B] positions
        (0 where the answer stands elsewhere); in evaluation bool [B, S] ``answer_starts`` and
        ``answer_ends``, the tokens that may start or end an answer.
        """
        ids, types, starts, ends = [], [], [], []
        special = self.special
        for number in rows:
            row = self._rows[number]
            query = self._queries[row.question]
            context = self._contexts[self.data.questions[self.questions[row.question]].context]
            piece = context.ids[row.start : row.start + row.length]
            ids.append(np.concatenate([[special.cls], query, [special.sep], piece, [special.sep]]))
            types.append(np.repeat([0, 1], [len(query) + 2, row.length + 1]))
            if not self.training:
                edge = np.zeros(len(query) + 2, dtype=bool)
                starts.append(np.concatenate([edge, self._owned(row)]))
                ends.append(np.concatenate([edge, np.ones(row.length, dtype=bool)]))
        lengths = self._lengths[rows]
        width = int(lengths.max())
        batch = {
            "input_ids": pad_rows(ids, width, special.pad),
            "token_type_ids": pad_rows(types, width, 0),
            "attention_mask": (np.arange(width) < lengths[:, None]).astype(np.int64),
        }
        if self.training:
            batch["start_positions"] = self._spans[rows, 0]
            batch["end_positions"] = self._spans[rows, 1]
        else:
            batch["answer_starts"] = pad_rows(starts, width, 0).astype(bool)
            batch["answer_ends"] = pad_rows(ends, width, 0).astype(bool)
        return batch

    def _owned(self, row: _Row) -> np.ndarray:
        """Tokens of the window that have their best context in it, bool [length]."""
        question = self.data.questions[self.questions[row.question]]
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
        """One line: questions, rows, tokens, and what was left out."""
        text = (
            f"{self.data.path.name}: {len(self.questions):,} questions, {len(self._rows):,} rows, "
            f"{int(self._lengths.sum()):,} tokens"
        )
        return f"{text}; left out: {self.problems}" if self.problems.counts else text

    def sizes(self) -> dict[str, int]:
        """Numbers of questions, rows, tokens and left-out entries."""
        return {
            "questions": len(self.questions),
            "rows": len(self._rows),
            "tokens": int(self._lengths.sum()),
            "left_out": sum(self.problems.counts.values()),
        }
