"""A checkpoint format from outside megabert: one ``.npz`` file, names with slashes, the shape as JSON.

Importing this file makes ``--from numpy`` and ``--to numpy`` known, and a package without the import by

    [project.entry-points."megabert.formats"]
    numpy = "numpy_format:NUMPY"
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from megabert.convert.check import Side, our_side
from megabert.convert.foreign_model import foreign_reader, whole_model
from megabert.convert.format import Format, ModelSource
from megabert.convert.formats import register_format
from megabert.convert.huggingface.config import config_from, read_object
from megabert.convert.name_table import Name, NameTable, to_theirs
from megabert.convert.tokenizer import complete
from megabert.convert.whole_model import WholeModel, check_tensors
from megabert.data.tokenizers.base import Tokenizer

WEIGHTS, SHAPE = "model.npz", "shape.json"


def names(ours: list[str]) -> NameTable:
    """The names of this format: ours, with slashes."""
    entries = (Name("encoder", name, name.replace(".", "/")) for name in ours)
    return NameTable("numpy", tuple(entries))


def read(path: Path, vocab_size: int | None, model_config: Path | None) -> WholeModel:
    """The model in a folder; every tensor must have its name and shape."""
    with np.load(path / WEIGHTS) as file:
        found = {name: torch.from_numpy(file[name]) for name in file.files}
    shape = model_config or path / SHAPE
    model = whole_model(
        names([name.replace("/", ".") for name in found]),
        found,
        path / WEIGHTS,
        config=config_from(read_object(shape), shape),
        vocab_size=vocab_size,
        unsaid={},
    )
    check_tensors(model)
    return model


def write(folder: Path, model: WholeModel, tokenizer: Tokenizer | None) -> None:
    """Fill a folder with the model and its tokenizer."""
    theirs, _ = to_theirs(names(list(model.tensors)), model.tensors, 0)
    np.savez(folder / WEIGHTS, **{name: tensor.numpy() for name, tensor in theirs.items()})
    (folder / SHAPE).write_text(json.dumps(model.config.to_dict()))
    if tokenizer is not None:
        complete(folder, tokenizer)


def run(source: ModelSource, model: WholeModel) -> tuple[Side, str]:
    """Outputs for the comparison: megabert runs the tensors that were read."""
    return our_side(model), f"numpy in {source.path.name}"


NUMPY = Format(read=foreign_reader(read), write=write, run=run, marks=(("*.npz",),))
register_format("numpy", NUMPY)
