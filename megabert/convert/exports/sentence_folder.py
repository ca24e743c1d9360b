"""The format "sentence-transformers": an encoder with pooling, as that library loads it.

    config.json, model.safetensors, tokenizer files     the encoder (:mod:`megabert.convert.huggingface`)
    modules.json, 1_Pooling/, 2_Normalize/              what makes one vector of a text
    sentence_bert_config.json                           the length at which text is truncated

The heads of pretraining and of tasks are left out, by name. The layout is that of all versions from 2
on. The check runs the library on the written folder: hidden states, and vectors.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from megabert.convert.check import VECTORS, Outputs, Side, our_side
from megabert.convert.exports.model_card import write_card
from megabert.convert.exports.packages import optional_package
from megabert.convert.format import CARD_OPTIONS, Format, ModelSource, OutputOptions
from megabert.convert.huggingface import format as huggingface
from megabert.convert.huggingface.families import family_of
from megabert.convert.huggingface.model import read, write
from megabert.convert.huggingface.transformers_model import quiet_transformers
from megabert.convert.probe_inputs import ProbeInputs
from megabert.convert.whole_model import WholeModel
from megabert.data.tokenizers.base import Tokenizer
from megabert.model.pooling import sequence_vectors

_LIBRARY = "sentence_transformers"
_MODES = {"mean": "mean_tokens", "cls": "cls_token"}
_LOADING = """\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("FOLDER"{trust})
vectors = model.encode(["A text.", "Another text."])
"""


def encoder_of(model: WholeModel) -> WholeModel:
    """The encoder with its pooler, if it has one; the head is in ``left_out``."""
    kept = {name: tensor for name, tensor in model.tensors.items() if name.startswith("bert.")}
    reason = f"the head for {model.head}: vectors are made from the encoder's hidden states"
    left = [(name, reason) for name in model.tensors if name not in kept]
    return replace(
        model, tensors=kept, left_out=[*model.left_out, *left], labels=(), task=None, task_record={}
    )


def _with_pooling(model: WholeModel, options: OutputOptions) -> WholeModel:
    """The encoder, and how its vectors are made."""
    made = encoder_of(model)
    known = made.embedding
    made.embedding = {
        "pooling": options.pooling or known.get("pooling", "mean"),
        "normalize": options.normalize
        if options.normalize is not None
        else known.get("normalize", False),
        "max_length": min(
            known.get("max_length", made.trained_positions), made.config.max_position_embeddings
        ),
    }
    return made


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write(
    folder: Path, model: WholeModel, tokenizer: Tokenizer | None, options: OutputOptions
) -> None:
    if tokenizer is None:
        raise UserError(
            f"{model.origin} has no tokenizer, which sentence-transformers needs; set --tokenizer"
        )
    optional_package(_LIBRARY, "--to sentence-transformers")
    write(folder, model, tokenizer)
    modules = ["Transformer", "Pooling", *(["Normalize"] if model.embedding["normalize"] else [])]
    listed: list[dict[str, Any]] = [
        {
            "idx": number,
            "name": str(number),
            "path": f"{number}_{name}" if number else "",
            "type": f"{_LIBRARY}.models.{name}",
        }
        for number, name in enumerate(modules)
    ]
    _write_json(folder / "modules.json", listed)
    pooling = {
        f"pooling_mode_{mode}": name == model.embedding["pooling"] for name, mode in _MODES.items()
    }
    _write_json(
        folder / listed[1]["path"] / "config.json",
        {"word_embedding_dimension": model.config.hidden_size, **pooling},
    )
    for module in listed[2:]:
        _write_json(folder / module["path"] / "config.json", {})
    length = {"max_seq_length": model.embedding["max_length"], "do_lower_case": False}
    _write_json(folder / "sentence_bert_config.json", length)
    _write_json(folder / "config_sentence_transformers.json", {"similarity_fn_name": "cosine"})
    trust = ", trust_remote_code=True" if family_of(model.config).own_code else ""
    write_card(folder, model, options, _LOADING.format(trust=trust))


def _reference(model: WholeModel) -> Side:
    """megabert's hidden states and vectors."""
    states = our_side(replace(model, tensors=_without_pooler(model.tensors)))
    pooling, normalize = model.embedding["pooling"], model.embedding["normalize"]

    def run(batch: ProbeInputs) -> Outputs:
        found = states(batch)
        hidden = found["hidden states"].flatten(0, 1)
        found[VECTORS] = sequence_vectors(hidden, batch.padded(), pooling, normalize)
        return found

    return run


def _without_pooler(tensors: dict[str, Any]) -> dict[str, Any]:
    """The tensors that hidden states depend on."""
    return {name: t for name, t in tensors.items() if not name.startswith("bert.pooler.")}


def _run(source: ModelSource, model: WholeModel) -> tuple[Side, str]:
    """Runs sentence-transformers on a folder."""
    library = optional_package(_LIBRARY, "--to sentence-transformers")
    quiet_transformers()
    more: dict[str, Any] = {}
    if family_of(model.config).own_code:
        more["trust_remote_code"] = True  # the files that were just written
    theirs = library.SentenceTransformer(
        str(source.path), device="cpu", local_files_only=True, **more
    ).eval()

    def run(batch: ProbeInputs) -> Outputs:
        output = theirs(batch.as_dict())
        return {
            "hidden states": output["token_embeddings"],
            VECTORS: output["sentence_embedding"],
        }

    return run, f"sentence-transformers {library.__version__}"


def _read(source: ModelSource) -> WholeModel:
    return read(source.path, source.tokenizer, source.model_config)


def _configured(options: OutputOptions) -> Format:
    return Format(
        read=_read,
        write=lambda folder, model, tokenizer: _write(folder, model, tokenizer, options),
        run=_run,
        marks=(("modules.json",),),
        options=("pooling", "normalize", *CARD_OPTIONS),
        configured=_configured,
        prepare=lambda model: _with_pooling(model, options),
        reference=_reference,
    )


FORMAT = replace(_configured(OutputOptions()), run=huggingface.FORMAT.run)
"""As an input its encoder is run by transformers; as an output (configured) the library runs it."""
