"""NVIDIA's HDF5 shards of masked samples, in the layouts of their published BERT scripts.

Fixed (DeepLearningExamples, ``create_pretraining_data.py``): ``input_ids``, ``input_mask``,
``segment_ids`` [N, S], ``masked_lm_positions``, ``masked_lm_ids`` [N, P], ``next_sentence_labels``
[N]; lists are padded with zeros. Position 0 is [CLS], which is never predicted, so an entry is
padding if position and label are both 0.

Variable (MLPerf submissions, ``convert_fixed2variable.py``): the same names without
``input_mask``, [N] lists of variable length, without padding.

Files are opened without HDF5's file locks. HDF5 has no checksums of its own: data that can be read
from a damaged file is only checked to be a valid sample. Headers can be made that the HDF5 library
never finishes reading, or on which it crashes, so it reads in a process of its own
(:mod:`megabert.data.foreign.hdf5_rows`), one for all files, with limits of time and memory.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from megabert.common.processes.isolated import IsolatedFault, IsolatedWorker
from megabert.data.foreign.hdf5_rows import LISTS, Hdf5Answer, Hdf5Request, answer_hdf5
from megabert.data.foreign.static import ForeignFile, ForeignShardError, StaticSample
from megabert.data.shards.spans import Ints

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_worker = IsolatedWorker(answer_hdf5)


class Hdf5File(ForeignFile):
    """One HDF5 file in the fixed or the variable layout.

    ``bytes_per_sample``: bytes unpacked to read one sample; whole chunks if the file has chunks.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        found = self._ask("inspect").values
        self.samples: int = found["samples"]
        self.width: int | None = found["width"]
        self.labelled: bool = found["labelled"]
        self.bytes_per_sample: int = found["bytes_per_sample"]
        self.layout = f"NVIDIA HDF5, {'variable' if self.width is None else 'fixed'} length"

    def read(self, row: int) -> StaticSample:
        return self.read_rows([row])[0]

    def read_rows(self, rows: Sequence[int]) -> list[StaticSample]:
        lists = self._ask("read", rows).lists
        return [self._whole(row, *lists[LISTS * place :][:LISTS]) for place, row in enumerate(rows)]

    def _whole(self, row: int, *lists: Ints) -> StaticSample:
        ids, segments, positions, labels, mask, label = lists
        if self.width is not None:
            size = self._without_padding(row, mask)
            ids, segments = ids[:size], segments[:size]
            if len(positions) == len(labels):
                real = (positions != 0) | (labels != 0)
                positions, labels = positions[real], labels[real]
        return self._sample(row, ids, segments, positions, labels, int(label[0]))

    def length(self, row: int) -> int:
        (numbers,) = self._ask("length", [row]).lists
        return len(numbers) if self.width is None else self._without_padding(row, numbers)

    def _ask(self, what: str, rows: Sequence[int] = ()) -> Hdf5Answer:
        if what != "inspect":
            self._handle = os.getpid()  # in whose worker it is open
        try:
            answer = Hdf5Answer.decode(_worker.ask(Hdf5Request(what, self.path, rows).encode()))
        except IsolatedFault as error:
            raise ForeignShardError(f"{self.path}: damaged or cut off: {error}") from None
        for state in answer.states:
            self._require_state(state)
        if answer.error is not None:
            raise ForeignShardError(answer.error)
        return answer

    def close(self) -> None:
        if self._handle == os.getpid() and _worker.runs:
            with suppress(IsolatedFault):  # then it is closed, since its process has ended
                _worker.ask(Hdf5Request("close", self.path).encode())
        self._handle = None
