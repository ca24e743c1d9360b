"""What a conversion is asked to change, applied in this order: mean, vocabulary, positions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megabert.convert.changes.average import mean_of, places_to_average
from megabert.convert.changes.positions import position_lines, with_more_positions
from megabert.convert.changes.vocabulary import vocabulary_lines, with_new_vocabulary
from megabert.convert.whole_model import WholeModel


@dataclass(frozen=True)
class ModelChanges:
    """The changes.

    Attributes:
        average: number of models to average, 0 for all; None: no mean.
        more_inputs: further inputs of the mean.
        new_tokenizer: tokenizer to move the model to, a folder or a file; None: it keeps its own.
        position_rows: number of positions to reach; None: as many as it has.
        seed: of the rows that are drawn.
    """

    average: int | None = None
    more_inputs: tuple[Path, ...] = ()
    new_tokenizer: Path | None = None
    position_rows: int | None = None
    seed: int = 0

    def __bool__(self) -> bool:
        """Whether there are any."""
        return (self.average, self.new_tokenizer, self.position_rows) != (None, None, None)

    def places(self, first: Path) -> tuple[Path, ...]:
        """The inputs that are read.

        Raises:
            UserError: a run has too few checkpoints for its mean.
        """
        if self.average is None:
            return (first,)
        return places_to_average((first, *self.more_inputs), self.average)

    def apply(
        self, read: Callable[[Path], WholeModel], places: Iterable[Path]
    ) -> tuple[WholeModel, dict[str, Any]]:
        """The changed model, and the record of what was changed.

        Args:
            read: reads a model.
            places: of :meth:`places`.

        Raises:
            UserError: an input cannot be read, or a change does not fit it.
        """
        record: dict[str, Any] = {}
        places = list(places)
        if self.average is None:
            model = read(places[0])
        else:
            model = mean_of(map(read, places))
            record["average"] = [str(place) for place in places]
        if self.new_tokenizer is not None:
            model, record["vocabulary"] = with_new_vocabulary(model, self.new_tokenizer, self.seed)
        if self.position_rows is not None:
            model, record["positions"] = with_more_positions(model, self.position_rows)
        return model, record


def change_lines(record: dict[str, Any]) -> list[str]:
    """The record of :meth:`ModelChanges.apply` as lines of text."""
    lines = []
    if places := record.get("average"):
        lines.append(f"mean of {len(places)} models: {', '.join(places)}")
    if "vocabulary" in record:
        lines += vocabulary_lines(record["vocabulary"])
    if "positions" in record:
        lines += position_lines(record["positions"])
    return lines
