"""Which parameters decay and adapt: all but biases and norm parameters, told by name."""

from __future__ import annotations

from typing import Any

from torch import nn

from megabert.log import UserError


def is_bias_or_norm(name: str) -> bool:
    """True for ``...bias`` and for any parameter of a module whose name ends in ``norm``.

    ``bert.layers.0.attention_norm.weight`` and ``mlm.bias`` are; ``bert.pooler.dense.weight`` is not.
    """
    *modules, last = name.split(".")
    return last == "bias" or (bool(modules) and modules[-1].lower().endswith("norm"))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The model's trainable parameters as optimizer groups; a tied tensor is there once.

    Two groups at most: weights (``weight_decay`` as given, ``adapt`` True), and biases and norm
    parameters (0, False). Each has its parameters' names, in order, under ``names``.

    Raises:
        UserError: nothing to train.
    """
    weights: dict[str, Any] = {
        "params": [],
        "names": [],
        "weight_decay": weight_decay,
        "adapt": True,
    }
    rest: dict[str, Any] = {"params": [], "names": [], "weight_decay": 0.0, "adapt": False}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            group = rest if is_bias_or_norm(name) else weights
            group["params"].append(parameter)
            group["names"].append(name)
    groups = [group for group in (weights, rest) if group["params"]]
    if not groups:
        raise UserError("the model has no trainable parameter: unfreeze some before training")
    return groups
