"""Models and tokenizers of the installed transformers package: the other side of a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from megabert.common.errors import UserError
from megabert.convert.check import Outputs, Side
from megabert.convert.huggingface.config import read_object
from megabert.convert.huggingface.families import class_name, family_of
from megabert.convert.huggingface.labels import label_values
from megabert.convert.huggingface.nezha_code import nezha_classes
from megabert.convert.probe_inputs import ProbeInputs, same_ids
from megabert.convert.whole_model import ENCODER_ONLY, WholeModel
from megabert.data.tokenizers.base import Tokenizer
from megabert.data.tokenizers.load import load_tokenizer
from megabert.model.heads import MASKED_LM


def transformers_side(folder: Path, model: WholeModel, config: Path | None = None) -> Side:
    """Forward pass of transformers on a folder; outputs for padding rows are cut off.

    Args:
        folder: the folder that transformers loads.
        model: the same model, as megabert read it: decides the class, and which tensors may be
            absent.
        config: file with the configuration, if the folder has no config.json.

    Raises:
        UserError: transformers cannot load the folder, or finds missing or unexpected tensors.
    """
    theirs = load_transformers(folder, model, config)
    head, has_pooler, words = model.head, model.has_pooler, model.config.vocab_size

    def run(batch: ProbeInputs) -> Outputs:
        output = theirs(**batch.as_dict())
        if head.transformers_outputs:
            return {
                name: getattr(output, theirs_name)
                for name, theirs_name in head.transformers_outputs
            }
        if head is ENCODER_ONLY:
            pooled = {"pooler": output.pooler_output} if has_pooler else {}
            return {"hidden states": output.last_hidden_state, **pooled}
        if head is MASKED_LM:
            return {"MLM logits": output.logits[..., :words]}
        return {
            "MLM logits": output.prediction_logits[..., :words],
            "NSP logits": output.seq_relationship_logits,
        }

    return run


def load_transformers(folder: Path, model: WholeModel, config: Path | None = None) -> Any:
    """The transformers model of a folder, in fp32 and evaluation mode; as :func:`transformers_side`.

    Raises:
        UserError: transformers cannot load it, or would initialise weights that are missing.
    """
    transformers = quiet_transformers()
    name = class_name(model)
    family = family_of(model.config)
    classes = nezha_classes() if family.own_code else transformers
    more: dict[str, Any] = {}
    if family.own_code:
        more["key_mapping"] = {r"^bert\.": "nezha."}  # the authors' names
    if config is not None:
        made = getattr(classes, f"{family.class_prefix}Config")
        labels = label_values(model) if model.outputs else {}
        more["config"] = made(**{**read_object(config), **labels})
    try:
        theirs, report = getattr(classes, name).from_pretrained(
            folder,
            output_loading_info=True,
            dtype=torch.float32,
            local_files_only=True,
            attn_implementation="eager",
            **more,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"transformers' {name} cannot load {folder}: {str(error).splitlines()[0]}"
        ) from error
    table = family.table
    explained = {name for name, _ in model.left_out}
    explained |= {n.theirs for n in table.expand(0) if n.ours in explained}
    bare = model.head is ENCODER_ONLY and not model.has_pooler
    missing = {n for n in report["missing_keys"] if not (bare and n.startswith("pooler."))}
    unexpected = {n for n in report["unexpected_keys"] if table.spell(n) not in explained}
    problems = missing | unexpected | {str(n) for n in report["mismatched_keys"]}
    if problems:
        raise UserError(
            f"transformers' {name} cannot load {folder} completely: {len(problems)} tensors are "
            f"missing or unexpected (first: {min(problems)})"
        )
    return theirs.eval()


def check_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Compare the written tokenizer with the source's, and with transformers' reading of it.

    Raises:
        UserError: the files differ, transformers cannot load them, or it encodes the sample text or
            an added token differently.
    """
    if load_tokenizer(folder).sha256 != tokenizer.sha256:
        raise UserError(f"the tokenizer files written to {folder} differ from those of the source")
    transformers = quiet_transformers()
    try:
        theirs = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"transformers cannot load the tokenizer: {first}") from error
    try:
        text = same_ids(tokenizer, theirs)
    except Exception as error:  # the tokenizers library raises nothing more exact
        raise UserError(
            f"transformers cannot use the tokenizer: {str(error) or type(error).__name__}"
        ) from error
    if text is not None:
        raise UserError(
            f"transformers' tokenizer gives different ids for {text}; nothing was written"
        )


def quiet_transformers() -> Any:
    """The transformers package, with progress bars and warnings switched off.

    Raises:
        UserError: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            "conversions are checked against transformers, which is not installed: "
            "pip install transformers"
        ) from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers
