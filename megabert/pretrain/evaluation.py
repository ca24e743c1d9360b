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
    if inputs.evaluation is None:
        raise UserError(
            f"--keep-best {metric}: the shards of --data have no evaluation split; make one, or leave it out"
        )
    known = EVALUATED
    if metric not in known:
        raise UserError(
            f"--keep-best {metric}: no evaluation of this run has it: {', '.join(known)}"
        )


def evaluate(
    engine: TrainingEngine, settings: ResolvedSettings, inputs: Inputs
) -> dict[str, float | None] | None:
    """``eval_mlm_loss``, ``eval_mlm_accuracy``, ``eval_nsp_accuracy`` (None without pairs).

    None if some rank was asked to stop: on all ranks, after the same batch.

    The same samples and masks every time. A collective of all ranks; the model is in training mode
    before and after.

    Raises:
        UnreadableData: on every rank, with the fault of the first one that cannot read its samples.
    """
    world, fault = engine.world, None
    watch = stop_watch()
    agreement = StopAgreement(world, watch)  # that of the updates may hold what the next one reads
    batches: list[PackedBatch[Tensor]] = []
    try:
        for batch in evaluation_micro_batches(settings, inputs, world, engine.batch):
            batches.append(batch)
            if watch.asked:
                break
    except UserError as error:
        fault = str(error)
    require_readable(world, fault)
    if not world.agree(not watch.asked):
        return None
    engine.module.eval()
    sums = torch.zeros(6, dtype=torch.float64, device=world.device)
    with torch.no_grad():
        for batch in batches:
            sums += torch.stack([value.double() for value in engine(batch.to(world.device))])
            if agreement.ask():
                break
    engine.module.train()
    if agreement.asked:
        return None
    values = Sums(*world.sum_over_data_parallel(sums).tolist()).metrics()
    return {f"eval_{name}": values[name] for name in ("mlm_loss", "mlm_accuracy", "nsp_accuracy")}
