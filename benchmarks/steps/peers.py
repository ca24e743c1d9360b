"""Models that compute the same from the same weights: ours, transformers', plain torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import transformers
from torch import Tensor, nn

from benchmarks.steps.batches import MicroBatch
from benchmarks.steps.plain_bert import plain_bert
from megabert.common.errors import UserError
from megabert.config.model import ModelConfig
from megabert.convert.huggingface import model as huggingface
from megabert.convert.huggingface.families import family_of
from megabert.convert.huggingface.names import with_heads
from megabert.convert.name_table import to_theirs
from megabert.convert.whole_model import WholeModel
from megabert.model.head_registry import Head
from megabert.model.heads import PRETRAINING, BertForPreTraining
from megabert.model.init import initialize_weights
from megabert.model.weights import true_vocabulary
from megabert.parallel.rng import DropoutSeeds

PACKED, PADDED = "megabert packed", "megabert padded"
EAGER, COMPILED, PLAIN = "transformers", "transformers compiled", "plain torch"
PEERS = {"transformers": EAGER, "compiled": COMPILED, "plain": PLAIN}
"""Names for a command line."""

Loss = Callable[[MicroBatch], Tensor]


@dataclass(frozen=True)
class Contestant:
    """A model and how it computes the loss of a micro batch: mean MLM plus mean sentence loss."""

    name: str
    model: nn.Module
    loss: Loss

    def step(self, batch: MicroBatch) -> Tensor:
        """Forward, backward, gradients dropped; the loss."""
        loss = self.loss(batch)
        loss.backward()
        self.model.zero_grad(set_to_none=True)
        return loss.detach()

    @torch.no_grad()
    def evaluate(self, batch: MicroBatch) -> Tensor:
        """The loss without dropout."""
        self.model.eval()
        loss = self.loss(batch)
        self.model.train()
        return loss


def whole_tensors(model: nn.Module, config: ModelConfig) -> dict[str, Tensor]:
    """Our model's tensors without padding rows."""
    return {
        name: true_vocabulary(name, parameter.detach(), config.vocab_size)
        for name, parameter in model.named_parameters()
    }


def transformers_bert(config: ModelConfig, tensors: dict[str, Tensor], head: Head) -> nn.Module:
    """transformers' model with these whole tensors under our names, in training mode."""
    whole = WholeModel(config, tensors, None, config.max_position_embeddings, config.name)
    family = family_of(config)
    theirs, unmapped = to_theirs(with_heads(family.table, head), tensors, config.num_hidden_layers)
    if unmapped:
        raise UserError(f"transformers has no place for {unmapped[0]}")
    values = huggingface.config_values(whole, pad_token_id=0)
    values.pop("torch_dtype")
    settings = getattr(transformers, f"{family.class_prefix}Config")(**values)
    model = getattr(transformers, f"{family.class_prefix}{head.transformers_suffix}")(settings)
    missing, unexpected = model.load_state_dict(theirs, strict=False)
    if unexpected or any("decoder" not in name for name in missing):
        raise UserError(f"transformers' {head.name}: missing {missing}, unexpected {unexpected}")
    model.tie_weights()
    return model.train()


def our_loss(model: nn.Module, packed: bool) -> Loss:
    """Loss of our model, on the padded or the packed form."""

    def loss(batch: MicroBatch) -> Tensor:
        output = model(batch.packed if packed else batch.padded)
        return output.mlm_loss_sum / output.mlm_count + output.nsp_loss_sum / output.nsp_count

    return loss


def their_loss(model: nn.Module) -> Loss:
    """Loss of transformers' model, with a label or IGNORED at every position."""

    def loss(batch: MicroBatch) -> Tensor:
        return model(
            **batch.rows,
            labels=batch.labels,
            next_sentence_label=batch.padded.labels["next_sentence_labels"],
        ).loss

    return loss


def our_model(config: ModelConfig) -> BertForPreTraining:
    """Our model with fresh weights."""
    model = BertForPreTraining(config, dropout_seeds=DropoutSeeds(0))
    initialize_weights(model, config, 0)
    return model.train()


def contestants(
    config: ModelConfig, device: torch.device, dtype: torch.dtype, peers: list[str]
) -> list[Contestant]:
    """Ours, packed and padded, and the named peers; all start from the same weights."""
    ours = our_model(config)
    tensors = whole_tensors(ours, config)
    models = {}
    if EAGER in peers or COMPILED in peers:
        models[EAGER] = transformers_bert(config, tensors, PRETRAINING)
    if PLAIN in peers:
        models[PLAIN] = plain_bert(config, tensors)
    for model in (ours, *models.values()):
        model.to(device=device, dtype=dtype)
    found = [
        Contestant(PACKED, ours, our_loss(ours, packed=True)),
        Contestant(PADDED, ours, our_loss(ours, packed=False)),
    ]
    for name in peers:
        if name == PLAIN:
            plain = models[PLAIN]
            found.append(Contestant(name, plain, lambda batch, plain=plain: plain(batch.padded)))
            continue
        eager = models[EAGER]
        called = torch.compile(eager) if name == COMPILED else eager
        found.append(Contestant(name, eager, their_loss(called)))
    return found


def gradient_difference(one: Contestant, other: Contestant, batch: MicroBatch) -> float:
    """How far gradients of one model part between two forms of a micro batch, without dropout.

    The largest |g - h| / |h| over its tensors, all of them but the keys' biases: these shift all
    scores of a query alike, so their gradients are rounding alone.
    """
    model = one.model
    assert other.model is model
    model.eval()
    found: list[dict[str, Tensor]] = []
    for contestant in (one, other):
        contestant.loss(batch).backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        model.zero_grad(set_to_none=True)
    model.train()
    first, second = found
    return max(
        float((first[name] - gradient).norm() / gradient.norm())
        for name, gradient in second.items()
        if not name.endswith("key.bias")
    )


def parse_peers(text: str) -> list[str]:
    """Names with commas, or "none" -> the contestants' names.

    Raises:
        UserError: an unknown one.
    """
    names = [] if text == "none" else text.split(",")
    for name in names:
        if name not in PEERS:
            raise UserError(
                f"--peers {name!r} is not known; give some of {','.join(PEERS)}, or none"
            )
    return [PEERS[name] for name in names]
