"""The format "huggingface": folders that transformers' classes load."""

from __future__ import annotations

from megabert.convert.check import Side, our_side
from megabert.convert.foreign_files import WEIGHT_FILES
from megabert.convert.format import Format, ModelSource
from megabert.convert.huggingface.config import CONFIG_FILES
from megabert.convert.huggingface.families import family_of
from megabert.convert.huggingface.model import config_file, model_folder, read, write
from megabert.convert.huggingface.transformers_model import transformers_side
from megabert.convert.whole_model import WholeModel


def _read(source: ModelSource) -> WholeModel:
    return read(source.path, source.tokenizer, source.model_config)


def _run(source: ModelSource, model: WholeModel) -> tuple[Side, str]:
    """Runs transformers' class if there still is one, else megabert's model."""
    family = family_of(model.config)
    if not family.runnable:
        return our_side(model), f"megabert (transformers no longer has {family.class_prefix})"
    folder, _ = model_folder(source.path)
    config = source.model_config
    if config is None and not (folder / CONFIG_FILES[0]).is_file():
        config = config_file(folder)
    return transformers_side(folder, model, config), "transformers"


FORMAT = Format(
    read=_read,
    write=write,
    run=_run,
    marks=(tuple(f"{name}*" for name in WEIGHT_FILES), CONFIG_FILES),
)
