"""Training rows of SQuAD as Google BERT's public run_squad writes them (TFRecord)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from megabert.common.packed_batch import PackedBatch
from megabert.tasks.batches import draw_subset
from megabert.tasks.files.tf_features import read_squad_records

if TYPE_CHECKING:
    from megabert.data.tokenizers.base import Tokenizer


class RecordedSquad:
    """The rows of one file, as they are. They come without text, so they are for training only.

    Args:
        path: the file.
        tokenizer: whose ids the rows hold.
        max_length: tokens per row at most.
        max_examples, seed: use at most this many rows, drawn by the seed.

    Raises:
        UserError: the file is damaged, or its rows do not fit; the message names the record.
    """

    def __init__(
        self,
        path: Path,
        tokenizer: Tokenizer,
        max_length: int,
        max_examples: int | None = None,
        seed: int = 0,
    ) -> None:
        self.path = path
        self.records = read_squad_records(path, tokenizer, max_length)
        self._chosen = draw_subset(len(self.records.starts), max_examples, seed)
        self._lengths = self.records.rows.lengths[self._chosen]

    @property
    def lengths(self) -> np.ndarray:
        """Real tokens of each row, int64 [F]."""
        return self._lengths

    def batch(self, rows: np.ndarray, max_length: int) -> PackedBatch[np.ndarray]:
        """The rows, and int64 [B] ``start_positions`` and ``end_positions``."""
        chosen = self._chosen[rows]
        labels = {
            "start_positions": self.records.starts[chosen],
            "end_positions": self.records.ends[chosen],
        }
        return self.records.rows.batch(chosen, max_length, labels)

    def describe(self) -> str:
        """One line: rows and tokens, and how many rows do not hold their answer."""
        sizes = self.sizes()
        return (
            f"{self.path.name}: {sizes['rows']:,} rows of run_squad ({sizes['without_answer']:,} "
            f"without their answer, {sizes['impossible']:,} of them impossible), "
            f"{sizes['tokens']:,} tokens"
        )

    def sizes(self) -> dict[str, int]:
        """Numbers of rows, tokens, rows that point at [CLS], and rows of impossible questions."""
        return {
            "rows": len(self._chosen),
            "tokens": int(self._lengths.sum()),
            "without_answer": int((self.records.ends[self._chosen] == 0).sum()),
            "impossible": int(self.records.impossible[self._chosen].sum()),
        }
