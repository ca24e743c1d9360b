"""A folder of sentence-transformers: its encoder, and how it makes one vector of a text.

It lists its modules in modules.json. The first one is the encoder, in the folder itself or in a
subfolder. Pooling by mean or [CLS], and normalisation, are understood; others (dense layers, other
poolings) are not, and then vectors are not made as there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from megabert.common.json_text import read_json, read_json_object

NOT_UNDERSTOOD = "a sentence-transformers module after the encoder"
_POOLINGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}


@dataclass(frozen=True)
class SentenceModules:
    """What a folder holds.

    Attributes:
        encoder: folder of the encoder; of other folders the folder itself.
        embedding: as :attr:`megabert.convert.whole_model.WholeModel.embedding`; {} if not understood.
        left_out: (name, reason) of modules that are not understood.
    """

    encoder: Path
    embedding: dict[str, Any] = field(default_factory=dict)
    left_out: list[tuple[str, str]] = field(default_factory=list)


def sentence_modules(folder: Path) -> SentenceModules:
    """The modules of a folder, which need not be one of sentence-transformers.

    Raises:
        UserError: not a folder, or modules.json is damaged.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a folder; --input takes the folder that holds config.json"
        )
    modules = folder / "modules.json"
    if not modules.is_file():
        return SentenceModules(folder)
    try:
        listed = [(str(m["type"]).split(".")[-1], str(m["path"])) for m in read_json(modules)]
        number = next(n for n, (kind, _) in enumerate(listed) if kind.endswith("Transformer"))
    except (OSError, LookupError, TypeError, AttributeError, StopIteration) as error:
        raise UserError(
            f"{modules} is not the list of modules of a sentence-transformers model"
        ) from error
    _, path = listed.pop(number)
    encoder = folder / Path(path).name if path else folder
    embedding = _embedding(folder, encoder, listed)
    left_out = [] if embedding else [(f"{path}/", NOT_UNDERSTOOD) for _, path in listed]
    return SentenceModules(encoder, embedding, left_out)


def encoder_folder(folder: Path) -> Path:
    """Folder of the encoder's files; UserError as :func:`sentence_modules`."""
    return sentence_modules(folder).encoder


def _embedding(folder: Path, encoder: Path, listed: list[tuple[str, str]]) -> dict[str, Any]:
    if [kind for kind, _ in listed] not in (["Pooling"], ["Pooling", "Normalize"]):
        return {}
    pooling = _pooling(_values(folder / Path(listed[0][1]).name / "config.json"))
    if pooling is None:
        return {}
    found: dict[str, Any] = {"pooling": pooling, "normalize": len(listed) == 2}
    length = _values(encoder / "sentence_bert_config.json").get("max_seq_length")
    if isinstance(length, int) and length > 0:
        found["max_length"] = length
    return found


def _pooling(values: dict[str, Any]) -> str | None:
    """The one pooling that is switched on, if it is understood; version 6 names it, earlier ones have switches."""
    named = values.get("pooling_mode")
    if isinstance(named, str):
        return named if named in _POOLINGS.values() else None
    on = [name for name, value in values.items() if name.startswith("pooling_mode_") and value]
    return _POOLINGS.get(on[0]) if len(on) == 1 else None


def _values(file: Path) -> dict[str, Any]:
    try:
        return read_json_object(file)
    except (OSError, UserError):
        return {}
