"""Whether the labels of a head are those that a file needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from megabert.common.errors import UserError
from megabert.tasks.files.problems import Problems
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


def with_known_types(corpus: TaggedTexts, labels: Sequence[str]) -> TaggedTexts:
    """The texts whose entities are of the labels' types; the others are counted and left out."""
    if corpus.entities is None:
        return corpus
    known = {tag.type for tag in map(parse_tag, labels) if tag is not None}
    left_out = Problems()
    kept: list[int] = []
    for text, entities in enumerate(corpus.entities):
        unknown = next((entity for entity in entities if entity.type not in known), None)
        if unknown is None:
            kept.append(text)
        else:
            left_out.add("unknown type", f"{corpus.place(text, unknown.start)}, {unknown.type}")
    if not kept:
        raise UserError(f"{corpus.path} has no usable example ({left_out})")
    return replace(
        corpus,
        texts=[corpus.texts[text] for text in kept],
        entities=[corpus.entities[text] for text in kept],
        lines=[corpus.lines[text] for text in kept],
        ids=[corpus.ids[text] for text in kept],
        problems=corpus.problems.with_more(left_out),
    )
