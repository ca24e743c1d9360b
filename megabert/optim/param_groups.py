"""Which parameters decay and adapt: all except biases and norm parameters, recognised by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, NonNegativeFloat, PositiveFloat, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from megabert.common.errors import UserError
from megabert.common.yaml_text import read_yaml_value
from megabert.config.numbers import Probability

MOMENTS = ("beta1", "beta2", "eps")
"""Settings of the moments, which a group may have of its own."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class GroupRule:
    """A parameter group that the user defines.

    Attributes:
        match: regular expression, searched for in parameter names.
        lr_scale: factor of the learning rate.
        weight_decay: for all the group's parameters (None: as without the rule).
        adapt: whether they have trust ratios (None: as without the rule).
        beta1, beta2, eps: of the moments (None: as without the rule).
        muon: whether Muon updates them as matrices (None: as without the rule).
    """

    match: str
    lr_scale: NonNegativeFloat = 1.0
    weight_decay: NonNegativeFloat | None = None
    adapt: bool | None = None
    beta1: Probability | None = None
    beta2: Probability | None = None
    eps: PositiveFloat | None = None
    muon: bool | None = None

    def __post_init__(self) -> None:
        try:
            re.compile(self.match)
        except re.error as error:
            raise ValueError(f"{self.match!r} is not a regular expression ({error})") from error


def read_parameter_groups(path: Path) -> list[GroupRule]:
    """The groups of a YAML file: a list of mappings with the fields of :class:`GroupRule`.

    Raises:
        UserError: the file cannot be read, or which entry is wrong.
    """
    try:
        return TypeAdapter(list[GroupRule]).validate_python(read_yaml_value(path))
    except OSError as error:
        raise UserError(f"--parameter-groups {path}: {error.strerror}; name a YAML file") from error
    except UserError as error:
        raise UserError(f"--parameter-groups {error}") from error
    except ValidationError as error:
        parts = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise UserError(
            f"--parameter-groups {path}: {'; '.join(parts)}; each entry has match, and may have "
            "lr_scale, weight_decay, adapt, beta1, beta2, eps, muon"
        ) from error


def is_bias_or_norm(name: str) -> bool:
    """True for ``...bias`` and for any parameter of a module whose name ends in ``norm``.

    ``bert.layers.0.attention_norm.weight`` and ``mlm.bias`` are; ``bert.pooler.dense.weight`` is not.
    """
    *modules, last = name.split(".")
    return last == "bias" or (bool(modules) and modules[-1].lower().endswith("norm"))


def is_hidden_matrix(name: str, dimensions: int) -> bool:
    """True for a weight of two dimensions of an encoder layer or of a ``dense`` layer behind them.

    ``bert.layers.0.mlp.up.weight``, ``bert.pooler.dense.weight`` and ``mlm.dense.weight`` are;
    embeddings, the decoder tied to them and classifiers are not.
    """
    *modules, last = name.split(".")
    hidden = "layers" in modules or modules[-1:] == ["dense"]
    return last == "weight" and hidden and dimensions == 2


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    *,
    adapt_all: bool = False,
    own: Sequence[GroupRule] = (),
    matrices: Callable[[str, int], bool] | None = None,
) -> list[dict[str, Any]]:
    """The model's trainable parameters as optimizer groups; a tied tensor occurs once.

    There are at most two groups: weights (``weight_decay`` as given, ``adapt`` True), and biases and
    norm parameters (0, ``adapt_all``). With ``matrices`` the weights for which it is true are a group
    of their own (``matrix`` True). Each rule of ``own`` adds as many more at most; a parameter belongs
    to the first rule that matches it. A group has its parameters' names, in order, under ``names``, and
    the factor of its learning rate under ``lr_scale``, and those of :data:`MOMENTS` that its rule sets.

    Raises:
        UserError: the model has no trainable parameter, no parameter is left for a rule, or a rule
            wants Muon for a parameter that is not a matrix, or sets what its parameters do not use.
    """
    groups: dict[tuple[int, bool, bool], dict[str, Any]] = {}
    matched: set[int] = set()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        number = next((n for n, rule in enumerate(own) if re.search(rule.match, name)), -1)
        rule = own[number] if number >= 0 else GroupRule("")
        matched.add(number)
        plain = is_bias_or_norm(name)
        decay = 0.0 if plain else weight_decay
        matrix = _is_matrix(name, parameter, rule, matrices)
        group = groups.setdefault(
            (number, plain, not matrix),
            {
                "params": [],
                "names": [],
                "weight_decay": decay if rule.weight_decay is None else rule.weight_decay,
                "adapt": (adapt_all or not plain) if rule.adapt is None else rule.adapt,
                "lr_scale": rule.lr_scale,
                **{key: v for key in MOMENTS if (v := getattr(rule, key)) is not None},
                "matrix": matrix,
            },
        )
        group["params"].append(parameter)
        group["names"].append(name)
    if not groups:
        raise UserError("the model has no trainable parameter: unfreeze some before training")
    found = [(number, plain, not other) for number, plain, other in groups]
    for number, rule in enumerate(own):
        if number not in matched:
            raise UserError(
                f"parameter group {number + 1}: {rule.match!r} matches no parameter that "
                "earlier groups left; "
                "see the names in docs/design/architecture.md"
            )
        unused = [key for key in (*MOMENTS, "adapt") if getattr(rule, key) is not None]
        if unused and all(is_matrix for n, _, is_matrix in found if n == number):
            raise UserError(
                f"parameter group {number + 1}: {rule.match!r} sets {', '.join(unused)}, and matches only "
                "matrices of Muon, which do not use it; leave it out, or add muon: false"
            )
    return [groups[key] for key in sorted(groups)]


def with_own_moments(
    groups: Sequence[dict[str, Any]], betas: tuple[float, float], eps: float
) -> list[dict[str, Any]]:
    """Groups with ``betas`` and ``eps`` in place of what their rules set; ``betas`` and ``eps`` where they
    set none."""
    found = []
    for group in groups:
        kept = {key: value for key, value in group.items() if key not in MOMENTS}
        own = (group.get("beta1", betas[0]), group.get("beta2", betas[1]))
        found.append({**kept, "betas": own, "eps": group.get("eps", eps)})
    return found


def _is_matrix(
    name: str,
    parameter: Tensor,
    rule: GroupRule,
    matrices: Callable[[str, int], bool] | None,
) -> bool:
    if matrices is None:
        return False
    if rule.muon and parameter.dim() != 2:
        raise UserError(
            f"parameter group {rule.match!r}: muon updates matrices, and {name} has the shape "
            f"{tuple(parameter.shape)}; let the expression match weights only"
        )
    return matrices(name, parameter.dim()) if rule.muon is None else rule.muon
