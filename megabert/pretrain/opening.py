"""What a pretraining run prints first: model, data, batch, training, and where its results go."""

from __future__ import annotations

from collections.abc import Iterator

from megabert.common.names import RUN_METRICS, RUN_TENSORBOARD, TRAIN
from megabert.config.model import ModelConfig
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
    optimizer, run = settings.optimizer, settings.run
    yield f"model     {_model(inputs.model, settings.data.sentence_task != 'none')}"
    yield f"data      {settings.data.data}: {_corpus(inputs)}"
    updates = min(optimizer.steps, run.stop_after or optimizer.steps)
    left = max(0, updates * engine.batch.global_size - consumed)
    yield (
        f"samples   {inputs.train.samples_per_epoch:,} per epoch; this job trains on {left:,} of "
        f"{settings.data.seq_length} tokens = {left / inputs.train.samples_per_epoch:.2f} epochs"
    )
    batch = engine.batch
    yield (
        f"batch     global batch {batch.global_size:,} = micro batch {batch.micro_size} x accumulation "
        f"{batch.accumulation} x data parallel {batch.data_parallel}"
    )
    yield (
        f"ranks     {engine.world.topology.describe()}; ZeRO {engine.zero_stage}, {engine.precision}, "
        f"{engine.optimizer.describe()}"
    )
    yield (
        f"training  {optimizer.steps:,} updates, peak lr {optimizer.lr:g} ({optimizer.schedule}, "
        f"warm-up {100 * optimizer.warmup_fraction:g} %)"
        + (f"; stops after update {updates:,}" if updates < optimizer.steps else "")
    )
    yield (
        f"results   {run.output} ({RUN_METRICS}, checkpoints every {run.save_interval} updates); "
        f"watch: tensorboard --logdir {run.output / RUN_TENSORBOARD}"
    )


def _model(config: ModelConfig, sentence_task: bool) -> str:
    whole = pretraining_parameters(config, sentence_task)
    count = sum(parameter.numel for parameter in whole.values())
    return (
        f"{config.name}: {config.num_hidden_layers} layers, hidden_size {config.hidden_size}, "
        f"{config.num_attention_heads} heads, vocabulary {config.vocab_size:,}; "
        f"{count / 1e6:,.1f} million parameters"
    )


def _corpus(inputs: Inputs) -> str:
    split = inputs.manifest.splits.get(TRAIN)
    if split is None:  # shards of another project, which state samples only
        return "masked samples of another project"
    return f"{split.documents:,} documents, {split.tokens:,} tokens"
