"""Losses and accuracies of pretraining on evaluation samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from megabert.common.errors import UserError
from megabert.common.packed_batch import PackedBatch
from megabert.common.processes.stopping import stop_watch
from megabert.config.sections.run import EVALUATED, of_average
from megabert.config.training import ResolvedSettings
from megabert.engine.agreement import StopAgreement
from megabert.engine.training_engine import TrainingEngine
from megabert.pretrain.batches import evaluation_micro_batches, require_readable
from megabert.pretrain.inputs import Inputs
from megabert.pretrain.lengths.course import course_of
from megabert.pretrain.loss_guard import Sums


def evaluated_names(weights: str) -> list[str]:
    """The values of each evaluation, by ``--eval-weights``."""
    trained = [] if weights == "ema" else [*EVALUATED]
    return trained if weights == "trained" else [*trained, *map(of_average, EVALUATED)]


def require_metric(metric: str | None, inputs: Inputs, weights: str) -> None:
    """Raise ``UserError`` if ``--keep-best`` names what no evaluation of this run will give."""
    if metric is None:
        return
    if not inputs.evaluated:
        raise UserError(
            f"--keep-best {metric}: the shards of --data have no evaluation split; make one, or leave it out"
        )
    known = evaluated_names(weights)
    if len(inputs.corpora) > 1:
        known += [f"{name}/{corpus.name}" for corpus in inputs.evaluated for name in known]
    if metric not in known:
        raise UserError(
            f"--keep-best {metric}: no evaluation of this run has it: {', '.join(known)}"
        )


def evaluate(
    engine: TrainingEngine, settings: ResolvedSettings, inputs: Inputs
) -> dict[str, float | None] | None:
    """``eval_mlm_loss``, ``eval_mlm_accuracy``, ``eval_nsp_accuracy`` (None without pairs); by
    ``--eval-weights`` also or only those of the averaged weights, ``eval_ema_mlm_loss``, ...

    With several corpora these are means by their shares of the whole run's samples, and the same of each
    corpus follows as ``eval_mlm_loss/NAME``, ... None if some rank was asked to stop: on all ranks, after
    the same batch.

    The same samples and masks every time. A collective of all ranks; the model is in training mode and has
    the trained weights before and after, also after an error.

    Raises:
        UnreadableData: on every rank, with the fault of the first one that cannot read its samples.
    """
    world, fault = engine.world, None
    watch = stop_watch()
    agreement = StopAgreement(world, watch)  # that of the updates may hold what the next one reads
    sources = [corpus.evaluation for corpus in inputs.evaluated if corpus.evaluation is not None]
    batches: list[tuple[int, PackedBatch[Tensor]]] = []
    try:
        for number, source in enumerate(sources):
            for batch in evaluation_micro_batches(settings, source, world, engine.batch):
                batches.append((number, batch))
                if watch.asked:
                    break
    except UserError as error:
        fault = str(error)
    require_readable(world, fault)
    if not world.agree(not watch.asked):
        return None
    found: dict[str, float | None] = {}
    wanted = settings.averaging.eval_weights
    samples = course_of(settings).first_sample(settings.optimizer.steps)
    weights = evaluation_weights(inputs, samples)
    for averaged in (wanted == "ema",) if wanted != "both" else (False, True):
        with engine.averaged_weights() if averaged else nullcontext():
            rows = _measure(engine, batches, len(sources), agreement)
        if rows is None:
            return None
        values = [{f"eval_{name}": v for name, v in row.metrics().items()} for row in rows]
        for name in EVALUATED:
            shown = of_average(name) if averaged else name
            found[shown] = _mean([one[name] for one in values], weights)
            if len(inputs.corpora) > 1:
                for corpus, own in zip(inputs.evaluated, values):
                    found[f"{shown}/{corpus.name}"] = own[name]
    return found


def _measure(
    engine: TrainingEngine,
    batches: Sequence[tuple[int, PackedBatch[Tensor]]],
    sources: int,
    agreement: StopAgreement,
) -> list[Sums] | None:
    """The sums of each source over all ranks; None if some rank was asked to stop."""
    world = engine.world
    sums = torch.zeros(sources, 6, dtype=torch.float64, device=world.device)
    engine.module.eval()
    try:
        with torch.no_grad():
            for number, batch in batches:
                sums[number] += engine(batch.to(world.device)).sums()[:6]
                if agreement.ask():
                    return None
    finally:
        engine.module.train()
    return [Sums(*row) for row in world.sum_over_data_parallel(sums).tolist()]


def evaluation_lines(
    values: Mapping[str, float | None], corpora: Sequence[str], seconds: float
) -> Iterator[str]:
    """The values of an evaluation in words; ``corpora``: those with values of their own."""
    for averaged in (False, True):
        loss, accuracy, nsp = (of_average(n) if averaged else n for n in EVALUATED)
        if loss not in values:
            continue
        of = " of averaged weights" if averaged else ""
        pairs = f", NSP accuracy {values[nsp]:.3f}" if values[nsp] is not None else ""
        yield f"evaluation{of}: MLM loss {values[loss]:.4f}, MLM accuracy {values[accuracy]:.3f}{pairs} ({seconds:.1f} s)"
        if corpora:
            losses = (f"{name} {values[f'{loss}/{name}']:.4f}" for name in corpora)
            yield f"MLM loss by corpus{of}: {', '.join(losses)}"


def evaluation_weights(inputs: Inputs, samples: int) -> list[int]:
    """How much each evaluated corpus counts: its samples among the run's first ones.

    Corpora that are only evaluated count 0, unless there are no others: then all count 1.
    """
    counts = inputs.plan.counts(samples) + [0] * (len(inputs.corpora) - inputs.plan.corpora)
    weights = [n for n, c in zip(counts, inputs.corpora) if c.evaluation is not None]
    return weights if any(weights) else [1] * len(weights)


def _mean(values: list[float | None], weights: list[int]) -> float | None:
    """The weighted mean; None if a value with a weight is."""
    counted = [(value, weight) for value, weight in zip(values, weights) if weight]
    if len(counted) == 1:
        return counted[0][0]
    total = 0.0
    for value, weight in counted:
        if value is None:
            return None
        total += value * weight
    return total / sum(weights)
