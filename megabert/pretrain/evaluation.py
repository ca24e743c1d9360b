"""Losses and accuracies of pretraining on evaluation samples."""

from __future__ import annotations

import torch
from torch import Tensor

from megabert.common.errors import UserError
from megabert.common.packed_batch import PackedBatch
from megabert.common.processes.stopping import stop_watch
from megabert.config.training import EVALUATED, ResolvedSettings
from megabert.engine.agreement import StopAgreement
from megabert.engine.training_engine import TrainingEngine
from megabert.pretrain.batches import evaluation_micro_batches, require_readable
from megabert.pretrain.inputs import Inputs
from megabert.pretrain.loss_guard import Sums


def require_metric(metric: str | None, inputs: Inputs) -> None:
    """Raise ``UserError`` if ``--keep-best`` names what no evaluation of this run will give."""
    if metric is None:
        return
    if not inputs.evaluated:
        raise UserError(
            f"--keep-best {metric}: the shards of --data have no evaluation split; make one, or leave it out"
        )
    known = [*EVALUATED]
    if len(inputs.corpora) > 1:
        known += [f"{name}/{corpus.name}" for corpus in inputs.evaluated for name in EVALUATED]
    if metric not in known:
        raise UserError(
            f"--keep-best {metric}: no evaluation of this run has it: {', '.join(known)}"
        )


def evaluate(
    engine: TrainingEngine, settings: ResolvedSettings, inputs: Inputs
) -> dict[str, float | None] | None:
    """``eval_mlm_loss``, ``eval_mlm_accuracy``, ``eval_nsp_accuracy`` (None without pairs).

    With several corpora these are means by their shares of the whole run's samples, and the same of each
    corpus follows as ``eval_mlm_loss/NAME``, ... None if some rank was asked to stop: on all ranks, after
    the same batch.

    The same samples and masks every time. A collective of all ranks; the model is in training mode
    before and after.

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
    engine.module.eval()
    sums = torch.zeros(len(sources), 6, dtype=torch.float64, device=world.device)
    with torch.no_grad():
        for number, batch in batches:
            sums[number] += torch.stack([v.double() for v in engine(batch.to(world.device))])
            if agreement.ask():
                break
    engine.module.train()
    if agreement.asked:
        return None
    rows = world.sum_over_data_parallel(sums).tolist()
    values = [Sums(*row).metrics() for row in rows]
    samples = settings.optimizer.steps * engine.batch.global_size
    weights = evaluation_weights(inputs, samples)
    values = [{f"eval_{name}": value for name, value in one.items()} for one in values]
    found = {name: _mean([one[name] for one in values], weights) for name in EVALUATED}
    if len(inputs.corpora) > 1:
        for corpus, own in zip(inputs.evaluated, values):
            found |= {f"{name}/{corpus.name}": own[name] for name in EVALUATED}
    return found


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
