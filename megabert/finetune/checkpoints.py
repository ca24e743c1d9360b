"""The model of a fine-tuning run: from a checkpoint, into ``final``, and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from megabert.common.files import new_folder
from megabert.common.log import get_logger
from megabert.config.model import ModelConfig
from megabert.engine.broadcast import broadcast_object, broadcast_tensors
from megabert.engine.launch import World
from megabert.engine.training_engine import TrainingEngine
from megabert.finetune.inputs import FinetuneInputs
from megabert.finetune.settings import DividedFinetuning
from megabert.model.init import initialize_weights
from megabert.model.weights import load_into, load_weights, padded_vocabulary, write_weights
from megabert.parallel.rng import DropoutSeeds
from megabert.tasks.base import Task

log = get_logger()


def build_model(
    settings: DividedFinetuning, task: Task, inputs: FinetuneInputs, world: World
) -> tuple[torch.nn.Module, ModelConfig]:
    """The task's model with the checkpoint's weights (or random ones), and its configuration.

    Raises:
        UserError: the checkpoint does not fit, or lacks the head that is to be scored.
    """
    place, source = settings.task, inputs.model
    config = source.config
    if place.dropout is not None:
        config = replace(
            config,
            hidden_dropout_prob=place.dropout,
            attention_probs_dropout_prob=place.dropout,
        )
    checkpointing = settings.parallel.activation_checkpointing
    model = task.build_model(config, world.tp, DropoutSeeds(place.seed), checkpointing)
    drawn = settings.initial_weights
    initialize_weights(model, config, place.seed, drawn.init_scheme, drawn.init_local_heads)
    if place.random_init:
        log.info("random weights with the shapes of %s", source.origin)
    else:
        # Scoring without training needs every weight from the checkpoint.
        new = task.head.new_modules if place.train is not None else ()
        load_into(model, source.tensors, world.tp, new_heads=new, source=source.origin)
    return model, config


class Final:
    """The megabert folder ``final`` of a run: the selected model.

    Attributes:
        step: update after which the model in the folder was saved; None: nothing is saved.
    """

    def __init__(
        self,
        folder: Path,
        config: ModelConfig,
        task: Task,
        inputs: FinetuneInputs,
        engine: TrainingEngine,
    ) -> None:
        self.folder, self.config, self.task = folder, config, task
        self.inputs, self.engine, self.world = inputs, engine, engine.world
        self.step: int | None = None
        self._record: dict[str, Any] = {}

    def save(self) -> None:
        """Write the present model, replacing an earlier one (a collective).

        Nothing is written if the folder already holds this model with the same record of its task.
        """
        step, record = self.engine.steps_done, self.task.record()  # scoring adds to the main rank's
        if broadcast_object(self.world, lambda: (self.step, self._record) == (step, record)):
            return
        tensors = {}
        for name, values in self.engine.whole_tensors(("weight",)):
            if self.world.is_main:
                tensors[name] = values["weight"].cpu()
        source = self.inputs.model

        def write() -> None:
            with new_folder(self.folder, replace_existing=True) as folder:
                write_weights(
                    folder,
                    self.config,
                    tensors,
                    source.tokenizer,
                    trained_positions=max(source.trained_positions, self.task.max_length),
                    source=source.origin,
                    tokenizer_sha256=self.inputs.tokenizer.sha256,
                    task=self.task.name,
                    labels=list(self.task.labels),
                    task_record=record,
                    history=source.history,
                )
            log.info("model after step %d: %s", step, self.folder)

        broadcast_object(self.world, write)
        self.step, self._record = step, record

    def restore(self) -> None:
        """Load the saved weights into the engine again, for predictions (a collective).

        The optimizer's moments become zero: training is over.
        """
        tensors: dict[str, torch.Tensor] = {}

        def read() -> tuple[tuple[str, ...], dict[str, Any]]:
            _, found, info = load_weights(self.folder)
            size = self.config.padded_vocab_size
            tensors.update({n: padded_vocabulary(n, t, size) for n, t in found.items()})
            return tuple(info["labels"]), info["task_record"]

        labels, record = broadcast_object(self.world, read)
        whole = {name: {"weight": t} for name, t in broadcast_tensors(self.world, tensors).items()}
        self.engine.load_whole_tensors(whole, self.step or 0)
        self.task.load_labels(labels, record)
