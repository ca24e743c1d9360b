"""What a checkpoint format is: a :class:`Format` says how its files are read, written and run.

Each format declares one, and :mod:`megabert.convert.formats` finds it by its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from megabert.convert.check import Side
    from megabert.convert.whole_model import WholeModel
    from megabert.data.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class ModelSource:
    """Where a model is read from.

    Attributes:
        path: a folder; some formats take a file or a checkpoint's prefix.
        tokenizer: folder of tokenizer files, or a vocabulary file, to use instead of the one next
            to the weights (``--tokenizer``).
        model_config: JSON with the encoder's shape, for weights without one (``--model-config``).
        averaged: take the moving average of the weights (``--ema``), which only megabert's own
            checkpoints have.
    """

    path: Path
    tokenizer: Path | None = None
    model_config: Path | None = None
    averaged: bool = False


@dataclass(frozen=True)
class OutputOptions:
    """What the user chose about the output; None: not given.

    Attributes:
        pooling: ``mean`` or ``cls``; None: the source's, or mean.
        normalize: whether vectors get the length 1; None: the source's, or not.
        opset: version of ONNX's operators.
        license, language, model_name: for the model card.
    """

    pooling: str | None = None
    normalize: bool | None = None
    opset: int | None = None
    license: str | None = None
    language: tuple[str, ...] | None = None
    model_name: str | None = None

    def given(self) -> dict[str, Any]:
        """The options that are given, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


CARD_OPTIONS = ("license", "language", "model_name")
"""Options of formats whose folders have a model card."""

Reader = Callable[[ModelSource], "WholeModel"]
"""Reads a whole model; raises UserError for a file that is missing, damaged or of another model."""
Writer = Callable[[Path, "WholeModel", "Tokenizer | None"], None]
"""Fills an existing folder with a model and the files of its tokenizer
(:func:`megabert.convert.tokenizer.complete`); raises UserError if the format has no such model."""
Runner = Callable[[ModelSource, "WholeModel"], "tuple[Side, str]"]
"""Runs the model at a place, given the same model as it was read; returns a forward pass, and the
name of the software that runs it."""


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        read: reads a model; raises UserError for a format that is only written.
        write: writes a model; None if the format is only read.
        run: runs the format's own software for the comparison of outputs; None if megabert's model
            of the tensors runs instead.
        marks: groups of patterns of file names (as of fnmatch). A folder looks like this format if
            each group matches one of its files; used for hints only.
        read_again: the check reads the input a second time; False where that takes long.
        reads_back: the check reads what was written, and compares tensors; False for a format that
            is only written.
        options: names of the :class:`OutputOptions` that have an effect.
        configured: the format with a user's options; None if it has no options.
        prepare: the part of a model that the format holds, with the rest in ``left_out``; None if
            it holds every model that it writes whole.
        reference: megabert's forward pass with the outputs that ``run`` gives, to compare with;
            None to compare with the input run by its own software.
        tolerance: of the comparison of outputs; None: that of fp32.
    """

    read: Reader
    write: Writer | None = None
    run: Runner | None = None
    marks: tuple[tuple[str, ...], ...] = ()
    read_again: bool = True
    reads_back: bool = True
    options: tuple[str, ...] = ()
    configured: Callable[[OutputOptions], Format] | None = None
    prepare: Callable[[WholeModel], WholeModel] | None = None
    reference: Callable[[WholeModel], Side] | None = None
    tolerance: float | None = None
