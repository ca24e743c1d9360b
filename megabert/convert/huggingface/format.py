"""The format "huggingface": folders that transformers' classes load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from megabert.convert.check import Side
from megabert.convert.exports.model_card import write_card
from megabert.convert.foreign_files import WEIGHT_FILES
from megabert.convert.format import CARD_OPTIONS, Format, ModelSource, OutputOptions
from megabert.convert.huggingface.config import CONFIG_FILES
from megabert.convert.huggingface.families import family_of
from megabert.convert.huggingface.model import config_file, read, write
from megabert.convert.huggingface.sentence_modules import encoder_folder
from megabert.convert.huggingface.transformers_model import transformers_side
from megabert.convert.whole_model import ENCODER_ONLY, WholeModel, without_embedding
from megabert.data.tokenizers.base import Tokenizer


def _read(source: ModelSource) -> WholeModel:
    return read(source.path, source.tokenizer, source.model_config)


def _run(source: ModelSource, model: WholeModel) -> tuple[Side, str]:
    """Runs transformers' class; of NEZHA, megabert's own class for transformers."""
    family = family_of(model.config)
    folder = encoder_folder(source.path)
    config = source.model_config
    if config is None and not (folder / CONFIG_FILES[0]).is_file():
        config = config_file(folder)
    ran = "transformers with modeling_nezha.py" if family.own_code else "transformers"
    return transformers_side(folder, model, config), ran


def _loading(model: WholeModel) -> str:
    """Python code that loads a written folder."""
    name = f"Auto{'Model' if model.head is ENCODER_ONLY else 'ModelFor' + _suffix(model)}"
    trust = ", trust_remote_code=True" if family_of(model.config).own_code else ""
    return (
        f"from transformers import {name}, AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")\n'
        f'model = {name}.from_pretrained("FOLDER"{trust})\n'
        'outputs = model(**tokenizer("A text.", return_tensors="pt"))\n'
    )


def _suffix(model: WholeModel) -> str:
    return (model.head.transformers_suffix or "").removeprefix("For")


def _configured(options: OutputOptions) -> Format:
    def write_with_card(folder: Path, model: WholeModel, tokenizer: Tokenizer | None) -> None:
        write(folder, model, tokenizer)
        write_card(folder, model, options, _loading(model))

    return replace(FORMAT, write=write_with_card)


FORMAT = Format(
    read=_read,
    write=write,
    run=_run,
    marks=(tuple(f"{name}*" for name in WEIGHT_FILES), CONFIG_FILES),
    options=CARD_OPTIONS,
    configured=_configured,
    prepare=without_embedding,
)
