"""What a pretraining run prints first: model, data, batch, training, and where its results go."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from megabert.common.names import EVAL, RUN_METRICS, RUN_TENSORBOARD, TRAIN
from megabert.config.training import DividedSettings
from megabert.data.samples.course import Course
from megabert.engine.config import BatchSizes
from megabert.engine.training_engine import TrainingEngine
from megabert.model.parameters import pretraining_parameters
from megabert.pretrain.batches import stage_sizes
from megabert.pretrain.inputs import Inputs, OpenCorpus
from megabert.pretrain.lengths.course import course_of
from megabert.pretrain.lengths.durations import curve_of, last_update
from megabert.pretrain.stages import RunSamples


def opening_lines(
    settings: DividedSettings, inputs: Inputs, engine: TrainingEngine, consumed: int
) -> Iterator[str]:
    """One line per topic, for the log.

    ``consumed``: samples that the run has trained on before (0 for a new run).
    """
    optimizer, run, config = settings.optimizer, settings.run, inputs.model
    whole = pretraining_parameters(config, settings.data.sentence_task != "none")
    count = sum(parameter.numel for parameter in whole.values())
    updates = last_update(settings, partial(course_of, settings))
    course = course_of(settings)
    samples = inputs.along(course)
    left = max(0, course.first_sample(updates) - consumed)
    stop = f"; stops after update {updates:,}" if updates < optimizer.steps else ""
    curve = curve_of(settings, partial(course_of, settings))
    decay = (
        f", {curve.decay} decay from update {curve.stable_until + 1:,}" if curve.decay_steps else ""
    )
    lines = {
        "model": f"{config.name}: {count / 1e6:,.1f} million parameters",
        "shape": f"{config.num_hidden_layers} layers, hidden_size {config.hidden_size}, "
        f"{config.num_attention_heads} heads, vocabulary {config.vocab_size:,}",
        **dict(_data(inputs, samples, consumed, consumed + left)),
        "samples": _samples(inputs, samples, consumed, consumed + left),
        **engine.describe(),
        **dict(_course(course, engine.batch)),
        "training": f"{optimizer.steps:,} updates, peak lr {optimizer.lr:g} ({optimizer.schedule}, "
        f"warm-up {100 * optimizer.warmup_fraction:g} %{decay}){stop}",
        **dict(_no_evaluation(inputs)),
        "results": f"{run.output}",
        "watch": f"tensorboard --logdir {run.output / RUN_TENSORBOARD}"
        if "tensorboard" in settings.trackers.tracker
        else f"{run.output / RUN_METRICS}",
    }
    for topic, text in lines.items():
        yield f"{topic.split('/')[0]:<9} {text}"


def _no_evaluation(inputs: Inputs) -> Iterator[tuple[str, str]]:
    """A line, if nothing will be evaluated."""
    if not inputs.evaluated:
        yield (
            "evaluation",
            "none: the shards have no evaluation split of enough documents (--eval-fraction of "
            "data_tools/shard_wiki.py)",
        )


def _course(course: Course, final: BatchSizes) -> Iterator[tuple[str, str]]:
    """A line per stage of a run with ramps."""
    update = 0
    for number, stage in enumerate(course.stages if not course.constant else ()):
        sizes = stage_sizes(final, course, stage)
        until = f" to {update + stage.updates:,}" if stage.updates else " on"
        yield (
            f"course/{number}",
            f"from update {update + 1:,}{until}: batch {stage.batch:,} = {sizes.micro_size} x {sizes.accumulation} "
            f"x {sizes.data_parallel}, sequences of {stage.length} tokens",
        )
        update += stage.updates or 0


def _data(inputs: Inputs, run: RunSamples, first: int, stop: int) -> Iterator[tuple[str, str]]:
    """A line per corpus; ``first`` and ``stop``: the samples of this job."""
    if len(inputs.corpora) == 1:
        yield "data", f"{inputs.corpora[0].path}: {_content(inputs.corpora[0], TRAIN)}"
        return
    before, after = inputs.plan.counts(first), inputs.plan.counts(stop)
    begins, ends = run.epochs(first), run.epochs(stop)
    for number, corpus in enumerate(inputs.corpora):
        text = f"{corpus.name}: {corpus.path}: "
        if corpus.train is None:
            yield f"data/{number}", f"{text}{_content(corpus, EVAL)}, only evaluated"
            continue
        samples, size = after[number] - before[number], corpus.train.samples_per_epoch
        share = f"{100 * samples / (stop - first):.4g} %" if stop > first else "no samples"
        text += f"{_content(corpus, TRAIN)}, {size:,} samples per epoch; {share}"
        yield (
            f"data/{number}",
            f"{text}, epochs {begins[number]:.2f} to {ends[number]:.2f}",
        )


def _samples(inputs: Inputs, run: RunSamples, first: int, stop: int) -> str:
    lengths = run.course.lengths
    words = f"{min(lengths)} to {max(lengths)}" if len(lengths) > 1 else f"{lengths[0]}"
    job = f"this job: {stop - first:,} samples of {words} tokens"
    if len(inputs.trained) > 1:
        stages = len(inputs.plan.stages)
        return f"{job}, mixed" + (f" in {stages} stages" if stages > 1 else "")
    size = inputs.train.samples_per_epoch
    (begin,), (end,) = run.epochs(first), run.epochs(stop)
    of = f" of {run.course.final.length} tokens" if len(lengths) > 1 else ""
    return f"{size:,}{of} per epoch; {job} ({end - begin:.2f} epochs)"


def _content(corpus: OpenCorpus, name: str) -> str:
    split = corpus.manifest.splits.get(name)
    if split is None:  # shards of another project, which state samples only
        return "masked samples of another project"
    return f"{split.documents:,} documents, {split.tokens:,} tokens"
