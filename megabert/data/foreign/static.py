"""One masked sample of a foreign shard, and the interface of all foreign shard files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megabert.common.errors import UserError
from megabert.data.shards.file_state import FileState
from megabert.data.shards.spans import Ints

NO_LABEL = -1


class ForeignShardError(UserError):
    """A foreign shard that is damaged, incomplete, or of an unsupported form."""


@dataclass(frozen=True, slots=True)
class StaticSample:
    """A sample as it was masked by its program, without padding.

    Attributes:
        input_ids, segment_ids: int64 [L], special tokens included.
        positions, labels: int64 [M], the predicted positions and their original ids.
        next_sentence: 0 if B follows A, 1 if it does not, ``NO_LABEL`` if the shard has no labels.
    """

    input_ids: Ints
    segment_ids: Ints
    positions: Ints
    labels: Ints
    next_sentence: int

    def unmasked(self) -> Ints:
        """The ids before masking, int64 [L]."""
        ids = self.input_ids.copy()
        ids[self.positions] = self.labels
        return ids


class ForeignFile(ABC):
    """One shard file, inspected when created, and opened by each process when it first reads.

    The open handle is not pickled. A file that changes after it was inspected is an error: it has no
    checksums by which its rows could be compared with what was inspected.

    Attributes:
        layout: name of its layout.
        samples: number of samples.
        width: tokens of a padded sample; None if samples are stored without padding.
        labelled: whether it has labels of the sentence task.

    Raises:
        ForeignShardError: the file is missing, damaged, cut off, or not of this layout.
    """

    layout: str
    samples: int
    width: int | None
    labelled: bool

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: Any = None
        self._state: FileState | None = None

    @abstractmethod
    def read(self, row: int) -> StaticSample:
        """Sample ``row`` of the file, from 0.

        Raises:
            ForeignShardError: the sample is damaged, or not a masked sample.
        """

    def read_rows(self, rows: Sequence[int]) -> list[StaticSample]:
        """These samples; as :meth:`read`, and quicker in some layouts."""
        return [self.read(row) for row in rows]

    @abstractmethod
    def length(self, row: int) -> int:
        """Real tokens of sample ``row``, special tokens included."""

    @abstractmethod
    def close(self) -> None:
        """Close the file; the next read opens it again."""

    def _require_unchanged(self, handle: int) -> None:
        """Look at the open file, the first time to remember it.

        Raises:
            ForeignShardError: it was changed, replaced or deleted since then.
        """
        try:
            now = FileState.of(handle)
        except OSError as error:
            raise ForeignShardError(f"{self.path}: cannot be read ({error.strerror})") from None
        self._require_state(now)

    def _require_state(self, now: FileState) -> None:
        """As :meth:`_require_unchanged`, of a file whose state is known."""
        self._state = self._state or now
        if now.content != self._state.content:
            fault = self._state.fault(now) or "the file was changed while it was in use"
            raise ForeignShardError(f"{self.path}: {fault}")

    def error(self, row: int, what: str) -> ForeignShardError:
        """An error that names the file and the sample."""
        return ForeignShardError(f"{self.path}: sample {row}: {what}")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handle": None}

    def _without_padding(self, row: int, mask: Ints) -> int:
        """Number of real tokens by an attention mask [S], which is ones followed by zeros."""
        size = int(np.count_nonzero(mask))
        if not size or not (mask[:size] == 1).all():
            raise self.error(row, "its input_mask is not ones followed by zeros")
        return size

    def _sample(
        self, row: int, ids: Ints, segments: Ints, positions: Ints, labels: Ints, next_sentence: int
    ) -> StaticSample:
        """Check a sample, as far as possible without a vocabulary.

        Raises:
            ForeignShardError: lengths disagree, positions are outside the real tokens or given
                twice, segments or labels are not 0 or 1.
        """
        size = len(ids)
        if len(segments) != size:
            raise self.error(row, f"{size} input_ids and {len(segments)} segment_ids")
        if len(positions) != len(labels):
            raise self.error(row, f"{len(positions)} masked positions and {len(labels)} labels")
        if len(positions) and not 0 <= positions.min() <= positions.max() < size:
            raise self.error(row, f"a masked position is outside its {size} tokens")
        if len(np.unique(positions)) != len(positions):
            raise self.error(row, "a position is masked twice")
        if size and not 0 <= segments.min() <= segments.max() <= 1:
            raise self.error(row, "a segment id is neither 0 nor 1")
        if next_sentence not in (0, 1, NO_LABEL):
            raise self.error(row, f"its next sentence label is {next_sentence}, not 0 or 1")
        return StaticSample(ids, segments, positions, labels, next_sentence)
