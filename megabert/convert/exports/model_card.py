"""The model card: README.md of a folder, as model hubs read it.

It states what the records say (:mod:`megabert.convert.exports.history`) and what the user gave
(``--license``, ``--language``, ``--model-name``); what is not known is left out, or said to be unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from megabert.common.errors import printable
from megabert.convert.exports.history import Stage
from megabert.convert.format import OutputOptions
from megabert.convert.huggingface.families import family_of
from megabert.convert.whole_model import ENCODER_ONLY, WholeModel
from megabert.model.heads import MASKED_LM, PRETRAINING

CARD = "README.md"
_PIPELINES = {
    "ForPreTraining": "fill-mask",
    "ForMaskedLM": "fill-mask",
    "ForQuestionAnswering": "question-answering",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "Model": "feature-extraction",
}
"""End of transformers' class name -> task, as hubs name it."""
_DATA = ("source", "train split", "eval split", "language", "tokenizer", "deduplicate")
_RECIPE = (
    ("phase", "recipe of phase"),
    ("optimizer", "optimizer"),
    ("lr", "peak learning rate"),
    ("schedule", "schedule"),
    ("warmup_fraction", "warm-up, as a fraction of the updates"),
    ("warmup", "warm-up"),
    ("decay", "decay"),
    ("decay_duration", "length of the decay"),
    ("final_lr_fraction", "last learning rate, as a fraction of the peak"),
    ("weight_decay", "weight decay"),
    ("global_batch_size", "global batch, sequences"),
    ("seq_length", "longest sequence, tokens"),
    ("masking", "masking"),
    ("mask_fraction", "masked fraction"),
    ("final_mask_fraction", "masked fraction at the end"),
    ("sentence_task", "sentence task"),
    ("step", "updates"),
    ("planned_steps", "planned updates"),
    ("steps", "updates"),
    ("epochs", "epochs"),
    ("consumed_samples", "sequences seen"),
    ("tokens", "tokens seen"),
    ("precision", "precision"),
    ("seed", "seed"),
    ("program", "trained with"),
)


def write_card(folder: Path, model: WholeModel, options: OutputOptions, loading: str) -> None:
    """Write the card of a folder.

    Args:
        folder: that holds the model.
        model: what was written.
        options: what the user gave.
        loading: Python code that loads the folder and uses it.
    """
    name = options.model_name or model.config.name
    parts = [
        f"---\n{_front_matter(model, options, loading)}---\n",
        f"# {name}\n",
        _what(model),
        f"## Use\n\n```python\n{loading}```\n",
        *(_stage(number, stage) for number, stage in enumerate(model.history, 1)),
        *_left_out(model),
        _terms(options),
    ]
    (folder / CARD).write_text(printable("\n".join(parts)), encoding="utf-8")


def _front_matter(model: WholeModel, options: OutputOptions, loading: str) -> str:
    library = "sentence-transformers" if "sentence_transformers" in loading else "transformers"
    values: dict[str, Any] = {}
    if options.language:
        values["language"] = list(options.language)
    if options.license:
        values["license"] = options.license
    values["library_name"] = library
    pipeline = _PIPELINES.get(model.head.transformers_suffix or "")
    if library == "sentence-transformers":
        pipeline = "sentence-similarity"
    if pipeline:
        values["pipeline_tag"] = pipeline
    family = family_of(model.config).model_type
    values["tags"] = ["megabert", family, *(["onnx"] if "onnxruntime" in loading else [])]
    if options.model_name:
        values["model_name"] = options.model_name
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _what(model: WholeModel) -> str:
    config = model.config
    kind = family_of(config).class_prefix
    head = {ENCODER_ONLY: "no head", PRETRAINING: "the heads of pretraining"}.get(
        model.head, f"a head for {model.head}"
    )
    if model.head is MASKED_LM:
        head = "the head of a masked language model"
    lines = [
        f"{kind} (transformers' name) with {head}: {config.num_hidden_layers} layers of width {config.hidden_size}, "
        f"{config.num_attention_heads} attention heads, {config.vocab_size:,} words, "
        f"{sum(tensor.numel() for tensor in model.tensors.values()):,} parameters.\n",
        f"- trained positions: {model.trained_positions} of {config.max_position_embeddings}; longer "
        "input was never trained on",
    ]
    if model.task:
        lines.append(f"- fine-tuned for: {model.task}")
    if model.labels:
        lines.append(f"- labels: {', '.join(model.labels)}")
    if model.embedding:
        lines.append(
            f"- sentence vectors: {model.embedding['pooling']} pooling"
            f"{', normalised' if model.embedding['normalize'] else ''}"
        )
    if not model.history:
        lines.append("- training: unknown (no record of it came with the weights)")
    return "\n".join(lines) + "\n"


def _stage(number: int, stage: Stage) -> str:
    kind = stage.get("kind")
    if kind == "start":
        return f"## Stage {number}: start\n\nWeights of {stage.get('name')}, whose training is unknown here.\n"
    if kind == "conversion":
        lines = "\n".join(f"- {_cell(line)}" for line in stage.get("changes") or ())
        return f"## Stage {number}: changed by a conversion\n\n{lines}\n"
    parts = [f"## Stage {number}: {kind}\n"]
    parts += [f"### Data\n\n{_table(_data_rows(stage))}"] if _data_rows(stage) else []
    rows = [(title, stage[key]) for key, title in _RECIPE if key in stage]
    if "task" in stage:
        rows.insert(0, ("task", stage["task"]))
    parts.append(f"### Recipe\n\n{_table(rows)}")
    results = [
        (f"training: {name}", value) for name, value in _items(stage.get("training_loss"))
    ] + [
        (f"evaluation: {name.removeprefix('eval_')}", value)
        for name, value in (*_items(stage.get("evaluation")), *_items(stage.get("scores")))
    ]
    if results:
        parts.append(f"### Losses and scores\n\n{_table(results)}")
    return "\n".join(parts)


def _data_rows(stage: Stage) -> list[tuple[str, Any]]:
    """Of one folder of shards its source and size; of several the same for each, and their weights."""
    rows: list[tuple[str, Any]] = [
        (f"{name} file", value) for name, value in _items(stage.get("files"))
    ]
    for name in ("train", "eval"):
        sizes = ", ".join(f"{n:,} {what}" for what, n in _items(stage.get(name)) if type(n) is int)
        rows += [(name, sizes)] if sizes else []
    data = stage.get("data")
    corpora = list(data) if isinstance(data, list) else [data]
    for corpus in corpora:
        named = _items(corpus)
        rows += [(topic, v) for topic, v in named if topic.rpartition(": ")[2] in _DATA]
        for name, inner in named:
            rows += [(f"{name}: {topic}", v) for topic, v in _items(inner) if topic in _DATA]
    return rows + [("weights", weights) for weights in _weights(stage.get("mixture"))]


def _weights(mixture: object) -> Iterator[str]:
    """The weights of each stage of a mixture, as recorded; nothing of a record that is not one."""
    values = dict(_items(mixture))
    corpora, stages = values.get("corpora"), values.get("stages")
    if not isinstance(corpora, list) or not isinstance(stages, list):
        return
    for stage in stages:
        part = dict(_items(stage))
        weights, samples = part.get("weights"), part.get("samples")
        if isinstance(weights, list):
            text = ", ".join(f"{name} {_cell(n)}" for name, n in zip(corpora, weights))
            yield text + (f" for {_cell(samples)} samples" if samples else "")


def _items(values: object) -> tuple[tuple[str, Any], ...]:
    return tuple((str(k), v) for k, v in values.items()) if isinstance(values, Mapping) else ()


def _table(rows: Iterable[tuple[str, Any]]) -> str:
    lines = [f"| {name} | {_cell(value)} |" for name, value in rows]
    return "\n".join(["| | |", "|---|---|", *lines]) + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    return " ".join(str(value).split()).replace("|", "\\|")


def _left_out(model: WholeModel) -> list[str]:
    if not model.left_out:
        return []
    reasons = dict.fromkeys(reason for _, reason in model.left_out)
    lines = [
        f"- {_names([n for n, r in model.left_out if r == reason])}: {reason}" for reason in reasons
    ]
    return ["## Left out by the conversion\n", "\n".join(lines) + "\n"]


def _names(names: list[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _terms(options: OutputOptions) -> str:
    return (
        "## Terms\n\n"
        f"- license: {options.license or 'unknown (not stated when this folder was written)'}\n"
        f"- language: {', '.join(options.language or ()) or 'unknown (not stated)'}\n"
    )
