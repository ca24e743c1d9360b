"""Whether the labels of a head are those that a file needs."""

from __future__ import annotations

from collections.abc import Sequence

from megabert.common.errors import UserError
from megabert.tasks.tagging.data import TaggedTexts
from megabert.tasks.tagging.entity_spans import parse_tag


def require_types(corpus: TaggedTexts, labels: Sequence[str], wanted: Sequence[str] = ()) -> None:
    """Raise UserError for a type of the corpus without a label, and for a wanted label that is missing.

    Args:
        corpus: a file's texts.
        labels: of the head.
        wanted: labels that training on the file needs.
    """
    tags = [tag for tag in map(parse_tag, labels) if tag is not None]
    known = {tag.type for tag in tags}
    for kind, place in corpus.types().items():
        if kind not in known:
            raise UserError(
                f"{corpus.path} {place}: {kind!r} is not among the labels of the training file "
                f"or checkpoint ({', '.join(sorted(known - {''}))}); correct it, or train with it "
                "(--new-head on starts from a checkpoint with other labels)"
            )
    for label in wanted:
        if label not in set(map(str, tags)):
            raise UserError(
                f"{corpus.path} needs the label {label}, which the checkpoint does not have; "
                "--new-head on draws a new head"
            )
