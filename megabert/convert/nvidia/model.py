"""Checkpoints of NVIDIA DeepLearningExamples' BERT for PyTorch, read only.

``run_pretraining.py`` writes ``ckpt_STEP.pt``, a dictionary with the weights under ``model`` and
the training state: at first ``optimizer`` and ``files``, from August 2019 also ``master params``,
from March 2022 ``grad_scaler`` and ``epoch`` instead of the last two. ``run_squad.py`` and
``run_glue.py`` write ``pytorch_model.bin`` with ``model`` only (before November 2019 the table of
tensors itself), run_squad also a bert_config.json. All round the vocabulary up to a multiple of 8
(30,522 to 30,528).

Before March 2022 ``hidden_act`` "gelu" is the exact function (erf, with 1.41421 for the root of 2,
which changes values by at most 7.4e-7), since then the tanh approximation under the same name. The
other entries of a file distinguish the two. LayerNorm's epsilon is always 1e-12.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.config.model import ModelConfig
from megabert.convert.foreign_files import load_plain
from megabert.convert.foreign_model import foreign_reader, one_file, whole_model
from megabert.convert.format import Format
from megabert.convert.huggingface.config import CONFIG_FILES, config_from, read_object
from megabert.convert.name_table import SEQUENCE, first_names
from megabert.convert.nvidia import names
from megabert.convert.whole_model import WholeModel, check_tensors

_FILES = ("*.pt", "pytorch_model.bin")
_MODEL = "model"
_EXACT, _TANH = "gelu", "gelu_new"
_ACTIVATIONS = {"grad_scaler": _TANH, "master params": _EXACT, "files": _EXACT}

log = get_logger("megabert.convert")


def read(path: Path, vocab_size: int | None = None, model_config: Path | None = None) -> WholeModel:
    """Read a checkpoint.

    Args:
        path: the file, or a folder with one such file.
        vocab_size: number of entries of the tokenizer; padding rows after them are removed. If
            None, the configuration's number is the true one.
        model_config: JSON with the encoder's shape, instead of the one next to the file; without
            either, the shape is inferred from the tensors.

    Raises:
        UserError: the file is damaged, holds more than tensors and plain containers, or holds
            another model than the configuration describes.
    """
    file = one_file(Path(path), _FILES)
    content = _load(file)
    state = _model_state(content, file)
    beside = (file.parent / name for name in CONFIG_FILES)
    config_file = model_config or next((path for path in beside if path.is_file()), None)
    values = read_object(config_file) if config_file is not None else {}
    act = _activation(str(values.get("hidden_act", "gelu")), content, file)
    config: ModelConfig | None = None
    if config_file is not None:
        config = replace(config_from(values, config_file), hidden_act=act)
    classes = " ".join(map(str, values.get("architectures") or ()))
    model = whole_model(
        names.BERT_TOKENS if "TokenClassification" in classes else names.BERT,
        state,
        file,
        config=config,
        vocab_size=vocab_size,
        unsaid={"hidden_act": act},
    )
    if f"{SEQUENCE}.classifier.weight" in model.tensors:
        log.info("%s: classifier is the head of sequence classification, as in run_glue.py", file)
    if state is not content:
        rest = sorted(str(key) for key in content if key != _MODEL)
        model.left_out += [(key, "state of training") for key in rest]
    check_tensors(model)
    return model


def _load(file: Path) -> Mapping[Any, Any]:
    """The dictionary in a file.

    Raises:
        UserError: it is damaged, or unpickling it would call anything except torch's constructors.
    """
    if file.suffix == ".safetensors":
        raise UserError(
            f"{file} is not a file of NVIDIA's scripts; --from huggingface takes its folder"
        )
    try:
        content = load_plain(file)
    except UserError as error:
        if not isinstance(error.__cause__, pickle.UnpicklingError):
            raise
        named = re.search(r"GLOBAL ([\w.]+)", str(error.__cause__))
        if named is None:
            raise UserError(f"{file} is not a PyTorch checkpoint, or is damaged") from error
        raise UserError(
            f"{file} needs {named[1]} to be loaded, which is not part of a table of tensors and "
            "could run code; if you trust the file, save only its weights as shown in "
            "docs/reference/conversion.md, and convert that file"
        ) from error
    if not isinstance(content, Mapping):
        raise UserError(f"{file} holds a {type(content).__name__}, not a dictionary")
    return content


def _model_state(content: Mapping[Any, Any], file: Path) -> Mapping[str, Tensor]:
    """The table of tensors, under ``model`` or bare."""
    state = content.get(_MODEL, content)
    if not isinstance(state, Mapping) or not state:
        raise UserError(f"{file}: its entry {_MODEL!r} is not a table of tensors")
    strange = [
        str(name)
        for name, value in state.items()
        if not isinstance(value, Tensor) or not isinstance(name, str)
    ]
    if strange:
        where = (
            f"its entry {_MODEL!r}" if state is not content else f"it has no entry {_MODEL!r} and"
        )
        raise UserError(
            f"{file}: {where} holds entries that are not tensors: {first_names(strange)}"
        )
    return state


def _activation(stated: str, content: Mapping[Any, Any], file: Path) -> str:
    """The meaning of ``hidden_act`` in the version that wrote a file."""
    if stated != "gelu":
        return stated
    for key, act in _ACTIVATIONS.items():
        if key in content:
            log.info("%s: its entry %r shows that gelu means %s", file, key, act)
            return act
    log.warning(
        "%s does not show which gelu it was trained with; the exact one is assumed; for a model of "
        "2022 or later, whose gelu is the tanh approximation, set hidden_act to gelu_new in "
        "--model-config",
        file,
    )
    return _EXACT


FORMAT = Format(read=foreign_reader(read), marks=(("*.pt",),))
