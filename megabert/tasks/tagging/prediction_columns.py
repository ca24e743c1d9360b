"""Predictions in columns, as conlleval reads them."""

from __future__ import annotations

from pathlib import Path

from megabert.common.files import new_text_file
from megabert.tasks.tagging.entity_spans import Entity, tags_of
from megabert.tasks.tagging.features import TaggingFeatures

PREDICTIONS = "predictions.txt"


def write_columns(features: TaggingFeatures, found: list[list[Entity]], folder: Path) -> None:
    """Write token, tag of the file if it has any, and predicted tag per line.

    Both tags are written in BIO, whatever the file's scheme, since conlleval has neither M nor S.
    """
    corpus = features.corpus
    sides = [found]
    if features.labelled:
        sides.insert(0, features.truths())
    with new_text_file(folder / PREDICTIONS) as file:
        for row, text in enumerate(features.texts):
            tokens = corpus.texts[text]
            columns = [tags_of(side[row], len(tokens), "bio") for side in sides]
            for parts in zip(tokens, *columns):
                file.write(corpus.separator.join(map(str, parts)) + "\n")
            file.write("\n")
