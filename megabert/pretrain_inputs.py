"""What a pretraining run starts from: settings out of all their layers, shards, and the model's shape."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import Any

from megabert import flags
from megabert.config import RECIPES, ModelConfig, PretrainSettings
from megabert.data.loader import SampleSource
from megabert.data.masking import MaskSettings, default_max_predictions
from megabert.data.pairs import SampleSettings
from megabert.data.schema import Manifest, load_manifest
from megabert.data.shards import Corpus
from megabert.engine.config import Batch, deepspeed_values, read_deepspeed_config, resolve_batch
from megabert.flags import Values
from megabert.log import UserError
from megabert.naming import EVAL, TRAIN

TOKENS_PER_MICRO_STEP = 8192
"""A micro batch that nobody set holds at most this many tokens."""


def resolve(given: Values, config_file: Values) -> tuple[PretrainSettings, dict[str, Any]]:
    """All settings but the batch, and the user's DeepSpeed sections.

    ``given``: what flags set; ``config_file``: what ``--config`` set. Precedence: flag > file >
    DeepSpeed file > phase recipe > default.
    """
    first = flags.build(PretrainSettings, flags.join(config_file, given))
    recipe = RECIPES[first.run.phase]
    layer: Values = {
        "data": {"seq_length": recipe.seq_length},
        "batch": {"global_batch_size": recipe.global_batch_size},
        "optimizer": {
            "lr": recipe.lr,
            "warmup_fraction": recipe.warmup_fraction,
            "steps": recipe.steps,
        },
        "run": {"output": f"runs/{first.model.model}-phase{first.run.phase}"},
    }
    raw: dict[str, Any] = {}
    from_deepspeed: Values = {}
    if first.parallel.deepspeed_config is not None:
        raw = read_deepspeed_config(first.parallel.deepspeed_config)
        from_deepspeed = deepspeed_values(raw, first.parallel.deepspeed_config)
    by_hand = flags.join(config_file, given)
    for section in by_hand.values():  # None in a file means "not set"
        for name in [name for name, value in section.items() if value is None]:
            del section[name]
    values = flags.join(layer, from_deepspeed, by_hand)
    if "global_batch_size" not in {**from_deepspeed.get("batch", {}), **by_hand.get("batch", {})}:
        factors = by_hand.get("batch", {}) | from_deepspeed.get("batch", {})
        if {"micro_batch_size", "gradient_accumulation_steps"} <= set(factors):
            values["batch"].pop("global_batch_size")
    settings = flags.build(PretrainSettings, values)
    if settings.data.packing == "on":
        raise UserError("--packing on: packed sequences are not available yet; use --packing off")
    if settings.run.init_from is not None and settings.run.resume not in ("never", "auto"):
        raise UserError(
            "--init-from starts a run and --resume TAG goes on with one; give one of them"
        )
    length = settings.data.seq_length or 0
    limit = settings.data.max_predictions or default_max_predictions(
        length, settings.data.mask_fraction
    )
    return replace(settings, data=replace(settings.data, max_predictions=limit)), raw


def divide(
    settings: PretrainSettings, data_parallel: int, kept: int | None = None
) -> tuple[PretrainSettings, Batch]:
    """The settings with every batch size made definite, and those sizes.

    ``kept``: global batch of the checkpoint that the run goes on from (``resolve_batch``).

    Raises:
        UserError: they don't multiply out.
    """
    micro_limit = max(1, TOKENS_PER_MICRO_STEP // (settings.data.seq_length or 1))
    batch = resolve_batch(settings.batch, data_parallel, micro_limit, kept=kept)
    sizes = replace(
        settings.batch,
        global_batch_size=batch.global_size,
        micro_batch_size=batch.micro_size,
        gradient_accumulation_steps=batch.accumulation,
    )
    return replace(settings, batch=sizes), batch


@dataclass(frozen=True)
class Inputs:
    """The shards and the model that belong to them."""

    manifest: Manifest
    train: SampleSource
    evaluation: SampleSource | None
    model: ModelConfig


def open_inputs(settings: PretrainSettings) -> Inputs:
    """Open the shards and check them against the model.

    Raises:
        UserError: no shards, damaged shards, sequences longer than the position table.
    """
    data = settings.data
    try:
        manifest = load_manifest(data.data)
    except UserError as error:
        raise UserError(
            f"{error} -- make shards with: python data_tools/shard_wiki.py --input DUMP "
            f"--tokenizer FILE --output {data.data}"
        ) from error
    model = settings.model.resolve(manifest.tokenizer.vocab_size)
    assert data.seq_length is not None
    assert data.max_predictions is not None
    if data.seq_length > model.max_position_embeddings:
        raise UserError(
            f"--seq-length {data.seq_length} is longer than the position table of "
            f"{model.max_position_embeddings} rows (max_position_embeddings)"
        )
    samples = SampleSettings(
        seq_length=data.seq_length,
        sentence_task=data.sentence_task,
        short_sequence_fraction=data.short_sequence_fraction,
        seed=settings.run.seed,
    )
    masks = MaskSettings(data.masking, data.mask_fraction, data.max_predictions)
    train = SampleSource(Corpus.open(data.data, TRAIN), samples, masks)
    held_out = None
    if manifest.splits.get(EVAL) is not None and manifest.splits[EVAL].documents > 1:
        # own fixed seed: the same held-out samples and masks in every run over these shards
        held_out = SampleSource(
            Corpus.open(data.data, EVAL), dataclasses.replace(samples, seed=0), masks
        )
    return Inputs(manifest, train, held_out, model)
