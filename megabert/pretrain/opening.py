"""What a pretraining run prints first: model, data, batch, training, and where its results go."""

from __future__ import annotations

from collections.abc import Iterator

from megabert.common.names import RUN_METRICS, RUN_TENSORBOARD, TRAIN
from megabert.config.training import DividedSettings
from megabert.engine.training_engine import TrainingEngine
from megabert.model.parameters import pretraining_parameters
from megabert.pretrain.inputs import Inputs


def opening_lines(
    settings: DividedSettings, inputs: Inputs, engine: TrainingEngine, consumed: int
) -> Iterator[str]:
    """One line per topic, for the log.

    ``consumed``: samples that the run has trained on before (0 for a new run).
    """
    optimizer, run, config = settings.optimizer, settings.run, inputs.model
    whole = pretraining_parameters(config, settings.data.sentence_task != "none")
    count = sum(parameter.numel for parameter in whole.values())
    updates = min(optimizer.steps, run.stop_after or optimizer.steps)
    left = max(0, updates * engine.batch.global_size - consumed)
    epochs = left / inputs.train.samples_per_epoch
    stop = f"; stops after update {updates:,}" if updates < optimizer.steps else ""
    lines = {
        "model": f"{config.name}: {count / 1e6:,.1f} million parameters",
        "shape": f"{config.num_hidden_layers} layers, hidden_size {config.hidden_size}, "
        f"{config.num_attention_heads} heads, vocabulary {config.vocab_size:,}",
        "data": f"{settings.data.data}: {_corpus(inputs)}",
        "samples": f"{inputs.train.samples_per_epoch:,} per epoch; this job: {left:,} samples "
        f"of {settings.data.seq_length} tokens ({epochs:.2f} epochs)",
        **engine.describe(),
        "training": f"{optimizer.steps:,} updates, peak lr {optimizer.lr:g} ({optimizer.schedule}, "
        f"warm-up {100 * optimizer.warmup_fraction:g} %){stop}",
        "results": f"{run.output}",
        "watch": f"tensorboard --logdir {run.output / RUN_TENSORBOARD}"
        if "tensorboard" in settings.trackers.tracker
        else f"{run.output / RUN_METRICS}",
    }
    for topic, text in lines.items():
        yield f"{topic:<10}{text}"


def _corpus(inputs: Inputs) -> str:
    split = inputs.manifest.splits.get(TRAIN)
    if split is None:  # shards of another project, which state samples only
        return "masked samples of another project"
    return f"{split.documents:,} documents, {split.tokens:,} tokens"
